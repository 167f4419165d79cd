"""What is written is what is read: changes, ownership, limits, history."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from authz.errors import (
    ConflictError,
    LimitExceededError,
    RevisionConflictError,
    RevisionNotFoundError,
    TenantNotFoundError,
)
from authz.policy_limits import PolicyLimits
from authz.ports import StoredModel
from authz.request import Ref
from authz.row_codec import row_to_json
from authz.rules import Effect, EntityKind, Owner, RoleLink, Rule, Source, StoredEntity
from authz.storage_write import PostgresPolicyWriter
from authz.write_ports import ChangeKind
from tenancy.create_tenant import create_tenant
from tenancy.ids import BASE_TENANT_ID, TenantId
from tenancy.storage import TenantStore
from tenancy.tenant import ChangeMeta
from tenancy.uuid7 import make_uuid7

META = ChangeMeta("key:test", "because", "abc123", "request-1")
SOON = datetime(2099, 1, 1, 12, 30, 15, 123456, UTC)

READ = Rule("role:editor", "record:*", "read", source=Source("policy.csv", 1))
DENY = Rule("user:eve", "*", "*", Effect.DENY, 'context.ip == "1.2.3.4"', 7, source=Source("policy.csv", 2))
INHERITS = RoleLink(Ref("role:editor"), Ref("role:viewer"), source=Source("policy.csv", 3))
GROUPED = RoleLink(Ref("record:1"), Ref("folder:a"), "g2", source=Source("policy.csv", 4))
ALICE = RoleLink(Ref("user:alice"), Ref("role:editor"), expires_at=SOON, source=Source("policy.csv", 5))
BOB = StoredEntity(
    EntityKind.SUBJECT,
    Ref("user:bob"),
    {"n": 1, "f": 1.0, "e": 1e16, "t": True, "l": [None, "é"]},
    source=Source("entities.yaml", 2),
)
DOC = StoredEntity(EntityKind.RESOURCE, Ref("record:1"), {"status": "active"}, source=Source("entities.yaml", 5))
FILES = (READ, DENY, INHERITS, GROUPED, ALICE, BOB, DOC)

pytestmark = pytest.mark.integration


async def test_files_are_read_back_exactly(acme, writer, reader):
    """Rules and hierarchy through `load_rules`, memberships and attributes through `lookup`, everything for a plan."""
    result = await writer.replace_file_rows(acme.tenant_id, FILES, meta=META, expected_revision=1)
    assert (result.added, result.removed) == (7, 0)
    assert (result.head.revision, result.head.rules_revision) == (2, 2)
    rule_set = await reader.load_rules(acme.tenant_id)
    assert rule_set.head == result.head
    assert list(rule_set.rules) == [READ, DENY]
    assert list(rule_set.links) == [INHERITS, GROUPED]
    found = await reader.lookup(acme.tenant_id, [Ref("user:alice"), Ref("user:bob"), Ref("user:x")], [Ref("record:1")])
    assert found.head == result.head
    alice = found.subjects[Ref("user:alice")]
    assert [(grant.role, grant.expires_at, grant.source) for grant in alice.grants] == [
        ("role:editor", SOON, ALICE.source)
    ]
    bob = found.subjects[Ref("user:bob")].properties
    assert repr(dict(sorted(bob.items()))) == repr(dict(sorted(BOB.properties.items())))
    assert found.subjects[Ref("user:x")].grants == ()
    assert found.resources == {Ref("record:1"): {"status": "active"}}
    current = await writer.current_rows(acme.tenant_id)
    assert current.head == result.head
    assert {*current.rules, *current.links} == set(FILES[:5])
    assert sorted(entity.ref for entity in current.entities) == ["record:1", "user:bob"]


async def test_nothing_to_do_makes_no_revision(acme, writer):
    """Applying the same files again, adding what is there and removing what is not, changes nothing."""
    first = await writer.replace_file_rows(acme.tenant_id, FILES, meta=META, expected_revision=1)
    again = await writer.replace_file_rows(acme.tenant_id, FILES, meta=META, expected_revision=2)
    assert (again.head, again.added, again.removed) == (first.head, 0, 0)
    api = RoleLink(Ref("user:zoe"), Ref("role:editor"))
    added = await writer.change_rows(acme.tenant_id, add=[api], remove=[], owner=Owner.API, meta=META)
    again = await writer.change_rows(
        acme.tenant_id, add=[api], remove=[("g", "user:no", "role:no")], owner=Owner.API, meta=META
    )
    assert again.head == added.head
    assert (added.head.revision, added.head.rules_revision) == (3, 2)


async def test_only_what_changed_is_written_and_counted(acme, writer, reader):
    """A new expiry and new attributes are changes of their row; a line that moved is none, but is known afterwards."""
    await writer.replace_file_rows(acme.tenant_id, FILES, meta=META, expected_revision=1)
    later = replace(ALICE, expires_at=None)
    bob = replace(BOB, properties={**BOB.properties, "n": 1.0})
    moved = replace(READ, source=Source("policy.csv", 9))
    desired = (moved, DENY, INHERITS, GROUPED, later, bob, DOC)
    result = await writer.replace_file_rows(acme.tenant_id, desired, meta=META, expected_revision=2)
    assert (result.added, result.removed) == (2, 2)
    assert result.head.rules_revision == 3
    assert [rule.source.line for rule in (await reader.load_rules(acme.tenant_id)).rules] == [2, 9]
    items = await writer.list_change_items(acme.tenant_id, 3, after=0, limit=10)
    assert [(item.added, item.row) for item in items] == [(False, ALICE), (True, later), (False, BOB), (True, bob)]
    assert await writer.list_change_items(acme.tenant_id, 3, after=3, limit=10) == items[3:]
    before = await writer.file_rows_at(acme.tenant_id, 2)
    assert sorted(map(row_to_json, before)) == sorted(map(row_to_json, FILES))
    assert await writer.file_rows_at(acme.tenant_id, 1) == []
    with pytest.raises(RevisionNotFoundError):
        await writer.file_rows_at(acme.tenant_id, 4)
    only_moved = replace(DENY, source=Source("policy.csv", 20))
    result = await writer.replace_file_rows(
        acme.tenant_id, (moved, only_moved, *desired[2:]), meta=META, expected_revision=3
    )
    assert (result.head.revision, result.added, result.removed) == (4, 0, 0)


async def test_owners_do_not_touch_each_others_rows(acme, writer):
    """Files and API meet in a conflict that names the line; `apply` leaves what the API granted."""
    await writer.replace_file_rows(acme.tenant_id, FILES, meta=META, expected_revision=1)
    with pytest.raises(ConflictError, match=r"policy\.csv:5"):
        await writer.change_rows(acme.tenant_id, add=[], remove=[ALICE.key], owner=Owner.API, meta=META)
    with pytest.raises(ConflictError, match=r"policy\.csv:1"):
        await writer.change_rows(acme.tenant_id, add=[READ], remove=[], owner=Owner.API, meta=META)
    granted = RoleLink(Ref("user:zoe"), Ref("role:editor"), owner=Owner.API)
    await writer.change_rows(acme.tenant_id, add=[granted], remove=[], owner=Owner.API, meta=META)
    wanted = RoleLink(Ref("user:zoe"), Ref("role:editor"), source=Source("policy.csv", 6))
    with pytest.raises(ConflictError, match=r"policy\.csv:6.*admin API"):
        await writer.replace_file_rows(acme.tenant_id, [*FILES, wanted], meta=META, expected_revision=3)
    result = await writer.replace_file_rows(acme.tenant_id, [], meta=META, expected_revision=3)
    assert result.removed == 7
    rows = await writer.current_rows(acme.tenant_id)
    assert list(rows.links) == [granted]
    assert (await writer.list_changes(acme.tenant_id, after_revision=3, limit=1))[0].removed == 7


async def test_rollback_restores_the_files_and_leaves_the_api(acme, writer):
    """A row that the API took over since stays the API's, and is no conflict."""
    await writer.replace_file_rows(acme.tenant_id, FILES, meta=META, expected_revision=1)
    await writer.replace_file_rows(acme.tenant_id, [READ], meta=META, expected_revision=2)
    taken = RoleLink(ALICE.member, ALICE.role, owner=Owner.API)
    await writer.change_rows(acme.tenant_id, add=[taken], remove=[], owner=Owner.API, meta=META)
    rows = await writer.file_rows_at(acme.tenant_id, 2)
    result = await writer.replace_file_rows(
        acme.tenant_id, rows, meta=META, expected_revision=4, kind=ChangeKind.ROLLBACK, rolled_back_to=2
    )
    assert (result.added, result.removed) == (5, 0)
    links = (await writer.current_rows(acme.tenant_id)).links
    assert [link for link in links if link.is_membership] == [taken]
    change = (await writer.list_changes(acme.tenant_id, after_revision=0, limit=1, newest_first=True))[0]
    assert (change.kind, change.rolled_back_to, change.meta, change.added) == (ChangeKind.ROLLBACK, 2, META, 5)


