"""`user:name=alice` in policy files: which rows it may stand in, and what comes of it."""

import pytest

from authz.account_names import MAX_NAMES, account_names, with_ids, with_names
from authz.errors import InvalidRowError, LimitExceededError, UnknownAccountNameError
from authz.policy_files import read_columns
from authz.policy_files.rows import parse_policy
from authz.request import Ref
from authz.row_checks import check_rows
from authz.rules import EntityKind, RoleLink, Rule, Source, StoredEntity
from tenancy.ids import BASE_TENANT_ID, TenantId
from tenancy.uuid7 import make_uuid7
from tests.support.policies import NOW, ask, policy, rows

ALICE = Ref("user:01890a5d-ac96-774b-bcce-b302099a8057")
TENANT = TenantId(make_uuid7(NOW, bytes(10)))
NAMED = rows(
    "p user:name=alice record:1 read\n"
    "p user:* record:2 read\n"
    "g user:name=alice role:editor\n"
    "g user:name=Alice role:reader\n"
    "g2 user:name=alice folder:a\n"
    "p role:x user:name=alice read"
)
BOTH = {"user:name=alice": ALICE, "user:name=Alice": ALICE}
BILLING = Ref("service:01890a5d-ac96-774b-bcce-b302099a8058")
ATTRIBUTES = [StoredEntity(kind, Ref("user:name=alice"), {"level": 3}) for kind in EntityKind]


def test_subjects_alone_are_names_of_accounts():
    """Not resources, nor their groups: an application may have resources of any name."""
    found = account_names([*NAMED, *ATTRIBUTES])
    assert {name: row.source.line for name, row in found.items()} == {"user:name=alice": 1, "user:name=Alice": 4}
    resolved = with_ids([*NAMED, *ATTRIBUTES], BOTH)
    assert [row.subject for row in resolved if isinstance(row, Rule)] == [ALICE, "user:*", "role:x"]
    assert [row.member for row in resolved if isinstance(row, RoleLink)] == [ALICE, ALICE, "user:name=alice"]
    assert {row.kind: row.ref for row in resolved if isinstance(row, StoredEntity)} == {
        EntityKind.SUBJECT: ALICE,
        EntityKind.RESOURCE: "user:name=alice",
    }
    assert [row.source for row in resolved] == [row.source for row in [*NAMED, *ATTRIBUTES]]


def test_who_is_nobody_is_named_with_file_and_line():
    """All of them up to a bound, so that one run of the command is enough."""
    with pytest.raises(UnknownAccountNameError) as refused:
        with_ids(NAMED, {"user:name=alice": ALICE})
    assert "policy.csv:4: " in str(refused.value)
    assert "no account is named `Alice`" in str(refused.value)
    many = [RoleLink(Ref(f"user:name=u{n}"), Ref("role:x"), source=Source("policy.csv", n)) for n in range(1, 100)]
    with pytest.raises(UnknownAccountNameError, match="and 79 more"):
        with_ids(many, {})


def test_patterns_and_floods_of_names_are_refused():
    """A pattern would match no stored id; what is looked up is bounded."""
    with pytest.raises(InvalidRowError, match="exact"):
        account_names([Rule("user:name=al*", "record:1", "read")])
    many = [RoleLink(Ref(f"user:name=u{n}"), Ref("role:x")) for n in range(MAX_NAMES + 1)]
    with pytest.raises(LimitExceededError):
        account_names(many)


def test_service_accounts_have_names_of_their_own():
    """A person and a program of one name are two."""
    mixed = rows("g user:name=alice role:a\ng service:name=alice role:b")
    assert list(account_names(mixed)) == ["user:name=alice", "service:name=alice"]
    resolved = with_ids(mixed, {"user:name=alice": ALICE, "service:name=alice": BILLING})
    assert [row.member for row in resolved if isinstance(row, RoleLink)] == [ALICE, BILLING]
    assert with_names(resolved, {ALICE: "alice", BILLING: "alice"}) == mixed
    with pytest.raises(UnknownAccountNameError, match="no account is named `alice`"):
        with_ids(mixed, {"user:name=alice": ALICE})


@pytest.mark.parametrize(
    "row",
    [
        RoleLink(Ref("service:name=billing"), Ref("role:editor")),
        Rule("user:name=alice", "record:1", "read"),
        RoleLink(Ref("user:name=alice"), Ref("role:editor")),
        StoredEntity(EntityKind.SUBJECT, Ref("user:name=alice"), {}),
    ],
)
def test_a_name_that_nothing_looked_up_is_never_stored(row):
    """Rows of the API, of the base, and of a rollback: it would be a subject of its own, which is nobody."""
    columns = read_columns("[policy_definition]\np = sub, dom, obj, act, eft, cond\n[role_definition]\ng = _, _, _\n")
    with pytest.raises(InvalidRowError, match="policy files of their tenant only"):
        check_rows([row], TENANT, columns)


def test_files_alone_take_a_name_for_a_subject():
    """Golden decisions and lint need no server."""
    small = policy("g user:name=alice role:editor\np role:editor record:* read")
    assert small.decide(ask("user:name=alice", "read", "record:1"), NOW).allowed
    assert not small.decide(ask("user:name=bob", "read", "record:1"), NOW).allowed


def test_the_base_knows_no_accounts():
    """Every tenant has its own."""
    columns = read_columns("[policy_definition]\np = sub, dom, obj, act, eft, cond\n[role_definition]\ng = _, _, _\n")
    parsed = parse_policy("p, user:name=alice, *, record:1, read\n", "_base", columns)
    assert [finding.code for finding in parsed.findings] == ["account-name"]
    with pytest.raises(InvalidRowError):
        check_rows([Rule("user:name=alice", "record:1", "read", base=True)], BASE_TENANT_ID, columns)


def test_names_come_back_for_an_export():
    """Ids that are no account, and those of deleted ones, stay ids."""
    resolved = with_ids([*NAMED, *ATTRIBUTES], BOTH)
    shown = with_names(resolved, {ALICE: "Alice.S"})
    assert [row.member for row in shown if isinstance(row, RoleLink)][:2] == [Ref("user:name=Alice.S")] * 2
    assert with_names(resolved, {}) == resolved
