"""How soon a change made through one process is used by another: two `kasbah serve` on one database and one Valkey.

The clock starts when the first process has answered the change, and stops when the second one's answer is the new one.
Then the same with `Kasbah-Min-Revision`, where the very next answer must be the new one, every time.
"""

import itertools
import statistics
import time
from dataclasses import dataclass, field
from typing import Any

from benchmarks.asking import Asker, asking
from benchmarks.installation import new_installation
from benchmarks.report import Check, Result, Table, say
from benchmarks.workload import Workload

EVALUATION = "/access/v1/evaluation"
GIVE_UP_SECONDS = 10.0
QUESTION = {
    "subject": {"type": "user", "id": "newcomer"},
    "action": {"name": "read"},
    "resource": {"type": "record", "id": "announced"},
}
MEMBERSHIP = {"member": "user:newcomer", "role": "role:announcer"}
RULE = {"subject": "user:newcomer", "resource": "record:announced", "action": "read"}


@dataclass(slots=True)
class Kind:
    """A kind of change: where it is posted, and what turns the question's answer."""

    name: str
    path: str
    row: dict[str, Any]
    seen_after: list[float] = field(default_factory=list)
    demanded: list[float] = field(default_factory=list)
    stale: int = 0


def run(*, quick: bool = False) -> Result:
    """Measure changes of memberships and of rules."""
    count = 20 if quick else 100
    result = Result("propagation")
    workload = Workload("announcing", 1_000, 1_000)
    with new_installation() as installation:
        (tenant,) = installation.create([workload])
        with (
            installation.service() as first,
            installation.service() as second,
            asking(first.base_url, tenant.key) as writer,
            asking(second.base_url, tenant.key) as reader,
        ):
            base = f"/v1/tenants/{tenant.slug}"
            lasting = {"subject": "role:announcer", "resource": "record:announced", "action": "read"}
            writer.post(f"{base}/rules", {"add": [{"type": "rule", **lasting}]})
            kinds = [
                Kind("membership", f"{base}/memberships", {"type": "link", **MEMBERSHIP}),
                Kind("rule", f"{base}/rules", {"type": "rule", **RULE}),
            ]
            for kind in kinds:
                say(f"propagation: {count} changes of a {kind.name}")
                measure(kind, writer, reader, count)
    for kind in kinds:
        result.checks.append(
            Check(f"a changed {kind.name} is used by the other process", statistics.median(kind.seen_after), "ms", 100)
        )
        result.checks.append(Check(f"older answers despite Kasbah-Min-Revision, {kind.name}", kind.stale, "of all", 0))
    rows = [
        (
            kind.name,
            f"{statistics.median(kind.seen_after):.1f}",
            f"{max(kind.seen_after):.1f}",
            f"{statistics.median(kind.demanded):.1f}",
            f"{max(kind.demanded):.1f}",
            f"{kind.stale} of {len(kind.demanded)}",
        )
        for kind in kinds
    ]
    columns = ("change of a", "seen after, ms", "at most", "with min revision, ms", "at most", "older answers")
    result.tables.append(Table("From one process to the other", columns, rows))
    result.figures = {kind.name: {"seen_after_ms": kind.seen_after, "demanded_ms": kind.demanded} for kind in kinds}
    return result


def measure(kind: Kind, writer: Asker, reader: Asker, count: int) -> None:
    """Add and remove a row in turns; wait for each change in the other process, then demand each."""
    wanted = itertools.cycle((True, False))
    for _ in range(count):
        allowed = next(wanted)
        change(kind, writer, present=allowed)
        started = time.perf_counter()
        while reader.post(EVALUATION, QUESTION)[0]["decision"] is not allowed:
            if time.perf_counter() - started > GIVE_UP_SECONDS:
                raise RuntimeError(f"a changed {kind.name} was not seen within {GIVE_UP_SECONDS:g} s")
        kind.seen_after.append((time.perf_counter() - started) * 1e3)
    for _ in range(count):
        allowed = next(wanted)
        revision = change(kind, writer, present=allowed)
        started = time.perf_counter()
        answer, _ = reader.post(EVALUATION, QUESTION, {"Kasbah-Min-Revision": revision})
        kind.demanded.append((time.perf_counter() - started) * 1e3)
        kind.stale += answer["decision"] is not allowed


def change(kind: Kind, writer: Asker, *, present: bool) -> str:
    """Add or remove the row, and return the revision that the answer names."""
    _, headers = writer.post(kind.path, {"add" if present else "remove": [kind.row]})
    return headers["Kasbah-Revision"]
