"""The whole application in a thread of its own, for tests that wait for it: state machines, servers that are killed."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from itertools import count
from typing import Any, Generic, TypeVar

from tests.support.administration import Answer
from tests.support.sign_in import FrontDoor
from tests.support.smtp_server import smtp_server

T = TypeVar("T")
PATIENCE = 300
Door = TypeVar("Door", bound=FrontDoor)
SECONDS = 300


class PatientDoor(FrontDoor):
    """Asks again what a busy machine had no time for: 503 says to."""

    patient = True

    async def ask(self, *what: Any, **more: Any) -> Answer:
        """Send a request, and send it again as long as the answer is 503."""
        answer = await super().ask(*what, **more)
        for _ in range(PATIENCE):
            if answer.status != 503 or not self.patient:
                break
            await asyncio.sleep(0.1)
            answer = await super().ask(*what, **more)
        return answer


@contextlib.asynccontextmanager
async def patient_door(database_url: str) -> AsyncIterator[FrontDoor]:
    """Serve on a free port of loopback."""
    async with smtp_server() as server, PatientDoor(database_url, server).serving() as door:
        assert isinstance(door, FrontDoor)
        await door.open_tenants()
        yield door


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
