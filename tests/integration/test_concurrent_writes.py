"""Many writers, one order: revisions rise one by one, and no reader of the feed can miss a change."""

import asyncio
from itertools import pairwise
from uuid import uuid4

import pytest

from authz.errors import RevisionConflictError
from authz.request import Ref
from authz.rules import Owner, RoleLink, Rule
from authz.storage import PostgresPolicyReader
from authz.storage_write import PostgresPolicyWriter
from tenancy.create_tenant import create_tenant
from tenancy.heads import raise_head, record_change
from tenancy.ids import BASE_TENANT_ID
from tenancy.storage import TenantStore
from tenancy.tenant import ChangeMeta
from tenancy.unit_of_work import tenant_unit_of_work

META = ChangeMeta("key:test")

pytestmark = pytest.mark.integration


async def test_revisions_rise_one_by_one_under_many_writers(store, acme, writer):
    """Writes at once, through two nodes, make revisions without gap, each with its own change."""
    other_node = PostgresPolicyWriter(store.sessions)

    async def write(number):
        row = RoleLink(Ref(f"user:{number}"), Ref("role:r"))
        node = writer if number % 2 else other_node
        return await node.change_rows(acme.tenant_id, add=[row], remove=[], owner=Owner.API, meta=META)

    results = await asyncio.gather(*(write(number) for number in range(16)))
    assert sorted(result.head.revision for result in results) == list(range(2, 18))
    changes = await writer.list_changes(acme.tenant_id, after_revision=0, limit=100)
    assert [change.revision for change in changes] == list(range(1, 18))
    assert all(change.at <= later.at for change, later in pairwise(changes))


async def test_of_two_writers_with_the_same_expectation_one_wins(acme, writer):
    """The other is told, and none of its rows is there."""
    sets = [[Rule(f"user:{name}{n}", "record:1", "read") for n in range(50)] for name in "abcd"]
    outcomes = await asyncio.gather(
        *(writer.replace_file_rows(acme.tenant_id, rows, meta=META, expected_revision=1) for rows in sets),
        return_exceptions=True,
    )
    assert sum(isinstance(outcome, RevisionConflictError) for outcome in outcomes) == 3
    rules = (await writer.current_rows(acme.tenant_id)).rules
    assert len(rules) == 50
    assert len({rule.subject[:6] for rule in rules}) == 1


async def test_poll_sees_a_commit_that_began_before_the_cursor(store, acme, writer, reader):
    """A slow transaction takes its number early and commits late; a fast one in between must not hide it."""
    other = await create_tenant("other", None, meta=META, tenants=TenantStore(store.sessions))
    cursor = (await reader.poll(None)).cursor
    async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
        head = await raise_head(work)
        await record_change(work.session, head, "api", META)
        add = [Rule("user:a", "record:1", "read")]
        fast = await writer.change_rows(other.tenant_id, add=add, remove=[], owner=Owner.API, meta=META)
        page = await reader.poll(cursor)
        assert page.heads == [fast.head]
        for _ in range(3):
            page = await reader.poll(page.cursor)
        assert acme.slug not in {found.slug for found in page.heads}
    page = await reader.poll(page.cursor)
    assert head in page.heads
    assert (await reader.poll(page.cursor)).heads == []


async def test_poll_names_the_database(store, reader):
    """The same name at every poll; none where the role may not ask, and the poll works all the same."""
    page = await reader.poll(None)
    assert page.lineage.count("/") == 2
    assert (await reader.poll(page.cursor)).lineage == page.lineage
    with store.owner() as owner:
        owner.execute("REVOKE EXECUTE ON FUNCTION pg_control_checkpoint() FROM PUBLIC")
    assert (await PostgresPolicyReader(store.sessions).poll(page.cursor)).lineage == ""


async def test_a_poller_sees_every_revision_in_the_end(acme, writer, reader):
    """While ten writers write, a reader polls: it never goes back, and its last word is the truth."""
    cursor = (await reader.poll(None)).cursor
    seen = []
    done = asyncio.Event()

    async def follow():
        nonlocal cursor
        while True:
            last = done.is_set()
            page = await reader.poll(cursor)
            cursor = page.cursor
            seen.extend(head.revision for head in page.heads if head.tenant_id == acme.tenant_id)
            if last:
                return

    async def write(number):
        for turn in range(5):
            row = RoleLink(Ref(f"user:{number}-{turn}"), Ref("role:r"))
            await writer.change_rows(acme.tenant_id, add=[row], remove=[], owner=Owner.API, meta=META)

    following = asyncio.create_task(follow())
    await asyncio.gather(*(write(number) for number in range(4)))
    done.set()
    await following
    assert seen == sorted(seen)
    assert seen[-1] == 21


