"""Every change is in its tenant's audit, in its own transaction, in one chain, and nobody of the service can alter it."""

import asyncio
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from authn.api_keys import new_api_key
from authn.storage import ApiKeyStore
from authz.request import Ref
from authz.rules import Owner, RoleLink, Rule
from authz.storage_write import PostgresPolicyWriter
from tenancy.audit import AuditChain, AuditEntry, AuditOutcome, SealedPersonal
from tenancy.audit_chain import NO_HASH, AuditEvent, hash_of
from tenancy.audit_log import append_audit, seal_personal_with
from tenancy.audit_partitions import make_partitions
from tenancy.create_tenant import create_tenant
from tenancy.errors import AuditUnavailableError
from tenancy.heads import lock_head, raise_head, record_change
from tenancy.ids import BASE_TENANT_ID, PLATFORM_TENANT_ID
from tenancy.key_encryption import KeyEncryptionKeys, LocalKeyEncryption
from tenancy.key_ring import KeyRing
from tenancy.storage import TenantStore
from tenancy.tenant import ChangeMeta
from tenancy.unit_of_work import bind_tenant, tenant_unit_of_work
from tenancy.uuid7 import make_uuid7

META = ChangeMeta("key:test", "because", "abc123", "request-1", "key:test", "192.0.2.7")
GRANT = RoleLink(Ref("user:a"), Ref("role:r"))

pytestmark = pytest.mark.integration


@dataclass(frozen=True)
class Stored:
    """An event and where its chain stands."""

    events: list[AuditEvent]

    @property
    def said(self):
        return [json.loads(event.text) for event in self.events]


def stored(store, tenant_id, chain=AuditChain.TENANT):
    """Read a chain as the owner of the tables does."""
    with store.owner() as owner:
        rows = owner.execute(
            "SELECT seq, at, previous, hash, event::text FROM audit_events WHERE tenant_id = %s AND chain = %s ORDER BY seq",
            (tenant_id, chain.value),
        ).fetchall()
    return Stored([AuditEvent(tenant_id, chain, *row) for row in rows])


def head_of_chain(store, tenant_id, chain=AuditChain.TENANT):
    with store.owner() as owner:
        return owner.execute(
            "SELECT seq, hash FROM audit_chains WHERE tenant_id = %s AND chain = %s", (tenant_id, chain.value)
        ).fetchone()


def assert_whole(store, tenant_id, chain=AuditChain.TENANT):
    """Numbers without gap, times that do not fall, each hash over its row and the hash before, the head at the end."""
    events = stored(store, tenant_id, chain).events
    previous, at = NO_HASH, None
    for number, event in enumerate(events, start=1):
        assert event.seq == number
        assert event.previous == previous
        assert hash_of(event) == event.hash
        assert at is None or event.at >= at
        previous, at = event.hash, event.at
    assert head_of_chain(store, tenant_id, chain) == (len(events), previous)
    return events


async def test_every_kind_of_change_is_in_the_audit(store, acme, writer):
    """Who, what, when, from where, on whom, why, in which request and revision."""
    keys = ApiKeyStore(store.sessions)
    await writer.change_rows(acme.tenant_id, add=[GRANT], remove=[], owner=Owner.API, meta=META)
    rows = [Rule("role:r", "record:1", "read")]
    applied = await writer.replace_file_rows(acme.tenant_id, rows, meta=META, expected_revision=2)
    tenant = await TenantStore(store.sessions).find(acme.tenant_id)
    token, key, key_hash = new_api_key(
        acme.tenant_id,
        "till",
        frozenset({"decision:check"}),
        key_id=make_uuid7(tenant.created_at, bytes(10)),
        entropy=bytes(36),
        now=tenant.created_at,
    )
    await keys.create(key, key_hash, meta=META)
    await keys.revoke(acme.tenant_id, key.id, meta=META)
    await keys.revoke(acme.tenant_id, key.id, meta=META)
    said = stored(store, acme.tenant_id).said
    assert [event["action"] for event in said] == [
        "tenant.create",
        "policy.change",
        "policy.apply",
        "key.create",
        "key.revoke",
    ]
    assert [event["revision"] for event in said] == [1, 2, 3, 4, 5]
    assert applied.head.revision == 3
    change = said[1]
    assert change == {
        "action": "policy.change",
        "outcome": "success",
        "actor": "key:test",
        "credential": "key:test",
        "address": "192.0.2.7",
        "target": "user:a",
        "reason": "because",
        "git_commit": "abc123",
        "request_id": "request-1",
        "revision": 2,
        "after": {"rows": [["g", "user:a", "role:r"]]},
        "detail": {"added": 1},
    }
    assert said[3]["target"] == said[4]["target"] == f"key:{key.id}"
    assert said[3]["after"]["scopes"] == ["decision:check"]
    assert token not in json.dumps(said)
    assert key_hash.hex() not in json.dumps(said)
    assert_whole(store, acme.tenant_id)


