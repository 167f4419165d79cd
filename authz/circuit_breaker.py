"""When to leave a store alone that does not answer."""

import time
from collections.abc import Callable


class CircuitBreaker:
    """Leaves a store alone for a while after several failures in a row, so that a hung one delays nobody for long."""

    def __init__(self, failures: int, pause_seconds: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._limit = failures
        self._pause = pause_seconds
        self._monotonic = monotonic
        self._failures = 0
        self._closed_at = 0.0

    def allows(self) -> bool:
        """Return whether to try. After a pause one caller is let through, and the next ones when it succeeded."""
        if self._failures < self._limit:
            return True
        now = self._monotonic()
        if now < self._closed_at:
            return False
        self._closed_at = now + self._pause
        return True

    def succeeded(self) -> None:
        """Note an answer, whatever it said."""
        self._failures = 0

    def failed(self) -> None:
        """Note a failure or a timeout."""
        self._failures += 1
        if self._failures >= self._limit:
            self._closed_at = self._monotonic() + self._pause
