"""The whole application in a thread of its own, for tests that wait for it: state machines, servers that are killed."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from itertools import count
from typing import Any, Generic, TypeVar

from tests.support.sign_in import FrontDoor

T = TypeVar("T")
Door = TypeVar("Door", bound=FrontDoor)
SECONDS = 120


class World(Generic[Door]):
    """`world(work)` lets the application's loop do something, and waits for it."""

    def __init__(self, opened: Callable[[], AbstractAsyncContextManager[Door]]) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="world")
        self._thread.start()
        self.numbers = count()
        self._stack = contextlib.AsyncExitStack()
        try:
            self.door: Door = self(self._enter(opened))
        except BaseException:
            self._end()
            raise

    def __call__(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(SECONDS)

    def close(self) -> None:
        """Stop the application and the thread."""
        try:
            self(self._stack.aclose())
        finally:
            self._end()

    async def _enter(self, opened: Callable[[], AbstractAsyncContextManager[Door]]) -> Door:
        return await self._stack.enter_async_context(opened())

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
