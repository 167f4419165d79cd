"""Old months go as whole partitions, behind delivered checkpoints; chains say where they begin and still verify."""

import asyncio
from datetime import UTC, datetime

import pytest

from migrations.audit_retention import NotDeliveredError, retain
from service.cli.root import root
from tenancy.audit import AuditChain, AuditEntry
from tenancy.audit_log import append_audit
from tenancy.audit_reader import AuditFilter, AuditReader
from tenancy.audit_settings import AuditSettings
from tenancy.audit_verification import Checkpoint, verify_chain
from tenancy.ids import PLATFORM_TENANT_ID
from tenancy.tenant import ChangeMeta
from tenancy.unit_of_work import tenant_unit_of_work
from tests.integration.test_audit_checkpoints import Sink, keeper_of

META = ChangeMeta("key:test")
OLD_MONTHS = ("2025_11", "2025_12", "2026_01")
EVERYTHING = AuditSettings(checkpoint_rows=1)

pytestmark = pytest.mark.integration


def set_clock(store, at):
    """Have `append_audit` take this for the time, or the database's own again when None."""
    with store.owner() as owner:
        [(definition,)] = owner.execute(
            "SELECT pg_get_functiondef('append_audit(uuid,text,text[])'::regprocedure)"
        ).fetchall()
        now = "clock_timestamp()" if at is None else f"timestamptz '{at}'"
        start = definition.index("greatest(") + len("greatest(")
        end = definition.index(", head.last_at)")
        owner.execute(definition[:start] + now + definition[end:])


async def append(store, tenant_id, count, chain=AuditChain.TENANT):
    async with tenant_unit_of_work(store.sessions, tenant_id) as work:
        await append_audit(work, META, [AuditEntry("policy.change")] * count, chain=chain)


@pytest.fixture
async def aged(store, acme):
    """`acme` with events of three old months and of today, and old events alone in its other chain."""
    with store.owner() as owner:
        owner.execute("TRUNCATE audit_events, audit_chains")
        for name in OLD_MONTHS:
            year, month = (int(part) for part in name.split("_"))
            following = f"{year + month // 12}-{month % 12 + 1:02}-01Z"
            owner.execute(f"CREATE TABLE audit_events_{name} (LIKE audit_events INCLUDING ALL)")
            owner.execute(
                f"ALTER TABLE audit_events ATTACH PARTITION audit_events_{name} "
                f"FOR VALUES FROM ('{year}-{month:02}-01Z') TO ('{following}')"
            )
    for at in ("2025-11-20T12:00:00Z", "2025-12-20T12:00:00Z", "2026-01-20T12:00:00Z"):
        set_clock(store, at)
        await append(store, acme.tenant_id, 2)
        await append(store, acme.tenant_id, 1, AuditChain.SIGN_IN)
    set_clock(store, "2024-05-05T12:00:00Z")
    await append(store, PLATFORM_TENANT_ID, 1)
    set_clock(store, None)
    await append(store, acme.tenant_id, 2)
    return acme.tenant_id


async def delivered(store):
    sink = Sink()
    await keeper_of(store, sink, EVERYTHING).run()
    return sink


def partitions(store):
    with store.owner() as owner:
        rows = owner.execute(
            "SELECT right(inhrelid::regclass::text, 7) FROM pg_inherits WHERE inhparent = 'audit_events'::regclass"
        ).fetchall()
    return {row[0] for row in rows} & set(OLD_MONTHS)


async def retained(store, keep_days=290):
    """Keep nearly ten months, so that January 2026 is among what stays on 2026-11-01."""
    now = datetime(2026, 11, 1, tzinfo=UTC)
    return await asyncio.to_thread(retain, store.url, keep_days, now=now, reason="policy")


async def whole(store, tenant_id, chain, sink):
    """Verify a chain as it is now against all that the sink has; return its first and last row."""
    head, events = await AuditReader(store.sessions).read(tenant_id, chain, after=None, limit=100)
    points = [Checkpoint(at.seq, at.hash) for at in sink.heads if (at.tenant_id, at.chain) == (tenant_id, chain)]
    assert points
    assert verify_chain(head, events, points) == []
    return head.first_seq, head.last_seq