async def test_contradicting_rows_of_one_key_are_refused(acme, writer):
    """Which of two expiries counts is not guessed; equal duplicates are one row."""
    result = await writer.replace_file_rows(
        acme.tenant_id, [ALICE, replace(ALICE, source=Source("policy.csv", 8))], meta=META, expected_revision=1
    )
    assert result.added == 1
    twice = [ALICE, replace(ALICE, expires_at=None, source=Source("policy.csv", 8))]
    with pytest.raises(ConflictError, match=r"policy\.csv:8"):
        await writer.replace_file_rows(acme.tenant_id, twice, meta=META, expected_revision=2)


async def test_a_stale_writer_is_refused(acme, writer):
    """The error tells where the tenant is; nothing is written."""
    with pytest.raises(RevisionConflictError) as caught:
        await writer.replace_file_rows(acme.tenant_id, FILES, meta=META, expected_revision=7)
    assert (caught.value.expected, caught.value.actual) == (7, 1)
    nobody = TenantId(make_uuid7(SOON, b"y" * 10))
    with pytest.raises(TenantNotFoundError):
        await writer.change_rows(nobody, add=[READ], remove=[], owner=Owner.API, meta=META)
    assert [change.kind for change in await writer.list_changes(acme.tenant_id, after_revision=0, limit=9)] == [
        "tenant"
    ]


