"""The states a node holds: bringing them up to PostgreSQL's head, one attempt at a time per tenant, and letting go."""

import asyncio
from collections.abc import Callable

import structlog

from authz.change_feed import ChangeFeed
from authz.errors import AuthzError, StaleError, TenantNotFoundError
from authz.letting_go import LettingGo
from authz.ports import PolicyReader, TenantHead
from authz.settings import AuthzSettings
from authz.snapshot_loader import SnapshotLoader, bounded
from authz.tenant_state import TenantState
from authz.tracked import Tracked
from tenancy.ids import TenantId, TenantStatus

_log = structlog.get_logger(__name__)

ADVANCE_ROUNDS = 6
"""How often rules may move on while they are being loaded before a tenant is given up for this time."""

CONFIRM_ROUNDS = 3
"""How often a state may be too old by the time it is there (a very slow build) before the request is given up."""


class TenantStates:
    """Every state is replaced only by its flight: the one task that brings its tenant up."""

    def __init__(
        self,
        reader: PolicyReader,
        loader: SnapshotLoader,
        feed: ChangeFeed,
        settings: AuthzSettings,
        monotonic: Callable[[], float],
    ) -> None:
        self._reader = reader
        self._loader = loader
        self._feed = feed
        self._monotonic = monotonic
        self._max_staleness = float("inf") if settings.serve_stale else settings.max_staleness.total_seconds()
        self._read_timeout = settings.read_timeout.total_seconds()
        self._min_revision_wait = settings.min_revision_wait.total_seconds()
        self._idle_ttl = settings.idle_ttl.total_seconds()
        self._idle_rebuild = settings.idle_rebuild.total_seconds()
        self._max_bytes = settings.snapshot_cache_bytes
        self._max_tenants = settings.max_warm_tenants
        self.held: dict[TenantId, TenantState] = Tracked(feed.changes)
        self.size_bytes = 0
        self.on_reset: list[Callable[[], None]] = []
        self.loads = 0
        self.advances = 0
        self.advance_failures = 0
        self.evictions = 0
        self.went_back = 0
        self._letting_go = LettingGo()
        self._flights: dict[TenantId, asyncio.Task[TenantState]] = {}
        self._behind: dict[TenantId, None] = {}
        self._work = asyncio.Event()
        self._epoch = 0
        self._stopping = False
        feed.on_poll = self._after_poll
        feed.on_reset = self._drop_everything
        feed.on_back = self._start_over
        feed.in_use = self.held.__contains__

    def in_use(self, tenant_id: TenantId) -> bool:
        """Whether a state of the tenant is held, or is being brought up."""
        return tenant_id in self.held or tenant_id in self._flights

    async def read_through(self, tenant_id: TenantId, min_revision: int | None) -> TenantState:
        """Ask PostgreSQL for the tenant until it is confirmed, and at `min_revision` if that is given.

        The caller bounds the time. Raises as `Node.state`.
        """
        waited = False
        rounds = 0
        while True:
            joined = self._flights.get(tenant_id)
            if joined is not None and joined.done():
                # It has not landed yet: its callbacks run in the next turn of the loop. To await it would not give the
                # loop that turn, so a caller who wants more than it brought would go round for ever.
                joined = None
            state = await self._wait_for(joined or self._fly(tenant_id))
            if state is None:
                continue
            if min_revision is None or state.head.revision >= min_revision:
                if self._monotonic() - state.confirmed_at <= self._max_staleness:
                    return state
                rounds += 1
                if rounds == CONFIRM_ROUNDS:
                    raise StaleError("the tenant was too old each time it was brought up")
            elif joined is None:
                # The primary itself does not have it yet: ask once more when it is told of, but only then.
                if waited:
                    raise StaleError(f"revision {min_revision} was not reached, the tenant is at {state.head.revision}")
                waited = True
                await self._until_told(tenant_id, min_revision, state.head.revision)

    async def _until_told(self, tenant_id: TenantId, min_revision: int, actual: int) -> None:
        try:
            async with asyncio.timeout(self._min_revision_wait):
                await self._feed.reached(tenant_id, min_revision)
        except TimeoutError as error:
            raise StaleError(f"revision {min_revision} was not reached, the tenant is at {actual}") from error

    def _fly(self, tenant_id: TenantId) -> asyncio.Task[TenantState]:
        """Start the one attempt to bring a tenant up; it goes on when those who wait for it leave."""
        task = asyncio.create_task(self._bring_up(tenant_id))
        self._flights[tenant_id] = task

        def land(done: asyncio.Task[TenantState]) -> None:
            if self._flights.get(tenant_id) is done:
                del self._flights[tenant_id]
            if not done.cancelled():
                done.exception()

        task.add_done_callback(land)
        return task

    async def _wait_for(self, flight: asyncio.Task[TenantState]) -> TenantState | None:
        """Return what a flight brings; None when it was ended so that another one can start."""
        try:
            return await asyncio.shield(flight)
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if not flight.cancelled() or (current is not None and current.cancelling()):
                raise
        if self._stopping:
            raise StaleError("the node is stopping")
        return None

    async def _bring_up(self, tenant_id: TenantId) -> TenantState:
        epoch = self._epoch
        with self._feed.expecting(tenant_id):
            await self._feed.started()
            held = self.held.get(tenant_id)
            try:
                state = await (self._first(tenant_id) if held is None else self._advanced(held))
            except TenantNotFoundError:
                self._drop(tenant_id)
                self._feed.forget(tenant_id)
                raise
            if epoch != self._epoch or tenant_id not in self._feed.heads:
                raise StaleError("the change feed began anew")
            if self.held.get(tenant_id) is not state:
                self._keep(state)
            return state

    async def _first(self, tenant_id: TenantId) -> TenantState:
        """Return the state of a tenant that is not held."""
        read_at = self._monotonic()
        head = await self.read_head(tenant_id)
        built = await self._loader.load(head, read_at)
        self._feed.note(built.head, built.read_at)
        self.loads += 1
        return TenantState(_living(built.head), built.snapshot, built.read_at, built.size_bytes)

    async def _advanced(self, held: TenantState) -> TenantState:
        """Return the state that follows `held`, or `held` itself, confirmed, when nothing changed."""
        tenant_id = held.tenant_id
        snapshot, size_bytes = held.snapshot, held.size_bytes
        for _ in range(ADVANCE_ROUNDS):
            read_at = self._monotonic()
            touched = await bounded(self._reader.touched_since(tenant_id, *held.head.version), self._read_timeout)
            head = _living(touched.head)
            lost = head.revision < held.head.revision or head.contradicts(held.head)
            if lost or not touched.same_history:
                # What this node applied is gone from the database: a failover lost it. Start over from what is there.
                _log.error("authz.node.went_back", tenant_id=str(tenant_id), held=held.head.revision, now=head.revision)
                self.went_back += 1
                self._drop(tenant_id)
                self._feed.forget(tenant_id)
                return await self._first(tenant_id)
            self._feed.note(head, read_at)
            if head.revision == held.head.revision:
                held.confirm(read_at)
                return held
            if head.rules_revision == snapshot.rules_revision:
                self.advances += 1
                return held.successor(touched, snapshot, read_at, size_bytes)
            # INVARIANT: the snapshot taken is that of exactly `head.rules_revision`; when the rules moved on while
            # they were loaded, what was touched is asked for again, up to the newer head.
            built = await self._loader.follow(held.snapshot.rule_set, touched, read_at)
            if built is None:
                built = await self._loader.load(head, read_at)
            snapshot, size_bytes = built.snapshot, built.size_bytes
            if built.head.rules_version == head.rules_version:
                self.advances += 1
                return held.successor(touched, snapshot, read_at, size_bytes)
        raise StaleError("the rules kept changing while they were loaded")

    async def read_head(self, tenant_id: TenantId) -> TenantHead:
        """Return the tenant's head as PostgreSQL says it now; the caller holds `ChangeFeed.expecting`."""
        read_at = self._monotonic()
        head = await bounded(self._reader.find_tenant(tenant_id), self._read_timeout)
        if head is None:
            raise TenantNotFoundError(f"no tenant `{tenant_id}`")
        self._feed.note(_living(head), read_at)
        return head

    # --- in the background

    async def advance_behind(self) -> None:
        """Bring up tenants that polls found behind, until cancelled; run several of these at once."""
        while True:
            if not self._behind:
                self._work.clear()
                await self._work.wait()
                continue
            tenant_id = next(iter(self._behind))
            del self._behind[tenant_id]
            try:
                await self._wait_for(self._flights.get(tenant_id) or self._fly(tenant_id))
            except AuthzError as error:
                # The state stays as it is, unconfirmed; the next poll finds it behind again.
                self.advance_failures += 1
                _log.warning("authz.node.advance_failed", tenant_id=str(tenant_id), error=str(error))
            except Exception:  # noqa: BLE001 (supervisor)
                # This task supervises: one tenant's trouble must not end the upkeep of the others.
                self.advance_failures += 1
                _log.exception("authz.node.advance_failed", tenant_id=str(tenant_id))

    async def stop(self) -> None:
        """End every attempt under way."""
        self._stopping = True
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    def _after_poll(self, began: float) -> None:
        """Confirm what is at the primary's head; queue, or let go, what is behind."""
        now = self._monotonic()
        behind: list[TenantState] = []
        for tenant_id, state in list(self.held.items()):
            head = self._feed.heads.get(tenant_id)
            if head is None or now - state.used_at > self._idle_ttl:
                self._drop(tenant_id)
            elif head.revision <= state.head.revision:
                state.confirm(began)
            elif head.rules_revision != state.snapshot.rules_revision and now - state.used_at > self._idle_rebuild:
                # After a change of the base or the model every tenant moves: only those in use are worth the work.
                self._drop(tenant_id)
            else:
                behind.append(state)
        if behind:
            behind.sort(key=lambda state: state.used_at, reverse=True)
            self._behind = dict.fromkeys(state.tenant_id for state in behind)
            self._work.set()

    def _keep(self, state: TenantState) -> None:
        self._drop(state.tenant_id, state)
        self.held[state.tenant_id] = state
        self.size_bytes += state.size_bytes
        if self.size_bytes <= self._max_bytes and len(self.held) <= self._max_tenants:
            return
        # A few more than needed, so that this is rare.
        oldest = sorted(self.held.values(), key=lambda held: held.used_at)
        floor_bytes, floor_tenants = self._max_bytes * 15 // 16, self._max_tenants * 15 // 16
        for victim in oldest:
            if self.size_bytes <= floor_bytes and len(self.held) <= floor_tenants:
                return
            if victim is not state:
                self.evictions += 1
                self._drop(victim.tenant_id)

    def _drop(self, tenant_id: TenantId, heir: TenantState | None = None) -> None:
        state = self.held.pop(tenant_id, None)
        if state is not None:
            self.size_bytes -= state.size_bytes
            if heir is None or heir.snapshot is not state.snapshot:
                self._letting_go.add(state.snapshot)

    def _start_over(self) -> None:
        """End attempts that began while PostgreSQL was lost: their connections may never answer."""
        for flight in list(self._flights.values()):
            flight.cancel()

    def _drop_everything(self) -> None:
        self._epoch += 1
        self.held.clear()
        self._behind.clear()
        self.size_bytes = 0
        for hook in self.on_reset:
            hook()


def _living(head: TenantHead) -> TenantHead:
    """Return the head, unless its tenant is deleted, which is as if it did not exist."""
    if head.status is TenantStatus.DELETED:
        raise TenantNotFoundError(f"no tenant `{head.tenant_id}`")
    return head
