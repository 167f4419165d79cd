"""Conditions of rules: CEL, type-checked, bounded, and true only for a boolean `true`.

Source of the language: Common Expression Language specification, cel-spec. A condition speaks AuthZEN's own shape
(`subject.id`, `resource.properties.status`, `context.ip`) plus `now` and `auth` (how the subject signed in,
`authz/auth_conditions.py`). Bounds: the text's length, the macros in it
(no macro inside a macro), literal patterns only, the iteration budget of the CEL runtime, the length of strings, and
the work that the text can make of the values at hand (`condition_cost`): one allowance for all that a decision asks.
"""

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from cel_expr_python import cel

from authz.auth_conditions import HAS, AuthUse, auth_use, with_presence
from authz.condition_cost import MACROS, MAX_WEIGHT, MAX_WORK, TOKEN, Allowance, Cost, Weight, cost_of
from authz.errors import ConditionError
from authz.request import Action, Auth, Entity, Properties

MAX_CONDITION_LENGTH = 2048
MAX_MACROS = 4
MAX_STRING_LENGTH = 8192
MAX_DEPTH = 32

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
        "auth.acr": cel.Type.STRING,
        "auth.amr": cel.Type.List(cel.Type.STRING),
        "auth.time": cel.Type.TIMESTAMP,
        **dict.fromkeys(HAS.values(), cel.Type.BOOL),
    }
)
_NO_AUTH = Auth()
_NO_VALUE = re.compile(r'No value with name "(auth\.[a-z]+)"')


class Activation:
    """What the conditions of one decision see, and the work that they may still make of it."""

    __slots__ = ("allowance", "variables", "weight")

    def __init__(self, variables: dict[str, Any], weight: Weight, whole: Allowance | None) -> None:
        self.variables = variables
        self.weight = weight
        self.allowance = Allowance(MAX_WORK, whole)


