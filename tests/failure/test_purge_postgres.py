"""PostgreSQL killed while a tenant is removed: the removal goes on where it was, and is recorded once."""

import asyncio

import psycopg
import pytest

from migrations.runner import upgrade
from tenancy.change_tenant import Asked, TenantChanges
from tenancy.create_tenant import create_tenant
from tenancy.database import open_engine, open_sessions
from tenancy.errors import DatabaseUnavailableError
from tenancy.purge import PURGED_TABLES, Purge
from tenancy.storage import TenantStore
from tenancy.tenant import ChangeMeta
from tenancy.tenant_life import TenantAct
from tenancy.tenant_settings import TenantLimits
from tests.support.tenant_rows import fill_tenant, rows_of

pytestmark = pytest.mark.integration

META = ChangeMeta("key:test")


class Quiet:
    """A Valkey that forgets, and a node that is told."""

    async def forget_tenant(self, _):
        return True

    async def note_write(self, _):
        return None


async def test_a_removal_survives_a_database_that_is_killed(own_postgres) -> None:
    """Killed hard again and again while batches commit; another tenant keeps every row."""
    upgrade(own_postgres.url)
    engine = open_engine(own_postgres.url)
    sessions = open_sessions(engine)
    tenants = TenantStore(sessions)
    acme = await create_tenant("acme", None, meta=META, tenants=tenants)
    rival = await create_tenant("rival", None, meta=META, tenants=tenants)
    for head in (acme, rival):
        fill_tenant(own_postgres.url, head.tenant_id, rows=60)
    kept = rows_of(own_postgres.url, rival.tenant_id)
    changes = TenantChanges(sessions, TenantLimits(deletion_grace_seconds=0))
    await changes.act(acme.tenant_id, TenantAct.DELETE, Asked(META))
    broken = 0
    for round_number in range(2):
        purge = asyncio.create_task(Purge(sessions, Quiet(), Quiet(), batch=5).run())
        await asyncio.sleep(0.2 * (1 + round_number))
        own_postgres.kill()
        await asyncio.to_thread(own_postgres.start_again)
        try:
            await purge
        except DatabaseUnavailableError:
            broken += 1
    await Purge(sessions, Quiet(), Quiet()).run()
    await engine.dispose()
    assert broken
    assert not any(rows_of(own_postgres.url, acme.tenant_id)[table] for table in PURGED_TABLES)
    assert rows_of(own_postgres.url, rival.tenant_id) == kept
    with psycopg.connect(own_postgres.url) as owner:
        actions = owner.execute(
            "SELECT action FROM audit_events WHERE tenant_id = %s ORDER BY seq", [acme.tenant_id]
        ).fetchall()
    assert [row[0] for row in actions] == ["tenant.create", "tenant.delete", "tenant.end", "tenant.purge"]
