"""A load generator of its own process: keep-alive connections, each with one question under way.

It is told what to do on standard input, one JSON object a line (`Order`), and answers each with one line (`Outcome`) on
standard output, so that servers can be measured in turns from one warm generator. Requests are bytes made beforehand;
of an answer it looks at the status, the length, and how many decisions are true, which must be as many as expected.
"""

import argparse
import asyncio
import json
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import msgspec
import uvloop

from benchmarks.latencies import Latencies

CONTENT_LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: *(\d+)\r\n")
TRUE = b'"decision":true'


class Prepared(msgspec.Struct, frozen=True, array_like=True):
    """The bytes of one request, and how many true decisions its answer must hold."""

    data: bytes
    true_decisions: int


@dataclass(frozen=True, slots=True)
class Order:
    """Ask `pool` of the server at 127.0.0.1:`port` for `seconds`, after a warm-up that does not count.

    The warm-up takes `warm_seconds`, or the whole pool once if `whole_pool`.
    """

    port: int
    pool: str
    connections: int = 32
    seconds: float = 3.0
    warm_seconds: float = 0.5
    check: bool = True
    whole_pool: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an order. Counts are of the measured time but for `requests_in_all`; latencies in milliseconds."""

    requests: int
    requests_in_all: int
    seconds: float
    per_second: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    longest_ms: float
    failures: int
    """Answers other than 200, and connections that broke."""
    wrong: int
    """Answers with another number of true decisions than expected."""
    generator_busy: float
    """Share of the time in which it had answers to take: near 1, it measured itself."""
    example: str
    """The first failed or wrong answer, shortened."""


class Pool:
    """Requests in shuffled order, handed out one after the other by all connections."""

    def __init__(self, requests: Sequence[Prepared]) -> None:
        self._requests = [(one.data, one.true_decisions) for one in requests]
        self._next = 0

    @property
    def size(self) -> int:
        """How many requests there are."""
        return len(self._requests)

    def take(self) -> tuple[bytes, int]:
        """Return the next request."""
        number = self._next
        self._next = number + 1 if number + 1 < len(self._requests) else 0
        return self._requests[number]


class Tally:
    """What all connections of an order have seen so far."""

    __slots__ = ("check", "counting", "example", "failures", "in_all", "latencies", "stopping", "wrong")

    def __init__(self, *, check: bool) -> None:
        self.check = check
        self.counting = False
        self.stopping = False
        self.in_all = 0
        self.failures = 0
        self.wrong = 0
        self.example = ""
        self.latencies = Latencies()

    def start_counting(self) -> None:
        """Forget the warm-up's latencies; its failures count."""
        self.latencies = Latencies()
        self.counting = True

    def fail(self, data: bytes, *, wrong: bool = False) -> None:
        """Note an answer that should not have come."""
        self.failures += not wrong
        self.wrong += wrong
        self.example = self.example or data[:600].decode("utf-8", "replace")


class Connection(asyncio.Protocol):
    """One connection: sends a request, awaits the whole answer, sends the next."""

    __slots__ = ("_expected", "_pool", "_received", "_sent_at", "_tally", "_transport")

    def __init__(self, pool: Pool, tally: Tally) -> None:
        self._pool = pool
        self._tally = tally
        self._received = b""
        self._expected = 0
        self._sent_at = 0.0
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self._transport = cast("asyncio.WriteTransport", transport)
        self._send()

    def _send(self) -> None:
        if self._transport is None or self._tally.stopping:
            return
        data, self._expected = self._pool.take()
        self._sent_at = time.perf_counter()
        self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        """Take an answer, or a part of one."""
        if self._received:
            data = self._received + data
        end = data.find(b"\r\n\r\n")
        found = CONTENT_LENGTH.search(data, 0, end + 2) if end >= 0 else None
        if found is None or len(data) < end + 4 + int(found[1]):
            self._received = data
            return
        now = time.perf_counter()
        self._received = b""
        tally = self._tally
        tally.in_all += 1
        if data[9:12] != b"200":
            tally.fail(data)
        elif tally.check and data.count(TRUE, end) != self._expected:
            tally.fail(data, wrong=True)
        elif tally.counting:
            tally.latencies.add(now - self._sent_at)
        self._send()

    def connection_lost(self, error: Exception | None) -> None:
        """A server that closes a connection under load has failed its request."""
        if not self._tally.stopping:
            self._tally.fail(f"connection lost: {error}".encode())
        self._transport = None

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.close()


