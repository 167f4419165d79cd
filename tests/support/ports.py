"""Ports for the servers of the tests, from a range below what the system gives to whoever asks for any port.

Every outgoing connection does that: one might take a port before its server is up, or before it is started again.
"""

import os
import random
import socket
from collections.abc import Iterator

FIRST = 20_000
SHARES = 8
"""Processes of one run choose from ports of their own."""

SHARE = 1_500


def _ports() -> Iterator[int]:
    """Yield the ports of this process in turn, from anywhere on: another run on this machine begins elsewhere."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first, offset = FIRST + worker % SHARES * SHARE, random.randrange(SHARE)
    while True:
        yield first + offset
        offset = (offset + 1) % SHARE


_next = _ports()


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nobody listens; another one each time."""
    for port in _next:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("there is always a next one")
