"""What is answered: a decision, why, and what could not be evaluated."""

from dataclasses import dataclass
from enum import StrEnum
from typing import NoReturn

from authz.rules import Effect, Owner, RuleId, Source


class Reason(StrEnum):
    """Why a decision came out as it did; a closed set, used as a metric label."""

    RULE = "rule"
    NO_MATCH = "no_match"
    CONDITION_ERROR = "condition_error"
    TENANT_SUSPENDED = "tenant_suspended"
    ACCOUNT_DISABLED = "account_disabled"
    ACCOUNT_DELETED = "account_deleted"


@dataclass(frozen=True, slots=True)
class DeterminingRule:
    """A rule that settled a decision, and how the subject reached it.

    `role_path` runs from the subject to the rule's subject (`user:alice`, `role:editor`, `role:viewer`); it has one
    element when the rule names the subject or a pattern of it.
    """

    id: RuleId
    effect: Effect
    owner: Owner
    base: bool
    source: Source | None
    role_path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StepUp:
    """Signing in like this turns a deny into an allow (RFC 9470 section 3 names the first two).

    Any level of `acr_values` does, weakest first, if the sign-in used all of `amr_values` and is at most `max_age`
    seconds old (0: signing in now; None: at any age).
    """

    acr_values: tuple[str, ...]
    max_age: int | None = None
    amr_values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """One answer. Compare `effect`; a Decision has no truth value.

    `step_up` says how the subject of a deny would have to sign in, where that was looked for and found.
    """

    effect: Effect
    reason: Reason
    revision: int
    determining: tuple[DeterminingRule, ...] = ()
    errors: tuple[str, ...] = ()
    step_up: StepUp | None = None

    def __bool__(self) -> NoReturn:
        """SECURITY: `if decision:` is how a denial text, or a tuple, becomes an allow."""
        raise TypeError("compare decision.effect; a Decision has no truth value")

    @property
    def allowed(self) -> bool:
        """True only for an allow."""
        return self.effect is Effect.ALLOW
