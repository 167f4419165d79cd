"""The same bytes on two connections, one with the fast way and one without, under virtual time and without a network."""

import asyncio
import contextlib
import re
from collections import deque
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

from aiohttp import web

from service.fast_answers import FastPath
from service.fast_path import FastHandler
from service.server import DeadlineHandler, KasbahRunner
from tests.support.edge import Edge
from tests.support.policies import NOW

SHORT = 0.001
"""Seconds that pass while everything that can be done without waiting is done."""

_BEGINNING = re.compile(rb"(?=HTTP/[0-9]\.[0-9] [0-9]{3} )")
_MADE_ID = re.compile(rb"\r\nX-Request-ID: [0-9a-f]{13,}\r\n")
_DATE = re.compile(rb"\r\nDate: [^\r]*\r\n")


class Peer(asyncio.Transport):
    """The far end of one connection: says what it is told when the server reads, and keeps what it is answered."""

    def __init__(self, protocol: DeadlineHandler) -> None:
        super().__init__()
        self.protocol = protocol
        self.received = bytearray()
        self.closed = False
        self._unread: deque[bytes] = deque()
        self._is_read = True
        self._is_paused = False
        protocol.connection_made(self)

    def say(self, data: bytes) -> None:
        """Send a piece."""
        self._unread.append(data)
        self._hand_over()

    def stop_reading(self) -> None:
        """Take no answer for a while."""
        if not self.closed and not self._is_paused:
            self._is_paused = True
            self.protocol.pause_writing()

    def read_on(self) -> None:
        """Take what was kept back."""
        if not self.closed and self._is_paused:
            self._is_paused = False
            self.protocol.resume_writing()

    def _hand_over(self) -> None:
        while self._unread and self._is_read and not self.closed:
            self.protocol.data_received(self._unread.popleft())

    # --- what the server does with it

    def write(self, data: Any) -> None:
        if not self.closed:
            self.received += data

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self._is_read = False

    def resume_reading(self) -> None:
        self._is_read = True
        asyncio.get_running_loop().call_soon(self._hand_over)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


class Pair:
    """A connection to each of the two servers."""

    def __init__(self, fast: Peer, ordinary: Peer) -> None:
        self.fast = fast
        self.ordinary = ordinary
        self.peers = (fast, ordinary)

    async def say(self, *pieces: bytes, pause: float = SHORT) -> None:
        """Send pieces, each after a pause but for the first, and let the servers work on the last one."""
        for number, piece in enumerate(pieces):
            if number:
                await asyncio.sleep(pause)
            for peer in self.peers:
                peer.say(piece)
        await asyncio.sleep(SHORT)

    async def ask(self, *pieces: bytes, pause: float = SHORT) -> list[bytes]:
        """Send pieces and return the answers to them, which are alike both ways."""
        before = len(answers_in(self.fast.received))
        await self.say(*pieces, pause=pause)
        self.compare()
        return answers_in(self.fast.received)[before:]

    def compare(self) -> None:
        """Hold all that was answered so far, and whether the connection is open, against each other."""
        fast, ordinary = (answers_in(peer.received) for peer in self.peers)
        assert fast == ordinary, (fast, ordinary)
        assert self.fast.closed is self.ordinary.closed


class TwoWays:
    """One edge behind two servers."""

    def __init__(self, edge: Edge) -> None:
        self.edge = edge
        self.apps: list[web.Application] = []
        self.servers: list[Any] = []
        self.faults: list[dict[str, Any]] = []

    @property
    def path(self) -> FastPath:
        """What the fast way answers with."""
        path: FastPath = self.servers[0].handler_class.fast_path
        return path

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator["TwoWays"]:
        """Start both, with the clocks of the edge's node on the loop's time."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        loop.set_exception_handler(lambda _, fault: self.faults.append(fault))
        self.edge.node.elapsed = loop.time  # type: ignore[method-assign]
        self.edge.node.now = lambda: NOW + timedelta(seconds=loop.time() - began)  # type: ignore[method-assign]
        async with contextlib.AsyncExitStack() as stack:
            for handler in (FastHandler, DeadlineHandler):
                runner = KasbahRunner(self.edge.app(), self.edge.settings, handler, shutdown_timeout=1)
                await runner.setup()
                stack.push_async_callback(runner.cleanup)
                self.apps.append(runner.app)
                self.servers.append(runner.server)
            yield self
        assert not self.faults

    def connect(self) -> Pair:
        """Open a connection to each."""
        return Pair(*(Peer(server()) for server in self.servers))


def answers_in(received: bytes | bytearray) -> list[bytes]:
    """Return the answers, each with its headers in one order, and without what differs from one to the next."""
    found = []
    for part in _BEGINNING.split(bytes(received)):
        head, mark, body = part.partition(b"\r\n\r\n")
        head = _DATE.sub(b"\r\n", head + b"\r\n")
        head = _MADE_ID.sub(b"\r\nX-Request-ID: made\r\n", head)
        status, *headers = head.split(b"\r\n")[:-1]
        if part:
            found.append(b"\r\n".join([status, *sorted(headers, key=bytes.lower)]) + mark + body)
    return found
