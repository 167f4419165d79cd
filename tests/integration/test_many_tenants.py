"""With ten thousand tenants, what concerns one of them costs what it did with ten: counted in rows and statements."""

import asyncio
from dataclasses import dataclass

import psycopg
import pytest
from sqlalchemy import event

from authz.storage import PostgresPolicyReader
from tenancy.change_tenant import Asked, TenantChanges
from tenancy.create_tenant import create_tenant
from tenancy.database import open_engine, open_sessions
from tenancy.ids import TenantStatus
from tenancy.storage import TenantStore
from tenancy.tenant import ChangeMeta
from tenancy.tenant_life import TenantAct
from tenancy.tenant_settings import TenantLimits
from tests.support.servers import patient

pytestmark = pytest.mark.integration

META = ChangeMeta("key:test")
MANY = 10_000
LEEWAY = 40
"""Rows by which two runs of the same may differ: a page of an index more or less, a plan for a table that is small."""


@dataclass(frozen=True)
class Cost:
    """What some work took: the statements that were sent, in order, and the rows that were read and written for it."""

    statements: tuple[str, ...]
    rows: int


async def cost_of(url: str, work) -> Cost:
    """Do something on connections of its own, which tell what they did when they end."""
    before = touched(url)
    engine = open_engine(url, patient())
    said: list[str] = []
    event.listen(engine.sync_engine, "before_cursor_execute", lambda *arguments: said.append(arguments[2]))
    await work(open_sessions(engine))
    await engine.dispose()
    return Cost(tuple(said), await settled(url) - before)


def touched(url: str) -> int:
    """Return how many rows were ever read, by scans and by indexes, and written."""
    with psycopg.connect(url, autocommit=True) as owner:
        row = owner.execute(
            "SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0) + n_tup_ins + n_tup_upd + n_tup_del)::bigint "
            "FROM pg_stat_user_tables WHERE schemaname = 'public'"
        ).fetchone()
    return int(row[0])


async def settled(url: str) -> int:
    """Return the count once every other connection has ended and told what it did."""
    for _ in range(200):
        with psycopg.connect(url, autocommit=True) as owner:
            others = owner.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                "AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
            ).fetchone()[0]
        if not others:
            break
        await asyncio.sleep(0.05)
    return touched(url)


def fill(url: str, count: int) -> None:
    """Enter tenants, each with its history, as they would be after as many creations."""
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute("ALTER TABLE tenants SET (autovacuum_enabled = off)")
        owner.execute(
            "INSERT INTO tenants (tenant_id, slug, display_name) SELECT gen_random_uuid(), 'tenant-' || n, 'T' || n "
            "FROM generate_series(1, %s) AS n",
            [count],
        )
        owner.execute(
            "INSERT INTO changes (tenant_id, revision, rules_revision, kind, actor) "
            "SELECT tenant_id, 1, 1, 'tenant', 'test' FROM tenants WHERE slug LIKE 'tenant-%'"
        )
        owner.execute(
            "INSERT INTO audit_chains (tenant_id, chain) SELECT tenant_id, 'tenant' FROM tenants ON CONFLICT DO NOTHING"
        )
        owner.execute("VACUUM ANALYZE tenants, changes, audit_chains")


def works(slug: str):
    """What is done about one tenant, each with what it takes."""
    known = {}

    async def create(sessions):
        known["head"] = await create_tenant(slug, None, meta=META, tenants=TenantStore(sessions))

    async def find(sessions):
        assert await TenantStore(sessions).find_by_slug(slug) is not None

    async def suspend(sessions):
        changes = TenantChanges(sessions, TenantLimits())
        await changes.act(known["head"].tenant_id, TenantAct.SUSPEND, Asked(META))

    async def page(sessions):
        assert len((await TenantStore(sessions).list(None, 10)).tenants) == 10

    async def page_of_few(sessions):
        found = await TenantStore(sessions).list(None, 10, status=TenantStatus.SUSPENDED)
        assert slug in [tenant.head.slug for tenant in found.tenants]

    return {"create": create, "find": find, "suspend": suspend, "list": page, "list of a status": page_of_few}


async def test_ten_thousand_tenants_cost_no_more_than_ten(own_database_url: str) -> None:
    """The same statements, and as many rows; a page of the list reads a page."""
    fill(own_database_url, 10)
    few = {name: await cost_of(own_database_url, work) for name, work in works("first").items()}
    with psycopg.connect(own_database_url, autocommit=True) as owner:
        owner.execute(
            "DELETE FROM audit_chains WHERE tenant_id IN (SELECT tenant_id FROM tenants WHERE slug LIKE 'tenant-%')"
        )
        owner.execute(
            "DELETE FROM changes WHERE tenant_id IN (SELECT tenant_id FROM tenants WHERE slug LIKE 'tenant-%')"
        )
        owner.execute("DELETE FROM tenants WHERE slug LIKE 'tenant-%'")
    fill(own_database_url, MANY)
    many = {name: await cost_of(own_database_url, work) for name, work in works("last").items()}
    for name, cost in many.items():
        assert cost.statements == few[name].statements, name
        assert cost.rows <= few[name].rows + LEEWAY, (name, cost.rows, few[name].rows)


async def test_a_poll_reads_what_changed_and_not_who_there_is(own_database_url: str) -> None:
    """A node follows ten thousand tenants by the index of what changed since its last look."""
    fill(own_database_url, MANY)
    cursor = 0

    async def look(sessions):
        nonlocal cursor
        cursor = (await PostgresPolicyReader(sessions).poll(None)).cursor

    async def look_again(sessions):
        page = await PostgresPolicyReader(sessions).poll(cursor)
        assert [head.slug for head in page.heads] == ["one"]

    await cost_of(own_database_url, look)
    engine = open_engine(own_database_url, patient())
    await create_tenant("one", None, meta=META, tenants=TenantStore(open_sessions(engine)))
    await engine.dispose()
    await settled(own_database_url)
    assert (await cost_of(own_database_url, look_again)).rows <= LEEWAY
