"""The first answer about a tenant that a node does not hold: from Valkey's snapshot, and from PostgreSQL.

Each tenant is one sample. The node has answered about another tenant before, so that its connections are open; the
time is that of the HTTP request, look-up of the key and of the subject included.
"""

import statistics
import time
from collections.abc import Sequence

from benchmarks.asking import asking
from benchmarks.installation import Tenant, new_installation
from benchmarks.report import Check, Result, Table, say
from benchmarks.wire import body_of
from benchmarks.workload import Workload

RULES = 10_000
USERS = 1_000
STORE_SECONDS = 2.0


def run(*, quick: bool = False) -> Result:
    """Measure both sources on as many tenants as there are samples to take."""
    count = 3 if quick else 9
    result = Result("cold")
    workloads = [Workload("opener", 100, 100), *(Workload(f"cold-{number}", RULES, USERS) for number in range(count))]
    with new_installation() as installation:
        tenants = installation.create(workloads)
        installation.flush_valkey()
        samples = {}
        for source in ("PostgreSQL", "Valkey's snapshot"):
            say(f"cold: first answers from {source}")
            with installation.service() as service:
                samples[source] = first_answers(service.base_url, tenants, workloads)
                time.sleep(STORE_SECONDS)  # snapshots reach Valkey after the answer
    rows = []
    for source, limit in (("Valkey's snapshot", 50.0), ("PostgreSQL", 500.0)):
        taken = samples[source]
        median = statistics.median(taken)
        rows.append((source, f"{median:.1f}", f"{min(taken):.1f}", f"{max(taken):.1f}", str(len(taken))))
        result.checks.append(Check(f"first answer from {source}, {RULES:,} rules", median, "ms", limit))
    result.tables.append(
        Table(f"First answer about a cold tenant of {RULES:,} rules, ms", ("from", "median", "min", "max", "n"), rows)
    )
    result.figures = dict(samples)
    return result


def first_answers(base_url: str, tenants: Sequence[Tenant], workloads: Sequence[Workload]) -> list[float]:
    """Return the milliseconds of the first answer about each tenant but the first, which opens what must be open."""
    taken = []
    for tenant, workload in zip(tenants, workloads, strict=True):
        question = workload.questions(2)[0]
        with asking(base_url, tenant.key) as asker:
            started = time.perf_counter()
            answer, _ = asker.post("/access/v1/evaluation", body_of(question))
            taken.append((time.perf_counter() - started) * 1e3)
        if answer["decision"] is not question.allowed:
            raise ValueError(f"{question} was answered with {answer}")
    return taken[1:]
