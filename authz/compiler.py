"""From a parsed `model.conf` to a `ServedModel`, or the reason why it is not fit to be served.

A served matcher is a conjunction. Each conjunct either says how one request value selects rows (those become index
keys) or is a residual predicate over the four request and row values. Anything else is refused: nothing is guessed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from authz.errors import ModelError
from authz.expressions import compile_positional
from authz.matcher import parse_matcher
from authz.matcher_text import MatcherError
from authz.matching import MATCHING_FUNCTIONS
from authz.served_model import ColumnMatch, PolicyEffect, Residual, ServedModel
from authz.syntax_tree import (
    And,
    Call,
    Cell,
    Comparison,
    Expression,
    Literal,
    Or,
    PolicyValue,
    RequestValue,
    Scope,
    children,
    mentions_policy,
    request_names,
)

SERVED_REQUEST = ("sub", "dom", "obj", "act")
SERVED_COLUMNS = frozenset({"sub", "dom", "obj", "act", "eft", "cond", "priority"})
_REQUIRED_COLUMNS = ("sub", "obj", "act")


@dataclass(frozen=True, slots=True)
class RoleDefinition:
    """A `g` line: how many columns its rows need, and whether links carry conditions, `(_, _)`."""

    columns: int
    conditional: bool = False


@dataclass(frozen=True, slots=True)
class ParsedModel:
    """A `model.conf` as PyCasbin's own parser reads it, with the expressions still as written.

    Keys are `r`, `r2`, …; values of requests and policies are the names in order, without prefix.
    """

    requests: Mapping[str, tuple[str, ...]]
    policies: Mapping[str, tuple[str, ...]]
    roles: Mapping[str, RoleDefinition]
    effects: Mapping[str, str]
    matchers: Mapping[str, str]


def policy_effect(text: str) -> PolicyEffect:
    """Return the effect expression that PyCasbin reads in `text`; it compares letter by letter.

    Raises:
        ModelError: PyCasbin knows no such effect.
    """
    normal = text.partition("#")[0].strip().replace("p_eft", "p.eft")
    try:
        return PolicyEffect(normal)
    except ValueError as error:
        known = "; ".join(effect.value for effect in PolicyEffect)
        raise ModelError(f"unknown policy effect `{text}`; Casbin knows: {known}", "e") from error


def compile_served(parsed: ParsedModel, digest: str) -> ServedModel:
    """Return the served form of a model.

    Raises:
        ModelError: why the model is not fit to be served.
    """
    columns = _check_definitions(parsed)
    effect = _served_effect(parsed)
    scope = Scope("r", SERVED_REQUEST, "p", columns, frozenset(parsed.roles))
    tree = _parse(parsed.matchers["m"], scope)
    try:
        return _Splitter(parsed, columns).split(tree, ServedModel(digest, effect, columns, *(ColumnMatch(),) * 3))
    except ModelError as error:
        raise ModelError(str(error), "m") from error


def _parse(text: str, scope: Scope) -> Expression:
    try:
        return parse_matcher(text, scope)
    except MatcherError as error:
        raise ModelError(f"the matcher cannot be compiled: {error}", "m") from error


def _check_definitions(parsed: ParsedModel) -> tuple[str, ...]:
    for kind, found in (
        ("request", parsed.requests),
        ("policy", parsed.policies),
        ("effect", parsed.effects),
        ("matcher", parsed.matchers),
    ):
        if len(found) != 1:
            extra = next((key for key in found if key != kind[0]), "")
            message = f"a served model has one {kind} definition, this one has {', '.join(found) or 'none'}"
            raise ModelError(message, extra)
    if parsed.requests["r"] != SERVED_REQUEST:
        raise ModelError(f"a served request is `sub, dom, obj, act`, not `{', '.join(parsed.requests['r'])}`", "r")
    columns = parsed.policies["p"]
    if len(set(columns)) != len(columns):
        raise ModelError("a column of the policy definition comes twice", "p")
    if unknown := sorted(set(columns) - SERVED_COLUMNS):
        raise ModelError(f"served policies do not have the columns: {', '.join(unknown)}", "p")
    if missing := [name for name in _REQUIRED_COLUMNS if name not in columns]:
        raise ModelError(f"the policy definition lacks the columns: {', '.join(missing)}", "p")
    for name, role in parsed.roles.items():
        if role.conditional or role.columns not in {2, 3}:
            raise ModelError(f"`{name}` is neither `_, _` nor `_, _, _`: links with conditions are not served", name)
        if name not in {"g", "g2"}:
            raise ModelError(f"`{name}` is not served: `g` is for subjects, `g2` for resources", name)
    return columns


def _served_effect(parsed: ParsedModel) -> PolicyEffect:
    effect = policy_effect(parsed.effects["e"])
    if effect is PolicyEffect.DENY_OVERRIDE:
        message = "the effect allows whatever no rule denies, unknown tenants included: not fit to be served"
        raise ModelError(message, "e")
    if effect is PolicyEffect.SUBJECT_PRIORITY:
        raise ModelError("subjectPriority depends on the order in which links are loaded: not fit to be served", "e")
    return effect


class _Splitter:
    """Sorts the conjuncts of a matcher into index keys and residual."""

    def __init__(self, parsed: ParsedModel, columns: tuple[str, ...]) -> None:
        self._roles = parsed.roles
        self._columns = columns
        self._found: dict[str, ColumnMatch] = {}
        self._residual: list[Expression] = []
        self._notes: list[str] = []
        self._tenant_bound = False

    def split(self, tree: Expression, model: ServedModel) -> ServedModel:
        for conjunct in _conjuncts(tree):
            self._sort(conjunct)
        for name in ("sub", "obj", "act"):
            if name not in self._found and not self._restricted(name):
                raise ModelError(f"no clause binds r.{name} to p.{name}: every rule would hold for every {name}")
        if "dom" in self._columns and not self._tenant_bound:
            raise ModelError('no clause binds p.dom to the tenant: write (p.dom == r.dom || p.dom == "*")')
        return replace(
            model,
            subject=self._found.get("sub", ColumnMatch()),
            resource=self._found.get("obj", ColumnMatch()),
            action=self._found.get("act", ColumnMatch()),
            residual=self._compile_residual(),
            notes=tuple(self._notes),
        )

    def _sort(self, conjunct: Expression) -> None:
        self._check(conjunct)
        alternatives = conjunct.operands if isinstance(conjunct, Or) else (conjunct,)
        if self._is_tenant_clause(alternatives):
            self._tenant_bound = True
            return
        if _ordered(conjunct) == _OWN_TENANT:
            # Base rows carry `*` and are left out by this clause, so it stays to be evaluated.
            self._tenant_bound = True
            self._notes.append("rules of domain `*` never match: p.dom == r.dom leaves them out")
        if not mentions_policy(conjunct) and _calls(conjunct):
            raise ModelError("a clause that asks g() about the request alone is not served")
        column, match = self._column(alternatives)
        if match is not None and column not in self._found:
            self._found[column] = match
            return
        if any(name in self._roles for name in _calls(conjunct)):
            raise ModelError("g() and g2() are served only as a clause of one column, such as g(r.sub, p.sub, r.dom)")
        self._residual.append(conjunct)
        self._note(conjunct)

    def _note(self, conjunct: Expression) -> None:
        for name in sorted(request_names(conjunct) - {"dom"}):
            self._notes.append(f"a clause over {name} cannot be indexed and is evaluated for every candidate row")

    def _check(self, conjunct: Expression) -> None:
        if isinstance(conjunct, Cell):
            raise ModelError("eval() is not served: rules would be programs")
        if isinstance(conjunct, PolicyValue) and conjunct.name not in SERVED_REQUEST:
            raise ModelError(f"a served matcher does not look at p.{conjunct.name}")
        if isinstance(conjunct, Call):
            self._check_call(conjunct)
        for child in children(conjunct):
            self._check(child)

    def _check_call(self, call: Call) -> None:
        if call.function == "timeMatch":
            raise ModelError("timeMatch is not served: use expires_at or a condition on `now`")
        if call.function == "keyMatch2" and (request_names(call) - {"act"}):
            raise ModelError("keyMatch2 reads `:` as a wildcard, so that `user:alice` would match any user: not served")

    def _is_tenant_clause(self, alternatives: Sequence[Expression]) -> bool:
        return {_ordered(one) for one in alternatives} == {_ordered(_OWN_TENANT), _ordered(_EVERY_TENANT)}

    def _restricted(self, name: str) -> bool:
        return any(name in request_names(conjunct) and mentions_policy(conjunct) for conjunct in self._residual)

    def _column(self, alternatives: Sequence[Expression]) -> tuple[str, ColumnMatch | None]:
        """Return the one column that all alternatives select by, and how; or None."""
        column, match = "", ColumnMatch()
        for alternative in alternatives:
            name, flags = self._way(alternative)
            if not flags or (column and name != column):
                return "", None
            if flags.get("roles") and match.roles and match.roles != flags["roles"]:
                return "", None
            column, match = name, replace(match, **flags)
        return column, match if column in _REQUIRED_COLUMNS else None

    def _way(self, clause: Expression) -> tuple[str, dict[str, Any]]:
        match _ordered(clause):
            case Comparison(operands=(RequestValue(name=asked), PolicyValue(name=held)), operators=("==",)):
                return (asked, {"exact": True}) if asked == held else ("", {})
            case Comparison(operands=(PolicyValue(name=held), Literal(value="*")), operators=("==",)):
                return held, {"star": True}
            case Call(function="keyMatch", arguments=(RequestValue(name=asked), PolicyValue(name=held))):
                return (asked, {"prefix": True}) if asked == held else ("", {})
            case Call(function=function) if function in self._roles:
                return self._role_way(function, clause)
        return "", {}

    def _role_way(self, function: str, clause: Expression) -> tuple[str, dict[str, Any]]:
        column = {"g": "sub", "g2": "obj"}[function]
        wanted: tuple[Expression, ...] = (RequestValue(column), PolicyValue(column))
        if self._roles[function].columns > len(wanted):
            wanted = (*wanted, RequestValue("dom"))
        if clause != Call(function, wanted):
            tenant = ", r.dom" if len(wanted) > 2 else ""  # noqa: PLR2004 - a third argument is the tenant
            raise ModelError(f"`{function}` is served as {function}(r.{column}, p.{column}{tenant}) only")
        return column, {"roles": function}

    def _compile_residual(self) -> Residual | None:
        if not self._residual:
            return None
        tree = self._residual[0] if len(self._residual) == 1 else And(tuple(self._residual))
        evaluate = compile_positional(tree, SERVED_REQUEST, SERVED_REQUEST, MATCHING_FUNCTIONS)

        def residual(*values: str) -> bool:
            found = evaluate(*values)
            if not isinstance(found, bool):
                raise TypeError("the matcher is neither true nor false")
            return found

        return residual


_OWN_TENANT: Expression = Comparison((RequestValue("dom"), PolicyValue("dom")), ("==",))
_EVERY_TENANT: Expression = Comparison((PolicyValue("dom"), Literal("*")), ("==",))


def _conjuncts(tree: Expression) -> list[Expression]:
    if isinstance(tree, And):
        return [conjunct for operand in tree.operands for conjunct in _conjuncts(operand)]
    return [tree]


def _ordered(clause: Expression) -> Expression:
    """Return `a == b` with the request value, or else the policy value, first."""
    if isinstance(clause, Comparison) and clause.operators == ("==",):
        left, right = clause.operands
        rank = {RequestValue: 0, PolicyValue: 1}
        if rank.get(type(right), 2) < rank.get(type(left), 2):
            return Comparison((right, left), ("==",))
    return clause


def _calls(expression: Expression) -> set[str]:
    found = {expression.function} if isinstance(expression, Call) else set()
    return found.union(*(_calls(child) for child in children(expression)))