async def test_a_tenant_born_during_a_change_of_the_base_gets_it(store, writer, reader):
    """Its first snapshot either holds the new base, or its rules revision rises with the change."""
    tenants = TenantStore(store.sessions)

    async def change_base(number):
        row = Rule(f"role:r{number}", "*", "*", base=True)
        return await writer.change_rows(BASE_TENANT_ID, add=[row], remove=[], owner=Owner.API, meta=META)

    born = asyncio.gather(*(create_tenant(f"t{n}", None, meta=META, tenants=tenants) for n in range(10)))
    await asyncio.gather(*(change_base(number) for number in range(5)))
    for head in await born:
        rule_set = await reader.load_rules(head.tenant_id)
        raised = rule_set.head.rules_revision - 1
        changes = await writer.list_changes(head.tenant_id, after_revision=1, limit=9)
        assert len(changes) == raised
        assert len(rule_set.rules) == 5


async def test_a_lookup_never_mixes_revisions(acme, writer, reader):
    """Rows and head come from one statement: the role is there exactly from the revision that granted it."""
    grant = RoleLink(Ref("user:a"), Ref("role:r"))
    has_role = {1: False}
    stop = asyncio.Event()

    async def look():
        while not stop.is_set():
            found = await reader.lookup(acme.tenant_id, [Ref("user:a")], [])
            assert bool(found.subjects[Ref("user:a")].grants) is (found.head.revision % 2 == 0)

    looking = [asyncio.create_task(look()) for _ in range(2)]
    for turn in range(20):
        add, remove = ([grant], []) if turn % 2 == 0 else ([], [grant.key])
        result = await writer.change_rows(acme.tenant_id, add=add, remove=remove, owner=Owner.API, meta=META)
        has_role[result.head.revision] = turn % 2 == 0
    stop.set()
    await asyncio.gather(*looking)
    assert has_role == {revision: revision % 2 == 0 for revision in range(1, 22)}


async def test_a_restored_database_is_reported_as_a_whole(acme, reader):
    """A cursor from the future tells that time went back: every tenant is reported, and polling goes on from there."""
    now = await reader.poll(None)
    page = await reader.poll(now.cursor + 1_000_000)
    assert page.restarted
    assert {head.slug for head in page.heads} == {"acme", "_base", "_platform"}
    assert page.cursor <= (await reader.poll(None)).cursor
    after = await reader.poll(page.cursor)
    assert not after.restarted
    assert after.heads == []


async def test_every_revision_has_a_stamp_of_its_own(acme, store, writer, reader):
    """Heads and history carry it; the stamp of the rules changes with the rules alone, in every tenant with the base."""
    rule, grant = Rule("role:r", "record:1", "read"), RoleLink(Ref("user:a"), Ref("role:r"))
    start = (await reader.poll(None)).cursor
    heads = [acme]
    for row in (rule, grant):
        result = await writer.change_rows(acme.tenant_id, add=[row], remove=[], owner=Owner.API, meta=META)
        heads.append(result.head)
    base = Rule("role:r", "*", "*", base=True)
    await writer.change_rows(BASE_TENANT_ID, add=[base], remove=[], owner=Owner.API, meta=META)
    heads.append(await reader.find_tenant(acme.tenant_id))
    assert len({head.stamp for head in heads}) == 4
    assert len({head.rules_stamp for head in heads}) == 3
    assert heads[1].rules_version == heads[2].rules_version
    for head in heads[:3]:
        assert (await reader.touched_since(acme.tenant_id, *head.version)).same_history
    page = await reader.poll(start)
    assert next(head for head in page.heads if head.slug == "acme") == heads[-1]
    assert (await reader.lookup(acme.tenant_id, [], [])).head == heads[-1]
    assert (await reader.load_rules(acme.tenant_id)).head == heads[-1]


async def test_a_revision_of_another_history_is_told(acme, store, writer, reader):
    """The number is there, with another stamp; one from before there were stamps is taken as it was."""
    grant = RoleLink(Ref("user:a"), Ref("role:r"))
    await writer.change_rows(acme.tenant_id, add=[grant], remove=[], owner=Owner.API, meta=META)
    assert (await reader.touched_since(acme.tenant_id, *acme.version)).subjects == {"user:a"}
    foreign = await reader.touched_since(acme.tenant_id, acme.revision, uuid4())
    assert (foreign.same_history, foreign.everything) == (False, True)
    with store.owner() as owner:
        owner.execute("UPDATE changes SET stamp = NULL")
    assert (await reader.touched_since(acme.tenant_id, acme.revision, uuid4())).same_history


async def test_the_poll_names_the_run_and_the_file_of_the_heads(store, reader):
    """A dump that is restored beside the running server makes the table anew, and nothing else tells of it."""
    page = await reader.poll(None)
    assert (await reader.poll(page.cursor)).run == page.run
    with store.owner() as owner:
        owner.execute("CREATE TABLE dump AS SELECT * FROM tenants")
        owner.execute("TRUNCATE tenants CASCADE")
        owner.execute("INSERT INTO tenants SELECT * FROM dump")
    after = await reader.poll(page.cursor)
    assert after.run != page.run
    assert {head.slug for head in (await reader.poll(0)).heads} == {"_base", "_platform"}
