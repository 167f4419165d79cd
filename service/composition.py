"""Where implementations are chosen: PostgreSQL, Valkey, the node and the API keys behind the application's ports."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial

import structlog
from aiohttp import web

from authn.key_uses import KeyUses
from authn.storage import ApiKeyStore
from authz.compile_model import compile_model
from authz.node import Node
from authz.ports import PolicyReader, TenantHead
from authz.snapshot_cache import ValkeySnapshotCache
from authz.snapshot_loader import build_giving_way
from authz.storage import PostgresPolicyReader
from service.access_tokens import access_tokens
from service.all_routes import all_routes
from service.app import Part, build_app
from service.audit_part import auditing
from service.bulk import BulkForwarder
from service.callers import Callers, FoundApiKey
from service.cross_check import Sampler
from service.decision_log import DecisionLog
from service.factors_part import factor_flows, second_factors
from service.fast_path import FastHandler
from service.health import Readiness
from service.http.account_links import accounts_by_link
from service.http.admin_part import administration
from service.jobs import Job, running_jobs
from service.key_rates import KeyRates
from service.keys import (
    CALLERS,
    DECISION_LOG,
    JOBS,
    METRICS,
    NODE,
    POLICY_LIMITS,
    READER,
    READINESS,
    SAMPLER,
    SESSIONS,
    TENANT_LIMITS,
    TENANTS,
)
from service.mail_part import mailing
from service.metrics import Metrics
from service.passwords import password_part
from service.sealing_part import sealing
from service.server import DeadlineHandler, KasbahRunner
from service.sessions_part import sessions_part
from service.settings import Settings
from service.sign_in_part import signing_in, volatile
from service.webauthn_part import security_keys
from tenancy.database import open_engine, open_sessions
from tenancy.ids import TenantId
from tenancy.purge import Purge

FLUSH_SECONDS = 1.0
RESTART_SECONDS = 1.0
PURGE_SECONDS = 60.0
PROBE_SECONDS = 1.0
MAX_KNOWN_SLUGS = 10_000

_log = structlog.get_logger()


def compose(
    settings: Settings,
    sampler: Sampler | None = None,
    *,
    forwarder: BulkForwarder | None = None,
    public: bool = True,
    jobs: bool = False,
    rates: KeyRates | None = None,
) -> tuple[web.Application, KasbahRunner]:
    """Return the application with everything behind it, and what runs it. Nothing is opened before it starts.

    Args:
        settings: All of them.
        sampler: Takes answers that are compared with PyCasbin's.
        forwarder: Hands bulk routes to the bulk worker; without one they are answered here.
        public: Whether this process counts in metrics, and requests against the limits of keys. What the bulk worker
            does, its callers have counted.
        jobs: Whether this process runs the jobs.
        rates: What the worker processes of this machine share of the limits of keys; one of its own when not given.
    """
    sampler = sampler or Sampler(None, 0)
    parts = parts_of(settings, sampler, public=public, rates=rates)
    if forwarder is not None:
        parts = (*parts, forwarder.part)
    app = build_app(settings.http, (*parts, running_jobs) if jobs else parts, all_routes())
    app[SAMPLER] = sampler
    handler_class = FastHandler if settings.fast_path else DeadlineHandler
    runner = KasbahRunner(app, settings.http, handler_class, shutdown_timeout=settings.drain_seconds)
    return app, runner


def parts_of(
    settings: Settings, sampler: Sampler, *, public: bool = True, rates: KeyRates | None = None
) -> tuple[Part, ...]:
    """Return the parts in the order in which they open."""

    async def observation(app: web.Application) -> AsyncIterator[None]:
        metrics = app[METRICS] = Metrics(public=public)
        log = app[DECISION_LOG] = DecisionLog(settings.http.decision_log)
        app[READINESS] = Readiness()
        metrics.add_source(log.totals)
        metrics.add_source(sampler.totals)
        log.start()
        flushing = asyncio.create_task(_flush(metrics), name="metrics-flush")
        yield
        await _cancelled(flushing)
        metrics.flush()
        await asyncio.to_thread(log.close)

    async def database(app: web.Application) -> AsyncIterator[None]:
        engine = open_engine(settings.database_url.get_secret_value(), settings.database)
        app[SESSIONS] = open_sessions(engine)
        app[READER] = PostgresPolicyReader(app[SESSIONS])
        app[POLICY_LIMITS] = settings.limits
        app[TENANT_LIMITS] = settings.tenants
        yield
        await engine.dispose()

    async def decisions(app: web.Application) -> AsyncIterator[None]:
        cache = ValkeySnapshotCache(settings.cache)
        build = partial(build_giving_way, mfa_of_everybody=settings.tenants.mfa_required)
        node = app[NODE] = Node(app[READER], cache, compile_model, settings.authz, build=build)
        tenants = app[TENANTS] = Tenants(app[READER], node)
        node.on_reset.append(tenants.forget_all)
        app[METRICS].add_source(lambda: _counters(node))
        app[METRICS].set_age_source(lambda: (node.confirmation_age or 0.0, int(node.statistics()["warm_tenants"])))
        app[READINESS].add("policy", _at_once(lambda: node.ready))
        app[READINESS].add("cache", remembered(cache.ping), required=False)
        app[JOBS].add(Job("tenant-purge", PURGE_SECONDS, Purge(app[SESSIONS], cache, node).run))
        await node.start()
        running = asyncio.create_task(_supervise(node), name="node")
        yield
        await _cancelled(running)
        await cache.close()

    async def identity(app: web.Application) -> AsyncIterator[None]:
        uses = KeyUses(app[SESSIONS])
        keys = StoredKeys(ApiKeyStore(app[SESSIONS]))
        callers = app[CALLERS] = Callers(keys, app[NODE], rates=(rates or KeyRates()) if public else None, uses=uses)
        app[NODE].on_reset.append(callers.forget_all)
        app[METRICS].add_source(callers.totals)
        uses.start()
        yield
        await uses.stop()

    return (
        observation,
        database,
        decisions,
        volatile(settings.cache),
        identity,
        sessions_part,
        access_tokens(settings.oauth),
        password_part(settings.passwords),
        sealing(settings),
        second_factors,
        security_keys(settings.webauthn.relying_party(settings.http.public_url)),
        auditing(settings.audit),
        mailing(settings.mail),
        accounts_by_link,
        signing_in(settings.sign_in),
        factor_flows,
        administration,
    )


class StoredKeys:
    """`KeyDirectory` on the store of API keys."""

    def __init__(self, store: ApiKeyStore) -> None:
        self._store = store

    async def find_by_hash(self, key_hash: bytes) -> FoundApiKey | None:
        """Return the key, or None when unknown, revoked or its owner's no more; expiry is judged by the node's time."""
        found = await self._store.find_by_hash(key_hash)
        if found is None or found.key.revoked_at is not None or not found.owner_lives:
            return None
        key = found.key
        return FoundApiKey(
            key.id,
            key.prefix,
            key.scopes,
            key.expires_at,
            found.tenant_head,
            key.owner_id,
            key.service_account_id,
            key.limit,
            key.acr,
        )


class Tenants:
    """`TenantDirectory` for platform keys: a slug's id never changes, so it is looked up once."""

    def __init__(self, reader: PolicyReader, node: Node) -> None:
        self._reader = reader
        self._node = node
        self._ids: OrderedDict[str, TenantId] = OrderedDict()

    def forget_all(self) -> None:
        """Forget every slug: in another database they stand for other tenants."""
        self._ids.clear()

    async def find_tenant(self, tenant_id: TenantId) -> TenantHead | None:
        """Return the head that the node follows, or PostgreSQL's."""
        if self._node.fresh(tenant_id):
            head = self._node.heads.get(tenant_id)
            if head is not None:
                return head
        return await self._reader.find_tenant(tenant_id)

    async def find_tenant_by_slug(self, slug: str) -> TenantHead | None:
        """Return the head; unknown slugs are asked about anew each time, and leave nothing behind."""
        known = self._ids.get(slug)
        if known is not None:
            return await self.find_tenant(known)
        head = await self._reader.find_tenant_by_slug(slug)
        if head is not None:
            self._ids[slug] = head.tenant_id
            if len(self._ids) > MAX_KNOWN_SLUGS:
                self._ids.popitem(last=False)
        return head


