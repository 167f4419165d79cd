"""Small faults to put into a module, one at a time: each is what a slip of a programmer would leave.

Comparisons, boolean operators, conditions, arithmetic, constants, returned values, and statements that only act (calls,
`raise`). What is no behaviour is left alone: annotations, docstrings, the words of an error.
"""

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitAnd,
    ast.Pow: ast.Mult,
}
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Mutant:
    """One fault.

    `function` is the qualified name and first line of the outermost function it is in, None outside of functions;
    `lines` are those of which one is executed when it can be noticed.
    """

    line: int
    what: str
    function: tuple[str, int] | None
    lines: frozenset[int]
    tree: ast.Module


@dataclass(frozen=True)
class _Place:
    """Where a node hangs: an attribute of its parent, or one element of a list there."""

    parent: ast.AST
    field: str
    index: int | None

    def put(self, node: ast.AST) -> None:
        if self.index is None:
            setattr(self.parent, self.field, node)
        else:
            getattr(self.parent, self.field)[self.index] = node


def mutants(source: str) -> Iterator[Mutant]:
    """Yield every mutant of a module, in the order of the source; each has a tree of its own."""
    tree = ast.parse(source)
    for node, place, function, statement in _nodes(tree, None, (), 0):
        lines = frozenset([statement, *range(node.lineno, (node.end_lineno or node.lineno) + 1)])
        for what, changed in _changes(node, place):
            place.put(changed)
            yield Mutant(node.lineno, what, function, lines, copy.deepcopy(tree))
            place.put(node)


def _nodes(
    node: ast.AST, function: tuple[str, int] | None, scope: tuple[str, ...], statement: int
) -> Iterator[tuple[ast.expr | ast.stmt, _Place, tuple[str, int] | None, int]]:
    """Yield what may be changed below `node`, with its place, its outermost function, and its statement's line."""
    for field, value in ast.iter_fields(node):
        inside, names = function, scope
        if isinstance(node, _FUNCTIONS) and function is None and field == "body":
            # A decorated function's code begins at its first decorator.
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            inside = (".".join((*scope, node.name)), first)
        if isinstance(node, ast.ClassDef):
            names = (*scope, node.name)
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if not isinstance(child, ast.AST) or _is_no_behaviour(node, field, child):
                continue
            if isinstance(child, (ast.expr, ast.stmt)):
                line = child.lineno if isinstance(child, ast.stmt) else statement
                yield child, _Place(node, field, index), inside, line
                yield from _nodes(child, inside, names, line)
            else:
                yield from _nodes(child, inside, names, statement)


def _is_no_behaviour(parent: ast.AST, field: str, child: ast.AST) -> bool:
    """Return whether to leave `child` alone, with all below it."""
    if field in {"annotation", "returns", "type_comment", "decorator_list"}:
        return True
    if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
        return True  # a docstring
    if isinstance(parent, ast.Call) and isinstance(child, ast.Constant) and isinstance(child.value, str):
        return isinstance(parent.func, ast.Name) and parent.func.id.endswith("Error")
    if isinstance(parent, ast.Module) and isinstance(child, ast.Assign):
        # An alias of types is read by type checkers alone.
        return isinstance(child.value, ast.BinOp) and isinstance(child.value.op, ast.BitOr)
    return isinstance(child, (ast.JoinedStr, ast.Import, ast.ImportFrom, ast.alias))


def _changes(node: ast.expr | ast.stmt, place: _Place) -> Iterator[tuple[str, ast.AST]]:
    """Yield what may stand in the place of a node, with a few words on it."""
    for change in (_comparison, _boolean, _condition, _arithmetic, _constant, _statement):
        for what, changed in change(node, place):
            yield what, ast.copy_location(changed, node) if not hasattr(changed, "lineno") else changed


_Changes = Iterator[tuple[str, ast.AST]]


def _comparison(node: ast.AST, _place: _Place) -> _Changes:
    if isinstance(node, ast.Compare):
        for index, operator in enumerate(node.ops):
            other = _COMPARISONS[type(operator)]
            changed = copy.copy(node)
            changed.ops = [*node.ops[:index], other(), *node.ops[index + 1 :]]
            yield f"{type(operator).__name__} -> {other.__name__}", changed


def _boolean(node: ast.AST, _place: _Place) -> _Changes:
    if isinstance(node, ast.BoolOp):
        other = ast.Or if isinstance(node.op, ast.And) else ast.And
        changed = copy.copy(node)
        changed.op = other()
        yield f"{type(node.op).__name__} -> {other.__name__}", changed
        for index, dropped in enumerate(node.values):
            kept = [*node.values[:index], *node.values[index + 1 :]]
            without = copy.copy(node)
            without.values = kept
            yield f"without `{ast.unparse(dropped)}`", kept[0] if len(kept) == 1 else without


def _condition(node: ast.AST, place: _Place) -> _Changes:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield "without not", node.operand
    elif (
        isinstance(node, (ast.Name, ast.Attribute, ast.Call, ast.Await, ast.NamedExpr))
        and place.field in {"test", "ifs", "values", "guard"}
        and not isinstance(place.parent, ast.Dict)
        and not isinstance(place.parent, ast.JoinedStr)
    ):
        yield "not", _fixed(ast.UnaryOp(ast.Not(), node), node)


def _arithmetic(node: ast.AST, _place: _Place) -> _Changes:
    if isinstance(node, (ast.BinOp, ast.AugAssign)) and type(node.op) in _ARITHMETIC:
        other = _ARITHMETIC[type(node.op)]
        changed = copy.copy(node)
        changed.op = other()
        yield f"{type(node.op).__name__} -> {other.__name__}", changed


def _constant(node: ast.AST, _place: _Place) -> _Changes:
    if not isinstance(node, ast.Constant):
        return
    match node.value:
        case bool():
            others: list[bool | float | str | bytes] = [not node.value]
        case int() | float():
            others = [node.value + 1, node.value - 1]
        case str():
            others = [f"x{node.value}"]
        case bytes():
            others = [b"x" + node.value]
        case _:
            others = []
    for other in others:
        yield f"{node.value!r} -> {other!r}", ast.Constant(other)


def _statement(node: ast.AST, _place: _Place) -> _Changes:
    if isinstance(node, ast.Return) and node.value is not None:
        if not (isinstance(node.value, ast.Constant) and node.value.value is None):
            yield "return None", _fixed(ast.Return(ast.Constant(None)), node)
    elif isinstance(node, ast.Raise) or (isinstance(node, ast.Expr) and isinstance(node.value, (ast.Call, ast.Await))):
        yield f"without `{ast.unparse(node)}`", _fixed(ast.Pass(), node)
    elif isinstance(node, ast.Continue):
        yield "continue -> break", _fixed(ast.Break(), node)
    elif isinstance(node, ast.Break):
        yield "break -> continue", _fixed(ast.Continue(), node)


def _fixed(new: ast.AST, old: ast.AST) -> ast.AST:
    return ast.fix_missing_locations(ast.copy_location(new, old))
