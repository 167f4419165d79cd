"""Decision nodes on real servers, in this process, with the writes to try them by."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from authz.compile_model import compile_model
from authz.decision import Decision
from authz.errors import AuthzError
from authz.evaluate import evaluate
from authz.node import Node
from authz.ports import RuleSet, SnapshotCache, StagedRules
from authz.request import Action, EvaluationRequest, Ref, parse_ref
from authz.rules import Owner, RoleLink, Row, Rule
from authz.settings import AuthzSettings, CacheSettings
from authz.snapshot_cache import ValkeySnapshotCache
from authz.storage import PostgresPolicyReader
from authz.storage_write import PostgresPolicyWriter
from tenancy.database import DatabaseLimits, open_engine, open_sessions
from tenancy.ids import TenantId
from tenancy.tenant import ChangeMeta, TenantHead
from tests.support.outside_checker import PATIENCE_SECONDS
from tests.support.seeding import seed

META = ChangeMeta("test")
SECRET = "s" * 40
REQUEST_SECONDS = 8
"""No request may take longer: 3 s by design, the rest for a busy machine."""
ALICE = Ref("user:alice")
READERS = Rule("role:reader", "record:*", "read", owner=Owner.API)


def cache_settings(url: str, **changed: Any) -> CacheSettings:
    return CacheSettings(url=url, secret=SECRET, **changed)


@dataclass
class LiveNode:
    """A running node and what it stands on."""

    node: Node
    cache: SnapshotCache
    reader: PostgresPolicyReader
    writer: PostgresPolicyWriter

    async def decide(self, tenant: TenantId, subject: str = ALICE, *, min_revision: int | None = None) -> Decision:
        request = EvaluationRequest(parse_ref(subject), Action("read"), parse_ref("record:1"))
        return await evaluate(self.node, tenant, request, min_revision=min_revision)

    async def allows(self, tenant: TenantId, subject: str = ALICE, *, min_revision: int | None = None) -> bool:
        return (await self.decide(tenant, subject, min_revision=min_revision)).allowed

    async def change(
        self, tenant: TenantId, add: list[Row] | None = None, remove: list[Row] | None = None
    ) -> TenantHead:
        """Commit a change without telling any node."""
        keys = [row.key for row in remove or []]
        result = await self.writer.change_rows(tenant, add=add or [], remove=keys, owner=Owner.API, meta=META)
        return result.head

    async def grant(self, tenant: TenantId, subject: str = ALICE) -> TenantHead:
        return await self.change(tenant, add=[membership(subject)])

    async def revoke(self, tenant: TenantId, subject: str = ALICE) -> TenantHead:
        return await self.change(tenant, remove=[membership(subject)])

    async def until_refused(self, tenant: TenantId, subject: str) -> None:
        """Ask until refused. Every request must end in time."""
        began = time.monotonic()
        while time.monotonic() - began < PATIENCE_SECONDS:
            asked = time.monotonic()
            try:
                await self.decide(tenant, subject)
            except AuthzError:
                return
            finally:
                assert time.monotonic() - asked <= REQUEST_SECONDS, "a request took too long"
            await asyncio.sleep(0.02)
        raise AssertionError("it went on deciding")

    async def until_answer(self, tenant: TenantId, wanted: bool, subject: str = ALICE) -> None:
        """Ask until the answer is the wanted one."""
        began = time.monotonic()
        while time.monotonic() - began < PATIENCE_SECONDS:
            with contextlib.suppress(AuthzError):
                if await self.allows(tenant, subject) is wanted:
                    return
            await asyncio.sleep(0.02)
        raise AssertionError(f"it never became {wanted}")


def membership(subject: str = ALICE) -> RoleLink:
    return RoleLink(Ref(subject), Ref("role:reader"), owner=Owner.API)


async def tenants_with_readers(database_url: str, *slugs: str) -> list[TenantId]:
    """Seed tenants in which `role:reader` may read every record and alice is a reader."""
    made = await seed(database_url, {slug: [READERS, membership()] for slug in slugs})
    return [made.tenants[slug] for slug in slugs]


class NoSnapshotCache:
    """`SnapshotCache` that holds nothing: a node alone, without Valkey."""

    async def find_rules(self, head: TenantHead, model_digest: str, lineage: str = "") -> RuleSet | None:
        """Return None."""

    async def store_rules(self, rule_set: RuleSet, lineage: str = "") -> None:
        """Do nothing."""

    async def stage_rules(self, rule_set: RuleSet, lineage: str = "") -> StagedRules | None:
        """Return None."""

    async def release_rules(self, staged: StagedRules) -> None:
        """Do nothing."""

    async def publish(self, head: TenantHead) -> None:
        """Do nothing."""

    async def notices(self) -> AsyncIterator[TenantId]:
        """Wait for ever."""
        await asyncio.Event().wait()
        yield TenantId(UUID(int=0))


@contextlib.asynccontextmanager
async def live_node(
    database_url: str,
    redis_url: str | None = None,
    *,
    limits: DatabaseLimits | None = None,
    cache: CacheSettings | None = None,
    **settings: Any,
) -> AsyncIterator[LiveNode]:
    """Run a node until the block ends."""
    engine = open_engine(database_url, limits)
    sessions = open_sessions(engine)
    reader = PostgresPolicyReader(sessions)
    store: ValkeySnapshotCache | NoSnapshotCache = NoSnapshotCache()
    if redis_url is not None:
        store = ValkeySnapshotCache(cache or cache_settings(redis_url))
    node = Node(reader, store, compile_model, AuthzSettings(**settings))
    await node.start()
    running = asyncio.create_task(node.run())
    try:
        yield LiveNode(node, store, reader, PostgresPolicyWriter(sessions, shelf=node))
        assert not running.done(), "the node ended"
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        if isinstance(store, ValkeySnapshotCache):
            await store.close()
        await engine.dispose()
