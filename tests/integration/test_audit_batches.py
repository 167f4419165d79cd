"""Floods of events are joined: few transactions, each event once, and whoever records one knows that it is there."""

import asyncio

import pytest

from tenancy.audit import AuditChain, AuditEntry, AuditOutcome
from tenancy.audit_batches import AuditBatches
from tenancy.audit_reader import AuditReader
from tenancy.audit_verification import verify_chain
from tenancy.create_tenant import create_tenant
from tenancy.errors import AuditUnavailableError
from tenancy.storage import TenantStore
from tenancy.tenant import ChangeMeta
from tenancy.unit_of_work import tenant_unit_of_work

META = ChangeMeta("anonymous", request_id="r")

pytestmark = pytest.mark.integration


@pytest.fixture
async def batches(store):
    running = AuditBatches(store.sessions)
    running.start()
    yield running
    await running.stop()


def entry(number):
    return AuditEntry("policy.change", f"user:{number}", AuditOutcome.REFUSED)


async def chain_of(store, tenant_id):
    head, events = await AuditReader(store.sessions).read(tenant_id, AuditChain.SIGN_IN, after=None, limit=5000)
    assert verify_chain(head, events) == []
    return events


def transactions(store, tenant_id):
    """Count the transactions that wrote a chain."""
    with store.owner() as owner:
        [(count,)] = owner.execute(
            "SELECT count(DISTINCT xmin::text) FROM audit_events WHERE tenant_id = %s AND chain = 'sign_in'",
            (tenant_id,),
        ).fetchall()
    return count


async def test_a_flood_takes_few_transactions_and_loses_nothing(store, acme, batches):
    """Of two tenants at once; each event is in its own tenant's chain, exactly once."""
    other = await create_tenant("other", None, meta=META, tenants=TenantStore(store.sessions))
    tenants = (acme.tenant_id, other.tenant_id)
    await asyncio.gather(*(batches.record(tenants[number % 2], META, entry(number)) for number in range(500)))
    for offset, tenant_id in enumerate(tenants):
        events = await chain_of(store, tenant_id)
        assert len(events) == 250
        assert {f'"user:{number}"' in "".join(event.text for event in events) for number in range(offset, 500, 2)} == {
            True
        }
        assert transactions(store, tenant_id) <= 10


async def test_an_event_is_there_when_its_recorder_goes_on(store, acme, batches):
    """Alone, it waits for others no longer than the bound."""
    await batches.record(acme.tenant_id, META, entry(1))
    assert len(await chain_of(store, acme.tenant_id)) == 1


async def test_a_flood_does_not_wait_for_a_change_nor_hold_one_up(store, acme, batches):
    """The tenant's row and its other chain are locked all the while."""
    async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
        from tenancy.audit_log import append_audit
        from tenancy.heads import lock_head

        await lock_head(work)
        await append_audit(work, META, [entry(0)])
        await asyncio.gather(*(batches.record(acme.tenant_id, META, entry(number)) for number in range(20)))
    assert len(await chain_of(store, acme.tenant_id)) == 20


async def test_what_cannot_be_written_is_told_to_each(store, acme, batches):
    """A sink that is behind, and a buffer that is full; afterwards it goes on."""
    with store.owner() as owner:
        owner.execute("UPDATE audit_sink SET max_behind = interval '1 s'")
        owner.execute("UPDATE audit_chains SET unsealed_since = now() - interval '1 hour'")
    outcomes = await asyncio.gather(
        *(batches.record(acme.tenant_id, META, entry(number)) for number in range(3)), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [AuditUnavailableError] * 3
    with store.owner() as owner:
        owner.execute("UPDATE audit_sink SET max_behind = NULL")
    small = AuditBatches(store.sessions, max_waiting=5)
    small.start()
    outcomes = await asyncio.gather(
        *(small.record(acme.tenant_id, META, entry(number)) for number in range(9)), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes].count(AuditUnavailableError) == 4
    await asyncio.gather(*(small.record(acme.tenant_id, META, entry(number)) for number in range(5)))
    await small.stop()
    assert len(await chain_of(store, acme.tenant_id)) == 10


async def test_what_waits_is_written_at_the_end(store, acme):
    """Stopping loses nothing; a caller that left does not take its event along; then nothing is taken any more."""
    batches = AuditBatches(store.sessions, flush_seconds=3600)
    batches.start()
    waiting = [asyncio.create_task(batches.record(acme.tenant_id, META, entry(number))) for number in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.wait(waiting[:1])
    await batches.stop()
    await asyncio.gather(*waiting[1:])
    assert len(await chain_of(store, acme.tenant_id)) == 3
    with pytest.raises(AuditUnavailableError):
        await batches.record(acme.tenant_id, META, entry(9))
