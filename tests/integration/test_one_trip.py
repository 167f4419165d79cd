"""Statements in one trip, and connections that rested: as safe as whole units of work."""

import asyncio

import pytest
from sqlalchemy import text

from tenancy import database
from tenancy.create_tenant import create_tenant
from tenancy.database import DatabaseLimits, open_engine, open_sessions
from tenancy.errors import DatabaseUnavailableError
from tenancy.one_trip import fetch_row
from tenancy.storage import TenantStore
from tenancy.tenant import ChangeMeta
from tenancy.unit_of_work import unbound_session

pytestmark = pytest.mark.integration

WHOSE = text("SELECT tenant_id, slug, current_setting('app.tenant_id') AS bound FROM tenants WHERE tenant_id = :wanted")
BOUND = text("SELECT current_setting('app.tenant_id', true)")


@pytest.fixture
async def sessions(store):
    """One connection, so that whatever is left behind in it is met again."""
    engine = open_engine(store.url, DatabaseLimits(pool_size=1, max_overflow=0))
    yield open_sessions(engine)
    await engine.dispose()


async def left_behind(sessions) -> str:
    async with unbound_session(sessions) as session:
        return (await session.execute(BOUND)).scalar_one() or ""


async def test_a_statement_sees_the_rows_of_its_tenant_alone_and_leaves_nothing(sessions, store, acme):
    """Row-level security holds in it, and the tenant is unbound behind it."""
    meta = ChangeMeta("key:test")
    other = await create_tenant("other", None, meta=meta, tenants=TenantStore(store.sessions))
    row = await fetch_row(sessions, acme.tenant_id, WHOSE, {"wanted": acme.tenant_id})
    assert (row.tenant_id, row.slug, row.bound) == (acme.tenant_id, "acme", str(acme.tenant_id))
    assert await fetch_row(sessions, acme.tenant_id, WHOSE, {"wanted": other.tenant_id}) is None
    assert await left_behind(sessions) == ""


async def test_a_failed_statement_spoils_no_connection(sessions, acme):
    """A fault and a time-out end the transaction; the next one is as if nothing had been."""
    with pytest.raises(Exception, match="division by zero"):
        await fetch_row(sessions, acme.tenant_id, text("SELECT 1 / :zero"), {"zero": 0})
    assert await left_behind(sessions) == ""
    with pytest.raises(DatabaseUnavailableError):
        await fetch_row(sessions, acme.tenant_id, text("SELECT pg_sleep(:seconds)"), {"seconds": 10})
    assert await left_behind(sessions) == ""
    row = await fetch_row(sessions, acme.tenant_id, WHOSE, {"wanted": acme.tenant_id})
    assert row.slug == "acme"


async def test_a_caller_that_goes_away_leaves_the_connection_usable(sessions, acme):
    """What is cancelled half-way is rolled back before the connection serves another."""
    sleeping = text("SELECT pg_sleep(:seconds), current_setting('app.tenant_id') AS bound")
    for _ in range(3):
        task = asyncio.create_task(fetch_row(sessions, acme.tenant_id, sleeping, {"seconds": 1.5}))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await left_behind(sessions) == ""
    row = await fetch_row(sessions, acme.tenant_id, WHOSE, {"wanted": acme.tenant_id})
    assert row.slug == "acme"


async def test_a_connection_that_died_while_it_rested_is_replaced(sessions, store, acme, monkeypatch):
    """It is asked whether it lives; one that was in use just now is not, and its failure heals the pool."""
    wanted = {"wanted": acme.tenant_id}
    end_all = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'kasbah'"
    await fetch_row(sessions, acme.tenant_id, WHOSE, wanted)
    with store.owner() as owner:
        owner.execute(end_all)
    with monkeypatch.context() as patched:
        patched.setattr(database, "RESTED_SECONDS", 0.0)
        assert (await fetch_row(sessions, acme.tenant_id, WHOSE, wanted)).slug == "acme"
    with store.owner() as owner:
        owner.execute(end_all)
    monkeypatch.setattr(database, "RESTED_SECONDS", 60.0)
    with pytest.raises(DatabaseUnavailableError):
        await fetch_row(sessions, acme.tenant_id, WHOSE, wanted)
    assert (await fetch_row(sessions, acme.tenant_id, WHOSE, wanted)).slug == "acme"
