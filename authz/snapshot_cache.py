"""Valkey: authenticated rule sets for a quick cold start, and notices. Losing all of it loses nothing.

INVARIANT: no method raises, and none takes much longer than `CacheSettings.timeout`. What is read is data that somebody
else may have written; only what carries our MAC is used.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, TypeVar
from uuid import UUID, uuid4

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from authz.circuit_breaker import CircuitBreaker
from authz.ports import RuleSet, StagedRules, TenantHead
from authz.rule_set_codec import RejectedError, decode_rule_set, derive_key, encode_rule_set
from authz.settings import MIN_SECRET_BYTES, CacheSettings
from tenancy.ids import TenantId

_log = structlog.get_logger(__name__)

T = TypeVar("T")

STAGED_MILLISECONDS = 60_000
"""A rule set whose change is not committed by then is forgotten."""

INLINE_BYTES = 4 * 1024
"""Larger values, which are some hundred rows, are read in a thread."""

INLINE_ROWS = 200
"""Larger rule sets are coded in a thread."""

SCANNED = 1000
"""Keys that one step of a scan looks at."""

NOTICE_BYTES = 80
FIRST_RECONNECT_SECONDS = 0.1
LAST_RECONNECT_SECONDS = 2.0
LISTEN_SECONDS = 5.0
"""A connection that was silent for so long is asked whether it still lives."""


class CacheUnavailableError(Exception):
    """Valkey did not answer in time, or is left alone for now. Never leaves this module."""


class ValkeySnapshotCache:
    """`SnapshotCache` on Valkey or Redis."""

    def __init__(self, settings: CacheSettings) -> None:
        secret = settings.secret.get_secret_value().encode()
        if len(secret) < MIN_SECRET_BYTES:
            raise ValueError(f"the secret must be at least {MIN_SECRET_BYTES} bytes long")
        self._key = derive_key(secret, "rule-set-mac")
        # Deployments that share a Valkey but not the secret stay out of each other's way.
        self._prefix = f"kasbah:{derive_key(secret, 'valkey-namespace', 6).hex()}"
        self._timeout = settings.timeout.total_seconds()
        self._ttl = settings.snapshot_ttl
        self._max_bytes = settings.max_snapshot_bytes
        self._breaker = CircuitBreaker(settings.breaker_failures, settings.breaker_pause.total_seconds())
        url = settings.url.get_secret_value()
        common: dict[str, Any] = {
            "socket_connect_timeout": self._timeout,
            "socket_keepalive": True,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
        }
        self._client = Redis.from_url(url, socket_timeout=self._timeout, max_connections=settings.connections, **common)
        self._listener = Redis.from_url(url, max_connections=2, **common)
        self._failing = False
        self.hits = 0
        self.misses = 0
        self.failures = 0
        self.stored = 0
        self.not_stored = 0
        self.bad_notices = 0
        self.rejected: Counter[str] = Counter()
        """Values that were there but not used, by reason (`rule_set_codec.REASONS`)."""

    async def find_rules(self, head: TenantHead, model_digest: str, lineage: str = "") -> RuleSet | None:
        """Return the authenticated rule set of exactly (tenant, rules_revision, model), or None."""
        name = self._rules_key(head.tenant_id)
        try:
            # Never more than allowed, whatever is stored there.
            value: bytes = await self._call(lambda: self._client.getrange(name, 0, self._max_bytes))
        except CacheUnavailableError:
            self.misses += 1
            return None
        if not value:
            self.misses += 1
            return None
        try:
            rule_set = await self._decoded(value, head, model_digest, lineage)
        except RejectedError as rejection:
            self.misses += 1
            self.rejected[rejection.reason] += 1
            if rejection.reason != "older":  # after every change, until one node has stored what follows
                _log.warning("authz.cache.rejected", tenant_id=str(head.tenant_id), reason=rejection.reason)
            return None
        self.hits += 1
        return rule_set

    async def store_rules(self, rule_set: RuleSet, lineage: str = "") -> None:
        """Keep a rule set for other nodes; one that is too large or cannot be coded is not kept."""
        value = await self._encoded(rule_set, lineage)
        if value is not None:
            name = self._rules_key(rule_set.head.tenant_id)
            await self._stored(lambda: self._client.set(name, value, px=self._ttl))

    async def stage_rules(self, rule_set: RuleSet, lineage: str = "") -> StagedRules | None:
        """Bring over a rule set that is not committed yet, under a name that no node reads.

        SECURITY: the change may still fail, and another one get the same revision. Should somebody who writes to Valkey
        put this value where nodes look, they refuse it: its stamp is in no head that PostgreSQL tells of.
        """
        value = await self._encoded(rule_set, lineage)
        if value is None:
            return None
        tenant_id = rule_set.head.tenant_id
        staged = StagedRules(tenant_id, f"{self._rules_key(tenant_id)}:{uuid4()}")
        try:
            await self._call(lambda: self._client.set(staged.name, value, px=STAGED_MILLISECONDS))
        except CacheUnavailableError:
            self.not_stored += 1
            return None
        return staged

    async def release_rules(self, staged: StagedRules) -> None:
        """Put a staged rule set into its place; called after the commit only."""

        async def release() -> None:
            async with self._client.pipeline(transaction=True) as steps:
                # Each is queued and returns the pipeline, which its type calls awaitable.
                _ = steps.pexpire(staged.name, self._ttl), steps.rename(staged.name, self._rules_key(staged.tenant_id))
                await steps.execute()

        await self._stored(release)

    async def forget_tenant(self, tenant_id: TenantId) -> bool:
        """Remove every key of a tenant, whoever wrote it: all carry its hash tag. Whether that is certain."""
        pattern = f"{self._prefix}:*{{{tenant_id}}}*"
        place = 0
        try:
            while True:
                place, found = await self._call(partial(self._client.scan, place, match=pattern, count=SCANNED))
                if found:
                    await self._call(partial(self._client.unlink, *found))
                if place == 0:
                    return True
        except CacheUnavailableError:
            return False

    async def publish(self, head: TenantHead) -> None:
        """Tell the other nodes that a tenant moved on. Only hastens; the poll is what counts."""
        try:
            await self._call(lambda: self._client.publish(self._channel, f"{head.tenant_id} {head.revision}"))
        except CacheUnavailableError:
            return

    async def notices(self) -> AsyncIterator[TenantId]:
        """Yield ids of tenants that were said to have moved; reconnects for ever.

        After each connect it yields nothing for what was missed: the poll finds that.
        """
        pause = FIRST_RECONNECT_SECONDS
        while True:
            channel = self._listener.pubsub(ignore_subscribe_messages=True)
            try:
                async with asyncio.timeout(self._timeout):
                    await channel.subscribe(self._channel)
                _end_if_cancelled()
                pause = FIRST_RECONNECT_SECONDS
                while True:
                    message = await channel.get_message(timeout=LISTEN_SECONDS)
                    _end_if_cancelled()
                    if message is None:
                        async with asyncio.timeout(self._timeout):
                            await channel.ping()
                        continue
                    tenant_id = self._noticed(message)
                    if tenant_id is not None:
                        yield tenant_id
            except (RedisError, OSError, TimeoutError):
                _end_if_cancelled()
                await asyncio.sleep(pause)
                pause = min(pause * 2, LAST_RECONNECT_SECONDS)
            finally:
                await self._let_go(channel)

    async def ping(self) -> bool:
        """Return whether Valkey answers, for health details."""
        try:
            await self._call(self._client.ping)
        except CacheUnavailableError:
            return False
        return True

    async def close(self) -> None:
        """Close all connections."""
        for client in (self._client, self._listener):
            try:
                async with asyncio.timeout(self._timeout):
                    await client.aclose()
            except (RedisError, OSError, TimeoutError):
                continue

    def statistics(self) -> dict[str, float]:
        """Return counters, for metrics."""
        return {
            "hits": self.hits,
            "misses": self.misses,
            "failures": self.failures,
            "stored": self.stored,
            "not_stored": self.not_stored,
            "bad_notices": self.bad_notices,
            **{f"rejected_{reason}": count for reason, count in self.rejected.items()},
        }

    async def _encoded(self, rule_set: RuleSet, lineage: str) -> bytes | None:
        """Return the value of a rule set; None when it is too large or cannot be coded."""
        try:
            if len(rule_set.rules) + len(rule_set.links) <= INLINE_ROWS:
                value = encode_rule_set(rule_set, self._key, lineage)
            else:
                value = await asyncio.to_thread(encode_rule_set, rule_set, self._key, lineage)
        except (ValueError, OverflowError) as error:
            self.not_stored += 1
            _log.warning("authz.cache.not_storable", tenant_id=str(rule_set.head.tenant_id), error=str(error))
            return None
        if len(value) > self._max_bytes:
            self.not_stored += 1
            return None
        return value

    async def _stored(self, operation: Callable[[], Awaitable[Any]]) -> None:
        try:
            await self._call(operation)
        except CacheUnavailableError:
            self.not_stored += 1
            return
        self.stored += 1

    async def _call(self, operation: Callable[[], Awaitable[Any]]) -> Any:
        """Run one operation under the timeout and the breaker; raises `CacheUnavailableError`."""
        if not self._breaker.allows():
            raise CacheUnavailableError("Valkey is left alone after several failures")
        try:
            async with asyncio.timeout(self._timeout):
                answer = await operation()
        except (RedisError, OSError, TimeoutError) as error:
            self._breaker.failed()
            self.failures += 1
            if not self._failing:
                _log.warning("authz.cache.lost", error=type(error).__name__)
            self._failing = True
            raise CacheUnavailableError(type(error).__name__) from error
        self._breaker.succeeded()
        if self._failing:
            _log.info("authz.cache.back")
        self._failing = False
        return answer

    async def _decoded(self, value: bytes, head: TenantHead, model_digest: str, lineage: str) -> RuleSet:
        if len(value) > self._max_bytes:
            raise RejectedError("too_large")
        if len(value) <= INLINE_BYTES:
            return decode_rule_set(value, self._key, head, model_digest, lineage)
        return await asyncio.to_thread(decode_rule_set, value, self._key, head, model_digest, lineage)

    def _noticed(self, message: dict[str, Any]) -> TenantId | None:
        """Return the tenant a message names. Anyone may write messages: they are only ever a reason to ask."""
        data = message.get("data")
        if message.get("type") != "message" or not isinstance(data, bytes):
            return None
        try:
            if len(data) > NOTICE_BYTES:
                raise ValueError("too long")  # noqa: TRY301 (one way out for all that is no notice)
            return TenantId(UUID(data.decode("ascii").partition(" ")[0]))
        except ValueError:
            self.bad_notices += 1
            return None

    async def _let_go(self, channel: Any) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await channel.aclose()
        except (RedisError, OSError, TimeoutError):
            return

    def _rules_key(self, tenant_id: TenantId) -> str:
        # The hash tag keeps all keys of a tenant on one node of a cluster.
        return f"{self._prefix}:rules:{{{tenant_id}}}"

    @property
    def _channel(self) -> str:
        return f"{self._prefix}:notices"


def _end_if_cancelled() -> None:
    """Raise a cancellation that was swallowed on the way, as while redis-py connects: the task would go on for ever."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
