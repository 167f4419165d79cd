"""What comes of the rows that a question meets: which apply, which do not, and which could not be evaluated."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from authz.condition_cost import Allowance
from authz.conditions import Activation, Condition, activation_of
from authz.errors import ConditionError, ModelError
from authz.request import Auth, EvaluationRequest, Properties
from authz.rules import Effect
from authz.served_model import PolicyEffect
from authz.snapshot import Facts, Snapshot


@dataclass(frozen=True, slots=True)
class Matched:
    """A row that applies: its matcher holds, and its condition is true or (for a deny) in error."""

    position: int
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What came of every candidate row of a question. Denies take no part where the model's effect ignores them."""

    allows: tuple[Matched, ...]
    denies: tuple[Matched, ...]
    errors: tuple[tuple[int, str], ...]
    """Rows whose condition or matcher could not be evaluated, with the reason; allows among them do not match."""
    unmet: tuple[int, ...]
    """Rows whose condition is false."""

    def joined(self, other: "Outcomes") -> "Outcomes":
        """Return what came of the rows of both."""
        return Outcomes(
            self.allows + other.allows,
            self.denies + other.denies,
            self.errors + other.errors,
            self.unmet + other.unmet,
        )


def outcomes_of(
    snapshot: Snapshot,
    facts: Facts,
    stored: Properties,
    request: EvaluationRequest,
    now: datetime,
    *,
    whole: Allowance | None = None,
    positions: Iterable[int] | None = None,
) -> Outcomes:
    """Evaluate every candidate row of a question.

    Args:
        snapshot: The rules.
        facts: The subject.
        stored: Stored properties of the resource; they win over those of the request, name by name.
        request: The question.
        now: The time of the decision.
        whole: The work that the conditions of a batch may still do.
        positions: Those of the candidates that are looked at; None for all of them.
    """
    allows: list[Matched] = []
    denies: list[Matched] = []
    errors: list[tuple[int, str]] = []
    unmet: list[int] = []
    conditions = _Conditions(snapshot, facts, stored, request, now, whole=whole)
    only_allows = snapshot.model.effect is PolicyEffect.ALLOW_OVERRIDE
    resource, action = request.resource.ref, request.action.name
    allowing = allowing_names(facts, request.auth)
    if positions is None:
        positions = snapshot.candidates(facts.names, resource, action)
    for position in positions:
        rule = snapshot.rules[position]
        if only_allows and rule.effect is Effect.DENY:
            continue
        # SECURITY: a role that is not active gives nothing; what it denies stays denied, so that a weaker sign-in
        # never allows what a stronger one would not.
        if (
            rule.effect is Effect.ALLOW
            and allowing is not facts.names
            and snapshot.subject_key(position) not in allowing
        ):
            continue
        error: str | None = None
        try:
            if not snapshot.residual_holds(position, facts.subject, resource, action):
                continue
            if rule.condition is not None and not conditions.holds(rule.condition):
                unmet.append(position)
                continue
        except (ConditionError, ModelError) as failure:
            error = str(failure)
            errors.append((position, error))
        # INVARIANT: an error makes an allow rule not match and a deny rule match.
        if rule.effect is Effect.DENY:
            denies.append(Matched(position, error))
        elif error is None:
            allows.append(Matched(position))
    return Outcomes(tuple(allows), tuple(denies), tuple(errors), tuple(unmet))


def allowing_names(facts: Facts, auth: Auth | None) -> frozenset[str]:
    """Return the names whose allows count: all, but for a sign-in that does not bring every role."""
    return facts.names if auth is None or facts.weak_names is None or not auth.is_weak else facts.weak_names


def first_match(snapshot: Snapshot, outcomes: Outcomes) -> Matched | None:
    """Return the row that decides under a priority effect: the lowest number, then policy order (base, files, API)."""
    return min(
        (*outcomes.allows, *outcomes.denies),
        key=lambda match: (snapshot.rules[match.position].priority or 0, match.position),
        default=None,
    )


def effect_of(snapshot: Snapshot, outcomes: Outcomes) -> Effect:
    """Return what the outcomes of all candidates come to."""
    if snapshot.model.effect is PolicyEffect.PRIORITY:
        first = None if outcomes.errors else first_match(snapshot, outcomes)
        return Effect.DENY if first is None else snapshot.rules[first.position].effect
    return Effect.ALLOW if outcomes.allows and not outcomes.denies else Effect.DENY


class _Conditions:
    """Evaluates conditions for one question; the activation is made once, and only if one is asked for."""

    __slots__ = ("_activation", "_facts", "_known", "_now", "_request", "_snapshot", "_stored", "_whole")

    def __init__(
        self,
        snapshot: Snapshot,
        facts: Facts,
        stored: Properties,
        request: EvaluationRequest,
        now: datetime,
        *,
        whole: Allowance | None,
    ) -> None:
        self._snapshot = snapshot
        self._facts = facts
        self._stored = stored
        self._request = request
        self._now = now
        self._whole = whole
        self._activation: Activation | ConditionError | None = None
        self._known: dict[str, bool | ConditionError] = {}

    def holds(self, text: str) -> bool:
        """Return whether the condition is true; raises `ConditionError` when it is in error."""
        if text not in self._known:
            try:
                self._known[text] = self._evaluate(text)
            except ConditionError as error:
                self._known[text] = error
        outcome = self._known[text]
        if isinstance(outcome, ConditionError):
            raise outcome
        return outcome

    def _evaluate(self, text: str) -> bool:
        condition: Condition | ConditionError = self._snapshot.conditions[text]
        if isinstance(condition, ConditionError):
            raise condition
        if self._activation is None:
            # Values that no condition may see are looked at once, not once for each condition.
            try:
                self._activation = self._seen()
            except ConditionError as error:
                self._activation = error
        if isinstance(self._activation, ConditionError):
            raise self._activation
        return condition.evaluate(self._activation)

    def _seen(self) -> Activation:
        request = self._request
        subject, resource = request.subject, request.resource
        return activation_of(
            replace(subject, properties={**subject.properties, **self._facts.properties}),
            request.action,
            replace(resource, properties={**resource.properties, **self._stored}),
            request.context,
            self._now,
            auth=request.auth,
            whole=self._whole,
        )
