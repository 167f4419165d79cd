"""The nodes that a matcher may be made of, and nothing else."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Literal:
    """Text, a number, True, False or None."""

    value: str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class RequestValue:
    """`r.name`."""

    name: str


@dataclass(frozen=True, slots=True)
class PolicyValue:
    """`p.name`."""

    name: str


@dataclass(frozen=True, slots=True)
class Attribute:
    """`base.name` of a request object."""

    base: "Expression"
    name: str


@dataclass(frozen=True, slots=True)
class Item:
    """`base[key]`."""

    base: "Expression"
    key: "Expression"


@dataclass(frozen=True, slots=True)
class Part:
    """`base[lower:upper:step]`."""

    base: "Expression"
    bounds: "tuple[Expression | None, Expression | None, Expression | None]"


@dataclass(frozen=True, slots=True)
class Unary:
    """`operator` is one of `not`, `-`, `+`, `~`."""

    operator: str
    operand: "Expression"


@dataclass(frozen=True, slots=True)
class Binary:
    """Arithmetic; `operator` as Python writes it."""

    operator: str
    left: "Expression"
    right: "Expression"


@dataclass(frozen=True, slots=True)
class Comparison:
    """`first op1 second op2 third …`: Python's chain, which stops at the first that does not hold."""

    operands: "tuple[Expression, ...]"
    operators: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class And:
    """The first operand that is not true, else the last one."""

    operands: "tuple[Expression, ...]"


@dataclass(frozen=True, slots=True)
class Or:
    """The first operand that is true, else the last one."""

    operands: "tuple[Expression, ...]"


@dataclass(frozen=True, slots=True)
class Choice:
    """`then if test else otherwise`."""

    test: "Expression"
    then: "Expression"
    otherwise: "Expression"


@dataclass(frozen=True, slots=True)
class Call:
    """A matching function, a role definition (`g`, `g2`, …), or `list`, `tuple`, `set`."""

    function: str
    arguments: "tuple[Expression, ...]"


@dataclass(frozen=True, slots=True)
class MethodCall:
    """A whitelisted method of a text, or `get` of an object."""

    base: "Expression"
    method: str
    arguments: "tuple[Expression, ...]"


@dataclass(frozen=True, slots=True)
class Collection:
    """`[a, b]`, `(a, b)` or `{a, b}`; `kind` is `list`, `tuple` or `set`."""

    kind: str
    items: "tuple[Expression, ...]"


@dataclass(frozen=True, slots=True)
class Table:
    """`{key: value}`."""

    keys: "tuple[Expression, ...]"
    values: "tuple[Expression, ...]"


@dataclass(frozen=True, slots=True)
class Cell:
    """`eval(p.name)`: the row's cell, parsed alone as one complete expression."""

    name: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Something in a cell that is not allowed: an error when, and only when, it is evaluated."""

    reason: str


Expression = (
    Literal
    | RequestValue
    | PolicyValue
    | Attribute
    | Item
    | Part
    | Unary
    | Binary
    | Comparison
    | And
    | Or
    | Choice
    | Call
    | MethodCall
    | Collection
    | Table
    | Cell
    | Refused
)


@dataclass(frozen=True, slots=True)
class Scope:
    """Which names a matcher may use.

    Attributes:
        request_type: `r`, `r2`, …
        request: Names of the request definition, in order.
        policy_type: `p`, `p2`, …
        policy: Names of the policy definition, in order.
        roles: Names of the role definitions (`g`, `g2`, …).
    """

    request_type: str
    request: tuple[str, ...]
    policy_type: str
    policy: tuple[str, ...]
    roles: frozenset[str] = field(default_factory=frozenset)


def children(expression: Expression) -> tuple[Expression, ...]:
    """Return the direct parts of an expression, left to right."""
    match expression:
        case Literal() | RequestValue() | PolicyValue() | Cell() | Refused():
            return ()
        case Attribute(base=base):
            return (base,)
        case Item(base=base, key=key):
            return (base, key)
        case Part(base=base, bounds=bounds):
            return (base, *(bound for bound in bounds if bound is not None))
        case Unary(operand=operand):
            return (operand,)
        case Binary(left=left, right=right):
            return (left, right)
        case Comparison(operands=operands) | And(operands=operands) | Or(operands=operands):
            return operands
        case Choice(test=test, then=then, otherwise=otherwise):
            return (test, then, otherwise)
        case Call(arguments=arguments):
            return arguments
        case MethodCall(base=base, arguments=arguments):
            return (base, *arguments)
        case Collection(items=items):
            return items
        case Table(keys=keys, values=values):
            return (*keys, *values)


def mentions_policy(expression: Expression) -> bool:
    """Whether the value of the expression may differ from row to row."""
    if isinstance(expression, PolicyValue | Cell):
        return True
    return any(mentions_policy(child) for child in children(expression))


def request_names(expression: Expression) -> frozenset[str]:
    """Return the names of the request that the expression looks at."""
    if isinstance(expression, RequestValue):
        return frozenset({expression.name})
    return frozenset().union(*(request_names(child) for child in children(expression)))
