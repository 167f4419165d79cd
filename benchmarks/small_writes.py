"""How long decisions of a tenant of 10,000 rules wait while its policy changes ten times a second: one worker.

Each change adds or removes one membership, or one rule, through the API, and is asked for at its own time, however long
the one before took.
"""

import itertools
import time
from functools import partial
from typing import Any

from benchmarks.asking import Asker, asking
from benchmarks.installation import new_installation
from benchmarks.report import Result, say
from benchmarks.steady import add_table, steadily_asked, timed
from benchmarks.wire import body_of
from benchmarks.workload import Workload

RULES = 10_000
WRITES_PER_SECOND = 10
SECONDS = 20.0
MEMBERSHIP = {"type": "link", "member": "user:newcomer", "role": "role:role-1"}
RULE = {"type": "rule", "subject": "user:newcomer", "resource": "record:new", "action": "read"}


def run(*, quick: bool = False) -> Result:
    """Measure the same tenant idle, under changes of memberships, and under changes of rules."""
    seconds = SECONDS / 4 if quick else SECONDS
    result = Result("small_writes")
    workload = Workload("changing", RULES, 1_000)
    questions = [body_of(question) for question in workload.questions(100)]
    took: dict[str, list[float]] = {"memberships": [], "rules": []}
    with new_installation() as installation:
        (tenant,) = installation.create([workload])
        base = f"/v1/tenants/{tenant.slug}"
        with (
            installation.service() as service,
            asking(service.base_url, tenant.key) as writer,
            steadily_asked(service.base_url, tenant, questions) as samples,
        ):
            say("small_writes: idle")
            phases = [timed("idle", lambda: time.sleep(seconds))]
            for kind, row in (("memberships", MEMBERSHIP), ("rules", RULE)):
                say(f"small_writes: {kind}")
                step = partial(write, writer, f"{base}/{kind}", row, seconds, took[kind])
                phases.append(timed(f"{WRITES_PER_SECOND} {kind} a second", step))
    add_table(result, f"Answers about a tenant of {RULES:,} rules while it changes, ms", phases, samples)
    for kind, times in took.items():
        result.figures[f"writes of {kind}, ms"] = sorted(times)
        say(f"small_writes: {len(times)} writes of {kind}, median {sorted(times)[len(times) // 2]:.1f} ms")
    return result


def write(writer: Asker, path: str, row: dict[str, Any], seconds: float, took: list[float]) -> None:
    """Add and remove a row in turns; note how long each took, in milliseconds."""
    began = due = time.monotonic()
    for name in itertools.cycle(("add", "remove")):
        time.sleep(max(0.0, due - time.monotonic()))
        asked = time.monotonic()
        if asked - began >= seconds and name == "add":
            return
        writer.post(path, {name: [row]})
        took.append((time.monotonic() - asked) * 1e3)
        due += 1 / WRITES_PER_SECOND
