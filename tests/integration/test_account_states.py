"""Account states in decisions of real nodes: one trip, one subject forgotten, every node told."""

from uuid import UUID

import pytest
from sqlalchemy import text

from authn.user_rows import insert_user
from authn.users import NewUser, normalize_username, subject_ref
from authz.decision import Reason
from authz.ports import Account, AccountState
from authz.request import Ref
from authz.storage import PostgresPolicyReader
from tenancy.audit import AuditEntry
from tenancy.database import open_engine, open_sessions
from tenancy.heads import lock_head, raise_head, record_change
from tenancy.tenant import ChangeMeta
from tenancy.unit_of_work import tenant_unit_of_work
from tests.support.live_node import live_node, membership, tenants_with_readers
from tests.support.servers import patient

pytestmark = pytest.mark.integration

META = ChangeMeta("key:test")


@pytest.fixture
async def sessions(own_database_url):
    engine = open_engine(own_database_url, patient())
    yield open_sessions(engine)
    await engine.dispose()


async def enter(sessions, tenant, name):
    """Make an account; return its subject."""
    async with tenant_unit_of_work(sessions, tenant) as work:
        await lock_head(work)
        user = await insert_user(work, NewUser(normalize_username(name)), created_by="test")
        head = await raise_head(work, counts={"users": 1})
        await record_change(work.session, head, "user", META, audit=[AuditEntry("user.create", user.ref)])
    return Ref(user.ref)


async def put(sessions, tenant, subject, status):
    """Change an account's state as the service does: in one transaction with the head and the subject it touches."""
    async with tenant_unit_of_work(sessions, tenant) as work:
        await lock_head(work)
        await work.session.execute(
            text("UPDATE users SET status = :status WHERE user_id = :id"),
            {"status": status, "id": UUID(subject.partition(":")[2])},
        )
        head = await raise_head(work)
        await record_change(
            work.session, head, "user", META, audit=[AuditEntry("user.disable", subject)], touched=[subject]
        )
    return head


async def test_a_disabled_account_is_denied_on_every_node(own_database_url, sessions):
    """Without any notice, and at once where the revision is demanded; the other subjects stay remembered."""
    (tenant,) = await tenants_with_readers(own_database_url, "acme")
    person, other = await enter(sessions, tenant, "alice"), await enter(sessions, tenant, "bob")
    async with live_node(own_database_url) as one, live_node(own_database_url) as two:
        await one.change(tenant, [membership(person), membership(other)])
        for node in (one, two):
            await node.until_answer(tenant, True, person)
            assert await node.allows(tenant, other)
        await put(sessions, tenant, person, "disabled")
        for node in (one, two):
            await node.until_answer(tenant, False, person)
            decision = await node.decide(tenant, person)
            assert (decision.allowed, decision.reason) == (False, Reason.ACCOUNT_DISABLED)
            misses = node.node.member_misses
            assert await node.allows(tenant, other)
            assert node.node.member_misses == misses, "who was not touched was forgotten"
        head = await put(sessions, tenant, person, "active")
        for node in (one, two):
            assert await node.allows(tenant, person, min_revision=head.revision)
        head = await put(sessions, tenant, person, "disabled")
        for node in (one, two):
            assert not await node.allows(tenant, person, min_revision=head.revision)


async def test_a_look_up_brings_the_state_of_accounts(own_database_url, sessions):
    """With the rows of the same revision; only by the one spelling of an id, and only in its tenant."""
    acme, beta = await tenants_with_readers(own_database_url, "acme", "beta")
    person = await enter(sessions, acme, "alice")
    reader = PostgresPolicyReader(sessions)
    loud, bare = Ref(f"user:{person.partition(':')[2].upper()}"), Ref(person.replace("-", ""))
    unknown = Ref(subject_ref(UUID(int=7)))
    asked = [person, loud, bare, unknown, Ref("user:alice"), Ref(f"service:{person.partition(':')[2]}")]
    found = await reader.lookup(acme, asked, [])
    assert {ref: record.account for ref, record in found.subjects.items()} == {
        ref: Account(AccountState.ACTIVE) if ref == person else None for ref in asked
    }
    assert (await reader.lookup(beta, [person], [])).subjects[person].account is None
    await put(sessions, acme, person, "disabled")
    assert (await reader.lookup(acme, [person], [])).subjects[person].barred is AccountState.DISABLED


async def test_the_history_names_the_subjects_that_a_change_touched(own_database_url, sessions):
    """Together with those whose memberships changed since, and none of before."""
    (tenant,) = await tenants_with_readers(own_database_url, "acme")
    first, second = await enter(sessions, tenant, "alice"), await enter(sessions, tenant, "bob")
    reader = PostgresPolicyReader(sessions)
    start = await put(sessions, tenant, first, "disabled")
    middle = await put(sessions, tenant, second, "disabled")
    touched = await reader.touched_since(tenant, start.revision, start.stamp)
    assert (touched.everything, touched.subjects, touched.changed_rows) == (False, {second}, ())
    async with live_node(own_database_url) as node:
        await node.change(tenant, [membership("user:carol")])
    touched = await reader.touched_since(tenant, start.revision, start.stamp)
    assert touched.subjects == {second, Ref("user:carol")}
    assert (await reader.touched_since(tenant, middle.revision, middle.stamp)).subjects == {Ref("user:carol")}


async def test_a_change_that_touches_very_many_says_everything(own_database_url, sessions):
    """The list of names is bounded; beyond it all is looked up anew."""
    (tenant,) = await tenants_with_readers(own_database_url, "acme")
    person = await enter(sessions, tenant, "alice")
    start = await put(sessions, tenant, person, "disabled")
    async with tenant_unit_of_work(sessions, tenant) as work:
        await lock_head(work)
        head = await raise_head(work)
        names = [subject_ref(UUID(int=number)) for number in range(2000)]
        await record_change(work.session, head, "user", META, audit=[AuditEntry("user.disable", person)], touched=names)
    assert (await PostgresPolicyReader(sessions).touched_since(tenant, start.revision, start.stamp)).everything