class Spinner:
    """Keeps the event loop from ever sleeping.

    A server that answers a sleeping process must wake it, which on a virtual machine costs it as much as the answer. A
    generator with a core of its own polls instead, as a network card with its own interrupts would.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, tally: Tally) -> None:
        self._loop = loop
        self._tally = tally
        self._seen = 0
        self._last = time.perf_counter()
        self._running = True
        self.idle_seconds = 0.0

    def turn(self) -> None:
        """Note whether the last turn of the loop had nothing to do, and ask for another."""
        now = time.perf_counter()
        if self._tally.in_all == self._seen:
            self.idle_seconds += now - self._last
        self._seen = self._tally.in_all
        self._last = now
        if self._running:
            self._loop.call_soon(self.turn)

    def stop(self) -> None:
        """Let the loop sleep again."""
        self._running = False


async def carry_out(order: Order, pool: Pool) -> Outcome:
    """Put load on a server and return what came of it."""
    loop = asyncio.get_running_loop()
    tally = Tally(check=order.check)
    spinner = Spinner(loop, tally)
    spinner.turn()
    connections = []
    for _ in range(order.connections):
        _, connection = await loop.create_connection(lambda: Connection(pool, tally), "127.0.0.1", order.port)
        connections.append(connection)
    await asyncio.sleep(order.warm_seconds)
    while order.whole_pool and tally.in_all < pool.size and not tally.failures:  # noqa: ASYNC110 - seldom looked at
        await asyncio.sleep(0.05)
    tally.start_counting()
    started, idle = time.perf_counter(), spinner.idle_seconds
    await asyncio.sleep(order.seconds)
    tally.counting = False
    seconds, idle = time.perf_counter() - started, spinner.idle_seconds - idle
    spinner.stop()
    latencies = tally.latencies
    tally.stopping = True
    await asyncio.sleep(0.05)  # answers under way arrive
    for connection in connections:
        connection.close()
    return Outcome(
        requests=latencies.count,
        requests_in_all=tally.in_all,
        seconds=seconds,
        per_second=latencies.count / seconds,
        p50_ms=latencies.quantile(0.5) * 1e3,
        p99_ms=latencies.quantile(0.99) * 1e3,
        p999_ms=latencies.quantile(0.999) * 1e3,
        longest_ms=latencies.longest * 1e3,
        failures=tally.failures,
        wrong=tally.wrong,
        generator_busy=1 - idle / seconds,
        example=tally.example,
    )


def write_pool(path: Path, requests: Sequence[Prepared]) -> None:
    """Write a pool for the generator to read."""
    path.write_bytes(msgspec.msgpack.encode(requests))


def read_pool(path: Path) -> list[Prepared]:
    """Read what `write_pool` wrote."""
    return msgspec.msgpack.decode(path.read_bytes(), type=list[Prepared])


async def serve_orders() -> None:
    """Carry out orders until standard input ends."""
    pools: dict[str, Pool] = {}
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        order = Order(**json.loads(line))
        if order.pool not in pools:
            pools[order.pool] = Pool(read_pool(Path(order.pool)))
        outcome = await carry_out(order, pools[order.pool])
        print(json.dumps(asdict(outcome)), flush=True)


def main() -> None:
    """Read orders from standard input."""
    argparse.ArgumentParser(prog="python -m benchmarks.http_load", description=__doc__).parse_args()
    uvloop.run(serve_orders())


if __name__ == "__main__":
    main()
