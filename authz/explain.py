"""Why an answer came out as it did, for a human: also why it was denied, and what would have granted it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from authz.condition_cost import Allowance
from authz.decision import Decision, StepUp
from authz.errors import StaleError
from authz.evaluate import MAX_ROUNDS, EvaluationNode, Missing, StateView, evaluate_in
from authz.outcomes import Outcomes, allowing_names, first_match, outcomes_of
from authz.request import NO_PROPERTIES, Auth, EvaluationRequest
from authz.rules import BASE_SLUG, Effect, Owner, Rule, RuleId, Source
from authz.served_model import PolicyEffect
from authz.snapshot import Facts, Snapshot
from tenancy.ids import TenantId, TenantStatus

MAX_EXPLAINED = 50
"""At most this many rules are named in each part."""


@dataclass(frozen=True, slots=True)
class ExplainedRule:
    """A rule as a human reads it."""

    id: RuleId
    effect: Effect
    subject: str
    action: str
    resource: str
    condition: str | None
    owner: Owner
    base: bool
    source: Source | None
    role_path: tuple[str, ...] = ()
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """Everything that bore on one answer. Lists hold at most 50 rules each; `truncated` says when one was cut.

    `granted_by` and `blocked_by` leave out matching rules that the model's effect ignores: denies where only allows
    count, and whatever comes after the first match where priority decides.
    """

    summary: str
    roles: tuple[str, ...]
    """Roles and groups the subject has, directly or by inheritance, sorted; none of an account that may do nothing."""
    inactive_roles: tuple[str, ...]
    """Those that it would have if it had proven a second factor."""
    granted_by: tuple[ExplainedRule, ...]
    blocked_by: tuple[ExplainedRule, ...]
    would_grant: tuple[ExplainedRule, ...]
    """Allow rules for this action and resource that name roles or subjects the subject is not."""
    unmet_conditions: tuple[ExplainedRule, ...]
    failed_conditions: tuple[ExplainedRule, ...]
    truncated: bool = False
    step_up: StepUp | None = None

    def lines(self) -> list[str]:
        """Return the explanation as lines of text."""
        found = [self.summary]
        if self.roles:
            found.append(f"  roles: {', '.join(self.roles)}")
        if self.inactive_roles:
            found.append(f"  inactive without a second factor: {', '.join(self.inactive_roles)}")
        for title, rules in (
            ("allowed by", self.granted_by),
            ("blocked by", self.blocked_by),
            ("condition false", self.unmet_conditions),
            ("condition in error", self.failed_conditions),
            ("would be granted by", self.would_grant),
        ):
            found.extend(f"  {title}: {describe(rule)}" for rule in rules)
        if self.step_up is not None:
            found.append(f"  would be allowed after {describe_step_up(self.step_up)}")
        if self.truncated:
            found.append(f"  … only the first {MAX_EXPLAINED} rules of each part are shown")
        return found


async def evaluate_explained(
    node: EvaluationNode, tenant_id: TenantId, request: EvaluationRequest, *, min_revision: int | None = None
) -> tuple[Decision, Explanation]:
    """Answer one question and say why, both from one state; raises as `evaluate`."""
    for _ in range(MAX_ROUNDS):
        state = await node.load(tenant_id, (request.subject.ref,), (request.resource.ref,), min_revision)
        now = node.now()
        decision = evaluate_in(state, request, now=now, trace=True, looking=Allowance())
        if not isinstance(decision, Missing):
            return decision, explain(state, request, decision, now)
    raise StaleError("what a decision needs kept changing while it was loaded")


def explain(state: StateView, request: EvaluationRequest, decision: Decision, now: datetime) -> Explanation:
    """Explain `decision`, which came from `state` at `now`; the subject must be loaded in it."""
    snapshot, facts = state.snapshot, state.subjects[request.subject.ref]
    stored = state.resources.get(request.resource.ref, NO_PROPERTIES)
    outcomes = outcomes_of(snapshot, facts, stored, request, now)
    reading = _Reading(snapshot, facts, now, request.auth)
    roles, inactive = reading.roles()
    allows, denies = _counting(snapshot, outcomes)
    others = [] if decision.allowed or facts.barred is not None else _would_grant(snapshot, facts, request)
    parts = (
        allows,
        denies,
        others,
        list(outcomes.unmet),
        [position for position, _ in outcomes.errors],
    )
    notes = dict(outcomes.errors)
    return Explanation(
        summary=_summary(state, request, decision, outcomes, denied=bool(denies), others=others),
        roles=tuple(sorted(roles)),
        inactive_roles=tuple(sorted(inactive)),
        granted_by=reading.rules(parts[0], {}),
        blocked_by=reading.rules(parts[1], notes),
        would_grant=reading.rules(parts[2], {}),
        unmet_conditions=reading.rules(parts[3], {}),
        failed_conditions=reading.rules(parts[4], notes),
        truncated=any(len(part) > MAX_EXPLAINED for part in parts),
        step_up=decision.step_up,
    )


def describe(rule: ExplainedRule) -> str:
    """Return one rule as a line: where it stands, what it says, how the subject reached it."""
    place = place_of(rule.source, base=rule.base) or f"{'base' if rule.base else 'api'} rule {rule.id[:8]}"
    text = f"{place}: {rule.effect.value} {rule.subject} {rule.action} {rule.resource}"
    if rule.condition is not None:
        text += f" if {rule.condition}"
    if len(rule.role_path) > 1:
        text += f" (through {' → '.join(rule.role_path)})"
    return text if rule.note is None else f"{text}: {rule.note}"


def describe_step_up(step_up: StepUp) -> str:
    """Return which sign-in is meant, in words."""
    text = f"a sign-in at {' or '.join(step_up.acr_values)}"
    if step_up.amr_values:
        text += f" by {' and '.join(step_up.amr_values)}"
    return text if step_up.max_age is None else f"{text}, at most {step_up.max_age} s old"


def place_of(source: Source | None, *, base: bool) -> str | None:
    """Return where a rule stands, relative to the policy root of its tenant; base rules say so."""
    if source is None:
        return None
    text = str(source)
    return f"{BASE_SLUG}/{text}" if base and not text.startswith(f"{BASE_SLUG}/") else text


class _Reading:
    """Turns row positions into explained rules for one subject."""

    def __init__(self, snapshot: Snapshot, facts: Facts, now: datetime, auth: Auth | None) -> None:
        self._snapshot = snapshot
        self._facts = facts
        self._now = now.timestamp()
        self._demanding = snapshot.mfa_roles if auth is not None and auth.is_weak else frozenset[str]()

    def roles(self) -> tuple[set[str], set[str]]:
        """Return the names the subject reaches, itself left out, and those that its sign-in does not bring."""
        if self._facts.barred is not None:
            return set(), set()
        subject, grants = self._facts.subject, self._facts.record.grants
        reached, _ = self._snapshot.hierarchy.closure(subject, grants, self._now)
        active, _ = self._snapshot.hierarchy.closure(subject, grants, self._now, self._demanding)
        return active - {subject}, reached - active

    def rules(self, positions: Sequence[int], notes: dict[int, str]) -> tuple[ExplainedRule, ...]:
        """Return at most 50 rules."""
        return tuple(self._rule(position, notes.get(position)) for position in positions[:MAX_EXPLAINED])

    def _rule(self, position: int, note: str | None) -> ExplainedRule:
        rule: Rule = self._snapshot.rules[position]
        path = self._snapshot.hierarchy.path(self._facts.subject, self._facts.record.grants, rule.subject, self._now)
        return ExplainedRule(
            rule.id,
            rule.effect,
            rule.subject,
            rule.action,
            rule.resource,
            rule.condition,
            rule.owner,
            rule.base,
            rule.source,
            path,
            note,
        )


def _counting(snapshot: Snapshot, outcomes: Outcomes) -> tuple[list[int], list[int]]:
    """Return the allows and denies that apply; under a priority effect the first of them alone."""
    allows = [match.position for match in outcomes.allows]
    denies = [match.position for match in outcomes.denies]
    if snapshot.model.effect is not PolicyEffect.PRIORITY:
        return allows, denies
    first = first_match(snapshot, outcomes)
    decides = [] if first is None else [first.position]
    return [each for each in decides if each in allows], [each for each in decides if each in denies]


def _would_grant(snapshot: Snapshot, facts: Facts, request: EvaluationRequest) -> list[int]:
    """Return allow rows that take this resource and action, of subjects that this subject is not, or is not now."""
    allowing = allowing_names(facts, request.auth)
    return [
        position
        for position in snapshot.candidates(None, request.resource.ref, request.action.name)
        if snapshot.rules[position].effect is Effect.ALLOW and snapshot.subject_key(position) not in allowing
    ]


def _summary(
    state: StateView,
    request: EvaluationRequest,
    decision: Decision,
    outcomes: Outcomes,
    *,
    denied: bool,
    others: Sequence[int],
) -> str:
    snapshot = state.snapshot
    question = f"{request.subject.ref} {request.action.name} {request.resource.ref} in {snapshot.slug}"
    by_priority = snapshot.model.effect is PolicyEffect.PRIORITY
    if state.head.status is not TenantStatus.ACTIVE:
        return f"denied: {question}: the tenant is {state.head.status.value}"
    barred = state.subjects[request.subject.ref].barred
    if barred is not None:
        return f"denied: {question}: the subject's account is {barred.value}, and such an account may do nothing"
    if decision.allowed:
        return f"allowed: {question}"
    if by_priority and outcomes.errors:
        return f"denied: {question}: a condition could not be evaluated, which under a priority effect denies"
    if denied and by_priority:
        return f"denied: {question}: the first rule that applies, by priority, denies"
    if denied:
        return f"denied: {question}: a deny rule applies, and a deny overrides every allow"
    if outcomes.errors:
        return f"denied: {question}: a condition could not be evaluated"
    if any(snapshot.rules[position].effect is Effect.ALLOW for position in outcomes.unmet):
        return f"denied: {question}: a rule would allow it, but its condition is false"
    facts = state.subjects[request.subject.ref]
    if others and any(snapshot.subject_key(position) in facts.names for position in others):
        return f"denied: {question}: a role would allow it, but it demands a second factor"
    if others:
        return f"denied: {question}: rules allow it to others, but not to any role of this subject"
    return f"denied: {question}: no rule names this action on this resource"
