"""A plan shows rows, conflicts and flips, and its digest ties it to what was shown."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from authz.flips import Answer, Flip, FlipLimits
from authz.plan import DuplicateRowError, base_flips, plan, plan_digest, plan_rows
from authz.ports import StoredModel, TenantHead
from authz.request import Ref
from authz.rules import Effect, EntityKind, Owner, RoleLink, Rule, Source, StoredEntity
from authz.served_model import ColumnMatch, PolicyEffect, ServedModel
from authz.write_ports import CurrentRows
from tenancy.ids import Slug, TenantId, TenantStatus

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MODEL = ServedModel(
    digest="0" * 64,
    effect=PolicyEffect.ALLOW_AND_DENY,
    columns=("sub", "dom", "obj", "act", "eft", "cond"),
    subject=ColumnMatch(prefix=True, roles="g"),
    resource=ColumnMatch(prefix=True),
    action=ColumnMatch(exact=True, star=True),
)


def rule(subject: str, resource: str, action: str = "read", **more) -> Rule:
    """A file rule."""
    return Rule(subject, resource, action, **more)


def link(member: str, role: str, **more) -> RoleLink:
    """A file link."""
    return RoleLink(Ref(member), Ref(role), **more)


def current(*rows, revision: int = 7, base=(), slug: str = "acme") -> CurrentRows:
    """What a tenant holds."""
    head = TenantHead(TenantId(UUID(int=9)), Slug(slug), TenantStatus.ACTIVE, revision, revision, 0)
    return CurrentRows(
        head=head,
        model=StoredModel("", "0" * 64),
        rules=[r for r in rows if isinstance(r, Rule)],
        links=[r for r in rows if isinstance(r, RoleLink)],
        entities=[r for r in rows if isinstance(r, StoredEntity)],
        base_rules=[r for r in base if isinstance(r, Rule)],
        base_links=[r for r in base if isinstance(r, RoleLink)],
    )


def test_rows_are_added_removed_and_kept() -> None:
    """Only differing rows are named; an API row that the files do not mention stays and is not removed."""
    kept = rule("role:a", "doc:1", source=Source("policy.csv", 1))
    gone = rule("role:b", "doc:1", source=Source("policy.csv", 2))
    granted = link("user:x", "role:a", owner=Owner.API)
    new = rule("role:c", "doc:1", source=Source("policy.csv", 2))
    result = plan(current(kept, gone, granted), [kept, new], MODEL, now=NOW)
    assert (result.added, result.removed, result.changed, result.conflicts) == ((new,), (gone,), (), ())
    assert result.pending


def test_nothing_to_do_is_not_pending() -> None:
    """The same rows, even at other lines, leave nothing to apply."""
    row = rule("role:a", "doc:1", source=Source("policy.csv", 1))
    result = plan(current(row), [replace(row, source=Source("policy.csv", 9))], MODEL, now=NOW)
    assert not result.pending
    assert result.moved == 1
    assert result.flips[0].flips.total == 0


def test_a_row_of_the_api_that_files_want_is_a_conflict() -> None:
    """A row both owners want is shown with both sides, and changes no answer."""
    held = link("user:x", "role:a", owner=Owner.API)
    wanted = link("user:x", "role:a", source=Source("acme/policy.csv", 4), expires_at=NOW)
    result = plan(current(rule("role:a", "doc:1"), held), [rule("role:a", "doc:1"), wanted], MODEL, now=NOW)
    assert [(c.desired, c.existing) for c in result.conflicts] == [(wanted, held)]
    assert result.pending
    assert result.flips[0].flips.total == 0


def test_a_changed_expiry_is_a_changed_row() -> None:
    """The same link with another expiry is one changed row; a grant that has run out flips its answers."""
    held = link("user:x", "role:a")
    wanted = link("user:x", "role:a", expires_at=NOW - timedelta(days=1))
    grant = rule("role:a", "doc:1")
    result = plan(current(grant, held), [grant, wanted], MODEL, now=NOW)
    assert [(c.before, c.after) for c in result.changed] == [(held, wanted)]
    assert result.flips[0].flips.examples == (Flip("user:x", "doc:1", "read", Answer.ALLOW, Answer.DENY),)


def test_attributes_of_other_types_are_a_change() -> None:
    """`true` is not `1`: a condition tells them apart, so a plan does too."""
    held = StoredEntity(EntityKind.SUBJECT, Ref("user:x"), {"admin": True})
    open_door = rule("user:x", "door:1", "open", condition="subject.properties.admin == true")
    result = plan(current(open_door, held), [open_door, replace(held, properties={"admin": 1})], MODEL, now=NOW)
    assert len(result.changed) == 1
    assert result.flips[0].flips.conditional == 1


def test_contradicting_rows_are_refused() -> None:
    """One link with two expiries has no meaning, and no first one wins."""
    rows = [
        link("user:x", "role:a", source=Source("f", 1)),
        link("user:x", "role:a", expires_at=NOW, source=Source("f", 2)),
    ]
    with pytest.raises(DuplicateRowError, match="f:1 and f:2"):
        plan(current(), rows, MODEL, now=NOW)
    assert plan(current(), [rows[0], rows[0]], MODEL, now=NOW).added == (rows[0],)


def test_wildcards_are_printed_as_patterns() -> None:
    """A rule with a wildcard reaches names nobody listed, so it is said as it is written."""
    wide = rule("user:*", "doc:*", effect=Effect.DENY)
    result = plan(current(rule("user:x", "doc:1")), [rule("user:x", "doc:1"), wide], MODEL, now=NOW)
    assert [(p.added, p.rule) for p in result.patterns] == [(True, wide)]
    assert result.flips[0].flips.examples == (Flip("user:x", "doc:1", "read", Answer.ALLOW, Answer.DENY),)


def test_conditional_rows_are_marked() -> None:
    """A conditional grant may or may not turn an answer over, and is said to."""
    rows = [rule("user:x", "doc:1", condition="context.ok == true")]
    flips = plan(current(), rows, MODEL, now=NOW).flips[0].flips
    assert (flips.gained, flips.lost, flips.conditional) == (0, 0, 1)
    assert flips.examples == (Flip("user:x", "doc:1", "read", Answer.DENY, Answer.DEPENDS),)


def test_counts_by_type_of_subject() -> None:
    """Who gains is counted by type; a role that is named is a candidate too."""
    grant = rule("role:a", "doc:1")
    members = [link("user:x", "role:a"), link("user:y", "role:a"), link("service:z", "role:a")]
    flips = plan(current(*members), [*members, grant], MODEL, now=NOW).flips[0].flips
    assert flips.gained == 4
    assert flips.gaining == {"role": 1, "service": 1, "user": 2}


def test_base_rows_take_part() -> None:
    """A deny of the base blocks what the tenant adds; a planned base is what counts when it is given."""
    deny = rule("user:x", "doc:1", effect=Effect.DENY, base=True)
    grant = rule("user:x", "doc:1")
    held = current(base=[deny])
    assert plan(held, [grant], MODEL, now=NOW).flips[0].flips.total == 0
    assert plan(held, [grant], MODEL, now=NOW, desired_base=[]).flips[0].flips.gained == 1


def test_a_plan_of_the_base_counts_every_tenant() -> None:
    """A new base rule flips answers in the tenants that have members for it."""
    grant = rule("role:member", "doc:1", base=True)
    one = current(link("user:x", "role:member"), slug="one")
    two = current(link("user:y", "role:other"), slug="two")
    assert plan_rows(current(slug="_base"), [grant], MODEL).added == (grant,)
    flips = [base_flips(tenant, [grant], MODEL, now=NOW) for tenant in (one, two)]
    assert {f.slug: sorted(e.subject for e in f.flips.examples) for f in flips} == {
        "one": ["role:member", "user:x"],
        "two": ["role:member"],
    }


def test_passed_bounds_are_said() -> None:
    """Over a bound the counts are lower bounds, and the plan says so."""
    grant = [rule("user:x", f"doc:{n}") for n in range(100)]
    flips = plan(current(), grant, MODEL, now=NOW, limits=FlipLimits(questions=50)).flips[0].flips
    assert not flips.complete
    assert "more than 50 questions" in (flips.note or "")
    assert 0 < flips.gained < 100
    partial = plan(current(), grant, MODEL, now=NOW, limits=FlipLimits(examples=5)).flips[0].flips
    assert (partial.complete, partial.gained, len(partial.examples)) == (True, 100, 5)


def test_a_model_with_a_residual_is_not_counted() -> None:
    """What sets cannot decide is not guessed."""
    kind = replace(MODEL, residual=lambda *_: True)
    flips = plan(current(), [rule("user:x", "doc:1")], kind, now=NOW).flips[0].flips
    assert not flips.complete
    assert flips.note


def test_cycles_end() -> None:
    """A cycle of roles, refused elsewhere, does not hang a plan."""
    rows = [link("role:a", "role:b"), link("role:b", "role:a"), link("user:x", "role:a"), rule("role:b", "doc:1")]
    assert plan(current(), rows, MODEL, now=NOW).flips[0].flips.gained == 3


def test_digest_ties_rows_and_tenant() -> None:
    """Whatever row is edited in a plan file gives another digest, and so does another tenant."""
    head = TenantId(UUID(int=9))
    rows = [rule("user:x", "doc:1", source=Source("f", 1)), StoredEntity(EntityKind.SUBJECT, Ref("user:x"), {"a": 1})]
    digests = {
        plan_digest(head, rows),
        plan_digest(head, rows[:1]),
        plan_digest(TenantId(UUID(int=8)), rows),
        plan_digest(head, [replace(rows[0], effect=Effect.DENY), rows[1]]),
        plan_digest(head, [replace(rows[0], source=Source("f", 2)), rows[1]]),
        plan_digest(head, [rows[0], replace(rows[1], properties={"a": True})]),
    }
    assert len(digests) == 6
