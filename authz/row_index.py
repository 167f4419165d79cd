"""Which rows can match at all: index keys taken from the conjuncts of a matcher.

A row may be left out only when PyCasbin would find the matcher false for it *without raising*: Casbin evaluates from
left to right and stops at the first conjunct that is false, so a conjunct selects rows only when everything to its left
is known never to raise. Where that is not known, or a request value is no text, all rows are evaluated.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from authz.expressions import EVALUATION_ERRORS, Evaluator, Function, compile_expression
from authz.matcher import PATTERN_FUNCTIONS
from authz.matching import MATCHING_FUNCTIONS, is_literal
from authz.role_graph import RoleGraph
from authz.syntax_tree import (
    And,
    Call,
    Collection,
    Comparison,
    Expression,
    Literal,
    Or,
    PolicyValue,
    RequestValue,
    Scope,
    Unary,
    mentions_policy,
    request_names,
)

Rows = Sequence[Sequence[str]]
Positions = Sequence[int]
_NONE: Positions = ()

MAX_CHECKED_PATTERNS = 1000
"""Checking a pattern compiles it; with more of them, clauses to their right do not narrow the rows."""


class Selector(Protocol):
    """One way to narrow the rows. Requests passed here hold text in every column that the selector looks at."""

    def size(self, request: Sequence[str]) -> int:
        """Return an upper bound of how many rows are selected."""

    def select(self, request: Sequence[str]) -> Positions:
        """Return the positions of the rows that may match, in any order."""


@dataclass(frozen=True, slots=True)
class _Equal:
    asked: int
    held: Mapping[str, Positions]

    def size(self, request: Sequence[str]) -> int:
        return len(self.held.get(request[self.asked], _NONE))

    def select(self, request: Sequence[str]) -> Positions:
        return self.held.get(request[self.asked], _NONE)


@dataclass(frozen=True, slots=True)
class _Fixed:
    positions: Positions

    def size(self, request: Sequence[str]) -> int:  # noqa: ARG002 - the same for every request
        return len(self.positions)

    def select(self, request: Sequence[str]) -> Positions:  # noqa: ARG002 - as above
        return self.positions


@dataclass(frozen=True, slots=True)
class _Prefix:
    asked: int
    held: Mapping[str, Positions]
    prefixes: Mapping[int, Mapping[str, Positions]]

    def _found(self, request: Sequence[str]) -> list[Positions]:
        text = request[self.asked]
        found = [self.held.get(text, _NONE)]
        found += [table.get(text[:length], _NONE) for length, table in self.prefixes.items() if length <= len(text)]
        return found

    def size(self, request: Sequence[str]) -> int:
        return sum(map(len, self._found(request)))

    def select(self, request: Sequence[str]) -> Positions:
        return [position for positions in self._found(request) for position in positions]


@dataclass(frozen=True, slots=True)
class _Roles:
    asked: int
    domain: Callable[[Sequence[str]], str]
    graph: RoleGraph
    held: Mapping[str, Positions]

    def _found(self, request: Sequence[str]) -> list[Positions]:
        hierarchy = self.graph.hierarchy(self.domain(request))
        reached = hierarchy.closure(request[self.asked])
        if not hierarchy.has_patterns:
            if len(reached) > len(self.held):
                return [positions for name, positions in self.held.items() if name in reached]
            return [self.held.get(name, _NONE) for name in reached]
        # A pattern may reach names that no link mentions; the matcher itself decides about those.
        return [positions for name, positions in self.held.items() if name in reached or name not in hierarchy]

    def size(self, request: Sequence[str]) -> int:
        return sum(map(len, self._found(request)))

    def select(self, request: Sequence[str]) -> Positions:
        return [position for positions in self._found(request) for position in positions]


@dataclass(frozen=True, slots=True)
class _WhenTrue:
    """A clause that does not mention the policy: all rows, or none."""

    evaluate: Evaluator
    everything: range

    def size(self, request: Sequence[str]) -> int:
        return len(self.select(request))

    def select(self, request: Sequence[str]) -> Positions:
        try:
            return self.everything if self.evaluate(request, ()) else _NONE
        except EVALUATION_ERRORS:
            return self.everything


@dataclass(frozen=True, slots=True)
class _Any:
    selectors: Sequence[Selector]

    def size(self, request: Sequence[str]) -> int:
        return sum(selector.size(request) for selector in self.selectors)

    def select(self, request: Sequence[str]) -> Positions:
        found: set[int] = set()
        for selector in self.selectors:
            found.update(selector.select(request))
        return list(found)


@dataclass(frozen=True, slots=True)
class _Smallest:
    selectors: Sequence[Selector]

    def size(self, request: Sequence[str]) -> int:
        return min(selector.size(request) for selector in self.selectors)

    def select(self, request: Sequence[str]) -> Positions:
        return min(self.selectors, key=lambda selector: selector.size(request)).select(request)


@dataclass(frozen=True, slots=True)
class RowIndex:
    """Narrows rows for requests that hold text in the columns `texts`; without a selector it narrows nothing."""

    selector: Selector | None
    texts: tuple[int, ...] = ()

    def candidates(self, request: Sequence[object]) -> Positions | None:
        """Return ascending positions of the rows that may match or fail, or None for all rows."""
        if self.selector is None or not all(type(request[position]) is str for position in self.texts):
            return None
        return sorted(self.selector.select(request))  # type: ignore[arg-type]  # the columns it looks at are text


def build_index(
    tree: Expression,
    scope: Scope,
    rows: Rows,
    graphs: Mapping[str, RoleGraph],
    functions: Mapping[str, Function],
) -> RowIndex:
    """Return the index of `rows` for the matcher `tree`."""
    builder = _Builder(scope, rows, graphs, functions)
    selector = builder.selector(tree)
    if selector is None:
        return RowIndex(None)
    positions = {name: position for position, name in enumerate(scope.request)}
    return RowIndex(selector, tuple(sorted(positions[name] for name in builder.texts)))


@dataclass(slots=True)
class _Builder:
    scope: Scope
    rows: Rows
    graphs: Mapping[str, RoleGraph]
    functions: Mapping[str, Function]
    texts: set[str] = field(default_factory=set)
    tables: dict[str, dict[str, list[int]]] = field(default_factory=dict)

    def selector(self, tree: Expression) -> Selector | None:
        """Return how `tree` narrows the rows: those left out make it false, not an error."""
        if isinstance(tree, And):
            return self._conjunction(tree.operands)
        if isinstance(tree, Or):
            selectors = [self.selector(operand) for operand in tree.operands]
            known = [selector for selector in selectors if selector is not None]
            return _Any(known) if len(known) == len(selectors) else None
        if not mentions_policy(tree) and self._is_total(tree):
            return _WhenTrue(compile_expression(tree, self.scope, self.functions), range(len(self.rows)))
        if isinstance(tree, Comparison):
            return self._equality(tree)
        if isinstance(tree, Call) and tree.function == "keyMatch":
            return self._prefix(tree)
        if isinstance(tree, Call) and tree.function in self.graphs:
            return self._roles(tree)
        return None

    def _conjunction(self, operands: Sequence[Expression]) -> Selector | None:
        known = []
        for operand in operands:
            selector = self.selector(operand)
            if selector is not None:
                known.append(selector)
            if not self._is_total(operand):
                break
        return _Smallest(known) if known else None

    def _table(self, column: str) -> dict[str, list[int]]:
        table = self.tables.get(column)
        if table is None:
            table = self.tables[column] = {}
            place = _last(self.scope.policy, column)
            for position, row in enumerate(self.rows):
                table.setdefault(row[place], []).append(position)
        return table

    def _asked(self, name: str) -> int:
        self.texts.add(name)
        return _last(self.scope.request, name)

    def _equality(self, tree: Comparison) -> Selector | None:
        if tree.operators != ("==",):
            return None
        match sorted(tree.operands, key=lambda one: isinstance(one, PolicyValue)):
            case [RequestValue(name=asked), PolicyValue(name=held)]:
                return _Equal(self._asked(asked), self._table(held))
            case [Literal(value=str() as text), PolicyValue(name=held)]:
                return _Fixed(self._table(held).get(text, _NONE))
            case _:
                return None

    def _prefix(self, tree: Call) -> Selector | None:
        match tree.arguments:
            case (RequestValue(name=asked), PolicyValue(name=held)):
                exact: dict[str, Positions] = {}
                prefixes: dict[int, dict[str, list[int]]] = {}
                for value, positions in self._table(held).items():
                    star = value.find("*")
                    if star == -1:
                        exact[value] = positions
                    else:
                        prefixes.setdefault(star, {}).setdefault(value[:star], []).extend(positions)
                return _Prefix(self._asked(asked), exact, prefixes)
            case _:
                return None

    def _roles(self, tree: Call) -> Selector | None:
        match tree.arguments:
            case (RequestValue(name=asked), PolicyValue(name=held), *rest) if not rest or isinstance(
                rest[0], RequestValue | Literal
            ):
                graph = self.graphs[tree.function]
                return _Roles(self._asked(asked), self._domain(rest), graph, self._table(held))
            case _:
                return None

    def _domain(self, rest: Sequence[Expression]) -> Callable[[Sequence[str]], str]:
        match rest:
            case [RequestValue(name=name)]:
                place = self._asked(name)
                return lambda request: request[place]
            case [Literal(value=value)]:
                return lambda _: str(value)
            case _:
                return lambda _: ""

    def _is_total(self, tree: Expression) -> bool:
        """Whether `tree` is True or False, and never raises, for every row and for text in the columns it looks at."""
        match tree:
            case Literal(value=bool()):
                return True
            case Unary(operator="not", operand=operand):
                return self._is_total(operand)
            case And(operands=operands) | Or(operands=operands):
                return all(self._is_total(operand) for operand in operands)
            case Comparison():
                return self._is_total_comparison(tree)
            case Call(function=function, arguments=arguments) if all(map(_is_text, arguments)):
                self.texts |= request_names(tree)
                return self._is_total_call(function, arguments)
        return False

    def _is_total_comparison(self, tree: Comparison) -> bool:
        if set(tree.operators) <= {"==", "!="}:
            return all(isinstance(one, RequestValue | PolicyValue | Literal) for one in tree.operands)
        if tree.operators not in {("in",), ("not in",)}:
            return False
        member, container = tree.operands
        if not _is_text(member):
            return False
        self.texts |= request_names(tree)
        if isinstance(container, Collection):
            return all(isinstance(item, Literal) for item in container.items)
        return _is_text(container)

    def _is_total_call(self, function: str, arguments: Sequence[Expression]) -> bool:
        if function == "keyMatch":
            return True
        if function in self.graphs:
            matcher = self.graphs[function].role_matcher
            return matcher is None or matcher.name == "keyMatch"
        if function in PATTERN_FUNCTIONS and isinstance(arguments[1], PolicyValue):
            patterns = [one for one in self._table(arguments[1].name) if not is_literal(function, one)]
            if len(patterns) > MAX_CHECKED_PATTERNS:
                return False
            return all(_takes_pattern(function, pattern) for pattern in patterns)
        return False


def _last(names: Sequence[str], name: str) -> int:
    """Return the position that counts for a name: of two equal ones the last."""
    return len(names) - 1 - list(reversed(names)).index(name)


def _is_text(expression: Expression) -> bool:
    """Whether the value is text, once the request values are."""
    return isinstance(expression, RequestValue | PolicyValue) or (
        isinstance(expression, Literal) and isinstance(expression.value, str)
    )


def _takes_pattern(function: str, pattern: str) -> bool:
    """Whether the pattern raises for no name: an invalid one does so whatever the name."""
    if function == "keyMatch4":
        return False
    try:
        MATCHING_FUNCTIONS[function]("", pattern)
    except EVALUATION_ERRORS:
        return False
    return True
