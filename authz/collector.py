"""Keeps Python's cyclic collector from stopping the event loop over snapshots.

A snapshot is hundreds of thousands of objects without a cycle. While one is made, the collector would look at all of
them again and again, holding the interpreter for hundreds of milliseconds, to find nothing.
"""

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager

MOST_SECONDS = 5.0
"""Loads that follow each other without a gap do not keep the collector off for longer than this."""


class Collector:
    """Counts the loads under way in this process; the collector's state is the process's, so there is one instance."""

    def __init__(self) -> None:
        self._loads = 0
        self._since = 0.0
        self._paused = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the collector off while a rule set is read and built."""
        now = time.monotonic()
        if self._loads == 0 and gc.isenabled():
            self._paused = True
            self._since = now
            gc.disable()
        elif self._paused and now - self._since > MOST_SECONDS:
            self._resume()
        self._loads += 1
        try:
            yield
        finally:
            self._loads -= 1
            if self._loads == 0:
                # What lives now (rows without cycles, mostly) is never looked at again; it is freed by its references.
                gc.freeze()
                self._resume()

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            gc.enable()


COLLECTOR = Collector()
