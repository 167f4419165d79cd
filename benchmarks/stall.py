"""What others feel while a tenant of 100,000 rules is planned, applied, rolled back and exported: one worker.

A client of its own process asks about a small tenant on one keep-alive connection, 200 times a second.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from http import HTTPStatus
from typing import Any

import msgspec

from authz.rules import RoleLink, Rule, Source
from benchmarks.asking import Asker, RefusedError, asking
from benchmarks.installation import Tenant, new_installation
from benchmarks.latencies import Latencies
from benchmarks.report import Check, Result, say
from benchmarks.steady import EVALUATION, Phase, Samples, add_table, steadily_asked, timed
from benchmarks.wire import body_of
from benchmarks.workload import Workload
from service.http.policy_wire import sent_row

LARGE_RULES = 100_000
QUICK_RULES = 10_000
IDLE_SECONDS = 10.0
STALL_LIMIT_MS = 50.0
RATIO_LIMIT = 1.5


def run(*, quick: bool = False) -> Result:
    """Measure a tenant whose rules nobody asks about, then one that is being asked about."""
    count = QUICK_RULES if quick else LARGE_RULES
    result = Result("stall")
    with new_installation() as installation:
        small, large = installation.create([Workload("small", 1_000, 100), Workload("large", 10, 10)])
        with (
            installation.service() as service,
            asking(service.base_url, large.key) as asker,
            steadily_asked(service.base_url, small, questions()) as samples,
        ):
            phases = [told("idle", lambda: time.sleep(IDLE_SECONDS))]
            phases += changes(asker, large, Workload("large", count, 100), "cold")
            question = body_of(Workload("large", count, 100).questions(1)[0])
            phases.append(told("first question", lambda: bring_up(asker, question)))
            phases += changes(asker, large, Workload("large", count + 10, 100), "asked about")
    report(result, phases, samples, count)
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
    return [told(f"{name}, {state}", step) for name, step in steps]


def told(name: str, step: Callable[[], object]) -> Phase:
    """Say what comes, do it, and return when it was done."""
    say(f"stall: {name}")
    return timed(name, step)


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


def report(result: Result, phases: list[Phase], samples: Samples, count: int) -> None:
    """Put the table and the checks into `result`."""
    title = f"Answers about another tenant while one of {count:,} rules changes, ms"
    add_table(result, title, phases, samples)
    busy = Latencies()
    for due, seconds in samples:
        if due >= phases[1].began:
            busy.add(seconds)
    result.checks.append(Check("others' p99.9 during all of it", busy.quantile(0.999) * 1e3, "ms", STALL_LIMIT_MS))
    ratio = busy.quantile(0.99) / phases[0].latencies(samples).quantile(0.99)
    result.checks.append(Check("others' p99 during all of it, to idle", ratio, "times", RATIO_LIMIT))
