"""The policy decision point: one question, one revision, one answer.

`evaluate_in` is pure and synchronous: it answers from what a node holds, or says what must be loaded first.
"""

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import lru_cache
from types import coroutine
from typing import Protocol

from authz.condition_cost import MAX_WORK_OF_MANY, Allowance
from authz.conditions import Condition
from authz.decision import Decision, DeterminingRule, Reason
from authz.errors import StaleError
from authz.hierarchy import NEVER
from authz.outcomes import Matched, Outcomes, allowing_names, first_match, outcomes_of
from authz.ports import AccountState, TenantHead
from authz.request import NO_PROPERTIES, EvaluationRequest, Properties, Ref
from authz.rules import Effect
from authz.served_model import PolicyEffect
from authz.snapshot import ALLOWED, NO_MATCH, UNDECIDED, Facts, Quick, Snapshot
from authz.step_up import find_step_up
from tenancy.ids import TenantId, TenantStatus

MAX_ROUNDS = 5
"""How often a batch may find that yet more must be loaded before it gives up (503)."""

# Bound once: looking an enum member up is a call.
_ACTIVE = TenantStatus.ACTIVE

_BARRED = {AccountState.DISABLED: Reason.ACCOUNT_DISABLED, AccountState.DELETED: Reason.ACCOUNT_DELETED}

SLICE = timedelta(milliseconds=10)
"""How long a batch keeps the event loop before it lets other requests pass."""


class StateView(Protocol):
    """What a node (or files alone) holds of one tenant, all of it valid at `head.revision`."""

    @property
    def head(self) -> TenantHead:
        """Revisions and status."""

    @property
    def snapshot(self) -> Snapshot:
        """The rules."""

    @property
    def subjects(self) -> Mapping[Ref, Facts]:
        """Facts of the subjects that were loaded, unknown ones included."""

    @property
    def resources(self) -> Mapping[Ref, Properties]:
        """Stored properties of the resources that were loaded."""


class EvaluationNode(Protocol):
    """The part of `authz.node.Node` that decisions need."""

    async def load(
        self,
        tenant_id: TenantId,
        subjects: Iterable[Ref],
        resources: Iterable[Ref],
        min_revision: int | None = None,
    ) -> StateView:
        """Return a view in which all of them are loaded, at one revision."""

    def now(self) -> datetime:
        """Return the time of this decision."""


@dataclass(frozen=True, slots=True)
class Missing:
    """What must be loaded before the question can be answered."""

    subjects: tuple[Ref, ...] = ()
    resources: tuple[Ref, ...] = ()


def evaluate_in(
    state: StateView,
    request: EvaluationRequest,
    *,
    now: datetime,
    trace: bool = False,
    whole: Allowance | None = None,
    looking: Allowance | None = None,
) -> Decision | Missing:
    """Answer from what `state` holds.

    Args:
        state: One tenant at one revision.
        request: The question; its names are already checked.
        now: The time of the decision, aware.
        trace: Whether to name the determining rules (always named when a condition took part).
        whole: The work that the conditions of a batch may still do.
        looking: The work that conditions may do to find which sign-in would turn a deny; None: it is not looked for.
    """
    head = state.head
    if head.status is not _ACTIVE:
        return Decision(Effect.DENY, Reason.TENANT_SUSPENDED, head.revision)
    subject = request.subject.ref
    facts = state.subjects.get(subject)
    if facts is None or (facts.valid_until != NEVER and facts.valid_until <= now.timestamp()):
        return Missing(subjects=(subject,))
    if facts.barred is not None:
        return Decision(Effect.DENY, _BARRED[facts.barred], head.revision)
    snapshot = state.snapshot
    resource = request.resource.ref
    if not trace and allowing_names(facts, request.auth) is facts.names:
        quick = snapshot.decide(facts.names, resource, request.action.name)
        if quick is not UNDECIDED:
            return _plain(quick, head.revision)
    stored: Properties = NO_PROPERTIES
    if _needs_resource(snapshot, facts, resource, request.action.name):
        found = state.resources.get(resource)
        if found is None:
            return Missing(resources=(resource,))
        stored = found
    outcomes = outcomes_of(snapshot, facts, stored, request, now, whole=whole)
    decision = _decide(snapshot, facts, outcomes, head.revision, now)
    if looking is None or decision.allowed:
        return decision
    step_up = find_step_up(snapshot, facts, stored, request, now, looking=looking)
    return decision if step_up is None else replace(decision, step_up=step_up)


def _plain(quick: Quick, revision: int) -> Decision:
    """Return the decision of the index alone; equal ones are one object, which is cheaper than a new one."""
    if quick is ALLOWED:
        return _allow(revision)
    return _no_match(revision) if quick is NO_MATCH else _deny(revision)


@lru_cache(maxsize=4096)
def _allow(revision: int) -> Decision:
    return Decision(Effect.ALLOW, Reason.RULE, revision)


@lru_cache(maxsize=4096)
def _deny(revision: int) -> Decision:
    return Decision(Effect.DENY, Reason.RULE, revision)


@lru_cache(maxsize=4096)
def _no_match(revision: int) -> Decision:
    return Decision(Effect.DENY, Reason.NO_MATCH, revision)


