"""Answers positional Casbin requests for any model that compiles, as PyCasbin does, with all determining rows.

Rows keep their policy order, since effects with priority and the errors of single rows depend on it. A row that cannot
be evaluated makes the answer an error exactly when PyCasbin would have reached it. Not safe for use by several threads.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from authz.compiler import ParsedModel, policy_effect
from authz.effects import RowOutcome, row_effect, settle
from authz.errors import ModelError
from authz.expressions import EVALUATION_ERRORS, Evaluator, ExpressionError, Function, compile_expression
from authz.matcher import parse_cell, parse_matcher
from authz.matcher_text import MatcherError
from authz.matching import MATCHING_FUNCTIONS
from authz.policy_order import PolicyOrderError, order_rows
from authz.role_graph import Link, PatternMatcher, Reach, RoleGraph
from authz.row_index import RowIndex, build_index
from authz.served_model import PolicyEffect
from authz.syntax_tree import (
    And,
    Cell,
    Expression,
    Literal,
    Or,
    Refused,
    Scope,
    Unary,
    children,
    mentions_policy,
)

TIME_FORMAT = "%Y-%m-%d %H:%M:%S"


@dataclass(frozen=True, slots=True)
class PolicyRow:
    """One row of a policy: `kind` is `p`, `p2`, `g`, …; `source` says where it stands."""

    kind: str
    values: tuple[str, ...]
    source: str = ""


@dataclass(frozen=True, slots=True)
class RoleFunction:
    """`--function g2=role:keyMatch2`: names (`role`) or domains (`domain`) of a role definition are patterns."""

    definition: str
    side: str
    name: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A decision, and the sources of the rows that determined it."""

    decision: bool
    rules: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Unanswered:
    """No decision could be made; never an allow."""

    error: str


@dataclass(frozen=True, slots=True)
class Context:
    """Which definitions are asked: `r2`, `p2`, `e2`, `m2` where they exist, for the suffix `2`."""

    request: str
    policy: str
    effect: str
    matcher: str


def choose_context(model: ParsedModel, suffix: str) -> Context:
    """Return the definitions for a suffix; a definition that the model lacks falls back to the plain one.

    Raises:
        ModelError: no definition has the suffix, or the effects differ: PyCasbin always takes `e`, Casbin for Go `e2`.
    """
    wanted = Context(f"r{suffix}", f"p{suffix}", f"e{suffix}", f"m{suffix}")
    context = Context(
        wanted.request if wanted.request in model.requests else "r",
        wanted.policy if wanted.policy in model.policies else "p",
        wanted.effect if wanted.effect in model.effects else "e",
        wanted.matcher if wanted.matcher in model.matchers else "m",
    )
    if suffix and context.policy == "p" and context.matcher == "m" and context.request == "r":
        raise ModelError(f"the model has no definition with the suffix `{suffix}`")
    effect = policy_effect(model.effects["e"])
    other = model.effects[context.effect].replace(f"{wanted.policy}.eft", "p.eft").replace(f"{wanted.policy}_", "p_")
    if policy_effect(other) is not effect:
        raise ModelError(f"`{context.effect}` differs from `e`: PyCasbin ignores it, Casbin for Go does not")
    return context


