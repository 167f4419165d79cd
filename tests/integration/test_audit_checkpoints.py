"""Checkpoints: signed when a chain grew, delivered in order and at least once; a sink that is behind stops changes."""

import asyncio
import json

import pytest

from authz.request import Ref
from authz.rules import Owner, RoleLink
from tenancy.audit import AuditChain, AuditEntry
from tenancy.audit_checkpoints import AuditKeys, CheckpointKeeper
from tenancy.audit_log import append_audit
from tenancy.audit_settings import AuditSettings
from tenancy.audit_signatures import BadCheckpointError, SigningKey, read_checkpoint
from tenancy.audit_sinks import AuditSinkError
from tenancy.cluster_lock import once_in_cluster
from tenancy.create_tenant import create_tenant
from tenancy.errors import AuditUnavailableError
from tenancy.ids import PLATFORM_TENANT_ID
from tenancy.key_encryption import KeyEncryptionKeys, LocalKeyEncryption
from tenancy.key_ring import KeyRing
from tenancy.storage import TenantStore
from tenancy.tenant import ChangeMeta
from tenancy.unit_of_work import tenant_unit_of_work

META = ChangeMeta("key:test")
SEED = bytes(range(32))
KEYS = {SigningKey(SEED).key_id: SigningKey(SEED).public_key}
OFTEN = AuditSettings(checkpoint_seconds=3600, checkpoint_rows=3)

pytestmark = pytest.mark.integration


class Sink:
    """Takes lines, or fails; may take them and fail all the same."""

    def __init__(self):
        self.lines = []
        self.fails = False
        self.loses_the_answer = False

    async def send(self, lines):
        if self.fails:
            raise AuditSinkError("down")
        self.lines += lines
        if self.loses_the_answer:
            raise AuditSinkError("no answer")

    @property
    def heads(self):
        return [read_checkpoint(line, KEYS) for line in self.lines]


def keeper_of(store, sink, settings=OFTEN, seed=SEED):
    ring = KeyRing(store.sessions, KeyEncryptionKeys([LocalKeyEncryption("test", bytes(range(32)))], "test"))
    return CheckpointKeeper(store.sessions, AuditKeys(store.sessions, ring, seed), sink, settings)


async def append(store, tenant_id, count=1, chain=AuditChain.TENANT):
    async with tenant_unit_of_work(store.sessions, tenant_id) as work:
        await append_audit(work, META, [AuditEntry("policy.change")] * count, chain=chain)


def head_row(store, tenant_id):
    with store.owner() as owner:
        return owner.execute(
            "SELECT seq, hash, unsealed_since FROM audit_chains WHERE tenant_id = %s AND chain = 'tenant'", (tenant_id,)
        ).fetchone()


async def test_a_chain_is_signed_after_its_rows_or_its_time(store, acme):
    """The first event at once, then every three rows here; what did not grow is not signed again."""
    sink = Sink()
    keeper = keeper_of(store, sink)
    await keeper.run()
    assert {(head.tenant_id, head.seq) for head in sink.heads} == {(acme.tenant_id, 1), (PLATFORM_TENANT_ID, 1)}
    await append(store, acme.tenant_id, 2)
    await keeper.run()
    assert len(sink.lines) == 2
    await append(store, acme.tenant_id, 1)
    await keeper.run()
    await keeper.run()
    assert len(sink.lines) == 3
    last = sink.heads[-1]
    assert (last.seq, last.hash) == head_row(store, acme.tenant_id)[:2]
    await append(store, acme.tenant_id, 1)
    with store.owner() as owner:
        owner.execute("UPDATE audit_signed SET at = at - interval '3601 s'")
    await keeper.run()
    assert sink.heads[-1].seq == 5
    assert [head.number for head in sink.heads] == [1, 2, 3, 4]


async def test_what_was_not_surely_taken_is_sent_again_in_order(store, acme):
    """An outage loses nothing; an answer that was lost doubles a line; numbers never go back."""
    sink = Sink()
    keeper = keeper_of(store, sink)
    sink.fails = True
    with pytest.raises(AuditSinkError):
        await keeper.run()
    assert head_row(store, acme.tenant_id)[2] is not None
    await append(store, acme.tenant_id, 3)
    sink.fails, sink.loses_the_answer = False, True
    with pytest.raises(AuditSinkError):
        await keeper.run()
    sink.loses_the_answer = False
    await keeper.run()
    numbers = [head.number for head in sink.heads]
    assert numbers == [1, 2, 3, 1, 2, 3]
    assert head_row(store, acme.tenant_id)[2] is None
    assert await keeper.behind_seconds() == 0


async def test_of_two_nodes_one_signs(store, acme):
    """The other leaves it alone; numbers are given once."""
    sink = Sink()
    await asyncio.gather(*(keeper_of(store, sink).run() for _ in range(3)))
    async with once_in_cluster(store.sessions, "audit-checkpoints") as mine:
        assert mine
        await append(store, acme.tenant_id, 3)
        await keeper_of(store, sink).run()
    assert len(sink.lines) == 2
    assert len({head.number for head in sink.heads}) == 2


