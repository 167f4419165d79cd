"""Work that goes on after its request was answered, so that the answer cannot tell what came of it."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from service.edge_errors import OverloadedError

MOST = 64
"""Errands under way at once, of one process. What is more is refused before anything is looked at."""

_log = structlog.get_logger()


class Errands:
    """One per process."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Start `work` and return at once; its failure is logged.

        Raises:
            OverloadedError: too many are under way, whatever they are about.
        """
        if len(self._tasks) >= self._most:
            raise OverloadedError
        task = asyncio.create_task(_run(name, work), name=f"errand-{name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def settled(self) -> None:
        """Wait until what was begun is done."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))


async def _run(name: str, work: Callable[[], Awaitable[None]]) -> None:
    try:
        await work()
    except Exception as error:  # noqa: BLE001 - a supervisor: nobody waits for the outcome
        _log.warning("errand.failed", errand=name, error=str(error) or type(error).__name__, exc_info=True)
