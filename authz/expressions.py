"""Compiles a whitelisted syntax tree to a Python function, once.

Only trees of `authz.matcher` are taken: every name in the generated code is one of the helpers below, every literal is
a constant. Whatever could grow without bound (powers, repetition, concatenation) goes through a helper that bounds it.
"""

import ast
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, assert_never

from authz.matcher import OBJECT_METHODS
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

MAX_BITS = 4096
MAX_LENGTH = 100_000

Function = Callable[..., object]
Evaluator = Callable[[Sequence[object], Sequence[str]], object]
"""`(request values, row values) -> value`, in the order of the definitions."""

EVALUATION_ERRORS = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What evaluating an expression may raise; each means: this row cannot be decided."""


class ExpressionError(ValueError):
    """Something in an expression that is refused when it is evaluated."""


def compile_expression(
    expression: Expression, scope: Scope, functions: Mapping[str, Function], cell: Function | None = None
) -> Evaluator:
    """Return the function that evaluates `expression` for a request and a row.

    Args:
        scope: The definitions that give each name its position; of names that come twice the last one counts.
        functions: The matching functions and role definitions, by name.
        cell: `(text, request values, row values) -> value`, for `eval(p.x)`.
    """
    generator = _Generator(
        {name: _at("r", position) for position, name in enumerate(scope.request)},
        {name: _at("p", position) for position, name in enumerate(scope.policy)},
    )
    return _function(("r", "p"), generator.write(expression), {**_prefixed(functions), "h_cell": cell})


def compile_positional(
    expression: Expression, request: Sequence[str], policy: Sequence[str], functions: Mapping[str, Function]
) -> Function:
    """Return a function that takes the request values, then the row values, as separate arguments."""
    arguments = tuple([f"r_{name}" for name in request] + [f"p_{name}" for name in policy])
    generator = _Generator(
        {name: _name(f"r_{name}") for name in request}, {name: _name(f"p_{name}") for name in policy}
    )
    return _function(arguments, generator.write(expression), _prefixed(functions))


def _prefixed(functions: Mapping[str, Function]) -> dict[str, Function]:
    return {f"f_{name}": function for name, function in functions.items()}


def _function(arguments: Sequence[str], body: ast.expr, names: Mapping[str, Any]) -> Function:
    parameters = ast.arguments(
        posonlyargs=[], args=[ast.arg(name) for name in arguments], kwonlyargs=[], kw_defaults=[], defaults=[]
    )
    tree = ast.fix_missing_locations(ast.Expression(ast.Lambda(parameters, body)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        code = compile(tree, "<matcher>", "eval")
    # SECURITY: `tree` holds nothing but nodes made in this module; there are no builtins to reach.
    function: Function = eval(code, {"__builtins__": {}, **_HELPERS, **names})  # noqa: S307
    return function


def _name(name: str) -> ast.expr:
    return ast.Name(name, ast.Load())


def _at(name: str, position: int) -> ast.expr:
    return ast.Subscript(_name(name), ast.Constant(position), ast.Load())


def _call(function: str, *arguments: ast.expr) -> ast.expr:
    return ast.Call(_name(function), list(arguments), [])


class _Generator:
    """Writes our tree as a Python tree."""

    def __init__(self, request: Mapping[str, ast.expr], policy: Mapping[str, ast.expr]) -> None:
        self._request = request
        self._policy = policy

    def write(self, expression: Expression) -> ast.expr:  # noqa: C901, PLR0912 - one case per node
        match expression:
            case Literal(value=value):
                return ast.Constant(value)
            case RequestValue(name=name):
                return self._request[name]
            case PolicyValue(name=name):
                return self._policy[name]
            case Attribute(base=base, name=name):
                return _call("h_attribute", self.write(base), ast.Constant(name))
            case Item(base=base, key=key):
                return _call("h_item", self.write(base), self.write(key))
            case Part(base=base, bounds=bounds):
                return _call("h_part", self.write(base), *(self._optional(bound) for bound in bounds))
            case Unary(operator=operator, operand=operand):
                return ast.UnaryOp(_UNARY[operator](), self.write(operand))
            case Binary(operator=operator, left=left, right=right):
                return _call(_BINARY[operator], self.write(left), self.write(right))
            case Comparison(operands=operands, operators=operators):
                return self._comparison(operands, operators)
            case And(operands=operands):
                return ast.BoolOp(ast.And(), [self.write(operand) for operand in operands])
            case Or(operands=operands):
                return ast.BoolOp(ast.Or(), [self.write(operand) for operand in operands])
            case Choice(test=test, then=then, otherwise=otherwise):
                return ast.IfExp(self.write(test), self.write(then), self.write(otherwise))
            case Call(function=function, arguments=arguments):
                return _call(f"f_{function}", *(self.write(argument) for argument in arguments))
            case MethodCall(base=base, method=method, arguments=arguments):
                values = [self.write(argument) for argument in arguments]
                return _call("h_method", self.write(base), ast.Constant(method), *values)
            case Collection(kind=kind, items=items):
                return _collection(kind, [self.write(item) for item in items])
            case Table(keys=keys, values=values):
                return ast.Dict([self.write(key) for key in keys], [self.write(value) for value in values])
            case Cell(name=name):
                return _call("h_cell", self._policy[name], _name("r"), _name("p"))
            case Refused(reason=reason):
                return _call("h_refuse", ast.Constant(reason))
        assert_never(expression)

    def _optional(self, expression: Expression | None) -> ast.expr:
        return ast.Constant(None) if expression is None else self.write(expression)

    def _comparison(self, operands: Sequence[Expression], operators: Sequence[str]) -> ast.expr:
        first, *rest = [self.write(operand) for operand in operands]
        if operators[0] in {"is", "is not"}:
            return _call("h_is" if operators[0] == "is" else "h_is_not", first, *rest)
        return ast.Compare(first, [_COMPARISONS[operator]() for operator in operators], rest)


def _collection(kind: str, items: list[ast.expr]) -> ast.expr:
    if kind == "set":
        # An empty `{}` never comes here: Python reads it as a table.
        return ast.Set(items)
    return ast.List(items, ast.Load()) if kind == "list" else ast.Tuple(items, ast.Load())


_UNARY: Mapping[str, type[ast.unaryop]] = {"not": ast.Not, "-": ast.USub, "+": ast.UAdd, "~": ast.Invert}
_COMPARISONS: Mapping[str, type[ast.cmpop]] = {
    "==": ast.Eq,
    "!=": ast.NotEq,
    "<": ast.Lt,
    "<=": ast.LtE,
    ">": ast.Gt,
    ">=": ast.GtE,
    "in": ast.In,
    "not in": ast.NotIn,
}
_BINARY: Mapping[str, str] = {
    "+": "h_add",
    "-": "h_subtract",
    "*": "h_multiply",
    "/": "h_divide",
    "//": "h_floor_divide",
    "%": "h_modulo",
    "**": "h_power",
    "&": "h_bit_and",
    "|": "h_bit_or",
    "^": "h_bit_xor",
    "<<": "h_shift_left",
    ">>": "h_shift_right",
}

# simpleeval asks the Python object first, so on objects with such keys it finds the method, not the value.
_OBJECT_MEMBERS = frozenset(dir(dict))


def _attribute(base: object, name: str) -> object:
    """Return `base.name` of a JSON object."""
    if not isinstance(base, dict):
        raise ExpressionError(f"`.{name}` of something that is not an object")
    if name in _OBJECT_MEMBERS:
        raise ExpressionError(f"`.{name}` is a method of Python's objects; write `.get('{name}')`")
    if name not in base:
        raise ExpressionError(f"the attribute `{name}` does not exist")
    value: object = base[name]
    return value


def _item(base: Any, key: object) -> object:
    value: object = base[key]
    return value


def _part(base: Any, lower: object, upper: object, step: object) -> object:
    value: object = base[lower:upper:step]
    return value


def _method(base: Any, name: str, *arguments: object) -> object:
    if name in OBJECT_METHODS:
        if not isinstance(base, dict):
            raise ExpressionError(f"`.{name}()` of something that is not an object")
    elif not isinstance(base, str):
        raise ExpressionError(f"`.{name}()` of something that is not text")
    value: object = getattr(base, name)(*arguments)
    return value


def _bounded(value: object) -> object:
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise ExpressionError("a number grew too big")
    return value


def _length(value: object) -> int | None:
    return len(value) if isinstance(value, str | list | tuple | dict | set) else None


def _add(left: Any, right: Any) -> object:
    sizes = (_length(left), _length(right))
    if sizes[0] is not None and sizes[1] is not None and sizes[0] + sizes[1] > MAX_LENGTH:
        raise ExpressionError("a value grew too long")
    return _bounded(left + right)


def _multiply(left: Any, right: Any) -> object:
    for sized, times in ((left, right), (right, left)):
        size = _length(sized)
        if size is None:
            continue
        if not isinstance(sized, str):
            # SECURITY: repeated lists of repeated lists compare in the product of their lengths.
            raise ExpressionError("only text can be repeated")
        if isinstance(times, int) and size * times > MAX_LENGTH:
            raise ExpressionError("a value grew too long")
    return _bounded(left * right)


def _power(left: Any, right: Any) -> object:
    for value in (left, right):
        if not isinstance(value, int | float):
            raise TypeError("`**` takes numbers")
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() * max(right, 0) > MAX_BITS:
        raise ExpressionError("a power is too big")
    value = left**right
    if isinstance(value, complex):
        raise ExpressionError("a power is not a real number")
    return _bounded(value)


def _modulo(left: Any, right: Any) -> object:
    # SECURITY: `"%1000000000d" % 1` would fill the memory.
    if not isinstance(left, int | float):
        raise ExpressionError("`%` takes numbers")
    value: object = left % right
    return value


def _shift_left(left: Any, right: Any) -> object:
    if not isinstance(left, int) or not isinstance(right, int) or right > MAX_BITS:
        raise ExpressionError("a shift is too big")
    return _bounded(left << right)


def _bit_operation(operate: Callable[[Any, Any], object]) -> Function:
    def checked(left: Any, right: Any) -> object:
        if not isinstance(left, int) or not isinstance(right, int):
            raise TypeError("`&`, `|` and `^` take whole numbers; write `&&` and `||` for and, or")
        return operate(left, right)

    return checked


def _refuse(reason: str) -> object:
    raise ExpressionError(reason)


_HELPERS: Mapping[str, Function] = {
    "f_list": list,
    "f_set": set,
    "f_tuple": tuple,
    "h_add": _add,
    "h_attribute": _attribute,
    "h_bit_and": _bit_operation(lambda left, right: left & right),
    "h_bit_or": _bit_operation(lambda left, right: left | right),
    "h_bit_xor": _bit_operation(lambda left, right: left ^ right),
    "h_divide": lambda left, right: left / right,
    "h_floor_divide": lambda left, right: left // right,
    "h_is": lambda left, right: left is right,
    "h_is_not": lambda left, right: left is not right,
    "h_item": _item,
    "h_method": _method,
    "h_modulo": _modulo,
    "h_multiply": _multiply,
    "h_part": _part,
    "h_power": _power,
    "h_refuse": _refuse,
    "h_shift_left": _shift_left,
    "h_shift_right": lambda left, right: left >> right,
    "h_subtract": lambda left, right: _bounded(left - right),
}
