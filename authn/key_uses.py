"""When keys were last used: collected in memory by whoever authenticates, and written in batches beside the requests.

SECURITY: no request waits for this, and none fails by it. What a process had not written when it was killed is lost,
so a key that shows no use for weeks is unused; one that shows none for a minute need not be.
"""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

import structlog
from sqlalchemy import text

from tenancy.errors import TenancyError
from tenancy.ids import TenantId
from tenancy.unit_of_work import Sessions, unbound_session, within

FLUSH_SECONDS = 20.0
REQUEST_SECONDS = 2.5
BATCH = 1000
"""Keys in one statement."""

MAX_WAITING = 50_000
"""Keys that wait to be written while PostgreSQL does not answer; of more than that the use is lost."""

_NOTE = text("SELECT note_keys_used(CAST(:tenants AS uuid[]), CAST(:keys AS uuid[]), CAST(:times AS timestamptz[]))")

_log = structlog.get_logger(__name__)


class KeyUses:
    """Which keys were used since they were last written; one per process."""

    def __init__(self, sessions: Sessions, *, flush_seconds: float = FLUSH_SECONDS) -> None:
        """Keep where transactions come from, and how often uses are written."""
        self._sessions = sessions
        self._flush_seconds = flush_seconds
        self._used: dict[UUID, TenantId] = {}
        self._waiting: dict[UUID, tuple[TenantId, datetime]] = {}
        self._running: asyncio.Task[None] | None = None

    def note(self, tenant_id: TenantId, key_id: UUID) -> None:
        """Say that a key of a tenant was used now. Cheap: it is called for nearly every request."""
        self._used[key_id] = tenant_id

    def start(self) -> None:
        """Begin to write."""
        self._running = asyncio.create_task(self._run(), name="key-uses")

    async def stop(self) -> None:
        """Write what is left, if PostgreSQL answers, and end."""
        running, self._running = self._running, None
        if running is not None:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
        await self.flush()

    async def flush(self) -> None:
        """Write what was used; what cannot be written now waits for the next time."""
        used, self._used = self._used, {}
        now = datetime.now(UTC)
        for key_id, tenant_id in used.items():
            if len(self._waiting) < MAX_WAITING or key_id in self._waiting:
                self._waiting[key_id] = (tenant_id, now)
        while self._waiting:
            batch = dict(list(self._waiting.items())[:BATCH])
            try:
                await within(REQUEST_SECONDS, partial(self._write, batch))
            except TenancyError as error:
                _log.warning("key_uses.not_written", keys=len(self._waiting), error=str(error))
                return
            for key_id in batch:
                del self._waiting[key_id]

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._flush_seconds)
            try:
                await self.flush()
            except Exception:  # noqa: BLE001 - a supervisor: the next time may do
                _log.exception("key_uses.failed")

    async def _write(self, batch: dict[UUID, tuple[TenantId, datetime]]) -> None:
        # SECURITY: keys of many tenants, so no tenant is bound: the function writes the one time of each, nothing else.
        async with unbound_session(self._sessions) as session:
            parameters = {
                "tenants": [tenant_id for tenant_id, _ in batch.values()],
                "keys": list(batch),
                "times": [used_at for _, used_at in batch.values()],
            }
            await session.execute(_NOTE, parameters)
