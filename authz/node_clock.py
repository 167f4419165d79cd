"""The time of decisions: PostgreSQL's clock, carried on by a monotonic one, never backwards."""

import functools
import time
from collections.abc import Callable
from datetime import UTC, datetime

from authz.errors import StaleError

SLEW = 0.5
"""How much slower than real time the clock runs while it waits for a database clock that fell behind."""


def elapsed_clock() -> Callable[[], float]:
    """Return a monotonic clock in seconds that also counts the time a machine was suspended, where there is one.

    SECURITY: with a clock that stands still during suspension, a machine that slept for an hour would take its old
    state for just confirmed.
    """
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic if boottime is None else functools.partial(time.clock_gettime, boottime)


class DatabaseClock:
    """Follows the database's time without trusting the wall clock of this machine.

    A later sample may only be taken at once when it is ahead. When it is behind (less delay on the way, a monotonic
    clock that runs fast, a stepped-back database) the clock goes on slower until the database has caught up.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._offset: float | None = None
        self._observed_at = 0.0
        self._last = 0.0
        self.behind_seconds = 0.0
        """How far the last sample was behind this clock; a lasting large value means that a clock was stepped."""

    def observe(self, database_time: datetime, received_at: float) -> None:
        """Take a sample.

        Args:
            database_time: The primary's clock, aware.
            received_at: Monotonic time at which the answer was here. The true time is later by at most the delay on
                the way, so that of several samples the greatest offset is the best one.
        """
        sample = database_time.timestamp() - received_at
        if self._offset is None or sample >= self._offset:
            self.behind_seconds = 0.0
            self._offset = sample
        else:
            self.behind_seconds = self._offset - sample
            slack = max(0.0, received_at - self._observed_at) * SLEW
            self._offset = max(sample, self._offset - slack)
        self._observed_at = received_at

    def timestamp(self) -> float:
        """Return the time as epoch seconds.

        Raises:
            StaleError: the database was never heard.
        """
        if self._offset is None:
            raise StaleError("the database's time is not known yet")
        now = self._monotonic() + self._offset
        # INVARIANT: never backwards, so that what expired stays expired.
        if now < self._last:
            return self._last
        self._last = now
        return now

    def now(self) -> datetime:
        """Return the time, aware, in UTC; raises as `timestamp`."""
        return datetime.fromtimestamp(self.timestamp(), UTC)
