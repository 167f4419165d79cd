"""Which sign-in would turn a deny into an allow: how strong, by which method, and how fresh.

The ways in which people sign in are few, so each is tried on the rows at hand. Only rows whose conditions ask about the
sign-in are evaluated again; and an age is looked for only where it is known at which ages those conditions may turn
(`authz/auth_conditions.py`). What is told is sound: whoever signs in as told is allowed, as far as the sign-in goes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from authz.condition_cost import Allowance
from authz.conditions import Condition
from authz.decision import StepUp
from authz.outcomes import Outcomes, allowing_names, effect_of, outcomes_of
from authz.request import AAL1, AAL2, ACR_VALUES, Auth, EvaluationRequest, Properties
from authz.rules import Effect
from authz.snapshot import Facts, Snapshot

MAX_ROWS = 100
"""With more rows that ask about the sign-in, no answer is looked for: each is evaluated some thirty times."""

MAX_AGES = 4
"""So many ages at which answers may change are tried; what is told of later ones is the last that was tried."""

_LONG = timedelta(days=1)
_SECOND = timedelta(seconds=1)
_NEVER = -1.0
_ALWAYS = math.inf


@dataclass(frozen=True, slots=True)
class Way:
    """One way to sign in: the level that it reaches, and its methods (RFC 8176)."""

    acr: str
    amr: tuple[str, ...]
    method: str


WAYS = (
    Way(AAL1, ("pwd",), "pwd"),
    Way(AAL2, ("pwd", "otp", "mfa"), "otp"),
    Way(AAL2, ("pwd", "hwk", "mfa"), "hwk"),
)
"""A recovery code is no way: what it signs in may do nothing before a factor is enrolled or confirmed."""


def find_step_up(
    snapshot: Snapshot,
    facts: Facts,
    stored: Properties,
    request: EvaluationRequest,
    now: datetime,
    *,
    looking: Allowance,
) -> StepUp | None:
    """Return the sign-in that turns a deny into an allow, or None when there is none, or it takes too much to find.

    Args:
        snapshot: The rules.
        facts: The subject, with any state but a barred account's.
        stored: Stored properties of the resource, if any condition asks for them.
        request: What was denied.
        now: The time of the decision.
        looking: The work that conditions may do meanwhile.
    """
    trial = _Trial(snapshot, facts, stored, request, now, looking=looking)
    if not trial.is_worthwhile:
        return None
    longest = {way: trial.longest(way) for way in WAYS}
    ages = {level: min(longest[way] for way in WAYS if way.acr == level) for level in ACR_VALUES}
    for place, level in enumerate(ACR_VALUES):
        if ages[level] >= 0:
            stronger = (other for other in ACR_VALUES[place + 1 :] if ages[other] >= ages[level])
            return StepUp((level, *stronger), _seconds(ages[level]))
    for way in WAYS:
        if longest[way] >= 0:
            return StepUp((way.acr,), _seconds(longest[way]), (way.method,))
    return None


class _Trial:
    """Asks one question again, as if the subject had signed in otherwise."""

    def __init__(
        self,
        snapshot: Snapshot,
        facts: Facts,
        stored: Properties,
        request: EvaluationRequest,
        now: datetime,
        *,
        looking: Allowance,
    ) -> None:
        self._snapshot = snapshot
        self._facts = facts
        self._stored = stored
        self._request = request
        self._now = now
        self._looking = looking
        self._asking: list[int] = []
        self._others: list[int] = []
        self._edges: set[timedelta] | None = set()
        self._asked: set[str] = set()
        self._outcomes_of_others: dict[bool, Outcomes] = {}
        self._found: dict[tuple[object, ...], float] = {}
        for position in snapshot.candidates(facts.names, request.resource.ref, request.action.name):
            text = snapshot.rules[position].condition
            condition = None if text is None else snapshot.conditions[text]
            if not isinstance(condition, Condition) or condition.auth is None:
                self._others.append(position)
                continue
            self._asking.append(position)
            self._asked |= condition.auth.members
            ages = condition.auth.ages
            self._edges = None if ages is None or self._edges is None else self._edges.union(ages)

    @property
    def is_worthwhile(self) -> bool:
        """Whether a sign-in can make a difference, and few enough rows ask about it."""
        auth = self._request.auth
        inactive = auth is not None and auth.is_weak and self._facts.weak_names is not None
        return (bool(self._asking) or inactive) and len(self._asking) <= MAX_ROWS

    def longest(self, way: Way) -> float:
        """Return the seconds for which such a sign-in allows: whole ones, `_ALWAYS`, or `_NEVER`."""
        # Ways that differ in nothing that is asked for are tried once.
        seen = (
            way.acr if "acr" in self._asked or self._facts.weak_names is not None else None,
            way.amr if "amr" in self._asked else None,
        )
        if seen not in self._found:
            self._found[seen] = self._longest(way)
        return self._found[seen]

    def _longest(self, way: Way) -> float:
        if not self._allows(way, timedelta()):
            return _NEVER
        if self._edges is None:
            return 0
        # INVARIANT: between two edges no condition changes its answer, so one age stands for all of them.
        reached = timedelta()
        edges = sorted(edge for edge in self._edges if edge > reached)
        for edge in edges[:MAX_AGES]:
            if not self._allows(way, (reached + edge) / 2):
                return reached // _SECOND
            if not self._allows(way, edge):
                return -(-edge // _SECOND) - 1
            reached = edge
        if len(edges) > MAX_AGES or not self._allows(way, reached + _LONG):
            return reached // _SECOND
        return _ALWAYS

    def _allows(self, way: Way, age: timedelta) -> bool:
        auth = Auth(way.acr)
        by_all = allowing_names(self._facts, auth) is self._facts.names
        others = self._outcomes_of_others.get(by_all)
        if others is None:
            others = self._outcomes_of_others[by_all] = self._outcomes(self._others, auth)
        asking = self._outcomes(self._asking, Auth(way.acr, way.amr, self._now - age))
        return effect_of(self._snapshot, others.joined(asking)) is Effect.ALLOW

    def _outcomes(self, positions: Sequence[int], auth: Auth) -> Outcomes:
        return outcomes_of(
            self._snapshot,
            self._facts,
            self._stored,
            replace(self._request, auth=auth),
            self._now,
            whole=self._looking,
            positions=positions,
        )


def _seconds(age: float) -> int | None:
    return None if age == _ALWAYS else int(age)