def remembered(probe: Callable[[], Awaitable[bool]], seconds: float = PROBE_SECONDS) -> Callable[[], Awaitable[bool]]:
    """Return `probe` that asks at most once in `seconds`: /readyz needs no key, and must not be a lever."""
    last = (-seconds, False)
    asking = asyncio.Lock()

    async def ask() -> bool:
        nonlocal last
        async with asking:
            if time.monotonic() - last[0] >= seconds:
                last = (time.monotonic(), await probe())
            return last[1]

    return ask


def _at_once(probe: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    async def ask() -> bool:
        return probe()

    return ask


def _counters(node: Node) -> Mapping[str, int]:
    """Return the node's counters; what also falls, or is no count, is left out."""
    return {name: int(value) for name, value in node.statistics().items() if name not in _SIZES}


_SIZES = frozenset(
    {
        "clock_behind_seconds",
        "last_build_seconds",
        "member_cache_charged_bytes",
        "snapshot_bytes",
        "warm_tenants",
        "watched_tenants",
    }
)


async def _supervise(node: Node) -> None:
    """Run the node; should it end, say so and run it again. Meanwhile nothing is confirmed, so nothing is decided."""
    while True:
        try:
            await node.run()
            _log.error("node.ended")
        except Exception:  # noqa: BLE001  # a supervisor
            _log.exception("node.failed")
        await asyncio.sleep(RESTART_SECONDS)


async def _flush(metrics: Metrics) -> None:
    while True:
        await asyncio.sleep(FLUSH_SECONDS)
        try:
            metrics.flush()
        except Exception:  # noqa: BLE001  # a supervisor: metrics must not end with one bad number
            _log.exception("metrics.flush_failed")


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
