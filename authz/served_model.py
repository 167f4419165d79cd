"""What the compiler hands to snapshots: how each request value selects rows of a served model."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class PolicyEffect(StrEnum):
    """The effect expressions that Casbin knows."""

    ALLOW_OVERRIDE = "some(where (p.eft == allow))"
    DENY_OVERRIDE = "!some(where (p.eft == deny))"
    ALLOW_AND_DENY = "some(where (p.eft == allow)) && !some(where (p.eft == deny))"
    PRIORITY = "priority(p.eft) || deny"
    SUBJECT_PRIORITY = "subjectPriority(p.eft) || deny"


@dataclass(frozen=True, slots=True)
class ColumnMatch:
    """How a request value `r.x` selects rows by their column `p.x`; the ways are alternatives (or).

    With none set, the column cannot be indexed: every row is a candidate and the residual decides.
    """

    exact: bool = False
    """`r.x == p.x`"""
    star: bool = False
    """`p.x == "*"`"""
    prefix: bool = False
    """`keyMatch(r.x, p.x)`: `p.x` up to its first `*` is a prefix; without `*` it is exact."""
    roles: str | None = None
    """`g(r.x, p.x, r.dom)` (or `g2`): reachable through that role graph, the name itself included."""

    @property
    def indexed(self) -> bool:
        """Whether this column narrows the candidates."""
        return self.exact or self.star or self.prefix or self.roles is not None


Residual = Callable[[str, str, str, str, str, str, str, str], bool]
"""`(r_sub, r_dom, r_obj, r_act, p_sub, p_dom, p_obj, p_act) -> bool`; may raise, which is an error of the rule."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that is fit to be served: request `sub, dom, obj, act`, policy columns from a closed set.

    `columns` are the names of the policy definition in order, each of `sub, dom, obj, act, eft, cond, priority`.
    `residual` is what the index cannot decide, or None when it decides all. `notes` say what could not be indexed.
    """

    digest: str
    effect: PolicyEffect
    columns: tuple[str, ...]
    subject: ColumnMatch
    resource: ColumnMatch
    action: ColumnMatch
    residual: Residual | None = None
    notes: tuple[str, ...] = ()
