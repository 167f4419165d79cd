"""Events that come in floods, failed sign-ins: joined for a moment and appended together, under one lock.

Whoever records an event goes on when it is committed, as with every other event; joining costs a tenth of a second at
most, and saves a transaction for each of the others.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from tenancy.audit import AuditChain, AuditEntry
from tenancy.audit_log import append_each
from tenancy.errors import AuditUnavailableError
from tenancy.ids import TenantId
from tenancy.tenant import ChangeMeta
from tenancy.unit_of_work import Sessions, tenant_unit_of_work, within

FLUSH_SECONDS = 0.1
FLUSH_ROWS = 100
MAX_WAITING = 2000
MAX_FLUSHES = 4
REQUEST_SECONDS = 2.5


@dataclass(frozen=True, slots=True)
class _Waiting:
    tenant_id: TenantId
    meta: ChangeMeta
    entry: AuditEntry
    done: "asyncio.Future[None]"


class AuditBatches:
    """Appends to one kind of chain in batches, for every tenant. Use between `start` and `stop`."""

    def __init__(
        self,
        sessions: Sessions,
        chain: AuditChain = AuditChain.SIGN_IN,
        *,
        flush_seconds: float = FLUSH_SECONDS,
        flush_rows: int = FLUSH_ROWS,
        max_waiting: int = MAX_WAITING,
        request_seconds: float = REQUEST_SECONDS,
    ) -> None:
        """Keep where units of work come from, and the bounds.

        Args:
            sessions: From `tenancy.database.open_sessions`.
            chain: Where events go.
            flush_seconds: Longest wait for others to join.
            flush_rows: So many do not wait for more.
            max_waiting: Events that may wait at once; more are refused.
            request_seconds: How long one transaction may take.
        """
        self._sessions = sessions
        self._chain = chain
        self._flush_seconds, self._flush_rows = flush_seconds, flush_rows
        self._max_waiting = max_waiting
        self._seconds = request_seconds
        self._pending: list[_Waiting] = []
        self._waiting = 0
        self._some, self._enough = asyncio.Event(), asyncio.Event()
        self._turns = asyncio.Semaphore(MAX_FLUSHES)
        self._flushes: set[asyncio.Task[None]] = set()
        self._running: asyncio.Task[None] | None = None

    async def record(self, tenant_id: TenantId, meta: ChangeMeta, entry: AuditEntry) -> None:
        """Return when the event is committed.

        Raises:
            AuditUnavailableError: it must not be written now, or too many wait already.
            DatabaseUnavailableError: not known whether it was written.
        """
        if self._running is None or self._waiting >= self._max_waiting:
            raise AuditUnavailableError("too many events wait to be written")
        waiting = _Waiting(tenant_id, meta, entry, asyncio.get_running_loop().create_future())
        self._waiting += 1
        self._pending.append(waiting)
        self._some.set()
        if len(self._pending) >= self._flush_rows:
            self._enough.set()
        await waiting.done

    def start(self) -> None:
        """Begin to write."""
        self._running = asyncio.create_task(self._run(), name="audit-batches")

    async def stop(self) -> None:
        """Write what waits, then end."""
        running, self._running = self._running, None
        if running is not None:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
        self._flush()
        while self._flushes:
            await asyncio.wait(set(self._flushes))

    async def _run(self) -> None:
        while True:
            await self._some.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._flush_seconds):
                    await self._enough.wait()
            self._flush()

    def _flush(self) -> None:
        """Hand what waits to one transaction for each tenant; others may collect meanwhile."""
        self._some.clear()
        self._enough.clear()
        batches: dict[TenantId, list[_Waiting]] = {}
        for waiting in self._pending:
            batches.setdefault(waiting.tenant_id, []).append(waiting)
        self._pending = []
        for tenant_id, batch in batches.items():
            task = asyncio.create_task(self._write(tenant_id, batch))
            self._flushes.add(task)
            task.add_done_callback(self._flushes.discard)

    async def _write(self, tenant_id: TenantId, batch: Sequence[_Waiting]) -> None:
        failure: Exception | None = None
        try:
            async with self._turns:
                await within(self._seconds, lambda: self._append(tenant_id, batch))
        except Exception as error:  # noqa: BLE001 - whoever waits is told, whatever it was
            failure = error
        self._waiting -= len(batch)
        for waiting in batch:
            if waiting.done.done():
                continue  # its caller left
            if failure is None:
                waiting.done.set_result(None)
            else:
                waiting.done.set_exception(failure)

    async def _append(self, tenant_id: TenantId, batch: Sequence[_Waiting]) -> None:
        async with tenant_unit_of_work(self._sessions, tenant_id) as work:
            await append_each(work, [(waiting.meta, waiting.entry) for waiting in batch], chain=self._chain)
