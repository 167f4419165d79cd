"""A client of its own process that asks one question after the other at a steady rate, while something else happens.

A question that must wait for the answer before it is counted from when it was due, so that one long stall is not
counted once only.
"""

import contextlib
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event
from typing import Any

import msgspec

from benchmarks.asking import asking
from benchmarks.installation import Tenant
from benchmarks.latencies import Latencies
from benchmarks.report import Result, Table

EVALUATION = "/access/v1/evaluation"
PER_SECOND = 200
COLUMNS = ("meanwhile", "seconds", "p50", "p99", "p99.9", "longest", "p99 to idle")

Samples = list[tuple[float, float]]
"""When each question was due, on the monotonic clock, and its seconds."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of time under one load, on the monotonic clock."""

    name: str
    began: float
    ended: float

    def latencies(self, samples: Samples) -> Latencies:
        """Return the latencies of the questions that were due in it."""
        found = Latencies()
        for due, seconds in samples:
            if self.began <= due < self.ended:
                found.add(seconds)
        return found


def timed(name: str, step: Callable[[], object]) -> Phase:
    """Do one step and return when it was done."""
    began = time.monotonic()
    step()
    return Phase(name, began, time.monotonic())


@contextlib.contextmanager
def steadily_asked(base_url: str, tenant: Tenant, questions: Sequence[Any]) -> Iterator[Samples]:
    """Ask `questions` of a tenant in turns until the block ends; then what is yielded is filled.

    All are asked once before, so that nothing is looked up later.
    """
    bodies = [msgspec.json.encode(question) for question in questions]
    with asking(base_url, tenant.key) as asker:
        for body in bodies:
            asker.post_bytes(EVALUATION, body)
    spawn = multiprocessing.get_context("spawn")
    stop, queue = spawn.Event(), spawn.SimpleQueue()
    client = spawn.Process(target=_ask, args=(base_url, tenant.key, bodies, stop, queue))
    client.start()
    time.sleep(2.0)
    samples: Samples = []
    try:
        yield samples
    finally:
        stop.set()
        samples += queue.get()
        client.join(10)


def _ask(base_url: str, key: str, bodies: Sequence[bytes], stop: Event, queue: "SimpleQueue[Samples]") -> None:
    found: Samples = []
    with asking(base_url, key) as asker:
        due = time.monotonic()
        while not stop.is_set():
            pause = due - time.monotonic()
            if pause > 0:
                time.sleep(pause)
                started = time.monotonic()  # a late wake-up is this process's own, not the service's
            else:
                started = due
            asker.post_bytes(EVALUATION, bodies[len(found) % len(bodies)])
            found.append((started, time.monotonic() - started))
            due += 1 / PER_SECOND
    queue.put(found)


def add_table(result: Result, title: str, phases: Sequence[Phase], samples: Samples) -> None:
    """Put a table of the phases into `result`, and their figures; the first one is the idle one."""
    idle = phases[0].latencies(samples).quantile(0.99)
    rows = []
    for phase in phases:
        found = phase.latencies(samples)
        figures = (*(found.quantile(share) * 1e3 for share in (0.5, 0.99, 0.999)), found.longest * 1e3)
        ratio = found.quantile(0.99) / idle
        rows.append((phase.name, f"{phase.ended - phase.began:.1f}", *(f"{ms:.2f}" for ms in figures), f"{ratio:.1f}"))
        result.figures[phase.name] = {"seconds": phase.ended - phase.began, "ms": figures, "ratio": ratio}
    result.tables.append(Table(title, COLUMNS, rows))