async def test_whole_months_go_and_what_stays_verifies(store, aged):
    """The chain begins behind them, says so, and holds against old checkpoints, too; writers go on."""
    sink = await delivered(store)
    done = await retained(store)
    assert (done.partitions, done.chains) == (("audit_events_2025_11", "audit_events_2025_12"), 3)
    assert partitions(store) == {"2026_01"}
    assert await whole(store, aged, AuditChain.TENANT, sink) == (5, 9)
    assert await whole(store, aged, AuditChain.SIGN_IN, sink) == (3, 4)
    await append(store, aged, 1)
    assert await whole(store, aged, AuditChain.TENANT, sink) == (5, 10)
    reader = AuditReader(store.sessions)
    [told] = await reader.search(aged, AuditChain.TENANT, AuditFilter(action="audit.retain"), after=None, limit=9)
    assert '"first_seq":5' in told.text
    assert '"reason":"policy"' in told.text
    platform = await reader.search(
        PLATFORM_TENANT_ID, AuditChain.TENANT, AuditFilter(action="audit.retain"), after=None, limit=9
    )
    assert [("audit_events_2025_11" in event.text, "first_seq" in event.text) for event in platform] == [
        (True, False),
        (False, True),
    ]
    with store.owner() as owner:
        assert owner.execute("SELECT count(*) FROM audit_events_default").fetchone() == (0,)
    again = await retained(store)
    assert (again.partitions, again.before) == ((), None)


async def test_nothing_goes_that_was_not_delivered(store, aged):
    """A sink that is down keeps all months."""
    sink = Sink()
    sink.fails = True
    with pytest.raises(Exception, match="down"):
        await keeper_of(store, sink, EVERYTHING).run()
    with pytest.raises(NotDeliveredError, match="3 chains in all"):
        await retained(store)
    assert partitions(store) == set(OLD_MONTHS)
    head, _ = await AuditReader(store.sessions).read(aged, AuditChain.TENANT, after=None, limit=1)
    assert head.first_seq == 1


async def test_a_run_that_broke_off_is_done_by_the_next(store, aged, monkeypatch):
    """Chains that begin anew already hide what has not gone yet."""
    sink = await delivered(store)
    with monkeypatch.context() as patch:
        patch.setattr("migrations.audit_retention._drop", _break_off)
        with pytest.raises(RuntimeError):
            await retained(store)
    assert partitions(store) == set(OLD_MONTHS)
    assert await whole(store, aged, AuditChain.TENANT, sink) == (5, 9)
    done = await retained(store)
    assert (len(done.partitions), done.chains) == (2, 0)
    assert partitions(store) == {"2026_01"}
    assert await whole(store, aged, AuditChain.TENANT, sink) == (5, 9)


def _break_off(*_args):
    raise RuntimeError


async def test_a_beginning_that_was_cut_off_by_hand_is_named(store, aged):
    """The chain's own row was made to fit; no event tells of it."""
    with store.owner() as owner:
        owner.execute("DROP TABLE audit_events_2025_11")
        owner.execute(
            "UPDATE audit_chains SET first_seq = 3, first_previous = (SELECT previous FROM audit_events "
            "WHERE tenant_id = audit_chains.tenant_id AND chain = 'tenant' AND seq = 3) "
            "WHERE tenant_id = %s AND chain = 'tenant'",
            (aged,),
        )
    head, events = await AuditReader(store.sessions).read(aged, AuditChain.TENANT, after=None, limit=100)
    assert [(fault.kind.value, fault.first, fault.last) for fault in verify_chain(head, events)] == [("removed", 1, 2)]


async def test_the_command_asks_first_and_says_what_went(store, aged):
    """`kasbah audit retain`, with its exit codes."""
    from click.testing import CliRunner

    def run(*arguments, **environment):
        return CliRunner().invoke(root, ["audit", "retain", *arguments], env=environment)

    assert run("--keep-days", "30", KASBAH_DATABASE_URL=store.url).exit_code == 2  # nobody there to ask
    assert run("--keep-days", "0", "--yes", KASBAH_DATABASE_URL=store.url).exit_code == 2
    assert run("--keep-days", "30", "--yes", KASBAH_DATABASE_URL="postgresql://127.0.0.1:1/x").exit_code == 3
    early = run("--keep-days", "30", "--yes", KASBAH_DATABASE_URL=store.url)
    assert (early.exit_code, "no delivered checkpoint" in early.output) == (5, True)
    await delivered(store)
    kept = run("--keep-days", "36500", "--yes", KASBAH_DATABASE_URL=store.url)
    assert (kept.exit_code, kept.output) == (0, "no month is old enough\n")
    gone = run("--keep-days", "30", "--yes", KASBAH_DATABASE_URL=store.url)
    assert (gone.exit_code, "audit_events_2025_11" in gone.output) == (0, True)
