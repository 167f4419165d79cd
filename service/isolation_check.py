"""Asks every case of `service/isolation_cases.py` and collects what shows that tenants are not isolated."""

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from service.isolation_cases import BUSY, Operation, Side, cases_of, fault_of, operations_of
from service.isolation_objects import CheckStoppedError, Send, ask, nobodys, side_of
from service.openapi import read_openapi


@dataclass(frozen=True, slots=True)
class Fault:
    """A case whose answers show it."""

    case: str
    said: str


@dataclass(slots=True)
class Report:
    """What was asked, and what was found."""

    operations: int = 0
    cases: int = 0
    statuses: dict[int, int] = field(default_factory=dict)
    """How often the other tenant's was answered with which status."""
    faults: list[Fault] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)
    """Cases that were not judged, because the service was busy: they say nothing."""


def described() -> tuple[Operation, ...]:
    """Return every operation of the service."""
    return tuple(operations_of(read_openapi()))


def variables_of(operations: Sequence[Operation]) -> frozenset[str]:
    """Return the variables of all paths but `tenant`."""
    return frozenset(name for operation in operations for name in operation.path_names) - {"tenant"}


async def make_sides(own: tuple[str, str], other: tuple[str, str], send: Send) -> tuple[Side, Side]:
    """Make the objects of two tenants, each given as (slug, key); the other one goes ahead in revisions."""
    variables = variables_of(described())
    mine = await side_of(*own, variables - {"revision"}, send)
    theirs = await side_of(*other, variables, send)
    return Side(mine.slug, mine.key, {**mine.objects, "revision": "1"}, mine.secrets), theirs


async def check(
    own: Side,
    other: Side,
    send: Send,
    *,
    base_domain: str | None = None,
    operations: Sequence[Operation] | None = None,
) -> Report:
    """Ask everything with the key of `own` about what is of `other`.

    Args:
        own: Who asks.
        other: Whose names and ids they try.
        send: Sends a request.
        base_domain: Of which subdomains name tenants, if any.
        operations: What is asked; every operation of the service by default.

    Raises:
        CheckStoppedError: an operation has no case.
    """
    report = Report()
    operations = described() if operations is None else operations
    nobody = nobodys(variables_of(operations), other)
    for operation in operations:
        before = report.cases
        for case in cases_of(operation, own, other, nobody, base_domain):
            foreign, unknown = await send(case.foreign), await send(case.unknown)
            report.cases += 1
            report.statuses[foreign.status] = report.statuses.get(foreign.status, 0) + 1
            if {foreign.status, unknown.status} & BUSY:
                report.unanswered.append(str(case))
                continue
            said = fault_of(case, foreign, unknown, other.secrets)
            if said is not None:
                report.faults.append(Fault(str(case), said))
        if report.cases == before:
            raise CheckStoppedError(f"{operation.method} {operation.path} has no case")
        report.operations += 1
    return report


async def check_service(send: Send, platform_key: str, base_domain: str | None = None) -> Report:
    """Check a running service with two tenants that are made for it and deleted again.

    Raises:
        CheckStoppedError: they could not be made, or an operation has no case.
    """
    scopes = (await ask(send, "GET", "/v1/keys/self", platform_key))["scopes"]
    slugs = tuple(f"isolation-{secrets.token_hex(6)}" for _ in range(2))
    made = []
    try:
        keys = []
        for slug in slugs:
            body = {"slug": slug, "display_name": "isolation check", "reason": "isolation check"}
            await ask(send, "POST", "/v1/tenants", platform_key, body)
            made.append(slug)
            key = {"name": "isolation check", "scopes": scopes}
            keys.append((await ask(send, "POST", f"/v1/tenants/{slug}/keys", platform_key, key))["token"])
        own, other = await make_sides((slugs[0], keys[0]), (slugs[1], keys[1]), send)
        target = f"/v1/tenants/{other.slug}"
        before = (await ask(send, "GET", target, platform_key))["revision"]
        report = await check(own, other, send, base_domain=base_domain)
        after = (await ask(send, "GET", target, platform_key))["revision"]
        if after != before:
            report.faults.append(Fault("all", f"the other tenant went from revision {before} to {after}"))
        return report
    finally:
        for slug in made:
            await ask(send, "DELETE", f"/v1/tenants/{slug}?reason=isolation%20check", platform_key)


def shown(report: Report) -> Iterator[str]:
    """Yield the report as lines of text."""
    answers = ", ".join(f"{count} x {status}" for status, count in sorted(report.statuses.items()))
    yield f"{report.operations} operations, {report.cases} cases: {answers}"
    for case in report.unanswered:
        yield f"not answered: {case}"
    for fault in report.faults:
        yield f"LEAK {fault.case}: {fault.said}"
    if report.faults:
        yield f"{len(report.faults)} leaks"
    else:
        yield "not known: ask again later" if report.unanswered else "isolated"


def as_json(report: Report) -> dict[str, Any]:
    """Return the report for programs."""
    return {
        "isolated": not report.faults and not report.unanswered,
        "operations": report.operations,
        "cases": report.cases,
        "statuses": {str(status): count for status, count in sorted(report.statuses.items())},
        "unanswered": report.unanswered,
        "faults": [{"case": fault.case, "said": fault.said} for fault in report.faults],
    }
