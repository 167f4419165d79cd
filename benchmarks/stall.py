"""What others feel while a tenant of 100,000 rules is planned, applied, rolled back and exported: one worker.

A client of its own process asks about a small tenant on one keep-alive connection, 200 times a second. A question that
must wait for the answer before it is counted from when it was due, so that one long stall is not counted once only.
"""

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from http import HTTPStatus
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event
from typing import Any

import msgspec

from authz.rules import RoleLink, Rule, Source
from benchmarks.asking import Asker, RefusedError, asking
from benchmarks.installation import Tenant, new_installation
from benchmarks.latencies import Latencies
from benchmarks.report import Check, Result, Table, say
from benchmarks.wire import body_of
from benchmarks.workload import Workload
from service.http.policy_wire import sent_row

EVALUATION = "/access/v1/evaluation"
PER_SECOND = 200
LARGE_RULES = 100_000
QUICK_RULES = 10_000
IDLE_SECONDS = 10.0
STALL_LIMIT_MS = 50.0
RATIO_LIMIT = 1.5

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


def run(*, quick: bool = False) -> Result:
    """Measure a tenant whose rules nobody asks about, then one that is being asked about."""
    count = QUICK_RULES if quick else LARGE_RULES
    result = Result("stall")
    with new_installation() as installation:
        small, large = installation.create([Workload("small", 1_000, 100), Workload("large", 10, 10)])
        with installation.service() as service, asking(service.base_url, large.key) as asker:
            warm(service.base_url, small)
            spawn = multiprocessing.get_context("spawn")
            stop, samples = spawn.Event(), spawn.SimpleQueue()
            other = spawn.Process(target=ask_steadily, args=(service.base_url, small.key, stop, samples))
            other.start()
            time.sleep(2.0)
            phases = [timed("idle", lambda: time.sleep(IDLE_SECONDS))]
            phases += changes(asker, large, Workload("large", count, 100), "cold")
            question = body_of(Workload("large", count, 100).questions(1)[0])
            phases.append(timed("first question", lambda: bring_up(asker, question)))
            phases += changes(asker, large, Workload("large", count + 10, 100), "asked about")
            stop.set()
            found: Samples = samples.get()
            other.join(10)
    report(result, phases, found, count)
    return result


def changes(asker: Asker, large: Tenant, workload: Workload, state: str) -> list[Phase]:
    """Plan, apply, export and roll back `workload`; `state` says whether the worker holds the tenant's rules."""
    base = f"/v1/tenants/{large.slug}"
    policy: list[Rule | RoleLink] = [*workload.rules, *workload.hierarchy]
    rows = [sent_row(replace(row, source=Source("large/policy.csv", line))) for line, row in enumerate(policy, 1)]
    encoded = msgspec.json.encode(rows)
    answers: dict[str, Any] = {}

    def plan() -> None:
        answers["plan"], _ = asker.post_bytes(f"{base}/policy/plan", b'{"rows":%b}' % encoded)

    def apply() -> None:
        planned = answers["plan"]
        said = {"rows": msgspec.Raw(encoded), "revision": planned["revision"], "digest": planned["digest"]}
        answers["apply"], _ = asker.post_bytes(f"{base}/policy/apply", msgspec.json.encode(said))

    def export() -> None:
        asker.get(f"{base}/policy/export")

    def roll_back() -> None:
        asker.post(f"{base}/policy/rollback", {"to_revision": answers["plan"]["revision"]})
        asker.post(f"{base}/policy/rollback", {"to_revision": answers["apply"]["revision"]})

    steps = (("plan", plan), ("apply", apply), ("export", export), ("rollback, twice", roll_back))
    return [timed(f"{name}, {state}", step) for name, step in steps]


def timed(name: str, step: Callable[[], object]) -> Phase:
    """Do one step and return when it was done."""
    say(f"stall: {name}")
    began = time.monotonic()
    step()
    return Phase(name, began, time.monotonic())


def warm(base_url: str, tenant: Tenant) -> None:
    """Ask every question once, so that nothing is looked up later."""
    with asking(base_url, tenant.key) as asker:
        for question in questions():
            asker.post(EVALUATION, question)


def bring_up(asker: Asker, question: dict[str, Any]) -> None:
    """Ask about the large tenant until it is answered: it may take longer than one request may."""
    for _ in range(20):
        try:
            asker.post(EVALUATION, question)
        except RefusedError as refusal:
            if refusal.status != HTTPStatus.SERVICE_UNAVAILABLE:
                raise
            time.sleep(0.5)
        else:
            return
    raise RuntimeError("the large tenant was not brought up")


def questions() -> list[dict[str, Any]]:
    """Return the bodies that are asked in turns."""
    return [body_of(question) for question in Workload("small", 1_000, 100).questions(100)]


def ask_steadily(base_url: str, key: str, stop: Event, samples: "SimpleQueue[Samples]") -> None:
    """Ask about the small tenant until told to stop, then hand over what was measured."""
    found: Samples = []
    bodies = [msgspec.json.encode(question) for question in questions()]
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
    samples.put(found)


def report(result: Result, phases: list[Phase], samples: Samples, count: int) -> None:
    """Put the table and the checks into `result`."""
    idle = phases[0].latencies(samples)
    rows = []
    for phase in phases:
        found = phase.latencies(samples)
        p50, p99, p999 = (found.quantile(share) * 1e3 for share in (0.5, 0.99, 0.999))
        ratio = p99 / (idle.quantile(0.99) * 1e3)
        figures = (p50, p99, p999, found.longest * 1e3)
        rows.append((phase.name, f"{phase.ended - phase.began:.1f}", *(f"{ms:.2f}" for ms in figures), f"{ratio:.1f}"))
        result.figures[phase.name] = {"seconds": phase.ended - phase.began, "ms": figures, "ratio": ratio}
    busy = Latencies()
    for due, seconds in samples:
        if due >= phases[1].began:
            busy.add(seconds)
    title = f"Answers about another tenant while one of {count:,} rules changes, ms"
    columns = ("meanwhile", "seconds", "p50", "p99", "p99.9", "longest", "p99 to idle")
    result.tables.append(Table(title, columns, rows))
    result.checks.append(Check("others' p99.9 during all of it", busy.quantile(0.999) * 1e3, "ms", STALL_LIMIT_MS))
    ratio = busy.quantile(0.99) / idle.quantile(0.99)
    result.checks.append(Check("others' p99 during all of it, to idle", ratio, "times", RATIO_LIMIT))
