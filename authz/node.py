"""The decision node: tenants' states, kept at one revision each, confirmed by PostgreSQL's primary.

docs/adr/0005-consistency-of-a-node.md says why it is right.
"""

import asyncio
from collections.abc import Callable, Iterable
from datetime import datetime

import structlog

from authz.change_feed import ChangeFeed
from authz.errors import AuthzError, StaleError
from authz.lookup_batches import LookupBatches
from authz.node_clock import DatabaseClock, elapsed_clock
from authz.ports import Lookup, PolicyReader, RuleSet, SnapshotCache, StagedRules, StoredModel, TenantHead
from authz.request import NO_PROPERTIES, Properties, Ref
from authz.served_model import ServedModel
from authz.settings import AuthzSettings
from authz.snapshot import Facts
from authz.snapshot_loader import Build, SnapshotLoader, bounded, build_giving_way
from authz.tenant_state import Loaded, MembershipBudget, TenantState, facts_bytes, record_of, resource_bytes
from authz.tenant_states import TenantStates
from tenancy.ids import BASE_TENANT_ID, TenantId

_log = structlog.get_logger(__name__)

NOTICES_PAUSE_SECONDS = 1.0
"""Pause before listening again when the source of notices ended or failed, which it should not."""

LOOKUP_ROUNDS = 12
"""How often a tenant may move on while members are looked up before the request is given up."""


