"""One decision in process: through the snapshot alone, through the whole decision point, and through PyCasbin.

Every size answers the same number of questions, half of them true, and every answer is checked. Rounds alternate over
the sizes, so that a slower or busier moment of the machine meets all of them; the figure is the median round. A round
asks the questions once after other sizes have had the caches (`first pass`), then several times over and keeps the
best: what a busy service sees lies between. Times are processor time of this thread.
"""

import gc
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import casbin

from authz.evaluate import Missing, evaluate_in
from authz.ports import Grant, RuleSet, StoredModel, SubjectRecord, TenantHead
from authz.request import EvaluationRequest, Properties, Ref
from authz.rules import RoleLink
from authz.served_model import ServedModel
from authz.snapshot import ALLOWED, UNDECIDED, Facts, Snapshot, build_snapshot
from benchmarks.model import served_model
from benchmarks.pycasbin_policy import enforce, enforcer_of
from benchmarks.report import Check, Result, Table, say
from benchmarks.workload import CLASSIC_MODEL, MODEL, Question, Workload
from tenancy.ids import Slug, TenantId, TenantStatus

SIZES = (100, 1_000, 10_000, 100_000, 1_000_000)
QUICK_SIZES = (100, 1_000, 10_000)
PYCASBIN_SIZES = (100, 1_000, 10_000)
PYCASBIN_SECONDS = 2.0
QUESTIONS = 1_000
USERS = 1_000
PASSES = 5
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
SLUG = "tenant-0"


@dataclass(frozen=True, slots=True)
class HeldState:
    """What a node holds of the tenant; the decision point reads nothing else."""

    head: TenantHead
    snapshot: Snapshot
    subjects: dict[Ref, Facts]
    resources: dict[Ref, Properties]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A policy that is ready to be asked, and how long it took to build."""

    workload: Workload
    questions: Sequence[Question]
    state: HeldState
    requests: Sequence[EvaluationRequest]
    build_seconds: float


def run(*, quick: bool = False) -> Result:
    """Measure, and compare with PyCasbin on the same policies."""
    sizes = QUICK_SIZES if quick else SIZES
    result = Result("engine")
    pycasbin = _measure_pycasbin(quick=quick)
    for mixed in (False, True):
        _measure_form(result, sizes, mixed=mixed, rounds=5 if quick else 15, pycasbin={} if mixed else pycasbin)
    return result


def _measure_form(
    result: Result, sizes: Sequence[int], *, mixed: bool, rounds: int, pycasbin: dict[str, float]
) -> None:
    form = "mixed" if mixed else "plain"
    prepared = [_prepare(size, served_model(MODEL), mixed=mixed) for size in sizes]
    gc.collect()
    gc.freeze()  # as `serve` does with what it holds: the collector must not walk a million rules in a round
    ways = {"decide": _decide_all, "evaluate_in": _evaluate_all}
    seconds: dict[tuple[str, int], list[float]] = {
        (f"{way}{kind}", size): [] for way in ways for kind in ("", ", first") for size in sizes
    }
    for number in range(rounds):
        say(f"engine: {form} policies, round {number + 1} of {rounds}")
        for size, one in zip(sizes, prepared, strict=True):
            for way, measure in ways.items():
                seconds[f"{way}, first", size].append(measure(one))
                seconds[way, size].append(min(measure(one) for _ in range(PASSES)))
    gc.unfreeze()
    per_decision = {key: statistics.median(values) * 1e6 for key, values in seconds.items()}
    _report(result, form, prepared, per_decision, pycasbin)


def _report(
    result: Result,
    form: str,
    prepared: Sequence[Prepared],
    microseconds: dict[tuple[str, int], float],
    pycasbin: dict[str, float],
) -> None:
    rows = []
    sizes = [len(one.workload.rules) for one in prepared]
    for one, size in zip(prepared, sizes, strict=True):
        ways = ("decide", "decide, first", "evaluate_in", "evaluate_in, first")
        row = [f"{size:,}", *(f"{microseconds[way, size]:.2f}" for way in ways)]
        for model in ("served", "classic") if pycasbin else ():
            other = pycasbin.get(f"{model} {size}")
            row.append("" if other is None else f"{other:,.0f}")
            row.append("" if other is None else f"{other / microseconds['evaluate_in', size]:,.0f} x")
        rows.append([*row, f"{one.build_seconds:.3f}"])
    columns = ["rules", "snapshot, µs", "first pass", "decision point, µs", "first pass"]
    if pycasbin:
        columns += ["PyCasbin, µs", "ratio", "classic model, µs", "ratio"]
    result.tables.append(Table(f"One decision in process, {form} policies", [*columns, "build, s"], rows))
    last = sizes[-1]
    figures = [microseconds["evaluate_in", size] for size in sizes]
    result.checks.append(Check(f"one decision, {form}: slowest size", max(figures), "µs", 3.0))
    result.checks.append(
        Check(f"one decision, {form}: {last:,} rules to {sizes[0]:,}", figures[-1] / figures[0], "x", 1.5)
    )
    for size, floor in ((100, 100.0), (10_000, 10_000.0)):
        other = pycasbin.get(f"served {size}")
        if other is not None and size in sizes:
            ratio = other / microseconds["evaluate_in", size]
            result.checks.append(Check(f"PyCasbin to decision point, {size:,} rules", ratio, "x", floor, at_most=False))
    result.figures[form] = {
        "microseconds": {f"{way} {size}": value for (way, size), value in microseconds.items()},
        "build_seconds": dict(zip(map(str, sizes), [one.build_seconds for one in prepared], strict=True)),
        "pycasbin_microseconds": pycasbin,
    }


def _prepare(size: int, model: ServedModel, *, mixed: bool) -> Prepared:
    say(f"engine: building {size:,} rules")
    workload = Workload(SLUG, size, USERS, mixed=mixed)
    head = TenantHead(TenantId(UUID(int=1)), Slug(SLUG), TenantStatus.ACTIVE, 1, 1, 1)
    rule_set = RuleSet(head, StoredModel(MODEL, model.digest), workload.rules, workload.hierarchy)
    started = time.perf_counter()
    snapshot = build_snapshot(rule_set, model)
    build_seconds = time.perf_counter() - started
    subjects = {ref: snapshot.facts(ref, record, NOW) for ref, record in records(workload.memberships()).items()}
    questions = workload.questions(QUESTIONS)
    state = HeldState(head, snapshot, subjects, {})
    prepared = Prepared(workload, questions, state, [question.request for question in questions], build_seconds)
    _check_answers(prepared)
    return prepared


def records(memberships: Iterable[RoleLink]) -> dict[Ref, SubjectRecord]:
    """Return what storage would return for every member."""
    grants: dict[Ref, list[Grant]] = {}
    for link in memberships:
        grants.setdefault(link.member, []).append(Grant(link.role, link.expires_at))
    return {ref: SubjectRecord(tuple(held)) for ref, held in grants.items()}


def _check_answers(prepared: Prepared) -> None:
    """A fast wrong answer is worth nothing."""
    for question, request in zip(prepared.questions, prepared.requests, strict=True):
        answer = evaluate_in(prepared.state, request, now=NOW)
        if isinstance(answer, Missing) or answer.allowed is not question.allowed:
            raise ValueError(f"{question} was answered with {answer}")
        facts = prepared.state.subjects[question.subject]
        quick = prepared.state.snapshot.decide(facts.names, question.resource, question.action)
        if quick is UNDECIDED or (quick is ALLOWED) is not question.allowed:
            raise ValueError(f"{question} was answered with {quick}")


def _decide_all(prepared: Prepared) -> float:
    """Return the seconds of one decision by the index, with the subject's names at hand."""
    subjects = prepared.state.subjects
    asked = [(subjects[q.subject].names, q.resource, q.action) for q in prepared.questions]
    decide = prepared.state.snapshot.decide
    started = time.thread_time()
    for names, resource, action in asked:
        decide(names, resource, action)
    return (time.thread_time() - started) / len(asked)


