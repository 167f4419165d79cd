"""Conditions of rules: CEL, type-checked, bounded, and true only for a boolean `true`.

Source of the language: Common Expression Language specification, cel-spec. A condition speaks AuthZEN's own shape
(`subject.id`, `resource.properties.status`, `context.ip`) plus `now`. Bounds: the text's length, the macros in it
(no macro inside a macro), literal patterns only, the iteration budget of the CEL runtime, and the length of strings.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, NewType

from cel_expr_python import cel

from authz.errors import ConditionError
from authz.request import Action, Entity, Properties

MAX_CONDITION_LENGTH = 2048
MAX_MACROS = 4
MAX_STRING_LENGTH = 8192
MAX_DEPTH = 32

Activation = NewType("Activation", dict[str, Any])

_PROPERTIES = cel.Type.Map(cel.Type.STRING, cel.Type.DYN)
_ENVIRONMENT = cel.NewEnv(
    variables={
        "subject.type": cel.Type.STRING,
        "subject.id": cel.Type.STRING,
        "subject.properties": _PROPERTIES,
        "action.name": cel.Type.STRING,
        "action.properties": _PROPERTIES,
        "resource.type": cel.Type.STRING,
        "resource.id": cel.Type.STRING,
        "resource.properties": _PROPERTIES,
        "context": _PROPERTIES,
        "now": cel.Type.TIMESTAMP,
    }
)
_MACROS = frozenset({"all", "exists", "exists_one", "filter", "map"})
_TOKEN = re.compile(
    r"""(?P<comment>//[^\n]*)
      | (?P<string>[bBrR]{0,2}(?:\"\"\".*?\"\"\"|'''.*?'''|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'))
      | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<number>[0-9][0-9A-Za-z_.]*)
      | (?P<space>\s+)
      | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)


class Condition:
    """A compiled condition. Equal texts share one object."""

    __slots__ = ("_expression", "text", "uses_resource")

    def __init__(self, text: str, expression: cel.Expression) -> None:
        self.text = text
        self.uses_resource = "resource.properties" in re.sub(r"\s+", "", text)
        self._expression = expression

    def evaluate(self, activation: Activation) -> bool:
        """Return what the condition says of `activation`.

        Raises:
            ConditionError: a missing property, a type that does not fit, a bound passed, or a result that is no
                boolean. The caller makes an allow rule not match and a deny rule match.
        """
        try:
            value = self._expression.eval(data=activation)
            result = value.value()
        except (RuntimeError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise ConditionError(_first_line(error)) from error
        if result is True or result is False:
            return result
        raise ConditionError(_first_line(result) if value.type() == cel.Type.ERROR else "the result is not a boolean")


def activation_of(subject: Entity, action: Action, resource: Entity, context: Properties, now: datetime) -> Activation:
    """Return the variables of a condition. `now` is aware; the properties are those already merged.

    Raises:
        ConditionError: a string longer than 8,192 characters or values nested deeper than 32.
    """
    for properties in (subject.properties, action.properties, resource.properties, context):
        _check_bounds(properties, 0)
    return Activation(
        {
            "subject.type": subject.type,
            "subject.id": subject.id,
            "subject.properties": subject.properties,
            "action.name": action.name,
            "action.properties": action.properties,
            "resource.type": resource.type,
            "resource.id": resource.id,
            "resource.properties": resource.properties,
            "context": context,
            "now": now,
        }
    )


@lru_cache(maxsize=16384)
def compile_condition(text: str) -> Condition:
    """Parse, type-check and bound a condition.

    Raises:
        ConditionError: what is wrong, with line and column (from 1) where CEL names them.
    """
    if len(text) > MAX_CONDITION_LENGTH:
        raise ConditionError(f"longer than {MAX_CONDITION_LENGTH} characters")
    if not text.strip():
        raise ConditionError("empty")
    _check_macros(text)
    try:
        expression = _ENVIRONMENT.compile(text)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ConditionError(_compile_message(str(error))) from error
    kind = expression.return_type()
    if kind not in (cel.Type.BOOL, cel.Type.DYN):
        raise ConditionError(f"gives {kind.name().lower()}, not a boolean")
    return Condition(text, expression)


def _check_macros(text: str) -> None:
    """SECURITY: nested macros multiply the iterations, and a pattern made at run time is compiled at every one."""
    tokens = [m for m in _TOKEN.finditer(text) if m.lastgroup not in {"space", "comment"}]
    open_macros: list[bool] = []
    macros = 0
    for position, token in enumerate(tokens):
        following = tokens[position + 1].group() if position + 1 < len(tokens) else ""
        if token.group() == "(":
            name = tokens[position - 1].group() if position else ""
            is_macro = name in _MACROS and position > 1 and tokens[position - 2].group() == "."
            if is_macro:
                macros += 1
                if any(open_macros):
                    raise ConditionError(f"column {token.start() + 1}: `{name}` inside another macro")
            open_macros.append(is_macro)
            if len(open_macros) > MAX_DEPTH:
                raise ConditionError(f"column {token.start() + 1}: nested deeper than {MAX_DEPTH}")
        elif token.group() == ")" and open_macros:
            open_macros.pop()
        elif token.group() == "matches" and following == "(":
            _check_literal_pattern(tokens[position + 2 : position + 6], token.start() + 1)
    if macros > MAX_MACROS:
        raise ConditionError(f"more than {MAX_MACROS} macros")


def _check_literal_pattern(arguments: list[re.Match[str]], column: int) -> None:
    """Accept `x.matches("…")` and `matches(x, "…")` with a literal pattern only."""
    texts = [(token.lastgroup, token.group()) for token in arguments]
    method_form = len(texts) > 1 and texts[0][0] == "string" and texts[1][1] == ")"
    if not method_form:
        raise ConditionError(f'column {column}: write `text.matches("pattern")` with a literal pattern')
    try:
        probe = _ENVIRONMENT.compile(f'"".matches({texts[0][1]})').eval(data={})
    except (RuntimeError, ValueError, TypeError) as error:
        raise ConditionError(f"column {column}: {_compile_message(str(error))}") from error
    if probe.type() == cel.Type.ERROR:
        raise ConditionError(f"column {column}: {_first_line(probe.value())}")


def _check_bounds(value: Any, depth: int) -> None:
    if isinstance(value, str):
        if len(value) > MAX_STRING_LENGTH:
            raise ConditionError(f"a string is longer than {MAX_STRING_LENGTH} characters")
    elif isinstance(value, Mapping):
        if depth >= MAX_DEPTH:
            raise ConditionError(f"values are nested deeper than {MAX_DEPTH}")
        for key, item in value.items():
            _check_bounds(key, depth + 1)
            _check_bounds(item, depth + 1)
    elif isinstance(value, list):
        if depth >= MAX_DEPTH:
            raise ConditionError(f"values are nested deeper than {MAX_DEPTH}")
        for item in value:
            _check_bounds(item, depth + 1)


def _first_line(error: object) -> str:
    return str(error).splitlines()[0][:300]


def _compile_message(text: str) -> str:
    """Turn CEL's `INVALID_ARGUMENT: ERROR: <input>:1:12: why` into `line 1, column 12: why`."""
    found = re.search(r"<input>:(\d+):(\d+): (.*)", text)
    if found is None:
        return _first_line(text)
    line, column, why = found.groups()
    return f"line {line}, column {column}: {why}"
