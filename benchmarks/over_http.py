"""Decisions over HTTP: one worker on one core, beside a bare aiohttp server and PyCasbin behind aiohttp.

Ten tenants with 1,000 rules and 1,000 users of three roles each; half the answers are true, and each is checked. Kasbah
checks the key of every request, makes request ids, counts metrics. Callers who send tracing headers, and those whose
heads differ otherwise each time, are measured beside those who send the same head again. Servers run on one core, the
load generator on another; rounds alternate over the servers, and the figure is the median round. Beside the requests
per second stands what a server answers for each second of its own processor time, which a busy machine distorts less.
"""

import contextlib
import json
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.generator import Generator, running_generator, running_server
from benchmarks.http_load import Order, Outcome, write_pool
from benchmarks.installation import Installation, Tenant, new_installation
from benchmarks.machine import cores, cpu_seconds, pin
from benchmarks.report import Check, Result, Table, say
from benchmarks.wire import batch, single
from benchmarks.workload import Question, Workload
from service.processes import free_port

TENANTS = 10
RULES = 1_000
USERS = 1_000
QUESTIONS_PER_TENANT = 2_000
BATCH = 50
CONNECTIONS = 32
BATCH_CONNECTIONS = 8
PYCASBIN_CONNECTIONS = 4


@dataclass(slots=True)
class Contender:
    """A server under load, and what its rounds gave."""

    name: str
    port: int
    processes: list[int]
    pool: Path
    decisions_per_request: int = 1
    connections: int = CONNECTIONS
    check: bool = True
    warm_seconds: float = 0.3
    outcomes: list[Outcome] = field(default_factory=list)
    per_cpu_second: list[float] = field(default_factory=list)

    def measure(self, generator: Generator, seconds: float) -> None:
        """Run one round."""
        order = Order(self.port, str(self.pool), self.connections, seconds, self.warm_seconds, self.check)
        before = cpu_seconds(self.processes)
        outcome = generator.carry_out(order)
        used = cpu_seconds(self.processes) - before
        self.outcomes.append(outcome)
        self.per_cpu_second.append(outcome.requests_in_all * self.decisions_per_request / used)

    @property
    def per_second(self) -> float:
        """Decisions a second, median round."""
        return statistics.median(outcome.per_second for outcome in self.outcomes) * self.decisions_per_request

    @property
    def per_core(self) -> float:
        """Decisions for each second of processor time, median round."""
        return statistics.median(self.per_cpu_second)

    def latency(self, name: str) -> float:
        """Return the median over the rounds of `p50_ms`, `p99_ms` or another latency."""
        return statistics.median(float(getattr(outcome, name)) for outcome in self.outcomes)

    def rate_to(self, other: "Contender") -> float:
        """Return how many requests a second this one answers for each of another: the median over pairs of rounds."""
        pairs = zip(self.outcomes, other.outcomes, strict=True)
        return statistics.median(
            one.per_second * self.decisions_per_request / two.per_second / other.decisions_per_request
            for one, two in pairs
        )

    def per_core_to(self, other: "Contender") -> float:
        """As `rate_to`, for each second of processor time."""
        return statistics.median(one / two for one, two in zip(self.per_cpu_second, other.per_cpu_second, strict=True))

    @property
    def generator_busy(self) -> float:
        """How busy the generator was, in the worst round."""
        return max(outcome.generator_busy for outcome in self.outcomes)


