"""Password rules that NIST SP 800-63B-4 advises against, for tenants whose auditors want them: a closed set.

They stand in the settings as `{rule, reason}` and nowhere else, so that none is there unmarked.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tenancy.tenant_settings import Deviation

CHARACTER_CLASSES: Final = ("lower", "upper", "digit", "symbol")
MIN_AGE_DAYS, MAX_AGE_DAYS = 30, 3650
MAX_HISTORY = 10
"""Each remembered password costs a hash whenever a new one is chosen."""


@dataclass(frozen=True, slots=True)
class PasswordDeviations:
    """What the rules of a tenant ask for beyond the standard."""

    classes: frozenset[str] = frozenset()
    """Of `CHARACTER_CLASSES`: one character of each must be there."""
    max_age: timedelta | None = None
    """How old a password may grow before its owner must choose another one."""
    history: int = 0
    """How many of the last passwords, the present one included, may not be chosen again."""


def read_deviation(rule: str) -> PasswordDeviations:
    """Return what one rule asks for; raises ValueError that says what may be written."""
    name, _, value = rule.partition(":")
    match name:
        case "composition":
            classes = value.split(",")
            if value and set(classes) <= set(CHARACTER_CLASSES) and len(classes) == len(set(classes)):
                return PasswordDeviations(classes=frozenset(classes))
            raise ValueError(f"write `composition:` and some of {', '.join(CHARACTER_CLASSES)}")
        case "max_age_days":
            days = _number(value, MIN_AGE_DAYS, MAX_AGE_DAYS, f"{name}:90")
            return PasswordDeviations(max_age=timedelta(days=days))
        case "history":
            return PasswordDeviations(history=_number(value, 1, MAX_HISTORY, f"{name}:5"))
        case _:
            raise ValueError("is no rule: there are `composition:…`, `max_age_days:…` and `history:…`")


def read_deviations(deviations: Iterable["Deviation"]) -> PasswordDeviations:
    """Return what all rules ask for together: of each the strictest."""
    classes: frozenset[str] = frozenset()
    max_age: timedelta | None = None
    history = 0
    for deviation in deviations:
        asked = read_deviation(deviation.rule)
        classes |= asked.classes
        ages = [age for age in (max_age, asked.max_age) if age is not None]
        max_age = min(ages, default=None)
        history = max(history, asked.history)
    return PasswordDeviations(classes, max_age, history)


def _number(text: str, low: int, high: int, example: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and low <= int(text) <= high):  # noqa: PLR2004
        raise ValueError(f"write a number from {low} to {high}, as in `{example}`")
    return int(text)
