"""A matcher's text as a whitelisted syntax tree.

PyCasbin lets simpleeval walk the syntax tree of a matcher rewritten as Python (`matcher_text`). Here only the nodes
below survive: what is not one of them is refused with its reason and its column. Sources:
`CoreEnforcer._get_expression` and `simpleeval` as PyCasbin 2.8 uses them.
"""

import ast
import re
from collections.abc import Mapping, Sequence

from authz.matcher_text import (
    MatcherError,
    Rewritten,
    escape,
    in_parentheses,
    operators,
    parse_python,
    plain,
    without_comment,
)
from authz.syntax_tree import (
    And,
    Attribute,
    Binary,
    Call,
    Cell,
    Choice,
    Collection,
    Comparison,
    Expression,
    Item,
    Literal,
    MethodCall,
    Or,
    Part,
    PolicyValue,
    Refused,
    RequestValue,
    Scope,
    Table,
    Unary,
)

MAX_DEPTH = 64
MAX_NODES = 2000

STRING_METHODS = frozenset(
    {
        "startswith",
        "endswith",
        "lower",
        "upper",
        "casefold",
        "strip",
        "lstrip",
        "rstrip",
        "removeprefix",
        "removesuffix",
    }
    | {"split", "find", "count", "isdigit", "isalpha", "isalnum", "isnumeric", "isdecimal", "islower", "isupper"}
)
OBJECT_METHODS = frozenset({"get"})
COLLECTION_FUNCTIONS = frozenset({"list", "tuple", "set"})
TIME_FUNCTION = "timeMatch"
PATTERN_FUNCTIONS = frozenset({"keyMatch2", "keyMatch3", "keyMatch4", "keyMatch5", "regexMatch", "globMatch"})
MATCHER_FUNCTIONS = PATTERN_FUNCTIONS | {"keyMatch", "ipMatch", TIME_FUNCTION}

# What simpleeval refuses, whatever the object.
_PRIVATE_PREFIXES = ("_", "func_")
_PRIVATE_NAMES = frozenset({"format", "format_map", "mro", "tb_frame", "gi_frame", "ag_frame", "cr_frame", "exec"})


def parse_matcher(text: str, scope: Scope, *, lazy_names: bool = False) -> Expression:
    """Return the tree of a matcher as `model.conf` holds it.

    Args:
        lazy_names: Unknown names become `Refused`: PyCasbin raises only when it gets to one.

    Raises:
        MatcherError: syntax, an unknown name or function, or a construct that is not allowed.
    """
    rewritten = without_comment(escape(plain(text)))
    cells = list(_EVAL.finditer(rewritten.text))
    for match in cells:
        rule = match.group("rule")
        if rule not in {f"{scope.policy_type}_{name}" for name in scope.policy}:
            raise MatcherError(
                f"eval() takes one column of the policy, not `{rule}`", rewritten.origins[match.start()] + 1
            )
    rewritten = operators(rewritten)
    reader = _Reader(scope, rewritten, lazy=False, lazy_names=lazy_names)
    tree = reader.read(parse_python(rewritten))
    if reader.cells != len(cells):
        # PyCasbin pastes cells wherever the letters `eval(p.x)` stand, even inside a quoted text.
        raise MatcherError("eval() may not stand inside quotes or other words", 1)
    return tree


def parse_cell(text: str, scope: Scope) -> Expression:
    """Return the tree of an expression in a policy cell: one complete expression, whatever surrounds `eval()`.

    What is not allowed inside becomes `Refused`, since PyCasbin too fails only when it gets there.

    Raises:
        MatcherError: the cell is not one complete expression.
    """
    rewritten = operators(escape(plain(text)))
    tree = parse_python(rewritten)
    # SECURITY: PyCasbin pastes the cell between parentheses, so `x) || (True` breaks out of them there. Alone, it does
    # not parse. A comment would swallow the closing parenthesis, so the cell must parse in parentheses as well.
    enclosed = parse_python(in_parentheses(rewritten))
    if ast.dump(tree) != ast.dump(enclosed):
        raise MatcherError("the cell is not one complete expression", 1)
    return _Reader(scope, rewritten, lazy=True).read(tree)


_EVAL = re.compile(r"\beval\((?P<rule>[^)]*)\)")

