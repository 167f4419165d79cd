"""A Kasbah to be measured: PostgreSQL, Valkey, a migrated database, tenants with policies, and `kasbah serve`."""

import asyncio
import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import redis
from sqlalchemy.ext.asyncio import AsyncEngine

from authz.ports import TenantHead
from authz.rules import Row
from authz.storage_write import PostgresPolicyWriter
from benchmarks.report import say
from benchmarks.workload import Workload
from migrations.runner import upgrade
from service.bootstrap import Bootstrap
from tenancy.database import open_engine, open_sessions
from tenancy.ids import TenantId
from tenancy.tenant import ChangeMeta
from tests.support.running_service import RunningService, new_service
from tests.support.servers import running_servers, temporary_database

META = ChangeMeta("benchmark", "policies to be measured")


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant that exists, and the token of a key that may do everything in it."""

    tenant_id: TenantId
    slug: str
    key: str


class Installation:
    """One database and one Valkey, and the services on them."""

    def __init__(self, directory: Path, database_url: str, redis_url: str) -> None:
        self.directory = directory
        self.database_url = database_url
        self.redis_url = redis_url

    def create(self, workloads: Sequence[Workload]) -> list[Tenant]:
        """Create a tenant for each workload, with its rules, hierarchy and memberships owned by files."""
        return asyncio.run(self._create(workloads))

    async def _create(self, workloads: Sequence[Workload]) -> list[Tenant]:
        engine = open_engine(self.database_url)
        try:
            return [await self._create_one(engine, workload) for workload in workloads]
        finally:
            await engine.dispose()

    async def _create_one(self, engine: AsyncEngine, workload: Workload) -> Tenant:
        say(f"loading {workload.slug}: {len(workload.rules):,} rules, {workload.users:,} users")
        bootstrap = Bootstrap(engine)
        tenant_id = await bootstrap.ensure_tenant(workload.slug, workload.slug, meta=META)
        key = await bootstrap.create_key(tenant_id, "benchmark", meta=META)
        rows: list[Row] = [*workload.rules, *workload.hierarchy, *workload.memberships()]
        writer = PostgresPolicyWriter(open_sessions(engine))
        head: TenantHead = (await writer.current_rows(tenant_id)).head
        await writer.replace_file_rows(tenant_id, rows, meta=META, expected_revision=head.revision)
        return Tenant(tenant_id, workload.slug, key)

    def flush_valkey(self) -> None:
        """Empty Valkey, as a restart does."""
        with redis.Redis.from_url(self.redis_url) as client:
            client.flushdb()

    @contextlib.contextmanager
    def service(self, **settings: str) -> Iterator[RunningService]:
        """Run `kasbah serve` with one worker until the end of the block; `settings` are KASBAH_ variables."""
        running = new_service(self.directory, self.database_url, self.redis_url, **settings)
        running.start()
        try:
            yield running
        finally:
            running.stop()


@contextlib.contextmanager
def new_installation() -> Iterator[Installation]:
    """Start embedded servers, or use those of KASBAH_DATABASE_URL and KASBAH_REDIS_URL; the database is a fresh one."""
    with tempfile.TemporaryDirectory(prefix="kasbah-bench-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        say("starting PostgreSQL and Valkey")
        with (
            running_servers(directory) as servers,
            temporary_database(servers.postgres_url, "kasbah_bench") as database_url,
        ):
            upgrade(database_url)
            yield Installation(directory, database_url, servers.redis_url)