async def test_limits_hold_over_several_writes(acme, store):
    """Counts follow additions and removals of each kind apart."""
    writer = PostgresPolicyWriter(store.sessions, limits=PolicyLimits(rules=2, links=1, memberships=1, entities=1))
    two = [READ, DENY]
    await writer.replace_file_rows(acme.tenant_id, two, meta=META, expected_revision=1)
    third = Rule("user:x", "record:1", "write")
    with pytest.raises(LimitExceededError, match="3 rules"):
        await writer.change_rows(acme.tenant_id, add=[third], remove=[], owner=Owner.API, meta=META)
    await writer.change_rows(acme.tenant_id, add=[INHERITS], remove=[], owner=Owner.API, meta=META)
    await writer.replace_file_rows(acme.tenant_id, [READ], meta=META, expected_revision=3)
    await writer.change_rows(acme.tenant_id, add=[third], remove=[], owner=Owner.API, meta=META)
    with pytest.raises(LimitExceededError, match="2 links"):
        await writer.change_rows(acme.tenant_id, add=[GROUPED], remove=[], owner=Owner.API, meta=META)


async def test_base_and_model_raise_every_tenant(acme, store, writer, reader):
    """All heads rise in the transaction of the change, and every cache is told to start over; base rules come first."""
    other = await create_tenant("other", None, meta=META, tenants=TenantStore(store.sessions))
    start = await reader.poll(None)
    await writer.change_rows(acme.tenant_id, add=[READ], remove=[], owner=Owner.API, meta=META)
    base_rule = Rule("role:admin", "*", "*", base=True, source=Source("policy.csv", 3))
    result = await writer.replace_file_rows(BASE_TENANT_ID, [base_rule], meta=META, expected_revision=1)
    assert (result.head.revision, result.added) == (2, 1)
    page = await reader.poll(start.cursor)
    assert {head.slug: (head.revision, head.rules_revision) for head in page.heads} == {
        "acme": (3, 3),
        "other": (2, 2),
        "_base": (2, 2),
        "_platform": (2, 2),
    }
    rules = (await reader.load_rules(acme.tenant_id)).rules
    assert rules[0] == base_rule
    assert rules[1].subject == "role:editor"
    assert (await reader.touched_since(other.tenant_id, 1)).everything
    changes = await writer.list_changes(other.tenant_id, after_revision=1, limit=5)
    assert [(change.kind, change.meta.actor, change.added) for change in changes] == [(ChangeKind.BASE, "key:test", 0)]
    model = await writer.get_model()
    await writer.set_model(model, meta=META)
    assert await reader.find_tenant(other.tenant_id) == page.heads[[h.slug for h in page.heads].index("other")]
    changed = StoredModel(model.text + "\n# changed\n", "0" * 64)
    await writer.set_model(changed, meta=META)
    assert (await reader.load_rules(other.tenant_id)).model == changed
    head = await reader.find_tenant(other.tenant_id)
    assert head is not None
    assert (head.revision, head.rules_revision) == (3, 3)
    assert (await writer.current_rows(acme.tenant_id)).base_rules == [base_rule]


