"""PostgreSQL killed while a tenant is removed: the removal goes on where it was, and is recorded once."""

import asyncio
import contextlib
import itertools
from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import Connection, event
from sqlalchemy.ext.asyncio import AsyncEngine

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
from tests.support.servers import OwnServer
from tests.support.tenant_rows import fill_tenant, rows_of

pytestmark = pytest.mark.integration

META = ChangeMeta("key:test")


class Quiet:
    """A Valkey that forgets, and a node that is told."""

    async def forget_tenant(self, _):
        return True

    async def note_write(self, _):
        return None


@contextlib.contextmanager
def killed_at_commit(postgres: OwnServer, engine: AsyncEngine, number: int) -> Iterator[None]:
    """Kill the server when so many transactions have been committed and another one is about to be."""
    left = itertools.count(number, -1)

    def commits(_connection: Connection) -> None:
        if next(left) == 0:
            postgres.kill()

    event.listen(engine.sync_engine, "commit", commits)
    try:
        yield
    finally:
        event.remove(engine.sync_engine, "commit", commits)


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
    for batches in (5, 20):
        with killed_at_commit(own_postgres, engine, batches), pytest.raises(DatabaseUnavailableError):
            await Purge(sessions, Quiet(), Quiet(), batch=5).run()
        await asyncio.to_thread(own_postgres.start_again)
    assert any(rows_of(own_postgres.url, acme.tenant_id)[table] for table in PURGED_TABLES)
    await Purge(sessions, Quiet(), Quiet()).run()
    await engine.dispose()
    assert not any(rows_of(own_postgres.url, acme.tenant_id)[table] for table in PURGED_TABLES)
    assert rows_of(own_postgres.url, rival.tenant_id) == kept
    with psycopg.connect(own_postgres.url) as owner:
        actions = owner.execute(
            "SELECT action FROM audit_events WHERE tenant_id = %s ORDER BY seq", [acme.tenant_id]
        ).fetchall()
    assert [row[0] for row in actions] == ["tenant.create", "tenant.delete", "tenant.end", "tenant.purge"]