class Condition:
    """A compiled condition. Equal texts share one object."""

    __slots__ = ("_cost", "_expression", "auth", "text", "uses_resource", "uses_subject")

    def __init__(
        self, text: str, expression: cel.Expression, tokens: list[re.Match[str]], auth: AuthUse | None
    ) -> None:
        self.text = text
        self.auth = auth
        """How it asks how the subject signed in; None if it does not."""
        # SECURITY: by tokens, since blanks and comments may stand anywhere between them.
        written = "".join(token.group() for token in tokens)
        self.uses_subject, self.uses_resource = ("subject.properties" in written, "resource.properties" in written)
        self._cost: Cost = cost_of(tokens)
        self._expression = expression

    def evaluate(self, activation: Activation) -> bool:
        """Return what the condition says of `activation`.

        Raises:
            ConditionError: a missing property, a type that does not fit, a bound passed, or a result that is no
                boolean. The caller makes an allow rule not match and a deny rule match.
        """
        if not activation.allowance.takes(self._cost.of(activation.weight)):
            raise ConditionError("too much work for values of this size")
        try:
            value = self._expression.eval(data=activation.variables)
            result = value.value()
        except (RuntimeError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise ConditionError(_first_line(error)) from error
        if result is True or result is False:
            return result
        raise ConditionError(_failure(result) if value.type() == cel.Type.ERROR else "the result is not a boolean")


def activation_of(
    subject: Entity,
    action: Action,
    resource: Entity,
    context: Properties,
    now: datetime,
    *,
    auth: Auth | None = None,
    whole: Allowance | None = None,
) -> Activation:
    """Return the variables of a condition. `now` is aware; the properties are those already merged.

    Args:
        subject: Who.
        action: Does what.
        resource: On what.
        context: In which circumstances.
        now: Time of the decision.
        auth: How the subject signed in, as far as it is known.
        whole: The work left to the batch that the question is part of.

    Raises:
        ConditionError: a string longer than 8,192 characters, values nested deeper than 32, or too many of them.
    """
    weight = Weight()
    for properties in (subject.properties, action.properties, resource.properties, context):
        _weigh(properties, 0, weight)
    for name in (subject.type, subject.id, action.name, resource.type, resource.id):
        weight.add_text(name)
    signed_in = _of_sign_in(auth or _NO_AUTH)
    _weigh(signed_in.get("auth.amr"), 0, weight)
    return Activation(
        signed_in
        | {
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
        },
        weight,
        whole,
    )


def _of_sign_in(auth: Auth) -> dict[str, Any]:
    """Return the variables of a sign-in. What is not known has none, so that a condition that needs it is in error."""
    amr = None if auth.amr is None else list(auth.amr)
    values = {"acr": auth.acr, "amr": amr, "time": auth.time}
    known = {f"auth.{name}": value for name, value in values.items() if value is not None}
    return known | {HAS[name]: value is not None for name, value in values.items()}


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
    tokens = [match for match in TOKEN.finditer(text) if match.lastgroup not in {"space", "comment"}]
    _check_macros(tokens)
    auth = auth_use(tokens, _duration)
    try:
        expression = _ENVIRONMENT.compile(text if auth is None else with_presence(text, tokens))
    except (RuntimeError, ValueError, TypeError) as error:
        raise ConditionError(_compile_message(str(error))) from error
    kind = expression.return_type()
    if kind not in (cel.Type.BOOL, cel.Type.DYN):
        raise ConditionError(f"gives {kind.name().lower()}, not a boolean")
    return Condition(text, expression, tokens, auth)


def _duration(literal: str) -> timedelta | None:
    """Return the duration that a string literal writes (`"5m"`), or None when it is none."""
    try:
        value = _ENVIRONMENT.compile(f"duration({literal})").eval(data={}).value()
    except (RuntimeError, ValueError, TypeError):
        return None
    return value if isinstance(value, timedelta) else None


def _check_macros(tokens: list[re.Match[str]]) -> None:
    """SECURITY: nested macros multiply the iterations, and a pattern made at run time is compiled at every one."""
    open_macros: list[bool] = []
    macros = 0
    for position, token in enumerate(tokens):
        following = tokens[position + 1].group() if position + 1 < len(tokens) else ""
        if token.group() == "(":
            name = tokens[position - 1].group() if position else ""
            is_macro = name in MACROS and position > 1 and tokens[position - 2].group() == "."
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


def _weigh(value: Any, depth: int, weight: Weight) -> None:
    """Add a value to `weight`; refuse strings that are too long, values nested too deeply, and too many."""
    if weight.total > MAX_WEIGHT:
        raise ConditionError(f"more than {MAX_WEIGHT} values")
    if isinstance(value, str):
        if len(value) > MAX_STRING_LENGTH:
            raise ConditionError(f"a string is longer than {MAX_STRING_LENGTH} characters")
        weight.add_text(value)
    elif isinstance(value, Mapping):
        if depth >= MAX_DEPTH:
            raise ConditionError(f"values are nested deeper than {MAX_DEPTH}")
        weight.add_container(value)
        for key, item in value.items():
            _weigh(key, depth + 1, weight)
            _weigh(item, depth + 1, weight)
    elif isinstance(value, list):
        if depth >= MAX_DEPTH:
            raise ConditionError(f"values are nested deeper than {MAX_DEPTH}")
        weight.add_container(value)
        for item in value:
            _weigh(item, depth + 1, weight)
    else:
        weight.total += 1


def _first_line(error: object) -> str:
    return str(error).splitlines()[0][:300]


def _failure(error: object) -> str:
    """Say what a condition lacked; only the members of `auth` are variables that may have no value."""
    missing = _NO_VALUE.search(str(error))
    return _first_line(error) if missing is None else f"`{missing[1]}` is missing: the sign-in is not known"


def _compile_message(text: str) -> str:
    """Turn CEL's `INVALID_ARGUMENT: ERROR: <input>:1:12: why` into `line 1, column 12: why`."""
    found = re.search(r"<input>:(\d+):(\d+): (.*)", text)
    if found is None:
        return _first_line(text)
    line, column, why = found.groups()
    why = why.removesuffix(" (in container '')")
    return f"line {line}, column {column}: {why}"
