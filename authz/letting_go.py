"""Frees large snapshots a little at a time: all at once, 100,000 rows hold the interpreter for twenty milliseconds."""

import asyncio
from collections.abc import Iterator
from typing import Any

from authz.snapshot import Snapshot

LARGE_ROWS = 2000
"""Smaller snapshots are freed in one go, within a fraction of a millisecond."""

AT_ONCE = 500
"""Objects let go of before the event loop runs again."""


class LettingGo:
    """Holds what snapshots hold after their last user may have left, and lets go of it in turns of the event loop.

    Whoever still uses such a snapshot goes on using it: nothing is taken out of it.
    """

    def __init__(self) -> None:
        self._snapshots: list[Iterator[list[Any]]] = []
        self._parts: list[list[Any]] = []
        self._running = False

    def add(self, snapshot: Snapshot) -> None:
        """Let go of a snapshot soon; it is freed if nobody else has it."""
        if len(snapshot.rules) < LARGE_ROWS:
            return
        self._snapshots.append(snapshot.parts())
        if not self._running:
            self._running = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        if self._snapshots:
            part = next(self._snapshots[-1], None)
            if part is None:
                # Now the snapshot itself goes, but what it held is also held here.
                self._snapshots.pop()
            else:
                self._parts.append(part)
        elif self._parts:
            del self._parts[-1][-AT_ONCE:]
            if not self._parts[-1]:
                self._parts.pop()
        else:
            self._running = False
            return
        asyncio.get_running_loop().call_soon(self._turn)
