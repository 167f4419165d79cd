"""Follows the primary's change feed: which tenants moved, since when that is confirmed, and what time it is there.

Notices only make a poll come sooner. They confirm nothing and carry nothing that is believed, so lost, doubled,
re-ordered and forged ones change no decision.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice

import structlog

from authz.errors import StorageUnavailableError
from authz.node_clock import DatabaseClock
from authz.ports import FeedPage, PolicyReader, TenantHead
from authz.settings import AuthzSettings
from authz.tracked import Changes, Tracked
from tenancy.ids import TenantId

_log = structlog.get_logger(__name__)


class ChangeFeed:
    """Heads of the watched tenants, kept up by polling."""

    def __init__(
        self, reader: PolicyReader, clock: DatabaseClock, settings: AuthzSettings, monotonic: Callable[[], float]
    ) -> None:
        self._reader = reader
        self._clock = clock
        self._monotonic = monotonic
        self._interval = settings.poll_interval.total_seconds()
        self._timeout = settings.poll_timeout.total_seconds()
        self._spacing = settings.notice_spacing.total_seconds()
        self._max_watched = settings.max_watched_tenants
        self.changes = Changes()
        """Counts what can end the truth of something remembered: heads here, states where they are held."""
        self.heads: dict[TenantId, TenantHead] = Tracked(self.changes)
        """The newest head of every watched tenant that PostgreSQL told us of."""
        self.confirmed_at: float | None = None
        """Monotonic time at which the last good poll began."""
        self.polls = 0
        self.poll_failures = 0
        self.resets = 0
        self.on_head: list[Callable[[TenantHead], None]] = []
        self.on_poll: Callable[[float], None] = lambda _: None
        """Called after each good poll with the time at which it began."""
        self.on_reset: Callable[[], None] = lambda: None
        """Called when the database turns out to be another one, or an older copy: forget everything."""
        self.on_back: Callable[[], None] = lambda: None
        """Called with the first good poll after a failed one."""
        self.in_use: Callable[[TenantId], bool] = lambda _: False
        """Whether a head must not be forgotten."""
        self.lineage = ""
        """Which database the feed comes from, as it says itself."""
        self.server_run = ""
        """Which database, and which run of its server: what may be shared with other nodes belongs to both."""
        self._cursor: int | None = None
        self._run = ""
        self._started = asyncio.Event()
        self._wake = asyncio.Event()
        self._expected: Counter[TenantId] = Counter()
        self._read_at: dict[TenantId, float] = {}
        self._waiting: dict[TenantId, list[tuple[int, asyncio.Future[None]]]] = {}
        self._failing = False
        self._raised: dict[TenantId, int] = {}
        """Revisions that reads and writes told of since the last poll began: the next one must tell of them too."""

    @contextmanager
    def expecting(self, tenant_id: TenantId) -> Iterator[None]:
        """Keep what polls say about a tenant while its head is being read.

        INVARIANT: without this a change that commits after the read, and that a poll reports before the head is noted,
        would be reported to nobody, and the next poll would confirm the older head.
        """
        self._expected[tenant_id] += 1
        try:
            yield
        finally:
            self._expected[tenant_id] -= 1
            if self._expected[tenant_id] == 0:
                del self._expected[tenant_id]

    def note(self, head: TenantHead, read_at: float | None = None) -> None:
        """Take in a head that came from PostgreSQL, of a tenant that is watched or expected; others are ignored.

        Args:
            head: What PostgreSQL said.
            read_at: When it was asked, if it was asked for the newest head.
        """
        known = self.heads.get(head.tenant_id)
        if known is not None and known.contradicts(head):
            self._begin_anew()
            return
        self._note(head, read_at)
        if known is not None and known.revision < head.revision:
            self._raised[head.tenant_id] = head.revision

    def _note(self, head: TenantHead, read_at: float | None = None) -> None:
        tenant_id = head.tenant_id
        known = self.heads.get(tenant_id)
        if known is None and tenant_id not in self._expected:
            return
        if read_at is not None:
            self._read_at[tenant_id] = max(read_at, self._read_at.get(tenant_id, read_at))
        if known is not None and known.revision >= head.revision:
            return
        self.heads[tenant_id] = head
        if known is None:
            self._forget_oldest()
        self._release(tenant_id, head.revision)
        if known is not None:
            for hook in self.on_head:
                hook(head)

    def forget(self, tenant_id: TenantId) -> None:
        """Stop watching a tenant."""
        self.heads.pop(tenant_id, None)
        self._read_at.pop(tenant_id, None)

    def confirmed(self, tenant_id: TenantId) -> float | None:
        """Return when the primary confirmed `heads[tenant_id]`, in monotonic seconds; None for an unwatched tenant."""
        if tenant_id not in self.heads:
            return None
        read_at = self._read_at.get(tenant_id)
        if self.confirmed_at is None or (read_at is not None and read_at > self.confirmed_at):
            return read_at
        return self.confirmed_at

    async def started(self) -> None:
        """Wait for the first good poll: changes before it are not in the feed."""
        await self._started.wait()

    async def reached(self, tenant_id: TenantId, revision: int) -> None:
        """Wait until PostgreSQL told of `revision` or a later one."""
        known = self.heads.get(tenant_id)
        if known is not None and known.revision >= revision:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters = self._waiting.setdefault(tenant_id, [])
        entry = (revision, future)
        waiters.append(entry)
        try:
            await future
        finally:
            if entry in waiters:
                waiters.remove(entry)
            if not waiters and self._waiting.get(tenant_id) is waiters:
                del self._waiting[tenant_id]

    def wake(self) -> None:
        """Poll soon. Any number of calls make one poll."""
        self._wake.set()

    async def run(self) -> None:
        """Poll until cancelled."""
        while True:
            began = self._monotonic()
            try:
                good = await self.poll()
            except Exception:  # noqa: BLE001 (supervisor)
                # This task supervises: whatever a poll meets, the next one comes. Nothing was confirmed.
                self.poll_failures += 1
                good = False
                _log.exception("authz.feed.failed")
            # After a failure notices do not hasten: Valkey must not decide how hard PostgreSQL is pressed.
            await self._pause(began, self._spacing if good else self._interval)

    async def poll(self) -> bool:
        """Poll once; return whether it was good. Nothing is confirmed by one that was not."""
        began = self._monotonic()
        self._wake.clear()
        raised, self._raised = self._raised, {}
        try:
            async with asyncio.timeout(self._timeout):
                page = await self._reader.poll(self._cursor)
                renewed = self._cursor is not None and page.run != self._run
                if renewed:
                    page = await self._reader.poll(0)
        except (StorageUnavailableError, TimeoutError) as error:
            self.poll_failures += 1
            if not self._failing:
                _log.warning("authz.feed.lost", error=str(error) or type(error).__name__)
            self._failing = True
            self._raised = raised | self._raised
            return False
        self._take(page, began, raised, renewed=renewed)
        return True

    def _take(self, page: FeedPage, began: float, raised: Mapping[TenantId, int], *, renewed: bool) -> None:
        self.polls += 1
        if self._failing:
            _log.info("authz.feed.back")
            self._failing = False
            self.on_back()
        moved = self.lineage != page.lineage and self._cursor is not None
        backwards = self._cursor is not None and page.cursor < self._cursor
        another = renewed and self._differs(page)
        if moved or page.restarted or backwards or another or self._contradicts(page) or self._lacks(page, raised):
            # The feed only grows: this is a restored or promoted copy that lacks what was there before.
            self._begin_anew()
        for head in page.heads:
            # Read while this poll was under way, and told of by it: the next one begins after it.
            if self._raised.get(head.tenant_id, head.revision + 1) <= head.revision:
                del self._raised[head.tenant_id]
        self._cursor, self.lineage, self._run = page.cursor, page.lineage, page.run
        self.server_run = f"{page.lineage}/{page.run}" if page.lineage else ""
        self._clock.observe(page.database_time, self._monotonic())
        for head in page.heads:
            self._note(head)
        self.confirmed_at = began
        self._started.set()
        self.on_poll(began)

    def _begin_anew(self) -> None:
        """Forget everything: what PostgreSQL says now is not from the history that we followed."""
        _log.error("authz.feed.restarted", cursor=self._cursor)
        self.resets += 1
        self.heads.clear()
        self._read_at.clear()
        self._raised.clear()
        self.on_reset()

    def _contradicts(self, page: FeedPage) -> bool:
        """Return whether a revision that we know is another one in this database."""
        known = ((self.heads.get(head.tenant_id), head) for head in page.heads)
        return any(held is not None and held.contradicts(head) for held, head in known)

    def _differs(self, page: FeedPage) -> bool:
        """Return whether a watched tenant is not exactly where it was; the page holds every tenant.

        A server that starts again may do so on files of an earlier state, whose transactions and revisions have counted
        on past ours since: then only the stamps tell. What was read since the poll began may be newer than the page.
        """
        told = {head.tenant_id: head.version for head in page.heads}
        return any(
            told.get(tenant_id) != head.version
            for tenant_id, head in self.heads.items()
            if tenant_id not in self._raised
        )

    def _lacks(self, page: FeedPage, raised: Mapping[TenantId, int]) -> bool:
        """Return whether a revision that was told of after the last poll is not in the database any more.

        Whatever a watched tenant reached since then was committed after what that poll saw, so this one reports it; if
        not, the database was put back to before it, perhaps so shortly that the cursor does not show it.
        """
        told = {head.tenant_id: head.revision for head in page.heads}
        return any(
            tenant_id in self.heads and told.get(tenant_id, 0) < revision for tenant_id, revision in raised.items()
        )

    async def _pause(self, began: float, at_least: float) -> None:
        """Wait for the next poll's turn: the interval, or less when something woke us."""
        loop_time = asyncio.get_running_loop().time
        elapsed = max(0.0, self._monotonic() - began)
        await asyncio.sleep(min(at_least, self._interval))
        remaining = self._interval - elapsed - at_least
        if remaining <= 0:
            return
        deadline = loop_time() + remaining
        try:
            async with asyncio.timeout_at(deadline):
                await self._wake.wait()
        except TimeoutError:
            return

    def _release(self, tenant_id: TenantId, revision: int) -> None:
        for wanted, future in self._waiting.get(tenant_id, ()):
            if wanted <= revision and not future.done():
                future.set_result(None)

    def _forget_oldest(self) -> None:
        if len(self.heads) <= self._max_watched:
            return
        # A hundredth more than needed, so that this is rare; some of those that came first may be in use.
        unused = (t for t in self.heads if t not in self._expected and not self.in_use(t))
        for tenant_id in list(islice(unused, len(self.heads) - self._max_watched + self._max_watched // 100)):
            self.forget(tenant_id)