async def test_a_tenant_starts_its_chain_and_the_platform_tells_of_it(store, acme):
    """Should a whole chain be missing, the platform's still names its tenant."""
    [event] = stored(store, PLATFORM_TENANT_ID).said
    assert event["target"] == f"tenant:{acme.tenant_id}"
    assert event["after"] == {"slug": "acme", "display_name": "acme"}
    assert [event["action"] for event in stored(store, acme.tenant_id).said] == ["tenant.create"]


async def test_a_change_of_the_base_is_one_event(store, acme, writer):
    """Every tenant's revision rises; the audit holds it once, in the base's chain."""
    rule = Rule("role:r", "*", "*", base=True)
    await writer.change_rows(BASE_TENANT_ID, add=[rule], remove=[], owner=Owner.API, meta=META)
    assert [event["action"] for event in stored(store, BASE_TENANT_ID).said] == ["base.change"]
    assert len(stored(store, acme.tenant_id).events) == 1
    assert len(stored(store, PLATFORM_TENANT_ID).events) == 1


async def test_writers_at_once_make_one_chain(store, acme, writer):
    """Through two pools, changes and events without a revision; nothing forks, nothing is lost."""
    other = PostgresPolicyWriter(store.sessions)

    async def write(number):
        row = RoleLink(Ref(f"user:{number}"), Ref("role:r"))
        node = writer if number % 2 else other
        await node.change_rows(acme.tenant_id, add=[row], remove=[], owner=Owner.API, meta=META)

    async def note(number):
        async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
            entries = [AuditEntry("policy.change", f"user:{number}", AuditOutcome.REFUSED)] * 3
            await append_audit(work, META, entries)

    await asyncio.gather(*(write(number) for number in range(8)), *(note(number) for number in range(8)))
    assert len(assert_whole(store, acme.tenant_id)) == 1 + 8 + 24


async def test_chains_of_a_tenant_are_apart(store, acme):
    """A flood of failed sign-ins does not wait for, nor hold up, a change."""
    async with tenant_unit_of_work(store.sessions, acme.tenant_id) as holder:
        await append_audit(holder, META, [AuditEntry("policy.change")])
        async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
            await append_audit(work, META, [AuditEntry("policy.change")] * 2, chain=AuditChain.SIGN_IN)
    assert len(assert_whole(store, acme.tenant_id)) == 2
    assert len(assert_whole(store, acme.tenant_id, AuditChain.SIGN_IN)) == 2


async def test_what_is_rolled_back_leaves_no_event(store, acme):
    """An event is of the transaction that it records, and the next one follows the last that stayed."""

    async def write(*, fail):
        async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
            await lock_head(work)
            await record_change(work.session, await raise_head(work), "api", META)
            if fail:
                raise RuntimeError

    for fail in (False, True, False):
        try:
            await write(fail=fail)
        except RuntimeError:
            assert fail
    assert [event["revision"] for event in stored(store, acme.tenant_id).said] == [1, 2, 3]
    assert_whole(store, acme.tenant_id)


async def test_when_the_audit_must_not_be_written_nothing_changes(store, acme, writer):
    """Neither rows nor revision; when it may be written again, so may everything else."""
    with store.owner() as owner:
        owner.execute("UPDATE audit_sink SET max_behind = interval '1 minute'")
        owner.execute(
            "UPDATE audit_chains SET unsealed_since = now() - interval '61 s' WHERE tenant_id = %s", (acme.tenant_id,)
        )
    with pytest.raises(AuditUnavailableError):
        await writer.change_rows(acme.tenant_id, add=[GRANT], remove=[], owner=Owner.API, meta=META)
    with pytest.raises(AuditUnavailableError):
        await create_tenant("other", None, meta=META, tenants=TenantStore(store.sessions))
    with store.owner() as owner:
        assert owner.execute("SELECT count(*) FROM memberships").fetchone() == (0,)
        assert owner.execute("SELECT count(*) FROM tenants").fetchone() == (3,)
        owner.execute("UPDATE audit_chains SET unsealed_since = NULL")
    result = await writer.change_rows(acme.tenant_id, add=[GRANT], remove=[], owner=Owner.API, meta=META)
    assert result.head.revision == 2