async def test_touched_names_what_cached_lookups_must_forget(acme, writer, reader):
    """Memberships and attributes name their subject or resource; rules name none; too many name everything."""
    await writer.change_rows(acme.tenant_id, add=[READ, INHERITS], remove=[], owner=Owner.API, meta=META)
    touched = await reader.touched_since(acme.tenant_id, 1)
    assert (touched.everything, touched.subjects, touched.resources) == (False, frozenset(), frozenset())
    await writer.change_rows(acme.tenant_id, add=[ALICE, BOB, DOC], remove=[], owner=Owner.API, meta=META)
    touched = await reader.touched_since(acme.tenant_id, 2)
    assert touched.subjects == {"user:alice", "user:bob"}
    assert touched.resources == {"record:1"}
    assert touched.head.revision == 3
    assert not (await reader.touched_since(acme.tenant_id, 3)).subjects
    assert (await reader.touched_since(acme.tenant_id, 99)).everything
    many = [RoleLink(Ref(f"user:{n}"), Ref("role:editor")) for n in range(1001)]
    await writer.change_rows(acme.tenant_id, add=many, remove=[], owner=Owner.API, meta=META)
    assert (await reader.touched_since(acme.tenant_id, 3)).everything


async def test_lists_are_complete_page_by_page(acme, writer):
    """Every row once, whatever the page size; filters by owner, subject and role."""
    links = [RoleLink(Ref(f"user:{n}"), Ref(f"role:r{n % 3}")) for n in range(10)]
    rules = [Rule(f"role:r{n}", "record:1", "read") for n in range(5)]
    await writer.change_rows(
        acme.tenant_id, add=[*links, *rules, INHERITS, BOB, DOC], remove=[], owner=Owner.API, meta=META
    )
    await writer.replace_file_rows(acme.tenant_id, [DENY], meta=META, expected_revision=2)

    async def everything(list_page, **filters):
        rows, after = [], None
        while True:
            page = await list_page(acme.tenant_id, after=after, limit=3, **filters)
            assert page.head.revision == 3
            rows += page.rows
            if page.cursor is None:
                return rows
            after = page.cursor

    assert sorted(row.key for row in await everything(writer.list_rules)) == sorted(
        row.key for row in [*rules, INHERITS, DENY]
    )
    assert await everything(writer.list_rules, owner=Owner.FILES) == [DENY]
    assert sorted(row.member for row in await everything(writer.list_memberships)) == sorted(
        link.member for link in links
    )
    assert [row.member for row in await everything(writer.list_memberships, subject=Ref("user:7"))] == ["user:7"]
    assert {row.member for row in await everything(writer.list_memberships, role=Ref("role:r0"))} == {
        "user:0",
        "user:3",
        "user:6",
        "user:9",
    }
    assert len(await everything(writer.list_entities)) == 2


