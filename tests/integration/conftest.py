"""A migrated database of each storage test's own, seen as the service sees it and as its owner does."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import psycopg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from authz.storage import PostgresPolicyReader
from authz.storage_write import PostgresPolicyWriter
from tenancy.create_tenant import create_tenant
from tenancy.database import open_engine, open_sessions
from tenancy.storage import TenantStore
from tenancy.tenant import ChangeMeta, TenantHead
from tenancy.unit_of_work import Sessions
from tests.support.servers import patient, patient_units


@dataclass(frozen=True)
class StoreDatabase:
    """`url` logs in as the owner of the tables; engine and sessions are the service's."""

    url: str
    engine: AsyncEngine
    sessions: Sessions

    def owner(self) -> psycopg.Connection:
        """Connect as the superuser who owns the tables, past row-level security."""
        return psycopg.connect(self.url, autocommit=True)


@pytest.fixture
async def store(own_database_url: str) -> AsyncIterator[StoreDatabase]:
    """Give one test a fresh migrated database."""
    engine = open_engine(own_database_url, patient(pool_size=4, max_overflow=4))
    with patient_units():
        yield StoreDatabase(own_database_url, engine, open_sessions(engine))
    await engine.dispose()


@pytest.fixture
async def acme(store: StoreDatabase) -> TenantHead:
    """Return the head of a fresh tenant."""
    meta = ChangeMeta("key:test")
    return await create_tenant("acme", None, meta=meta, tenants=TenantStore(store.sessions))


@pytest.fixture
def writer(store: StoreDatabase) -> PostgresPolicyWriter:
    """Return the writer as the service has it."""
    return PostgresPolicyWriter(store.sessions)


@pytest.fixture
def reader(store: StoreDatabase) -> PostgresPolicyReader:
    """Return the reader as the service has it."""
    return PostgresPolicyReader(store.sessions)