def run(*, quick: bool = False) -> Result:
    """Measure all contenders in turns."""
    rounds, seconds = (5, 0.7) if quick else (21, 1.0)
    usable = cores()
    server_core, generator_core = usable[-1], usable[0]
    with contextlib.ExitStack() as stack:
        installation = stack.enter_context(new_installation())
        pools = Pools(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kasbah-pools-"))))
        workloads = [Workload(f"tenant-{number}", RULES, USERS) for number in range(TENANTS)]
        tenants = installation.create(workloads)
        pools.write(workloads, tenants)
        single_fast, *others = stack.enter_context(kasbah(installation, pools, server_core, fast=True))
        ordinary = stack.enter_context(kasbah(installation, pools, server_core, fast=False))
        bare, pycasbin = stack.enter_context(peers(pools, tenants, server_core))
        contenders = [single_fast, bare, *others, *ordinary, pycasbin]
        generator = stack.enter_context(running_generator(generator_core))
        say("http: every subject is asked about once, so that all is warm")
        for contender in contenders:
            warm_up(contender, generator)
        for number in range(rounds):
            for contender in contenders:
                say(f"http: round {number + 1} of {rounds}: {contender.name}")
                contender.measure(generator, seconds)
    return report(contenders)


class Pools:
    """Files of prepared requests."""

    def __init__(self, directory: Path) -> None:
        self.single = directory / "single"
        self.traced = directory / "traced"
        self.differing = directory / "differing"
        self.batch = directory / "batch"
        self.keys = directory / "keys.json"

    def write(self, workloads: list[Workload], tenants: list[Tenant]) -> None:
        """Prepare the questions of all tenants, one tenant after the other in turns."""
        asked = [workload.questions(QUESTIONS_PER_TENANT) for workload in workloads]
        turns: list[tuple[Tenant, Question]] = [
            (tenants[number], asked[number][position])
            for position in range(QUESTIONS_PER_TENANT)
            for number in range(len(tenants))
        ]
        write_pool(self.single, [single(question, tenant.key) for tenant, question in turns])
        ids = [f"{number:032x}" for number in range(len(turns))]
        tracing = "X-Request-ID: {0}\r\ntraceparent: 00-{0}-00f067aa0ba902b7-01"
        headers = {self.traced: tracing, self.differing: "X-Number: {}"}
        for path, header in headers.items():
            asked_with = zip(turns, ids, strict=True)
            write_pool(path, [single(question, t.key, header.format(i)) for (t, question), i in asked_with])
        batches = [
            batch(asked[number][start : start + BATCH], tenants[number].key)
            for start in range(0, QUESTIONS_PER_TENANT, BATCH)
            for number in range(len(tenants))
        ]
        write_pool(self.batch, batches)
        self.keys.write_text(json.dumps({tenant.slug: tenant.key for tenant in tenants}), "utf-8")


@contextlib.contextmanager
def kasbah(installation: Installation, pools: Pools, core: int, *, fast: bool) -> Iterator[list[Contender]]:
    """Run one worker, with the fast way through aiohttp or without."""
    with installation.service(KASBAH_FAST_PATH="on" if fast else "off", KASBAH_BULK_WORKER="off") as service:
        workers = service.workers() or [service.process.pid]
        pin(workers, core)
        name = "Kasbah" if fast else "Kasbah, fast path off"
        contenders = [
            Contender(name, service.port, workers, pools.single),
            Contender(f"{name}, batches of {BATCH}", service.port, workers, pools.batch, BATCH, BATCH_CONNECTIONS),
        ]
        if fast:
            contenders += [
                Contender(f"{name}, tracing headers", service.port, workers, pools.traced),
                Contender(f"{name}, every head another", service.port, workers, pools.differing),
            ]
        yield contenders


@contextlib.contextmanager
def peers(pools: Pools, tenants: list[Tenant], core: int) -> Iterator[list[Contender]]:
    """Run the bare server, and PyCasbin behind aiohttp."""
    bare_port, pycasbin_port = free_port(), free_port()
    say(f"http: starting the bare server, and PyCasbin with {len(tenants)} tenants (half a minute)")
    arguments = ["--keys", str(pools.keys), "--rules", str(RULES), "--users", str(USERS)]
    with (
        running_server("benchmarks.bare", [], bare_port, core) as bare,
        running_server("benchmarks.pycasbin_server", arguments, pycasbin_port, core) as pycasbin,
    ):
        yield [
            Contender("bare aiohttp", bare_port, [bare], pools.single, check=False),
            Contender(
                "PyCasbin behind aiohttp", pycasbin_port, [pycasbin], pools.single, connections=PYCASBIN_CONNECTIONS
            ),
        ]


def warm_up(contender: Contender, generator: Generator) -> None:
    """Ask every question of the pool once, so that Kasbah holds every subject; PyCasbin has nothing to warm."""
    whole = contender.connections > PYCASBIN_CONNECTIONS
    generator.carry_out(
        Order(contender.port, str(contender.pool), contender.connections, 0.5, 0.5, contender.check, whole_pool=whole)
    )


def report(contenders: list[Contender]) -> Result:
    """Compare."""
    result = Result("http")
    found = {contender.name: contender for contender in contenders}
    bare, ours, ours_in_batches = found["bare aiohttp"], found["Kasbah"], found[f"Kasbah, batches of {BATCH}"]
    rows = [
        (
            one.name,
            f"{one.per_second:,.0f}",
            f"{one.rate_to(bare):.2f} x",
            f"{one.per_core:,.0f}",
            f"{one.per_core_to(bare):.2f} x",
            f"{one.latency('p50_ms'):.2f}",
            f"{one.latency('p99_ms'):.2f}",
            f"{one.generator_busy:.0%}",
        )
        for one in contenders
    ]
    columns = (
        "server",
        "decisions/s",
        "to bare",
        "per CPU second",
        "to bare",
        "p50, ms",
        "p99, ms",
        "generator busy",
    )
    title = f"Over HTTP: one worker, one core, {CONNECTIONS} connections (batches {BATCH_CONNECTIONS}, PyCasbin 4)"
    result.tables.append(Table(title, columns, rows))
    result.checks += [
        Check("requests/s to bare aiohttp", ours.rate_to(bare), "x", 1.5, at_most=False),
        Check("requests per CPU second to bare aiohttp", ours.per_core_to(bare), "x", 1.5, at_most=False),
        Check("p99 to that of bare aiohttp", ours.latency("p99_ms") / bare.latency("p99_ms"), "x", 1.0),
        Check(f"decisions/s in batches of {BATCH}", ours_in_batches.per_second, "/s", 200_000, at_most=False),
        Check(
            f"decisions per CPU second in batches of {BATCH}", ours_in_batches.per_core, "/s", 200_000, at_most=False
        ),
    ]
    result.figures = {
        one.name: {
            "decisions_per_second": [o.per_second * one.decisions_per_request for o in one.outcomes],
            "decisions_per_cpu_second": one.per_cpu_second,
            "p50_ms": [o.p50_ms for o in one.outcomes],
            "p99_ms": [o.p99_ms for o in one.outcomes],
            "generator_busy": [o.generator_busy for o in one.outcomes],
        }
        for one in contenders
    }
    return result