async def test_candidates_come_in_code_point_order(acme, writer, reader):
    """By UTF-8 bytes, not by a locale; of one type only; from memberships and attributes; each once."""
    names = [
        "user:B",
        "user:a",
        "user:b",
        "user:é",
        "user:\U0001f600",
        "user:\uff21",
        "user:a:b",
        "users:x",
        "user:" + "z" * 2000 + "1",
        "user:" + "z" * 2000 + "2",
    ]
    add = [RoleLink(Ref(name), Ref(role)) for name in names for role in ("role:r", "role:s")]
    add += [
        StoredEntity(EntityKind.SUBJECT, Ref("user:only"), {}),
        StoredEntity(EntityKind.SUBJECT, Ref("user:a"), {}),
        DOC,
    ]
    await writer.change_rows(acme.tenant_id, add=add, remove=[], owner=Owner.API, meta=META)
    expected = sorted({name[5:] for name in [*names, "user:only"] if name.startswith("user:")})
    assert await reader.list_subject_candidates(acme.tenant_id, "user", "", 100) == expected
    for place, name in enumerate(expected):
        assert await reader.list_subject_candidates(acme.tenant_id, "user", name, 2) == expected[place + 1 : place + 3]
    assert await reader.list_resource_candidates(acme.tenant_id, "record", "", 9) == ["1"]
    assert await reader.list_resource_candidates(acme.tenant_id, "nothing", "", 9) == []


async def test_a_new_expiry_through_the_api_is_a_change(acme, writer, reader):
    """Granting again with another end replaces the end; history says so."""
    link = RoleLink(Ref("user:zoe"), Ref("role:editor"))
    await writer.change_rows(acme.tenant_id, add=[link], remove=[], owner=Owner.API, meta=META)
    result = await writer.change_rows(
        acme.tenant_id, add=[replace(link, expires_at=SOON + timedelta(days=1))], remove=[], owner=Owner.API, meta=META
    )
    assert (result.added, result.removed, result.head.revision) == (1, 1, 3)
    assert (await reader.lookup(acme.tenant_id, [Ref("user:zoe")], [])).subjects[Ref("user:zoe")].grants[
        0
    ].expires_at == SOON + timedelta(days=1)
    assert (await reader.touched_since(acme.tenant_id, 2)).subjects == {"user:zoe"}


async def test_sizes_are_judged_with_the_base_rows(acme, writer, reader):
    """Rules and links apart; another tenant's rows do not count."""
    await writer.change_rows(acme.tenant_id, add=[READ, DENY, INHERITS], remove=[], owner=Owner.API, meta=META)
    base = [Rule("role:admin", "*", "*", base=True, source=Source("policy.csv", 3))]
    await writer.replace_file_rows(BASE_TENANT_ID, base, meta=META, expected_revision=1)
    assert await reader.holds_at_most(acme.tenant_id, rules=3, links=1)
    assert not await reader.holds_at_most(acme.tenant_id, rules=2, links=1)
    assert not await reader.holds_at_most(acme.tenant_id, rules=3, links=0)
    assert await reader.holds_at_most(BASE_TENANT_ID, rules=1, links=0)
