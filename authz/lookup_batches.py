"""Joins membership look-ups: what is asked while a look-up waits for its turn goes into one SQL statement."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field

from authz.ports import Lookup
from authz.request import Ref
from tenancy.ids import TenantId

RunLookup = Callable[[TenantId, list[Ref], list[Ref]], Awaitable[Lookup]]


@dataclass(slots=True)
class _Batch:
    subjects: dict[Ref, None] = field(default_factory=dict)
    resources: dict[Ref, None] = field(default_factory=dict)
    task: asyncio.Task[Lookup] | None = None

    def __len__(self) -> int:
        return len(self.subjects) + len(self.resources)


class LookupBatches:
    """At most one waiting look-up per tenant.

    So many cold subjects do not exhaust the connection pool, and a busy tenant takes no more turns than a quiet one.

    INVARIANT: a caller's look-up begins after it asked, so its answer is never older than the question.
    """

    def __init__(self, run: RunLookup, *, concurrency: int, max_names: int) -> None:
        self._run = run
        self._turns = asyncio.Semaphore(concurrency)
        self._max_names = max_names
        self._open: dict[TenantId, _Batch] = {}
        self.lookups = 0

    async def lookup(self, tenant_id: TenantId, subjects: Collection[Ref], resources: Collection[Ref]) -> Lookup:
        """Return a look-up that names at least these; raises what the look-up raised."""
        batch = self._open.get(tenant_id)
        if batch is None or len(batch) + len(subjects) + len(resources) > self._max_names:
            batch = self._open[tenant_id] = _Batch()
        batch.subjects.update(dict.fromkeys(subjects))
        batch.resources.update(dict.fromkeys(resources))
        if batch.task is None:
            batch.task = asyncio.create_task(self._perform(tenant_id, batch))
            batch.task.add_done_callback(_retrieve)
        # One caller that goes away does not take the answer from the others.
        return await asyncio.shield(batch.task)

    async def _perform(self, tenant_id: TenantId, batch: _Batch) -> Lookup:
        try:
            async with self._turns:
                self._close(tenant_id, batch)
                self.lookups += 1
                return await self._run(tenant_id, list(batch.subjects), list(batch.resources))
        finally:
            self._close(tenant_id, batch)

    def _close(self, tenant_id: TenantId, batch: _Batch) -> None:
        if self._open.get(tenant_id) is batch:
            del self._open[tenant_id]


def _retrieve(task: asyncio.Task[Lookup]) -> None:
    """Mark a failure as seen even when every caller has gone."""
    if not task.cancelled():
        task.exception()
