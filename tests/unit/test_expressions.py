"""Compiled expressions: simpleeval's values, bounded."""

import warnings

import pytest
from casbin.util import SimpleEval

from authz.expressions import EVALUATION_ERRORS, ExpressionError, compile_expression
from authz.matcher import parse_cell
from authz.syntax_tree import (
    Scope,
)

SCOPE = Scope("r", ("sub", "obj"), "p", ("sub", "obj"))
REQUEST = ({"Age": 20, "Tags": ["a", "b"], "Nested": {"x": 1}, "count": 7}, "data1")
ROW = ("alice", "data1")


def value_of(text):
    return compile_expression(parse_cell(text, SCOPE), SCOPE, {})(REQUEST, ROW)


@pytest.mark.parametrize(
    "text",
    [
        "r.sub.Age > 18",
        "18 < r.sub.Age <= 20",
        "r.sub.Nested.x == 1",
        "r.sub.count",
        "r.sub['Age'] + 1",
        "r.sub.get('Nope', 5)",
        "r.sub.Tags[0]",
        "r.obj[0:4]",
        "r.obj[::-1]",
        "'a' in r.sub.Tags",
        "'z' not in r.sub.Tags",
        "r.obj in {'data1', 'x'}",
        "r.obj in ('data1',)",
        "{'data1': 3}[r.obj]",
        "r.obj.startswith('data') and r.obj.upper()",
        "r.obj == p.obj or 1 / 0",
        "r.sub.Age if r.obj == 'x' else 'no'",
        "not r.obj",
        "-r.sub.Age + 2 * 3 - 4 / 2",
        "7 // 2 + 7 % 4 + 2 ** 3",
        "5 & 3 | 8 ^ 1",
        "~5 << 2 >> 1",
        "r.sub.Age is None",
        "None is not True",
        "list(r.obj)",
        "tuple(r.sub.Tags)",
        "set(r.sub.Tags) == {'b', 'a'}",
        "'a' 'b'",
        "1_000 == 0x3e8",
        "r.obj && r.sub.Age",
        "() || []",
    ],
)
def test_values_are_those_of_simpleeval(text):
    """What PyCasbin's evaluator says, is said here."""
    names = {"r_sub": REQUEST[0], "r_obj": REQUEST[1], "p_sub": ROW[0], "p_obj": ROW[1]}
    rewritten = text.replace("r.", "r_").replace("p.", "p_").replace("&&", "and").replace("||", "or")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert value_of(text) == SimpleEval(rewritten, {}).eval(names)


@pytest.mark.parametrize(
    "text",
    [
        "2 ** 100000",
        "2 ** 2 ** 2 ** 2 ** 2 ** 2",
        "(-8) ** 0.5",
        "'a' * 1000000000",
        "1000000000 * 'a'",
        "[1] * 1000000000",
        "([1] * 100000,) * 100000 == ([1] * 100000,) * 100000",
        "'%1000000000d' % 1",
        "1 << 1000000",
        "'a' ** 2",
        "9" * 1300 + " * " + "9" * 1300,
    ],
)
def test_what_could_grow_without_bound_is_an_error(text):
    """Before the memory or the clock notices."""
    with pytest.raises((ExpressionError, *EVALUATION_ERRORS)):
        value_of(text)


def test_a_power_is_refused_before_it_is_worked_out():
    """What would be too big is told by the lengths of its parts."""
    with pytest.raises(ExpressionError, match="a power is too big"):
        value_of("7 ** 1000000")


@pytest.mark.parametrize(
    "text",
    [
        "r.sub.Nope",
        "r.obj.Age",
        "r.sub.items",
        "r.sub.keys",
        "r.obj.get('x')",
        "r.sub.upper()",
        "r.sub.Age.real",
        "r.sub < 1",
    ],
)
def test_missing_or_odd_attributes_are_errors(text):
    """Never None, never a Python method in place of a value."""
    with pytest.raises(EVALUATION_ERRORS):
        value_of(text)