class PositionalEngine:
    """One model and one policy, ready for requests.

    Args:
        functions: Matching functions of role definitions.
        context: Suffix of the definitions to use (`2` for `r2`, `p2`, `m2`).
        clock: Local time without zone, for `timeMatch`, which is an error without one.

    Raises:
        ModelError: the model cannot be compiled safely; the message says why.
    """

    def __init__(
        self,
        model: ParsedModel,
        rows: Sequence[PolicyRow],
        *,
        functions: Sequence[RoleFunction] = (),
        context: str = "",
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        chosen = choose_context(model, context)
        for names in (model.requests[chosen.request], model.policies[chosen.policy]):
            if len(set(names)) != len(names):
                raise ModelError(f"a name comes twice in the definition `{', '.join(names)}`")
        self._effect = policy_effect(model.effects["e"])
        self._clock = clock
        self._scope = Scope(
            chosen.request,
            model.requests[chosen.request],
            chosen.policy,
            model.policies[chosen.policy],
            frozenset(model.roles),
        )
        self._tree = parse_matcher(model.matchers[chosen.matcher], self._scope, lazy_names=True)
        self._reach: dict[tuple[str, object, str], Reach] = {}
        self._links: dict[tuple[str, object, object, str], bool] = {}
        self.problem: str | None = None
        """Why the policy cannot be loaded; every request is then unanswered."""
        self._graphs = self._build_graphs(model, rows, functions)
        self._functions: dict[str, Function] = {**MATCHING_FUNCTIONS, "timeMatch": self._time_match}
        self._functions.update({name: self._role_function(name) for name in self._graphs})
        self._cells: dict[str, Evaluator | str] = {}
        self._evaluate = compile_expression(self._tree, self._scope, self._functions, self._evaluate_cell)
        try:
            ordered = order_rows(model, rows, self._effect)[chosen.policy]
        except PolicyOrderError as error:
            self._refuse(str(error))
            ordered = []
        known = {*model.policies, *model.roles}
        self._ignored = [f"{row.source}: no definition `{row.kind}`: ignored" for row in rows if row.kind not in known]
        self._rows = [row.values for row in ordered]
        self._sources = [row.source for row in ordered]
        self._broken = self._find_broken()
        self._index = self._build_index()

    def _refuse(self, reason: str) -> None:
        if self.problem is None:
            self.problem = reason

    def _build_graphs(
        self, model: ParsedModel, rows: Sequence[PolicyRow], functions: Sequence[RoleFunction]
    ) -> dict[str, RoleGraph]:
        matchers = _matchers(model, functions)
        graphs = {}
        for name, definition in model.roles.items():
            if definition.conditional:
                raise ModelError(f"`{name}` has links with conditions, `(_, _)`: these are not supported")
            if definition.columns not in {2, 3}:
                raise ModelError(f"`{name}` has more than one domain: PyCasbin takes none or one")
            links = []
            for row in rows:
                if row.kind != name:
                    continue
                if len(row.values) < definition.columns:
                    self._refuse(f"{row.source}: a `{name}` row needs {definition.columns} values")
                    continue
                links.append(Link(*row.values[: definition.columns]))
            graphs[name] = RoleGraph(
                links,
                with_domains=definition.columns > 2,  # noqa: PLR2004 - the third column is the domain
                role_matcher=matchers.get((name, "role")),
                domain_matcher=matchers.get((name, "domain")),
            )
        return graphs

    def _find_broken(self) -> dict[int, str]:
        """Return the rows that PyCasbin cannot evaluate for any request, with the reason."""
        wanted = len(self._scope.policy)
        cells = [self._scope.policy.index(name) for name in sorted(_cells(self._tree))]
        broken = {}
        for position, row in enumerate(self._rows):
            if len(row) != wanted:
                broken[position] = f"the row has {len(row)} values, the definition has {wanted}"
                continue
            for place in cells:
                compiled = self._compile_cell(row[place])
                if isinstance(compiled, str):
                    broken[position] = compiled
        return broken

    def warnings(self) -> list[str]:
        """Return what is wrong with the matcher's names and with single rows: `source: reason`."""
        found = [f"the matcher: {reason}" for reason in _refusals(self._tree)]
        found += self._ignored
        found += [f"{self._sources[position]}: {reason}" for position, reason in sorted(self._broken.items())]
        if "eft" in self._scope.policy:
            place = self._scope.policy.index("eft")
            for row, source in zip(self._rows, self._sources, strict=True):
                if len(row) > place and row[place] not in {"allow", "deny", "indeterminate"}:
                    found.append(f"{source}: the effect `{row[place]}` is unknown and read as deny")
        return found

    def _build_index(self) -> RowIndex:
        if self.problem is not None:
            return RowIndex(None)
        blank = ("",) * len(self._scope.policy)
        rows = [blank if position in self._broken else row for position, row in enumerate(self._rows)]
        return build_index(self._tree, self._scope, rows, self._graphs, self._functions)

    def decide(self, request: Sequence[object]) -> Answer | Unanswered:
        """Answer one request, its values in the order of the request definition."""
        if self.problem is not None:
            return Unanswered(self.problem)
        if len(request) != len(self._scope.request):
            wanted = ", ".join(self._scope.request)
            return Unanswered(f"a request has {len(self._scope.request)} values ({wanted}), this one {len(request)}")
        self._reach.clear()
        self._links.clear()
        if not self._rows:
            return self._decide_without_rows(request)
        try:
            candidates = self._index.candidates(request)
        except EVALUATION_ERRORS as error:
            return Unanswered(_text(error))
        settled = settle(self._effect, self._outcomes(request, candidates))
        if settled.error is not None:
            return Unanswered(settled.error)
        return Answer(settled.allowed, tuple(self._sources[position] for position in settled.determining))

    def _outcomes(self, request: Sequence[object], candidates: Sequence[int] | None) -> Iterator[RowOutcome]:
        positions: Sequence[int] = range(len(self._rows))
        if candidates is not None:
            positions = sorted({*candidates, *self._broken}) if self._broken else candidates
        effect_place = self._scope.policy.index("eft") if "eft" in self._scope.policy else None
        evaluate, rows = self._evaluate, self._rows
        for position in positions:
            if position in self._broken:
                yield RowOutcome(position, error=f"{self._sources[position]}: {self._broken[position]}")
                continue
            row = rows[position]
            try:
                matched = _verdict(evaluate(request, row))
            except EVALUATION_ERRORS as error:
                yield RowOutcome(position, error=f"{self._sources[position]}: {_text(error)}")
                continue
            if matched:
                yield RowOutcome(position, row_effect(None if effect_place is None else row[effect_place]))

    def _decide_without_rows(self, request: Sequence[object]) -> Answer | Unanswered:
        """Answer for a policy without rows.

        SECURITY: PyCasbin evaluates the matcher once with empty policy values and allows when it holds, so that a
        request with empty parts is allowed by `r.sub == p.sub`. Here clauses that mention the policy do not hold.
        """
        if _cells(self._tree):
            return Unanswered("the matcher has eval() and the policy has no rows")
        blank = ("",) * len(self._scope.policy)
        certain = compile_expression(_certain(self._tree), self._scope, self._functions)
        try:
            holds = _verdict(self._evaluate(request, blank)) and bool(certain(request, blank))
        except EVALUATION_ERRORS as error:
            return Unanswered(_text(error))
        return Answer(holds or self._effect is PolicyEffect.DENY_OVERRIDE)

    def _compile_cell(self, text: str) -> Evaluator | str:
        compiled = self._cells.get(text)
        if compiled is None:
            try:
                tree = parse_cell(text, self._scope)
                compiled = compile_expression(tree, self._scope, self._functions)
            except MatcherError as error:
                compiled = f"eval(): {error}"
            self._cells[text] = compiled
        return compiled

    def _evaluate_cell(self, text: str, request: Sequence[object], row: Sequence[str]) -> object:
        compiled = self._cells[text]
        if isinstance(compiled, str):
            raise TypeError(compiled)
        return compiled(request, row)

    def _role_function(self, definition: str) -> Function:
        graph = self._graphs[definition]

        def linked(name: str, role: str, domain: object = "") -> bool:
            where = str(domain)
            question = (definition, name, role, where)
            known = self._links.get(question)
            if known is None:
                start = (definition, name, where)
                reach = self._reach.get(start)
                if reach is None:
                    reach = self._reach[start] = graph.hierarchy(where).reach(name)
                known = self._links[question] = graph.hierarchy(where).reaches(name, role, reach)
            return known

        return linked

    def _time_match(self, start: str, end: str) -> bool:
        """Answer as `timeMatch`: local time strictly between the two; `_` leaves a side open."""
        if self._clock is None:
            raise ExpressionError("timeMatch needs a clock")
        now = self._clock()
        if start != "_" and not now > datetime.strptime(start, TIME_FORMAT):  # noqa: DTZ007 - as PyCasbin, local time
            return False
        return end == "_" or now < datetime.strptime(end, TIME_FORMAT)  # noqa: DTZ007 - as above


def _matchers(model: ParsedModel, functions: Sequence[RoleFunction]) -> Mapping[tuple[str, str], PatternMatcher]:
    found = {}
    for function in functions:
        if function.definition not in model.roles:
            raise ModelError(f"the model has no role definition `{function.definition}`")
        if function.name not in MATCHING_FUNCTIONS:
            raise ModelError(f"unknown matching function `{function.name}`; known: {', '.join(MATCHING_FUNCTIONS)}")
        if function.side not in {"role", "domain"}:
            raise ModelError(f"a matching function reads `role` or `domain` names, not `{function.side}`")
        found[function.definition, function.side] = PatternMatcher(function.name)
    return found


def _verdict(value: object) -> bool:
    """Return whether the matcher holds; PyCasbin takes booleans and floats, and refuses everything else."""
    if isinstance(value, bool):
        return value
    if isinstance(value, float):
        return value != 0
    raise TypeError(f"the matcher is neither true nor false but {type(value).__name__}")


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if type(error).__module__ == "builtins" else str(error)


def _cells(tree: Expression) -> set[str]:
    found = {tree.name} if isinstance(tree, Cell) else set()
    return found.union(*(_cells(child) for child in children(tree)))


def _refusals(tree: Expression) -> list[str]:
    found = [tree.reason] if isinstance(tree, Refused) else []
    return found + [reason for child in children(tree) for reason in _refusals(child)]


def _certain(tree: Expression, *, certain: bool = True) -> Expression:
    """Return an expression that is true only if `tree` is, whatever the policy holds (if not `certain`: may be)."""
    match tree:
        case And(operands=operands):
            return And(tuple(_certain(operand, certain=certain) for operand in operands))
        case Or(operands=operands):
            return Or(tuple(_certain(operand, certain=certain) for operand in operands))
        case Unary(operator="not", operand=operand):
            return Unary("not", _certain(operand, certain=not certain))
        case _:
            pass
    return Literal(not certain) if mentions_policy(tree) else tree