async def evaluate(
    node: EvaluationNode,
    tenant_id: TenantId,
    request: EvaluationRequest,
    *,
    min_revision: int | None = None,
    trace: bool = False,
    step_up: bool = False,
) -> Decision:
    """Answer one question, loading what it takes; the rest as `evaluate_many`.

    Raises:
        StaleError: the tenant is not confirmed, or `min_revision` was not reached in time.
        StorageUnavailableError: PostgreSQL did not answer.
        TenantNotFoundError: no such tenant.
    """
    decisions = await evaluate_many(node, tenant_id, [request], min_revision=min_revision, trace=trace, step_up=step_up)
    return decisions[0]


async def evaluate_many(
    node: EvaluationNode,
    tenant_id: TenantId,
    requests: Sequence[EvaluationRequest],
    *,
    min_revision: int | None = None,
    trace: bool = False,
    stop: Effect | None = None,
    within_allowance: bool = False,
    step_up: bool = False,
) -> list[Decision]:
    """Answer a batch at one revision, in order; with `stop`, up to and including the first decision of that effect.

    With `step_up`, a deny says which sign-in would turn it, if one would.

    All conditions of a batch share an allowance of work. Those that come after it is spent are in error, or with
    `within_allowance` the answers end before the first question that this would change; there is at least one answer.

    Raises:
        As `evaluate`.
    """
    subjects = dict.fromkeys(request.subject.ref for request in requests)
    resources: dict[Ref, None] = {}
    for _ in range(MAX_ROUNDS):
        state = await node.load(tenant_id, tuple(subjects), tuple(resources), min_revision)
        now = begun = node.now()
        whole, looking = Allowance(MAX_WORK_OF_MANY), Allowance(MAX_WORK_OF_MANY)
        decisions: list[Decision] = []
        missing = False
        for request in requests:
            if node.now() - begun > SLICE:
                await _let_others_pass()
                begun = node.now()
            answer = evaluate_in(
                state, request, now=now, trace=trace, whole=whole, looking=Allowance(whole=looking) if step_up else None
            )
            if within_allowance and whole.refused:
                break
            if isinstance(answer, Missing):
                missing = True
                subjects.update(dict.fromkeys(answer.subjects))
                resources.update(dict.fromkeys(answer.resources))
                continue
            decisions.append(answer)
            if stop is answer.effect and not missing:
                break
        if not missing:
            return decisions
    raise StaleError("what a decision needs kept changing while it was loaded")


@coroutine
def _let_others_pass() -> Generator[None, None, None]:
    """Give the event loop one round, as `asyncio.sleep(0)` does; a batch's state is immutable."""
    yield


def _decide(snapshot: Snapshot, facts: Facts, outcomes: Outcomes, revision: int, now: datetime) -> Decision:
    if snapshot.model.effect is PolicyEffect.PRIORITY:
        return _decide_by_priority(snapshot, facts, outcomes, revision, now)
    errors = _error_texts(snapshot, outcomes)
    winners: tuple[Matched, ...]
    if outcomes.denies:
        winners, answer = outcomes.denies, Effect.DENY
    elif outcomes.allows:
        winners, answer = outcomes.allows, Effect.ALLOW
    else:
        reason = Reason.CONDITION_ERROR if errors else Reason.NO_MATCH
        return Decision(Effect.DENY, reason, revision, (), errors)
    only_errors = answer is Effect.DENY and all(winner.error is not None for winner in winners)
    reason = Reason.CONDITION_ERROR if only_errors else Reason.RULE
    return Decision(answer, reason, revision, _determining(snapshot, facts, winners, now), errors)


def _decide_by_priority(snapshot: Snapshot, facts: Facts, outcomes: Outcomes, revision: int, now: datetime) -> Decision:
    """Under a priority effect the first row in policy order decides, and any error ends in deny."""
    if outcomes.errors:
        return Decision(Effect.DENY, Reason.CONDITION_ERROR, revision, (), _error_texts(snapshot, outcomes))
    first = first_match(snapshot, outcomes)
    if first is None:
        return Decision(Effect.DENY, Reason.NO_MATCH, revision)
    answer = snapshot.rules[first.position].effect
    return Decision(answer, Reason.RULE, revision, _determining(snapshot, facts, (first,), now))


def _determining(
    snapshot: Snapshot, facts: Facts, winners: Sequence[Matched], now: datetime
) -> tuple[DeterminingRule, ...]:
    found = []
    for winner in winners:
        rule = snapshot.rules[winner.position]
        path = snapshot.hierarchy.path(facts.subject, facts.record.grants, rule.subject, now.timestamp())
        found.append(DeterminingRule(rule.id, rule.effect, rule.owner, rule.base, rule.source, path or (rule.subject,)))
    return tuple(found)


def _needs_resource(snapshot: Snapshot, facts: Facts, resource: str, action: str) -> bool:
    for position in snapshot.candidates(facts.names, resource, action):
        text = snapshot.rules[position].condition
        condition = None if text is None else snapshot.conditions[text]
        if isinstance(condition, Condition) and condition.uses_resource:
            return True
    return False


def _error_texts(snapshot: Snapshot, outcomes: Outcomes) -> tuple[str, ...]:
    texts = []
    for position, text in outcomes.errors:
        rule = snapshot.rules[position]
        texts.append(f"{rule.source or f'rule {rule.id}'}: {text}")
    return tuple(texts)