_COMPARISONS: Mapping[type[ast.cmpop], str] = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.In: "in",
    ast.NotIn: "not in",
    ast.Is: "is",
    ast.IsNot: "is not",
}
_ARITHMETIC: Mapping[type[ast.operator], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.FloorDiv: "//",
    ast.Mod: "%",
    ast.Pow: "**",
    ast.BitAnd: "&",
    ast.BitOr: "|",
    ast.BitXor: "^",
    ast.LShift: "<<",
    ast.RShift: ">>",
}
_UNARY: Mapping[type[ast.unaryop], str] = {ast.Not: "not", ast.USub: "-", ast.UAdd: "+", ast.Invert: "~"}


class _Reader:
    """Turns Python's tree into ours."""

    def __init__(self, scope: Scope, source: Rewritten, *, lazy: bool, lazy_names: bool = False) -> None:
        self._names: dict[str, Expression] = {}
        for name in scope.request:
            self._names[f"{scope.request_type}_{name}"] = RequestValue(name)
        for name in scope.policy:
            self._names[f"{scope.policy_type}_{name}"] = PolicyValue(name)
        self._scope = scope
        self._source = source
        self._lazy = lazy
        self._lazy_names = lazy or lazy_names
        self._nodes = 0
        self.cells = 0

    def read(self, node: ast.expr, depth: int = 0) -> Expression:
        self._nodes += 1
        if depth > MAX_DEPTH or self._nodes > MAX_NODES:
            raise MatcherError("the expression is nested too deeply or too big", self._column(node))
        match node:
            case ast.Constant(value=str() | int() | float() | None as value):
                return Literal(value)
            case ast.Name(id=name):
                return self._names.get(name) or self._refuse_name(name, node)
            case ast.BoolOp(op=operator, values=values):
                operands = self._all(values, depth)
                return And(operands) if isinstance(operator, ast.And) else Or(operands)
            case ast.UnaryOp(op=unary, operand=operand):
                return Unary(_UNARY[type(unary)], self.read(operand, depth + 1))
            case ast.BinOp(op=arithmetic, left=left, right=right) if type(arithmetic) in _ARITHMETIC:
                return Binary(_ARITHMETIC[type(arithmetic)], self.read(left, depth + 1), self.read(right, depth + 1))
            case ast.Compare():
                return self._comparison(node, depth)
            case ast.IfExp(test=test, body=then, orelse=otherwise):
                return Choice(*self._all((test, then, otherwise), depth))
            case ast.Call():
                return self._call(node, depth)
            case ast.Attribute(value=base, attr=name):
                return self._attribute(base, name, node, depth)
            case ast.Subscript(value=base, slice=key):
                return self._subscript(base, key, depth)
            case ast.List(elts=items) | ast.Tuple(elts=items) | ast.Set(elts=items):
                return Collection(type(node).__name__.lower(), self._all(items, depth))
            case ast.Dict(keys=keys, values=values):
                return self._table(keys, values, node, depth)
            case _:
                return self._refuse(f"{_describe(node)} is not allowed", node)

    def _all(self, nodes: Sequence[ast.expr], depth: int) -> tuple[Expression, ...]:
        return tuple(self.read(node, depth + 1) for node in nodes)

    def _column(self, node: ast.expr) -> int:
        # `col_offset` counts UTF-8 bytes of its line.
        line = self._source.text.splitlines()[node.lineno - 1] if self._source.text else ""
        before = len(line.encode("utf-8", "surrogatepass")[: node.col_offset].decode("utf-8", "replace"))
        offset = sum(len(one) for one in self._source.text.splitlines(keepends=True)[: node.lineno - 1]) + before
        return self._source.origins[min(offset, len(self._source.origins) - 1)] + 1

    def _refuse(self, reason: str, node: ast.expr) -> Refused:
        if self._lazy:
            return Refused(reason)
        raise MatcherError(reason, self._column(node))

    def _refuse_name(self, name: str, node: ast.expr) -> Refused:
        if self._lazy_names:
            return Refused(self._unknown(name))
        return self._refuse(self._unknown(name), node)

    def _unknown(self, name: str) -> str:
        known = ", ".join(sorted(name.replace("_", ".", 1) for name in self._names))
        hint = "; put spaces around `&&` and `||`" if re.search(r"\w(and|or)(r|p)?\d*_", name) else ""
        return f"unknown name `{name}`: this matcher knows {known}{hint}"

    def _comparison(self, node: ast.Compare, depth: int) -> Expression:
        operators = tuple(_COMPARISONS[type(operator)] for operator in node.ops)
        operands = self._all((node.left, *node.comparators), depth)
        if {"is", "is not"} & set(operators):
            constant = any(isinstance(one, Literal) and isinstance(one.value, bool | None) for one in operands)
            if len(operators) > 1 or not constant:
                return self._refuse("`is` compares with None, True or False only", node)
        return Comparison(operands, operators)

    def _call(self, node: ast.Call, depth: int) -> Expression:
        if node.keywords or any(isinstance(argument, ast.Starred) for argument in node.args):
            return self._refuse("functions take plain arguments only", node)
        if isinstance(node.func, ast.Attribute):
            return self._method(node, node.func, depth)
        if not isinstance(node.func, ast.Name):
            return self._refuse("only functions and methods can be called", node)
        name = node.func.id
        if name == "eval" and not self._lazy:
            return self._cell(node)
        wanted = self._arity(name)
        if wanted is None:
            return self._refuse(f"unknown function `{name}`", node)
        if len(node.args) not in wanted:
            count = " or ".join(str(number) for number in sorted(wanted))
            return self._refuse(f"`{name}` takes {count} arguments, not {len(node.args)}", node)
        return Call(name, self._all(node.args, depth))

    def _arity(self, name: str) -> frozenset[int] | None:
        if name in self._scope.roles:
            return frozenset({2, 3})
        if name in MATCHER_FUNCTIONS:
            return frozenset({2})
        return frozenset({1}) if name in COLLECTION_FUNCTIONS else None

    def _cell(self, node: ast.Call) -> Expression:
        self.cells += 1
        match node.args:
            case [ast.Name(id=name)] if isinstance(self._names.get(name), PolicyValue):
                return Cell(name.removeprefix(f"{self._scope.policy_type}_"))
            case _:
                return self._refuse("eval() takes one column of the policy", node)

    def _method(self, node: ast.Call, function: ast.Attribute, depth: int) -> Expression:
        if function.attr not in STRING_METHODS | OBJECT_METHODS:
            return self._refuse(f"the method `{function.attr}` is not allowed", node)
        base = self.read(function.value, depth + 1)
        return MethodCall(base, function.attr, self._all(node.args, depth))

    def _attribute(self, base: ast.expr, name: str, node: ast.expr, depth: int) -> Expression:
        if name.startswith(_PRIVATE_PREFIXES) or name in _PRIVATE_NAMES:
            return self._refuse(f"the attribute `{name}` is not allowed", node)
        if isinstance(base, ast.Name) and base.id not in self._names:
            return self._refuse_name(f"{base.id}.{name}", node)
        return Attribute(self.read(base, depth + 1), name)

    def _subscript(self, base: ast.expr, key: ast.expr, depth: int) -> Expression:
        if isinstance(key, ast.Slice):
            lower, upper, step = (
                None if bound is None else self.read(bound, depth + 1) for bound in (key.lower, key.upper, key.step)
            )
            return Part(self.read(base, depth + 1), (lower, upper, step))
        return Item(self.read(base, depth + 1), self.read(key, depth + 1))

    def _table(
        self, keys: Sequence[ast.expr | None], values: Sequence[ast.expr], node: ast.expr, depth: int
    ) -> Expression:
        named = [key for key in keys if key is not None]
        if len(named) != len(keys):
            return self._refuse("`**` is not allowed", node)
        return Table(self._all(named, depth), self._all(values, depth))


_NAMES_OF_NODES: Mapping[type[ast.expr], str] = {
    ast.Lambda: "a lambda",
    ast.ListComp: "a comprehension",
    ast.SetComp: "a comprehension",
    ast.DictComp: "a comprehension",
    ast.GeneratorExp: "a comprehension",
    ast.JoinedStr: "an f-string",
    ast.NamedExpr: "`:=`",
    ast.Starred: "`*`",
    ast.Await: "await",
    ast.Yield: "yield",
    ast.YieldFrom: "yield",
    ast.Constant: "a literal other than text, number, True, False and None",
    ast.BinOp: "`@`",
}


def _describe(node: ast.expr) -> str:
    return _NAMES_OF_NODES.get(type(node), type(node).__name__)
