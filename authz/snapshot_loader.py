"""Gets a tenant's snapshot: the rule set from Valkey or PostgreSQL, then the index, built beside the event loop."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar
from uuid import UUID

import structlog

from authz.collector import COLLECTOR
from authz.errors import StorageUnavailableError
from authz.ports import PolicyReader, RuleSet, SnapshotCache, StagedRules, StoredModel, TenantHead, Touched
from authz.rule_changes import brought_up
from authz.served_model import ServedModel
from authz.settings import AuthzSettings
from authz.snapshot import Snapshot, build_snapshot
from tenancy.ids import BASE_TENANT_ID, PLATFORM_TENANT_ID, TenantId

_log = structlog.get_logger(__name__)

ROW_BYTES = 900
"""Estimated memory of one rule or link in a snapshot: the row, its source, its place in the index."""

SNAPSHOT_BYTES = 20_000
"""Estimated memory of an empty snapshot."""

INLINE_ROWS = 64
"""Rule sets up to this size are built on the loop: that takes less than handing them over."""

KEPT_MODELS = 4

STORE_PAUSE_SECONDS = 5.0
"""How long a rule set that was brought up by changes waits for more of them before it is stored."""

FIXED_IDS = frozenset({BASE_TENANT_ID, PLATFORM_TENANT_ID})

Build = Callable[[RuleSet, ServedModel], Snapshot]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class BuiltSnapshot:
    """A snapshot, the newest head that its rules are known to belong to, and when that was asked."""

    snapshot: Snapshot
    head: TenantHead
    read_at: float
    size_bytes: int


@dataclass(frozen=True, slots=True)
class _FailedBuild:
    rules_version: tuple[int, UUID]
    retry_at: float
    error: Exception


def build_giving_way(rule_set: RuleSet, model: ServedModel, *, mfa_of_everybody: bool = False) -> Snapshot:
    """Build a snapshot in a thread, with the interpreter offered to the event loop again and again.

    Sleeping lets go of it at once; a loop that has to ask for it waits for the switch interval each time.
    `mfa_of_everybody` as in `build_snapshot`.
    """
    return build_snapshot(rule_set, model, lambda: time.sleep(0), mfa_of_everybody=mfa_of_everybody)


class SnapshotLoader:
    """Builds snapshots, one of a kind at a time."""

    def __init__(
        self,
        reader: PolicyReader,
        cache: SnapshotCache,
        compile_model: Callable[[StoredModel], ServedModel],
        settings: AuthzSettings,
        *,
        monotonic: Callable[[], float],
        build: Build,
        lineage: Callable[[], str],
    ) -> None:
        self._reader = reader
        self._cache = cache
        self._compile_model = compile_model
        self._monotonic = monotonic
        self._build = build
        self._lineage = lineage
        self._slow_rows = settings.slow_build_rows
        self._load_timeout = settings.load_timeout.total_seconds()
        self._failed_pause = settings.failed_build_pause.total_seconds()
        # Two threads of one each: a large rule set does not make small ones wait.
        self._quick = ThreadPoolExecutor(1, thread_name_prefix="snapshot")
        self._slow = ThreadPoolExecutor(1, thread_name_prefix="large-snapshot")
        self._models: dict[str, ServedModel] = {}
        self._model_digest = ""
        self._failed: dict[TenantId, _FailedBuild] = {}
        self._storing: set[asyncio.Task[None]] = set()
        self._unstored: dict[TenantId, RuleSet] = {}
        self.from_cache = 0
        self.from_database = 0
        self.from_changes = 0
        self.build_failures = 0
        self.last_build_seconds = 0.0

    async def load(self, head: TenantHead, read_at: float) -> BuiltSnapshot:
        """Return a snapshot of `head.rules_revision`, or of a later one when PostgreSQL has moved on.

        Args:
            head: The newest head known, as PostgreSQL said it.
            read_at: Monotonic time at which it was asked for that head.

        Raises:
            StorageUnavailableError: PostgreSQL did not answer in time.
            TenantNotFoundError: the tenant is gone.
            ModelError: the stored model or the rules cannot be built.
        """
        with COLLECTOR.paused():
            return await self._load(head, read_at)

    async def follow(self, held: RuleSet, touched: Touched, read_at: float) -> BuiltSnapshot | None:
        """Return the snapshot that follows `held` after what changed; None when `load` must bring it.

        Args:
            held: The rule set before; `touched` is all that changed since.
            touched: What PostgreSQL said at `read_at`.
            read_at: Monotonic time at which it was asked.

        Raises:
            ModelError: the rules cannot be built.
        """
        changed, head = touched.changed_rows, touched.head
        if touched.everything or changed is None:
            return None
        self._raise_recent_failure(head)
        with COLLECTOR.paused():
            large = len(held.rules) + len(held.links) > INLINE_ROWS
            executor = self._executor(len(held.rules) + len(held.links))
            loop = asyncio.get_running_loop()
            follow = partial(brought_up, held, head, changed)
            rule_set = await loop.run_in_executor(executor, follow) if large else follow()
            if rule_set is None:
                return None
            self.from_changes += 1
            if self._may_share(head.tenant_id):
                self._store_later(rule_set)
            return await self._ready(rule_set, head, read_at)

    async def stage_rules(self, rule_set: RuleSet) -> StagedRules | None:
        """Bring a rule set to Valkey before its change is committed; None where it may not be shared, or failed."""
        if not self._may_share(rule_set.head.tenant_id):
            return None
        return await self._cache.stage_rules(rule_set, self._lineage())

    async def close(self) -> None:
        """Let go of the threads; a build under way ends by itself."""
        for task in list(self._storing):
            task.cancel()
        self._quick.shutdown(wait=False, cancel_futures=True)
        self._slow.shutdown(wait=False, cancel_futures=True)

    async def _load(self, head: TenantHead, read_at: float) -> BuiltSnapshot:
        self._raise_recent_failure(head)
        rule_set = None
        if self._may_share(head.tenant_id):
            rule_set = await self._cache.find_rules(head, self._model_digest, self._lineage())
        if rule_set is not None and (rule_set.head.tenant_id, rule_set.head.rules_version) == (
            head.tenant_id,
            head.rules_version,
        ):
            self.from_cache += 1
        else:
            read_at = self._monotonic()
            rule_set = await bounded(self._reader.load_rules(head.tenant_id), self._load_timeout)
            head = rule_set.head
            self._model_digest = rule_set.model.digest
            self.from_database += 1
            if self._may_share(head.tenant_id):
                self._store(rule_set)
        return await self._ready(rule_set, head, read_at)

    async def _ready(self, rule_set: RuleSet, head: TenantHead, read_at: float) -> BuiltSnapshot:
        try:
            snapshot = await self._built(rule_set)
        except Exception as error:
            self.build_failures += 1
            retry_at = self._monotonic() + self._failed_pause
            self._failed[head.tenant_id] = _FailedBuild(head.rules_version, retry_at, error)
            # Whoever waits for it gets the error itself, and its traceback where it is unexpected.
            _log.error(
                "authz.snapshot.build_failed",
                tenant_id=str(head.tenant_id),
                rules_revision=head.rules_revision,
                error=f"{type(error).__name__}: {error}",
            )
            raise
        size = SNAPSHOT_BYTES + ROW_BYTES * (len(rule_set.rules) + len(rule_set.links))
        return BuiltSnapshot(snapshot, head, read_at, size)

    def _raise_recent_failure(self, head: TenantHead) -> None:
        failed = self._failed.get(head.tenant_id)
        if failed is not None:
            if failed.rules_version == head.rules_version and self._monotonic() < failed.retry_at:
                raise failed.error
            del self._failed[head.tenant_id]

    def _may_share(self, tenant_id: TenantId) -> bool:
        """Whether a tenant's id and revision stand for the same rules wherever they are found.

        SECURITY: the platform's id is the same in every database. Where the feed does not name its database, the
        platform's rules of another one (that shares Valkey and the secret) would pass for ours.
        """
        return self._lineage() != "" or tenant_id not in FIXED_IDS

    async def _built(self, rule_set: RuleSet) -> Snapshot:
        model = self._model(rule_set.model)
        rows = len(rule_set.rules) + len(rule_set.links)
        began = time.perf_counter()
        if rows <= INLINE_ROWS:
            snapshot = self._build(rule_set, model)
        else:
            loop = asyncio.get_running_loop()
            snapshot = await loop.run_in_executor(self._executor(rows), self._build, rule_set, model)
        self.last_build_seconds = time.perf_counter() - began
        return snapshot

    def _model(self, stored: StoredModel) -> ServedModel:
        model = self._models.get(stored.digest)
        if model is None:
            model = self._compile_model(stored)
            while len(self._models) >= KEPT_MODELS:
                del self._models[next(iter(self._models))]
            self._models[stored.digest] = model
        return model

    def _executor(self, rows: int) -> ThreadPoolExecutor:
        return self._slow if rows > self._slow_rows else self._quick

    def _store_later(self, rule_set: RuleSet) -> None:
        """Keep the rule set for other nodes when the tenant's next few changes are in it, too."""
        tenant_id = rule_set.head.tenant_id
        waiting = tenant_id in self._unstored
        self._unstored[tenant_id] = rule_set
        if waiting:
            return

        async def store() -> None:
            await asyncio.sleep(STORE_PAUSE_SECONDS)
            await self._cache.store_rules(self._unstored.pop(tenant_id), self._lineage())

        self._keep(asyncio.create_task(store()))

    def _store(self, rule_set: RuleSet) -> None:
        """Keep the rule set for other nodes without waiting for it: Valkey is nobody's reason to be late."""
        self._keep(asyncio.create_task(self._cache.store_rules(rule_set, self._lineage())))

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._storing.add(task)
        task.add_done_callback(self._storing.discard)


async def bounded(awaitable: Awaitable[T], seconds: float) -> T:
    """Wait for a read from PostgreSQL; raises `StorageUnavailableError` when it takes too long."""
    try:
        async with asyncio.timeout(seconds):
            return await awaitable
    except TimeoutError as error:
        raise StorageUnavailableError(f"PostgreSQL did not answer within {seconds:g} s") from error