async def test_a_sink_that_is_behind_stops_changes_until_it_is_not(store, acme, writer):
    """Every change, in every tenant; it heals by itself, without a restart."""
    other = await create_tenant("other", None, meta=META, tenants=TenantStore(store.sessions))
    sink = Sink()
    keeper = keeper_of(store, sink, AuditSettings(max_behind_seconds=60, checkpoint_rows=3))
    await keeper.run()
    sink.fails = True
    grant, more = RoleLink(Ref("user:a"), Ref("role:r")), RoleLink(Ref("user:b"), Ref("role:r"))
    await writer.change_rows(acme.tenant_id, add=[grant], remove=[], owner=Owner.API, meta=META)
    with store.owner() as owner:
        owner.execute("UPDATE audit_signed SET at = at - interval '61 s'")
    with pytest.raises(AuditSinkError):
        await keeper.run()
    with store.owner() as owner:
        owner.execute("UPDATE audit_chains SET unsealed_since = unsealed_since - interval '61 s'")
    assert await keeper.behind_seconds() > 60
    for tenant in (acme, other):
        with pytest.raises(AuditUnavailableError):
            await writer.change_rows(tenant.tenant_id, add=[more], remove=[], owner=Owner.API, meta=META)
        with pytest.raises(AuditUnavailableError):
            await append(store, tenant.tenant_id)
    sink.fails = False
    await keeper.run()
    await append(store, other.tenant_id)
    result = await writer.change_rows(other.tenant_id, add=[grant], remove=[], owner=Owner.API, meta=META)
    assert result.added == 1


async def test_without_a_sink_nothing_waits(store, acme):
    """Checkpoints are signed and stay in the database."""
    keeper = keeper_of(store, None)
    await keeper.run()
    with store.owner() as owner:
        owner.execute("UPDATE audit_chains SET unsealed_since = now() - interval '1 day'")
        assert owner.execute("SELECT count(*) FROM audit_checkpoints").fetchone() == (2,)
        assert owner.execute("SELECT max_behind FROM audit_sink").fetchone() == (None,)
    await append(store, acme.tenant_id)


async def test_a_busy_chain_is_cleared_by_the_next_run(store, acme):
    """A writer that holds the chain neither waits nor is waited for."""
    sink = Sink()
    keeper = keeper_of(store, sink)
    async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
        await append_audit(work, META, [AuditEntry("policy.change")])
        await keeper.run()
        assert head_row(store, acme.tenant_id)[2] is not None
    await keeper.run()
    seq, _, unsealed = head_row(store, acme.tenant_id)
    assert seq == 2
    with store.owner() as owner:
        [(at,)] = owner.execute(
            "SELECT at FROM audit_events WHERE tenant_id = %s AND seq = 2", (acme.tenant_id,)
        ).fetchall()
    assert unsealed == at


async def test_a_key_is_made_once_and_kept_sealed(store, acme):
    """Every node signs with it; its public half is shown; its private half is nowhere in the clear."""
    sink = Sink()
    await keeper_of(store, sink, seed=None).run()
    await append(store, acme.tenant_id, 3)
    keeper = keeper_of(store, sink, seed=None)
    await keeper.run()
    [key] = await keeper._keys.public_keys()
    public = {key.key_id: bytes(key.public_key)}
    assert [read_checkpoint(line, public).seq for line in sink.lines] == [1, 1, 4]
    async with tenant_unit_of_work(store.sessions, PLATFORM_TENANT_ID) as work:
        signing = await keeper._keys.signing_key(work)
    with store.owner() as owner:
        [(sealed,)] = owner.execute("SELECT sealed FROM audit_keys").fetchall()
    assert signing.seed not in bytes(sealed)
    assert signing.key_id == key.key_id


async def test_a_key_of_the_settings_takes_over(store, acme):
    """Both are shown, so old checkpoints still verify."""
    sink = Sink()
    await keeper_of(store, sink, seed=None).run()
    await append(store, acme.tenant_id, 3)
    keeper = keeper_of(store, sink)
    await keeper.run()
    keys = {row.key_id: bytes(row.public_key) for row in await keeper._keys.public_keys()}
    assert len(keys) == 2
    assert [read_checkpoint(line, keys).seq for line in sink.lines] == [1, 1, 4]


def test_a_checkpoint_that_was_changed_is_refused(acme_line):
    """In any member, or signed by another key."""
    said = json.loads(acme_line)
    assert read_checkpoint(acme_line, KEYS).seq == 7
    changes = {"number": 2, "at": "2026-03-01T12:00:00.000001Z", "seq": 8, "hash": "11" * 32, "chain": "sign_in"}
    changes |= {"tenant": str(PLATFORM_TENANT_ID)[:-1] + "9", "signature": said["signature"][:-4] + "AA=="}
    for name, value in changes.items():
        with pytest.raises(BadCheckpointError, match="does not hold"):
            read_checkpoint(json.dumps(said | {name: value}), KEYS)
    with pytest.raises(BadCheckpointError, match="not known"):
        read_checkpoint(SigningKey(bytes(32)).line(read_checkpoint(acme_line, KEYS)), KEYS)
    for line in ("", "{}", "[]", "7", json.dumps(said | {"seq": None}), json.dumps(said | {"key": [1]})):
        with pytest.raises(BadCheckpointError):
            read_checkpoint(line, KEYS)


@pytest.fixture
def acme_line():
    """A signed checkpoint."""
    from datetime import UTC, datetime

    from tenancy.audit_signatures import SignedHead

    at = datetime(2026, 3, 1, 12, tzinfo=UTC)
    return SigningKey(SEED).line(SignedHead(1, at, PLATFORM_TENANT_ID, AuditChain.TENANT, 7, bytes(32)))
