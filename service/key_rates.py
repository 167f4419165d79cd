"""How often keys are used on this machine, held against their limits, in memory that its worker processes share.

A bucket of tokens in its shortest form (GCRA, ITU-T I.371): all there is of a key is the moment at which its bucket is
full again. One whose bucket is full needs no memory, so places become free by themselves and nothing is swept.

No lock is taken. Two processes that take a token in the same instant may count it once, and two keys that come for the
first time at once may meet in one place: then a key is used a little more often than it may, never refused too early.
"""

import math
import mmap
import time
from collections.abc import Callable
from uuid import UUID

from authn.api_keys import KeyLimit
from service.edge_errors import KeyRateExceededError

PLACES = 1 << 16
PROBES = 8
"""Neighbouring places in which a key is looked for."""

ROUNDING_SECONDS = 1e-6
"""Sums of fractions of a second are not exact; nobody is refused for that."""

_PLACE_BYTES = 16
"""Which key it is (64 bits of its id), and when its bucket is full again (seconds of the monotonic clock)."""


class KeyRates:
    """Buckets of all keys that have a limit. Made before worker processes are forked, they share it."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic, *, places: int = PLACES) -> None:
        """Take the memory; of it only what is used becomes real. `monotonic` is the same in every process."""
        memory = memoryview(mmap.mmap(-1, places * _PLACE_BYTES))
        self._keys = memory.cast("Q")
        self._full_at = memory.cast("d")
        self._places = places
        self._monotonic = monotonic
        self.refused = 0
        """Requests beyond a limit, for metrics."""

    def of(self, key_id: UUID, limit: KeyLimit | None) -> "KeyRate | None":
        """Return the bucket of a key, or None when nothing limits it."""
        return None if limit is None else KeyRate(self, key_id, limit)

    def wait(self, key: int, limit: KeyLimit) -> float:
        """Return how many seconds a key has to wait until its bucket holds a token; at most 0 when it does."""
        now = self._monotonic()
        full_in = self._bucket(self._place(key, now), key, now) - now
        return full_in - (limit.burst - 1) / limit.requests_per_second - ROUNDING_SECONDS

    def take(self, key: int, limit: KeyLimit) -> None:
        """Take a token, whether there is one or not."""
        now = self._monotonic()
        place = self._place(key, now)
        full_at = self._bucket(place, key, now)
        self._keys[2 * place] = key
        self._full_at[2 * place + 1] = full_at + 1 / limit.requests_per_second

    def _bucket(self, place: int, key: int, now: float) -> float:
        """Return when the bucket of a key is full: now, where nothing else is known of it."""
        return max(self._full_at[2 * place + 1], now) if self._keys[2 * place] == key else now

    def _place(self, key: int, now: float) -> int:
        """Return the place of a key, or one that is free for it; if there is none, the first, whose key starts anew."""
        free = -1
        for step in range(PROBES):
            place = (key + step) % self._places
            if self._keys[2 * place] == key:
                return place
            if free < 0 and self._full_at[2 * place + 1] <= now:
                free = place
        return free if free >= 0 else key % self._places


class KeyRate:
    """The bucket of one key."""

    __slots__ = ("_key", "_limit", "_rates")

    def __init__(self, rates: KeyRates, key_id: UUID, limit: KeyLimit) -> None:
        self._rates = rates
        # The random end of a UUIDv7; 0 stands for nobody.
        self._key = key_id.int & 0xFFFF_FFFF_FFFF_FFFF or 1
        self._limit = limit

    def has_room(self) -> bool:
        """Whether a request may be answered now; nothing is taken."""
        return self._rates.wait(self._key, self._limit) <= 0

    def take(self) -> None:
        """Count a request that is answered."""
        self._rates.take(self._key, self._limit)

    def spend(self) -> None:
        """Count a request, or refuse it.

        Raises:
            KeyRateExceededError: the bucket is empty.
        """
        wait = self._rates.wait(self._key, self._limit)
        if wait > 0:
            self._rates.refused += 1
            raise KeyRateExceededError(max(1, math.ceil(wait)))
        self._rates.take(self._key, self._limit)