FORBIDDEN = (
    "INSERT INTO audit_events (tenant_id, chain, seq, at, previous, hash, event) SELECT tenant_id, chain, 9, at, hash, hash, event FROM audit_events",
    "UPDATE audit_events SET event = '{}'",
    "DELETE FROM audit_events",
    "TRUNCATE audit_events",
    "DELETE FROM audit_events_default",
    "SELECT * FROM audit_events_default",
    "DROP TABLE audit_events",
    "ALTER TABLE audit_events DISABLE ROW LEVEL SECURITY",
    "ALTER TABLE audit_events DETACH PARTITION audit_events_default",
    "UPDATE audit_chains SET seq = 0",
    "DELETE FROM audit_chains",
    "INSERT INTO audit_chains (tenant_id, chain) SELECT tenant_id, 'sign_in' FROM audit_chains",
    "UPDATE audit_sink SET max_behind = NULL",
    "INSERT INTO audit_sink SELECT tenant_id, interval '1 day' FROM tenants",
    "TRUNCATE audit_chains, audit_sink",
    "CREATE OR REPLACE FUNCTION append_audit(uuid, text, text[]) RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint'",
)


async def test_the_service_cannot_alter_the_audit(store, acme):
    """Whatever it sends; what it may is to add and to read."""
    for statement in FORBIDDEN:
        with pytest.raises(DBAPIError, match="permission denied|must be owner"):
            async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
                await work.session.execute(text(statement))
    assert len(assert_whole(store, acme.tenant_id)) == 1


async def test_a_tenant_reads_and_adds_to_its_own_audit_alone(store, acme):
    """Without the application's filters; unbound, nothing at all."""
    other = await create_tenant("other", None, meta=META, tenants=TenantStore(store.sessions))
    async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
        for table in ("audit_events", "audit_chains"):
            seen = await work.session.execute(text(f"SELECT DISTINCT tenant_id FROM {table}"))
            assert seen.scalars().all() == [acme.tenant_id]
    for bound in (acme.tenant_id, None):
        async with store.sessions() as session:
            if bound is not None:
                await bind_tenant(session, bound)
            statement = text("SELECT append_audit(:id, 'tenant', ARRAY['{}'])")
            with pytest.raises(DBAPIError, match="belongs to another tenant"):
                await session.execute(statement, {"id": other.tenant_id})


async def test_any_text_is_stored_as_one_line_and_hashed_the_same(store, acme):
    """Line feeds, escape sequences, NUL, halves of surrogate pairs, and everything JSON escapes."""
    hostile = 'a\r\nb\x1b[2J\0c\ud800d"\\\u2028\N{GRINNING FACE}'
    entry = AuditEntry(
        "policy.change",
        target=f"user:{hostile}",
        before={hostile: [hostile, 1, 2.5, None, True]},
        personal=SealedPersonal(acme.tenant_id, hostile),
    )
    async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
        await append_audit(work, ChangeMeta(hostile, hostile), [entry])
    event = assert_whole(store, acme.tenant_id)[-1]
    assert "\n" not in event.text
    assert json.loads(event.text)["reason"].startswith("a\r\nb\x1b[2J␀c?d")


async def test_the_address_of_a_person_is_not_stored_in_the_clear(store, acme):
    """An address that tells where a person was is personal."""
    async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
        await append_audit(work, ChangeMeta("user:1", address="192.0.2.7"), [AuditEntry("policy.change")])
    assert "192.0.2.7" not in stored(store, acme.tenant_id).events[-1].text


async def test_where_a_person_acted_from_ends_with_their_key(store, acme):
    """It is sealed under a key of the person's own; without it the chain still holds, and nobody reads the address."""
    ring = KeyRing(store.sessions, KeyEncryptionKeys([LocalKeyEncryption("test", bytes(range(32)))], "test"))
    seal_personal_with(store.sessions, ring)
    person = make_uuid7(datetime.now(UTC), bytes(10))
    writer = PostgresPolicyWriter(store.sessions)
    meta = ChangeMeta(f"user:{person}", address="192.0.2.7")
    await writer.change_rows(acme.tenant_id, add=[GRANT], remove=[], owner=Owner.API, meta=meta)
    event = assert_whole(store, acme.tenant_id)[-1]
    sealed = json.loads(event.text)["actor_personal"]
    assert "192.0.2.7" not in event.text
    personal = SealedPersonal(UUID(sealed["subject"]), sealed["sealed"])
    async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
        assert await ring.open_personal(work, personal) == {"address": "192.0.2.7"}
        await ring.destroy_subject_key(work, person)
        assert await ring.open_personal(work, personal) is None
    assert_whole(store, acme.tenant_id)


def test_an_action_outside_of_the_inventory_is_refused():
    """What the audit may say is closed."""
    with pytest.raises(ValueError, match="AUDIT_ACTIONS"):
        AuditEntry("user.admire")


async def test_partitions_are_made_ahead(store, acme):
    """Rows of this month go into its partition; making them again makes none; more months make more."""
    with store.owner() as owner:
        names = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'audit_events'::regclass"
        assert len(owner.execute(names).fetchall()) == 4
        assert owner.execute("SELECT count(*) FROM audit_events_default").fetchone() == (0,)
    for months, made in ((3, 0), (5, 2), (5, 0)):
        assert await make_partitions(store.sessions, months) == made
