"""Casbin's effect expressions over matched rows, and which rows determined the outcome.

PyCasbin stops at the first row that settles an effect; rows behind it are never evaluated, so that an error there does
not count. Rows are taken in policy order here too, and an error counts exactly when PyCasbin would have met it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from authz.rules import Effect
from authz.served_model import PolicyEffect

INDETERMINATE_WORD = "indeterminate"


class RowEffect(Enum):
    """What a matched row says."""

    ALLOW = "allow"
    DENY = "deny"
    NOTHING = "indeterminate"


@dataclass(frozen=True, slots=True)
class RowOutcome:
    """A row that matched, or whose evaluation failed: `error` says why."""

    position: int
    effect: RowEffect = RowEffect.NOTHING
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Settled:
    """The outcome; with an `error` there is none, and nothing is allowed."""

    allowed: bool
    determining: tuple[int, ...] = ()
    error: str | None = None


@dataclass(slots=True)
class _Tally:
    allows: list[int] = field(default_factory=list)
    denies: list[int] = field(default_factory=list)
    settled: bool = False
    first: RowOutcome | None = None


def row_effect(word: str | None) -> RowEffect:
    """Return what a row's `eft` says; rows without that column allow.

    SECURITY: PyCasbin reads a misspelt word as no effect at all, so that a misspelt deny allows. Here any word but
    `allow` and the explicit `indeterminate` denies.
    """
    if word is None or word == Effect.ALLOW.value:
        return RowEffect.ALLOW
    return RowEffect.NOTHING if word == INDETERMINATE_WORD else RowEffect.DENY


def settle(effect: PolicyEffect, outcomes: Iterable[RowOutcome]) -> Settled:
    """Return the outcome of `effect` over rows in policy order; rows that do not match are left out."""
    tally = _Tally()
    for outcome in outcomes:
        if outcome.error is not None:
            if not tally.settled:
                return Settled(allowed=False, error=outcome.error)
            continue
        _count(effect, tally, outcome)
        if tally.settled and effect in {PolicyEffect.PRIORITY, PolicyEffect.SUBJECT_PRIORITY}:
            break
    return _conclude(effect, tally)


def _count(effect: PolicyEffect, tally: _Tally, outcome: RowOutcome) -> None:
    if outcome.effect is RowEffect.ALLOW:
        tally.allows.append(outcome.position)
    elif outcome.effect is RowEffect.DENY:
        tally.denies.append(outcome.position)
    else:
        return
    if tally.first is None:
        tally.first = outcome
    match effect:
        case PolicyEffect.ALLOW_OVERRIDE:
            tally.settled = bool(tally.allows)
        case PolicyEffect.DENY_OVERRIDE | PolicyEffect.ALLOW_AND_DENY:
            tally.settled = bool(tally.denies)
        case PolicyEffect.PRIORITY | PolicyEffect.SUBJECT_PRIORITY:
            tally.settled = True


def _conclude(effect: PolicyEffect, tally: _Tally) -> Settled:
    match effect:
        case PolicyEffect.ALLOW_OVERRIDE:
            # A deny row has no say under this effect, so it determines nothing.
            return Settled(bool(tally.allows), tuple(tally.allows))
        case PolicyEffect.DENY_OVERRIDE:
            return Settled(not tally.denies, tuple(tally.denies or tally.allows))
        case PolicyEffect.ALLOW_AND_DENY:
            return Settled(bool(tally.allows) and not tally.denies, tuple(tally.denies or tally.allows))
        case PolicyEffect.PRIORITY | PolicyEffect.SUBJECT_PRIORITY:
            if tally.first is None:
                return Settled(allowed=False)
            return Settled(tally.first.effect is RowEffect.ALLOW, (tally.first.position,))
