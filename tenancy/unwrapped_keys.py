"""Data keys in memory: unwrapped once, kept for a while, in bounded number."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from uuid import UUID

from tenancy.envelope import EnvelopeKey
from tenancy.ids import TenantId

_Name = tuple[TenantId, UUID]


class UnwrappedKeys:
    """The keys that were used last. One that is asked for by many at once is unwrapped once for all of them."""

    def __init__(self, most: int, seconds: float, now: Callable[[], float]) -> None:
        """Keep at most `most` keys, each for `seconds` of `now`, a clock that never steps back."""
        self._most = most
        self._seconds = seconds
        self._now = now
        self._keys: OrderedDict[_Name, tuple[float, EnvelopeKey]] = OrderedDict()
        self._opening: dict[_Name, asyncio.Task[EnvelopeKey]] = {}

    def __len__(self) -> int:
        """Return how many keys are held."""
        return len(self._keys)

    def find(self, tenant_id: TenantId, key_id: UUID) -> EnvelopeKey | None:
        """Return a key that is held and not too old."""
        name = (tenant_id, key_id)
        held = self._keys.get(name)
        if held is None:
            return None
        if self._now() >= held[0]:
            del self._keys[name]
            return None
        self._keys.move_to_end(name)
        return held[1]

    async def get(self, tenant_id: TenantId, key_id: UUID, unwrap: Callable[[], Awaitable[bytes]]) -> EnvelopeKey:
        """Return a key, unwrapped if need be; what `unwrap` raises reaches all who wait."""
        found = self.find(tenant_id, key_id)
        if found is not None:
            return found
        name = (tenant_id, key_id)
        task = self._opening.get(name)
        if task is None:
            task = self._opening[name] = asyncio.ensure_future(self._open(name, unwrap))
            task.add_done_callback(lambda done: self._opened(name, done))
        # One that stops waiting does not end it for the others.
        return await asyncio.shield(task)

    async def _open(self, name: _Name, unwrap: Callable[[], Awaitable[bytes]]) -> EnvelopeKey:
        key = EnvelopeKey(name[1], await unwrap())
        self._keys[name] = (self._now() + self._seconds, key)
        while len(self._keys) > self._most:
            self._keys.popitem(last=False)
        return key

    def _opened(self, name: _Name, task: "asyncio.Task[EnvelopeKey]") -> None:
        self._opening.pop(name, None)
        if not task.cancelled():
            task.exception()  # retrieved, should nobody wait any more