class Node:
    """Holds the states of the tenants in use and answers from them; see `warm`, `state` and `load`."""

    def __init__(
        self,
        reader: PolicyReader,
        cache: SnapshotCache,
        compile_model: Callable[[StoredModel], ServedModel],
        settings: AuthzSettings,
        monotonic: Callable[[], float] | None = None,
        *,
        build: Build = build_giving_way,
    ) -> None:
        self._reader = reader
        self._cache = cache
        self._settings = settings
        self._monotonic = monotonic or elapsed_clock()
        self._max_staleness = float("inf") if settings.serve_stale else settings.max_staleness.total_seconds()
        self._read_timeout = settings.read_timeout.total_seconds()
        self._request_timeout = settings.request_timeout.total_seconds()
        self._load_timeout = settings.load_timeout.total_seconds()
        self._min_revision_wait = settings.min_revision_wait.total_seconds()
        self._clock = DatabaseClock(self._monotonic)
        self._feed = ChangeFeed(reader, self._clock, settings, self._monotonic)
        self._loader = SnapshotLoader(
            reader,
            cache,
            compile_model,
            settings,
            monotonic=self._monotonic,
            build=build,
            lineage=lambda: self._feed.server_run,
        )
        self._budget = MembershipBudget(settings.membership_cache_bytes)
        self._lookups = LookupBatches(
            self._read_lookup, concurrency=settings.lookup_concurrency, max_names=settings.lookup_batch
        )
        self._tenants = TenantStates(reader, self._loader, self._feed, settings, self._monotonic)
        self._states = self._tenants.held
        self.changes = self._feed.changes
        """Counts every change of a head or a state: as long as it stands still, what `warm_until` promised holds."""
        self.elapsed = self._monotonic
        """The clock of `warm_until`: seconds, monotonic."""
        self._publishing: set[asyncio.Task[None]] = set()
        self.heads: dict[TenantId, TenantHead] = self._feed.heads
        """Newest known head of every watched tenant, also of those without a snapshot."""
        self.on_advance: list[Callable[[TenantHead], None]] = self._feed.on_head
        """Called with the new head as soon as a watched tenant is known to have moved, before its state follows."""
        self.on_reset: list[Callable[[], None]] = self._tenants.on_reset
        """Called when the database turned out to be another one, or an older copy of it."""
        self.member_hits = 0
        self.member_misses = 0
        self.discarded_lookups = 0
        self.notices = 0

    # --- what decisions use

    def now(self) -> datetime:
        """Return the database's time, carried on; raises `StaleError` before the first poll."""
        return self._clock.now()

    def warm(self, tenant_id: TenantId) -> TenantState | None:
        """Return the state if the primary confirmed it within `max_staleness` (any state when serving stale)."""
        state = self._states.get(tenant_id)
        if state is None:
            return None
        now = self._monotonic()
        if now - state.confirmed_at > self._max_staleness:
            return None
        state.used_at = now
        return state

    def warm_until(self, tenant_id: TenantId) -> float:
        """Return until when, by `elapsed`, `warm` and `fresh` say what they say now if `changes` stands still."""
        state, confirmed_at = self._states.get(tenant_id), self._feed.confirmed(tenant_id)
        if state is None or confirmed_at is None:
            return float("-inf")
        return min(state.confirmed_at, confirmed_at) + self._max_staleness

    def recall(self, state: TenantState, subject: Ref) -> Facts | None:
        """Return a subject's facts if what `state` keeps is enough to make them; `state` is one that `warm` gave."""
        return self._subjects(state, [subject], None).get(subject)

    async def state(self, tenant_id: TenantId, min_revision: int | None = None) -> TenantState:
        """Return a confirmed state at `min_revision` or later, reading through to PostgreSQL when it must.

        Raises:
            StaleError: not confirmed, or the revision was not reached in time; never an older state instead.
            TenantNotFoundError: no such tenant, or it is deleted.
            StorageUnavailableError: PostgreSQL does not answer.
            ModelError: the tenant's rules cannot be built.
        """
        state = self.warm(tenant_id)
        if state is not None and (min_revision is None or state.head.revision >= min_revision):
            return state
        try:
            async with asyncio.timeout(self._request_timeout):
                return await self._tenants.read_through(tenant_id, min_revision)
        except TimeoutError as error:
            raise StaleError(f"the tenant was not brought up within {self._request_timeout:g} s") from error

    async def load(
        self,
        tenant_id: TenantId,
        subjects: Iterable[Ref],
        resources: Iterable[Ref],
        min_revision: int | None = None,
    ) -> Loaded:
        """Return the named subjects and resources with the state they are valid in; raises as `state`.

        Unknown names are no error: they have no grants and no properties.
        """
        wanted_subjects, wanted_resources = list(dict.fromkeys(subjects)), list(dict.fromkeys(resources))
        try:
            async with asyncio.timeout(self._request_timeout):
                return await self._load(tenant_id, wanted_subjects, wanted_resources, min_revision)
        except TimeoutError as error:
            raise StaleError(f"members were not looked up within {self._request_timeout:g} s") from error

    # --- heads, for what depends on a tenant but not on its rules (API keys)

    def fresh(self, tenant_id: TenantId) -> bool:
        """Return whether the primary confirmed `heads[tenant_id]` within `max_staleness`."""
        confirmed_at = self._feed.confirmed(tenant_id)
        return confirmed_at is not None and self._monotonic() - confirmed_at <= self._max_staleness

    async def watch(self, tenant_id: TenantId) -> TenantHead:
        """Follow a tenant's head without its rules; the head is as new as this call. Raises as `state`."""
        with self._feed.expecting(tenant_id):
            try:
                async with asyncio.timeout(self._request_timeout):
                    await self._feed.started()
                    await self._tenants.read_head(tenant_id)
            except TimeoutError as error:
                raise StaleError("the change feed was not heard in time") from error
            return self.heads[tenant_id]

    async def stage_rules(self, rule_set: RuleSet) -> StagedRules | None:
        """Bring a rule set over to where nodes look, before its change is committed; `RuleSetShelf`."""
        return await self._loader.stage_rules(rule_set)

    async def release_rules(self, staged: StagedRules) -> None:
        """Let nodes use it, after the commit; `RuleSetShelf`."""
        await self._cache.release_rules(staged)

    async def note_write(self, head: TenantHead) -> None:
        """Take in the head of a write of this node: advance now, tell the others. Never fails: the write is done."""
        task = asyncio.create_task(self._cache.publish(head))
        self._publishing.add(task)
        task.add_done_callback(self._publishing.discard)
        self._feed.note(head)
        if head.tenant_id == BASE_TENANT_ID:
            # Every tenant moved; the feed says where to.
            self._feed.wake()
        if head.tenant_id not in self._states:
            return
        try:
            async with asyncio.timeout(self._min_revision_wait):
                await self._tenants.read_through(head.tenant_id, head.revision)
        except (AuthzError, TimeoutError) as error:
            # It stays behind and unconfirmed until the poll has brought it up.
            _warn_not_applied(head.tenant_id, error)

    async def follow_write(self, tenant_id: TenantId, revision: int) -> None:
        """Take in a write of another process of this machine, as `note_write` takes in an own one. Never fails.

        It waits longer: what is written elsewhere is large, and is only loaded if the tenant is in use here.
        """
        held = self._states.get(tenant_id)
        if held is not None and held.head.revision >= revision:
            return
        self._feed.wake()
        if tenant_id == BASE_TENANT_ID or not self._tenants.in_use(tenant_id):
            return
        try:
            async with asyncio.timeout(self._load_timeout):
                await self._tenants.read_through(tenant_id, revision)
        except (AuthzError, TimeoutError) as error:
            _warn_not_applied(tenant_id, error)

    # --- the service's side

    async def start(self) -> None:
        """Poll once, so that the node serves from the beginning; a failure is left to `run`."""
        await self._feed.poll()

    async def run(self) -> None:
        """Poll, listen and advance until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._feed.run(), name="authz.feed")
                group.create_task(self._listen(), name="authz.notices")
                for number in range(self._settings.advance_concurrency):
                    group.create_task(self._tenants.advance_behind(), name=f"authz.advance-{number}")
        finally:
            await self._stop()

    @property
    def ready(self) -> bool:
        """Whether the change feed was heard within `max_staleness`."""
        age = self.confirmation_age
        return age is not None and age <= self._max_staleness

    @property
    def confirmation_age(self) -> float | None:
        """Seconds since the last good poll began; None before the first."""
        confirmed_at = self._feed.confirmed_at
        return None if confirmed_at is None else self._monotonic() - confirmed_at

    def statistics(self) -> dict[str, float]:
        """Return counters and sizes, for metrics."""
        return {
            "member_hits": self.member_hits,
            "member_misses": self.member_misses,
            "discarded_lookups": self.discarded_lookups,
            "notices": self.notices,
            "tenant_loads": self._tenants.loads,
            "advances": self._tenants.advances,
            "advance_failures": self._tenants.advance_failures,
            "evictions": self._tenants.evictions,
            "went_back": self._tenants.went_back,
            "polls": self._feed.polls,
            "poll_failures": self._feed.poll_failures,
            "feed_resets": self._feed.resets,
            "lookups": self._lookups.lookups,
            "snapshots_from_cache": self._loader.from_cache,
            "snapshots_from_database": self._loader.from_database,
            "snapshots_from_changes": self._loader.from_changes,
            "build_failures": self._loader.build_failures,
            "last_build_seconds": self._loader.last_build_seconds,
            "member_cache_turns": self._budget.turns,
            "member_cache_charged_bytes": self._budget.charged_bytes,
            "warm_tenants": len(self._states),
            "watched_tenants": len(self.heads),
            "snapshot_bytes": self._tenants.size_bytes,
            "clock_behind_seconds": self._clock.behind_seconds,
        }

    async def _listen(self) -> None:
        """Let notices about tenants that are watched make a poll come sooner."""
        while True:
            try:
                async for tenant_id in self._cache.notices():
                    self.notices += 1
                    if tenant_id in self.heads or tenant_id == BASE_TENANT_ID:
                        self._feed.wake()
            except Exception:  # noqa: BLE001 (supervisor)
                # This task supervises: without notices the poll alone keeps the node up.
                _log.exception("authz.node.notices_failed")
            await asyncio.sleep(NOTICES_PAUSE_SECONDS)

    async def _stop(self) -> None:
        await self._tenants.stop()
        for task in list(self._publishing):
            task.cancel()
        await asyncio.gather(*self._publishing, return_exceptions=True)
        await self._loader.close()

    # --- members

    async def _load(
        self, tenant_id: TenantId, subjects: list[Ref], resources: list[Ref], min_revision: int | None
    ) -> Loaded:
        fetched: Lookup | None = None
        for _ in range(LOOKUP_ROUNDS):
            state = await self.state(tenant_id, min_revision)
            # From here to the end of the round nothing waits, so the state cannot be replaced meanwhile.
            if fetched is not None and fetched.head.version != state.head.version:
                # SECURITY: rows of another revision than the rules' could allow what no revision allowed.
                self.discarded_lookups += 1
                fetched = state.still_valid(fetched)
            found_subjects = self._subjects(state, subjects, fetched)
            found_resources = self._resources(state, resources, fetched)
            missing_subjects = [ref for ref in subjects if ref not in found_subjects]
            missing_resources = [ref for ref in resources if ref not in found_resources]
            if not missing_subjects and not missing_resources:
                return Loaded(state, found_subjects, found_resources)
            self.member_misses += len(missing_subjects) + len(missing_resources)
            fetched = await self._lookups.lookup(tenant_id, missing_subjects, missing_resources)
            held = self._states.get(tenant_id)
            if held is not None and (held.head.revision < fetched.head.revision or held.head.contradicts(fetched.head)):
                await self._tenants.read_through(tenant_id, fetched.head.revision)
        raise StaleError("the tenant kept changing while its members were looked up")

    def _subjects(self, state: TenantState, wanted: list[Ref], fetched: Lookup | None) -> dict[Ref, Facts]:
        """Return the facts that are held or were fetched, all valid now in `state`, and keep them."""
        found: dict[Ref, Facts] = {}
        now = self._clock.now()
        timestamp = now.timestamp()
        for ref in wanted:
            facts = state.subjects.get(ref)
            if facts is None or facts.valid_until <= timestamp:
                record = None
                # A record is valid at the state's revision; facts are made anew when they expired or rules changed.
                old = facts or state.aged_subjects.get(ref)
                if old is not None:
                    record = old.record
                elif fetched is not None and ref in fetched.subjects:
                    record = fetched.subjects[ref]
                if record is None:
                    continue
                facts = state.snapshot.facts(ref, record, now)
                # Charged first: a turn of the generations must leave the new entry in the young one.
                self._budget.charge(facts_bytes(facts), self._states.values())
                state.subjects[ref] = facts
            else:
                self.member_hits += 1
            found[ref] = facts
        return found

    def _resources(self, state: TenantState, wanted: list[Ref], fetched: Lookup | None) -> dict[Ref, Properties]:
        """Return the stored properties that are held or were fetched, and keep them."""
        found: dict[Ref, Properties] = {}
        for ref in wanted:
            properties = state.resources.get(ref)
            if properties is None:
                properties = state.aged_resources.get(ref)
                if properties is None and fetched is not None:
                    properties = fetched.resources.get(ref)
                if properties is None:
                    continue
                self._budget.charge(resource_bytes(ref, properties), self._states.values())
                state.resources[ref] = properties
            else:
                self.member_hits += 1
            found[ref] = properties
        return found

    async def _read_lookup(self, tenant_id: TenantId, subjects: list[Ref], resources: list[Ref]) -> Lookup:
        read_at, resets = self._monotonic(), self._feed.resets
        lookup = await bounded(self._reader.lookup(tenant_id, subjects, resources), self._read_timeout)
        self._feed.note(lookup.head, read_at)
        if self._feed.resets != resets:
            raise StaleError("the change feed began anew")
        held = self._states.get(tenant_id)
        if held is not None and held.head.version == lookup.head.version:
            held.confirm(read_at)
        return Lookup(
            lookup.head,
            {ref: record_of(lookup.subjects, ref) for ref in subjects},
            {ref: lookup.resources.get(ref, NO_PROPERTIES) for ref in resources},
        )


def _warn_not_applied(tenant_id: TenantId, error: Exception) -> None:
    _log.warning("authz.node.write_not_applied", tenant_id=str(tenant_id), error=str(error) or type(error).__name__)