def _evaluate_all(prepared: Prepared) -> float:
    """Return the seconds of one decision by the decision point, from a request to a `Decision`."""
    state, requests = prepared.state, prepared.requests
    started = time.thread_time()
    for request in requests:
        evaluate_in(state, request, now=NOW)
    return (time.thread_time() - started) / len(requests)


def _measure_pycasbin(*, quick: bool) -> dict[str, float]:
    """Return PyCasbin's microseconds for one decision, by model and size: means over random questions."""
    found = {}
    for size in PYCASBIN_SIZES:
        workload = Workload(SLUG, size, USERS)
        questions = workload.questions(QUESTIONS)
        for name, text in (("served", MODEL), ("classic", CLASSIC_MODEL)):
            say(f"engine: PyCasbin, {name} model, {size:,} rules")
            enforcer = enforcer_of([workload], text, full_rows=text is MODEL)
            found[f"{name} {size}"] = _mean_enforce(enforcer, questions, PYCASBIN_SECONDS / (4 if quick else 1))
    return found


def _mean_enforce(enforcer: casbin.Enforcer, questions: Sequence[Question], seconds: float) -> float:
    """Return the mean microseconds of as many questions as fit into `seconds`, at least ten.

    PyCasbin stops at the first allow, wherever in the policy that stands; the questions' order is random, and half of
    them find none.
    """
    enforce(enforcer, SLUG, questions[-1])  # the first question of a domain builds its role links: not measured
    taken: list[float] = []
    deadline = time.thread_time() + seconds
    for question in questions:
        started = time.thread_time()
        answer = enforce(enforcer, SLUG, question)
        ended = time.thread_time()
        if answer is not question.allowed:
            raise ValueError(f"PyCasbin answered {question} with {answer}")
        taken.append((ended - started) * 1e6)
        if ended > deadline and len(taken) >= 10:
            break
    return statistics.fmean(taken)
