"""The load generator as its parent sees it, and other servers as child processes."""

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from benchmarks.http_load import Order, Outcome
from benchmarks.machine import pin


class Generator:
    """A running load generator."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def carry_out(self, order: Order) -> Outcome:
        """Have an order carried out, and raise when an answer was wrong or failed."""
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the generator was started without pipes")
        self._process.stdin.write(json.dumps(asdict(order)) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the load generator ended with {self._process.wait()}")
        outcome = Outcome(**json.loads(line))
        if outcome.failures or outcome.wrong:
            raise RuntimeError(f"{outcome.failures} failed, {outcome.wrong} wrong answers, such as: {outcome.example}")
        return outcome


@contextlib.contextmanager
def running_generator(core: int) -> Iterator[Generator]:
    """Start a generator on one core, and stop it at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.http_load"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        pin([process.pid], core)
        yield Generator(process)
    finally:
        process.terminate()
        process.wait(5)


@contextlib.contextmanager
def running_server(module: str, arguments: Sequence[str], port: int, core: int) -> Iterator[int]:
    """Start `python -m module --port …` on one core, wait until it listens, yield its process id, stop it."""
    process = subprocess.Popen([sys.executable, "-m", module, "--port", str(port), *arguments])
    try:
        pin([process.pid], core)
        wait_for_port(port, process)
        yield process.pid
    finally:
        process.terminate()
        process.wait(5)


def wait_for_port(port: int, process: "subprocess.Popen[bytes]", seconds: float = 120.0) -> None:
    """Wait until a child listens."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"nothing listened on port {port} within {seconds:g} s")
