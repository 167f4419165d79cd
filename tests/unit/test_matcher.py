"""Matchers: PyCasbin's rewriting, and nothing beyond a whitelist."""

import re

import pytest
from casbin import util
from hypothesis import given
from hypothesis import strategies as st

from authz import matcher_text
from authz.errors import ModelError
from authz.expressions import EVALUATION_ERRORS, compile_expression
from authz.matcher import parse_cell, parse_matcher
from authz.matcher_text import MatcherError
from authz.matching import MATCHING_FUNCTIONS
from authz.syntax_tree import (
    And,
    Comparison,
    PolicyValue,
    RequestValue,
    Scope,
)

SCOPE = Scope("r", ("sub", "obj", "act"), "p", ("sub", "obj", "act", "rule"), frozenset({"g"}))
FRAGMENTS = [
    "r.sub",
    "p.sub",
    "r2.x",
    "p12.y",
    "&&",
    "||",
    "!",
    "!=",
    " ",
    "'a&&b!'",
    "x.p.y",
    "rp.z",
    "#",
    "(",
    ")",
    "é",
]


def rewrite_as_casbin(text: str) -> str:
    text = util.remove_comments(util.escape_assertion(text))
    text = text.replace("&&", "and").replace("||", "or")
    return re.sub(r"!(?!=)", "not ", text).strip()


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=8).map("".join))
def test_the_text_is_rewritten_as_pycasbin_does(text):
    """Letter by letter, inside quotes too; and every letter knows where it came from."""
    rewritten = matcher_text.operators(matcher_text.without_comment(matcher_text.escape(matcher_text.plain(text))))
    assert rewritten.text == rewrite_as_casbin(text)
    assert len(rewritten.origins) == len(rewritten.text)
    assert all(0 <= origin < len(text) for origin in rewritten.origins)


def test_an_ordinary_matcher():
    """Conjunctions of comparisons come out as such."""
    tree = parse_matcher("r.sub == p.sub && r.obj == p.obj", SCOPE)
    assert tree == And(
        (
            Comparison((RequestValue("sub"), PolicyValue("sub")), ("==",)),
            Comparison((RequestValue("obj"), PolicyValue("obj")), ("==",)),
        )
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("__import__('os').system('true')", "method `system` is not allowed"),
        ("__import__('os')", "unknown function `__import__`"),
        ("open('/etc/passwd')", "unknown function `open`"),
        ("r.sub.__class__", "attribute `__class__` is not allowed"),
        ("r.sub.format", "attribute `format` is not allowed"),
        ("'{0.__class__}'.format(r.sub)", "method `format` is not allowed"),
        ("(lambda: True)()", "only functions and methods can be called"),
        ("[x for x in r.sub]", "a comprehension is not allowed"),
        ("f'{r.sub}' == p.sub", "an f-string is not allowed"),
        ("(x := 1) == 1", "`:=` is not allowed"),
        ("r.sub == p.sub; True", "syntax error"),
        ("r.sub = p.sub", "syntax error"),
        ("import os", "syntax error"),
        ("r.sub == p.sub and", "syntax error"),
        ("", "the expression is empty"),
        ("# only a comment", "the expression is empty"),
        ("r.nope == p.sub", "unknown name `r_nope`"),
        ("r2.sub == p.sub && r.sub == p.sub", "unknown name `r2_sub`"),
        ("r.sub==p.sub&&r.obj==p.obj", "put spaces around `&&`"),
        ("keyMatch(r.sub)", "takes 2 arguments, not 1"),
        ("keyMatch(*r.sub)", "plain arguments only"),
        ("keyMatch(r.sub, key2=p.sub)", "plain arguments only"),
        ("keyGet(r.sub, p.sub) == 'x'", "unknown function `keyGet`"),
        ("g2(r.sub, p.sub)", "unknown function `g2`"),
        ("eval(r.sub)", "eval() takes one column of the policy"),
        ("eval(p.sub, p.rule)", "eval() takes one column of the policy"),
        ("eval( p.rule )", "eval() takes one column of the policy"),
        ("r.sub == 'eval(p.rule)'", "eval() may not stand inside quotes"),
        ("r.sub is p.sub", "`is` compares with None, True or False only"),
        ("b'x' == r.sub", "a literal other than text"),
        ("1j == r.sub", "a literal other than text"),
        ("r.sub @ p.sub", "`@` is not allowed"),
        ("{**r.sub} == p.sub", "`**` is not allowed"),
        ("-" * 5000 + "1 == 1", "nested too deeply"),
        ("(" * 150 + "1" + ")" * 150 + " == 1 and r.sub", None),
        ("(" * 5000 + "1" + ")" * 5000, "longer than"),
        ("((" * 2000 + "1" + "))" * 2000, ""),
        (" and ".join(["r.sub == p.sub"] * 900), "longer than"),
        ("+".join(["1"] * 200) + " == 1", "nested too deeply"),
        ("r.sub == 'x" + chr(0) + "'", "syntax error"),
        ("9" * 5000 + " == r.sub", "syntax error"),
    ],
)
def test_everything_else_is_refused(text, reason):
    """With its reason and a column; only plain parentheses may nest as deep as Python lets them."""
    if reason is None:
        parse_matcher(text, SCOPE)
        return
    with pytest.raises(MatcherError) as caught:
        parse_matcher(text, SCOPE)
    assert reason in str(caught.value)
    assert isinstance(caught.value, ModelError)
    assert 1 <= caught.value.column <= max(len(text), 1)


@pytest.mark.parametrize(
    ("text", "found"),
    [("r.sub == p.sub && r.obj == nope", "nope"), ("r.sub == 'é' || !r.nope", "r.nope"), ("p.sub == foo(1)", "foo")],
)
def test_the_column_is_that_of_the_matcher_as_written(text, found):
    """Not that of the rewritten text."""
    with pytest.raises(MatcherError) as caught:
        parse_matcher(text, SCOPE)
    assert caught.value.column == text.index(found) + 1


@pytest.mark.parametrize(
    "text",
    [
        "True) || (True",
        "True) or (True",
        "x)",
        "(x",
        "",
        " ",
        "True #",
        "True; False",
        "a, b = 1",
        "1 == 1\nor True",
        "x for x in y",
    ],
)
def test_a_cell_is_one_complete_expression(text):
    """PyCasbin pastes a cell between parentheses; what only parses there is refused."""
    with pytest.raises(MatcherError):
        parse_cell(text, SCOPE)


@pytest.mark.parametrize(
    "text", ["open('x')", "r.sub.__class__ == 1", "eval(p.rule)", "unknown == 1", "[x for x in r.sub]", "r.sub.foo()"]
)
def test_what_a_cell_may_not_do_fails_when_it_is_evaluated(text):
    """As in PyCasbin: an error of the row, not of the policy."""
    evaluate = compile_expression(parse_cell(text, SCOPE), SCOPE, MATCHING_FUNCTIONS)
    with pytest.raises(EVALUATION_ERRORS):
        evaluate(("alice", "data", "read"), ("alice", "data", "read", text))
