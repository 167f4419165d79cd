"""What the audit says of changed rows: all of a few, a digest of many, never what attributes say."""

from authz.change_audit import MAX_ROWS, entry_of
from authz.request import Ref
from authz.row_changes import RowChanges
from authz.rules import EntityKind, RoleLink, Rule, StoredEntity, row_id
from tenancy.ids import BASE_TENANT_ID, TenantId
from tenancy.uuid7 import make_uuid7
from tests.support.policies import NOW

TENANT = TenantId(make_uuid7(NOW, bytes(10)))


def changed(*, added=(), removed=(), updated=()):
    return RowChanges(
        {row_id(row.key): row for row in added},
        {row_id(row.key): row for row in removed},
        {row_id(new.key): (old, new) for old, new in updated},
    )


def test_few_rows_are_told_as_they_were_and_are():
    """An expiry is part of what a link says."""
    old, new = RoleLink(Ref("user:a"), Ref("role:r")), RoleLink(Ref("user:a"), Ref("role:r"), expires_at=NOW)
    rule = Rule("role:r", "doc:1", "read")
    entry = entry_of(TENANT, "api", changed(added=[rule], updated=[(old, new)]))
    assert entry.action == "policy.change"
    assert entry.before == {"rows": [["g", "user:a", "role:r"]]}
    assert entry.after == {
        "rows": [["p", "role:r", "doc:1", "read", "allow", "", ""], ["g", "user:a", "role:r", NOW.isoformat()]]
    }
    assert entry.detail == {"added": 2, "removed": 1}
    assert entry.target == f"tenant:{TENANT}"


def test_a_change_of_one_subjects_roles_is_about_that_subject():
    """Then it is found by whom it happened to."""
    rows = [RoleLink(Ref("user:a"), Ref(f"role:{name}")) for name in "xyz"]
    assert entry_of(TENANT, "api", changed(added=rows[:2], removed=rows[2:])).target == "user:a"
    assert entry_of(TENANT, "api", changed(added=[*rows, RoleLink(Ref("user:b"), Ref("role:x"))])).target != "user:a"
    hierarchy = [RoleLink(Ref("role:a"), Ref("role:b"))]
    assert entry_of(TENANT, "api", changed(added=hierarchy)).target == f"tenant:{TENANT}"


def test_many_or_long_rows_are_a_digest():
    """The same for the same rows in any order, another for others."""
    rows = [Rule("role:r", f"doc:{number}", "read") for number in range(MAX_ROWS + 1)]
    entry = entry_of(TENANT, "apply", changed(added=rows))
    again = entry_of(TENANT, "apply", changed(added=rows[::-1]))
    assert (entry.before, entry.after) == (None, None)
    assert entry.detail == again.detail
    removed = entry_of(TENANT, "apply", changed(removed=rows))
    assert removed.detail["rows_sha256"] != entry.detail["rows_sha256"]
    long = entry_of(
        TENANT, "apply", changed(added=[Rule("role:r", f"doc:{'x' * 2000}{number}", "read") for number in range(9)])
    )
    assert long.after is None
    assert "rows_sha256" in long.detail


def test_attributes_are_not_told():
    """They may be about people, or secret."""
    entity = StoredEntity(EntityKind.SUBJECT, Ref("user:a"), {"email": "a@example.com"})
    entry = entry_of(TENANT, "api", changed(added=[entity]))
    assert entry.after == {"rows": [["e", "subject", "user:a"]]}


def test_the_base_and_rollbacks_say_what_they_are():
    """A rollback names the revision whose rows it brought back."""
    rule = Rule("role:r", "*", "*", base=True)
    assert entry_of(BASE_TENANT_ID, "apply", changed(added=[rule])).action == "base.change"
    back = entry_of(TENANT, "rollback", changed(added=[rule]), rolled_back_to=3)
    assert (back.action, back.detail["rolled_back_to"]) == ("policy.rollback", 3)
