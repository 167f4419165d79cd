"""What rows need of a model: without it they could not be served, or would silently mean something else."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from authz.policy_files.columns import PolicyColumns
from authz.rules import Effect, Rule


class Need(StrEnum):
    """What rows may ask of a model; a closed set, which migration 0004 counts by these names."""

    CONDITION = "condition"
    DENY = "deny"
    PRIORITY = "priority"
    NO_PRIORITY = "no-priority"
    G = "g"
    G2 = "g2"


@dataclass(frozen=True, slots=True)
class StoredNeed:
    """How many stored rows of how many tenants need something; `example` is the slug of one of them."""

    need: Need
    rows: int
    tenants: int
    example: str


def needs_of(rule: Rule) -> Iterator[Need]:
    """Yield what a rule needs."""
    if rule.condition is not None:
        yield Need.CONDITION
    if rule.effect is Effect.DENY:
        yield Need.DENY
    yield Need.NO_PRIORITY if rule.priority is None else Need.PRIORITY


def lack(need: Need, columns: PolicyColumns) -> str | None:
    """Return what a model with these columns lacks for `need`, as a clause, or None."""
    met, clause = _TESTS[need]
    return None if met(columns) else clause


def offers_as_much(columns: PolicyColumns, others: PolicyColumns) -> bool:
    """Whether whatever fits a model with the other columns fits one with these."""
    return all(lack(need, columns) is None for need in Need if lack(need, others) is None)


def unmet(needs: Iterable[StoredNeed], columns: PolicyColumns) -> str | None:
    """Return why stored rows keep a model with these columns from being taken, or None."""
    faults = [
        f"{clause}, but {_ROWS[found.need]} are stored: {found.rows} ({_where(found)})"
        for found in needs
        if (clause := lack(found.need, columns)) is not None
    ]
    return "; ".join(faults) or None


def _where(found: StoredNeed) -> str:
    return f"in `{found.example}`" if found.tenants == 1 else f"in {found.tenants} tenants, `{found.example}` is one"


_TESTS: Mapping[Need, tuple[Callable[[PolicyColumns], bool], str]] = {
    Need.CONDITION: (lambda columns: "cond" in columns.rule, "the model has no column `cond`"),
    Need.DENY: (lambda columns: "eft" in columns.rule, "the model has no column `eft`"),
    Need.PRIORITY: (lambda columns: "priority" in columns.rule, "the model has no column `priority`"),
    Need.NO_PRIORITY: (lambda columns: "priority" not in columns.rule, "the model needs a priority"),
    Need.G: (lambda columns: "g" in columns.links, "the model defines no `g`"),
    Need.G2: (lambda columns: "g2" in columns.links, "the model defines no `g2`"),
}

_ROWS: Mapping[Need, str] = {
    Need.CONDITION: "rules with a condition",
    Need.DENY: "deny rules",
    Need.PRIORITY: "rules with a priority",
    Need.NO_PRIORITY: "rules without one",
    Need.G: "links of roles and groups",
    Need.G2: "links of `g2`",
}
