"""A rule set brought up by what changed is the one that reading all rows would give, or none."""

from dataclasses import replace

from authz.ports import ChangedRow, RuleSet, StoredModel
from authz.request import Ref
from authz.rule_changes import brought_up
from authz.rules import Owner, RoleLink, Row, Rule, Source
from tenancy.ids import Slug, TenantStatus
from tenancy.tenant import TenantHead
from tests.support.policy_world import tenant_id

BEFORE = TenantHead(tenant_id(1), Slug("acme"), TenantStatus.ACTIVE, 4, 4, 1)
AFTER = replace(BEFORE, revision=7, rules_revision=7)
BASE = Rule("role:a", "record:1", "read", base=True, owner=Owner.API)
FILE = Rule("role:b", "record:1", "read", source=Source("acme/policy.csv", 1))
FIRST = Rule("role:a", "record:1", "read", owner=Owner.API)
SECOND = Rule("role:c", "record:1", "read", owner=Owner.API)
LINK = RoleLink(Ref("role:a"), Ref("role:b"), owner=Owner.API)
HELD = RuleSet(BEFORE, StoredModel("text", "d" * 64), [BASE, FILE, FIRST], [LINK])


def after(*changed: ChangedRow) -> RuleSet | None:
    return brought_up(HELD, AFTER, changed)


def plus(row: Row) -> ChangedRow:
    assert isinstance(row, Rule | RoleLink)
    return ChangedRow(True, row)


def minus(row: Row) -> ChangedRow:
    assert isinstance(row, Rule | RoleLink)
    return ChangedRow(False, row)


def test_rows_of_the_api_come_last_in_the_order_they_were_added():
    """As PostgreSQL orders them, which priorities depend on."""
    third = replace(SECOND, subject="role:d")
    assert after(plus(SECOND), plus(third)) == RuleSet(AFTER, HELD.model, [BASE, FILE, FIRST, SECOND, third], [LINK])


def test_a_removed_row_is_gone_and_the_base_row_that_says_the_same_stays():
    """They have the same key in two tenants."""
    assert after(minus(FIRST)) == RuleSet(AFTER, HELD.model, [BASE, FILE], [LINK])


def test_rows_of_files_are_removed_too():
    """Only where a new one belongs is not known."""
    assert after(minus(FILE)) == RuleSet(AFTER, HELD.model, [BASE, FIRST], [LINK])
    assert after(plus(replace(FILE, subject="role:new"))) is None


def test_a_row_that_went_and_came_back_is_the_last_one():
    """And one that came and went is none."""
    found = after(plus(SECOND), minus(FIRST), plus(FIRST), minus(SECOND))
    assert found == RuleSet(AFTER, HELD.model, [BASE, FILE, FIRST], [LINK])
    found = after(minus(FIRST), plus(SECOND), plus(FIRST))
    assert found == RuleSet(AFTER, HELD.model, [BASE, FILE, SECOND, FIRST], [LINK])


def test_a_link_with_another_expiry_replaces_the_one_before():
    """An expiry is no part of a link's key."""
    later = replace(LINK, kind="g", owner=Owner.API)
    assert after(minus(LINK), plus(later)) == RuleSet(AFTER, HELD.model, HELD.rules, [later])


def test_a_row_that_was_never_held_cannot_be_removed():
    """Then the changes belong to other rules than these: all of them are read."""
    assert after(minus(SECOND)) is None
    assert after(minus(RoleLink(Ref("role:x"), Ref("role:y"), owner=Owner.API))) is None
