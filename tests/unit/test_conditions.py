"""Bounds and failures of CEL conditions."""

from contextlib import suppress
from time import thread_time

import pytest

from authz.conditions import activation_of, compile_condition
from authz.errors import ConditionError
from authz.request import Action, Entity
from tests.support.policies import NOW


def evaluate(text, *, subject=None, resource=None, context=None):
    return compile_condition(text).evaluate(
        activation_of(
            Entity("user", "bob", subject or {}),
            Action("read", {"soft": True}),
            Entity("record", "1", resource or {}),
            context or {},
            NOW,
        )
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('subject.type == "user" && subject.id == "bob"', True),
        ("action.properties.soft", True),
        ('has(context.ip) && context.ip.startsWith("10.")', False),
        ('now >= timestamp("2026-06-01T12:00:00Z")', True),
        ('now > timestamp("2026-06-01T12:00:00Z")', False),
        ('["a", "b"].exists(x, x == "b")', True),
        ('subject.id.matches("^b[aeiou]b$")', True),
        ('"all(x, map(" == subject.id // .all(', False),
    ],
)
def test_conditions_speak_the_shape_of_a_question(text, expected):
    assert evaluate(text) is expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "1",
        '"true"',
        "subject",
        "subject.name == 'x'",
        "subject.id == 1",
        "subject.id ==",
        "unknown(1)",
        "__import__('os')",
        "now + 1 == now",
        "context.a.all(x, context.b.all(y, x == y))",
        "context.a.map(x, x.filter(y, true)) == []",
        "subject.id.matches(context.pattern)",
        'subject.id.matches("a" + "b")',
        'subject.id.matches("(")',
        "[1].all(a, true) && [1].all(a, true) && [1].all(a, true) && [1].all(a, true) && [1].all(a, true)",
        "(" * 40 + "true" + ")" * 40,
        " || ".join(["subject.id == 'aaaaaaaaaaaaaaaaaaaa'"] * 100),
    ],
)
def test_what_does_not_check_is_refused_before_it_is_stored(text):
    with pytest.raises(ConditionError):
        compile_condition(text)


@pytest.mark.parametrize(
    ("text", "context"),
    [
        ("context.missing", {}),
        ("context.n", {"n": 1}),
        ("context.s", {"s": "true"}),
        ("context.n > 1", {"n": 2**70}),
        ("context.list.all(x, x > 0)", {"list": list(range(1, 200_000))}),
        ("context.s.size() > 1", {"s": "x" * 10_000}),
        ("1 / context.zero == 1", {"zero": 0}),
    ],
)
def test_errors_are_raised_not_guessed(text, context):
    with pytest.raises(ConditionError):
        evaluate(text, context=context)


def test_deep_values_are_refused():
    deep: object = 1
    for _ in range(100):
        deep = {"d": deep}
    with pytest.raises(ConditionError):
        evaluate("has(context.d)", context={"d": deep})


def test_message_names_line_and_column():
    with pytest.raises(ConditionError, match="line 2, column 8"):
        compile_condition("true &&\nsubject.oops == 1")


@pytest.mark.parametrize(
    "text",
    [
        "context.l.all(x, x in context.l)",
        "context.l.all(x, (context.l + context.l).size() > 0)",
        "context.l.map(x, context.l) == context.l.map(x, context.l)",
        'context.l.all(x, !context.s.matches("(a{1,30}){1,30}b"))',
        'context.l.all(x, !((string(x) + "b") in context.l))',
        "[context.m].all(x, context.m == context.m)",
        " + ".join(["context.l"] * 25) + " == context.l",
        "context.l.filter(x, true).size() == 1",
    ],
)
def test_a_condition_that_would_hold_up_others_is_in_error_at_once(text):
    """Nothing can interrupt CEL, so what would take seconds must not begin."""
    context = {"l": list(range(9_000)), "s": "a" * 8_000, "m": {str(n): n for n in range(9_000)}}
    started = thread_time()
    with pytest.raises(ConditionError, match="too much work"):
        evaluate(text, context=context)
    assert thread_time() - started < 1


def test_what_a_text_makes_out_of_its_values_counts_as_well():
    """A list that is added to itself again and again grows, and so does each step; few operations are then many."""
    longer = " + ".join(["context.l"] * 25) + " == context.l"
    assert evaluate(longer, context={"l": [1] * 50}) is False
    with pytest.raises(ConditionError, match="too much work"):
        evaluate(longer, context={"l": [1] * 300})


def test_no_condition_within_its_allowance_takes_long():
    """The estimate is never far below the truth: growing values are let through until just before they are refused."""
    texts = [
        "context.l.all(x, x in context.l)",
        "context.l.all(x, (context.l + context.l).size() > 0)",
        "context.l.map(x, context.l) == context.l.map(x, context.l)",
        'context.l.all(x, !context.s.matches("(a{1,30}){1,30}b"))',
        "context.l.map(x, [x, x, x]).map(y, [y, y, y]) == [[[1]]]",
        " + ".join(["context.l"] * 25) + " == context.l",
        "context.m == context.m",
    ]
    for text in texts:
        for size in (1, 3, 10, 30, 100, 300, 1_000, 3_000):
            context = {"l": list(range(size)), "s": "a" * size, "m": {str(n): n for n in range(size)}}
            started = thread_time()
            with suppress(ConditionError):
                evaluate(text, context=context)
            assert thread_time() - started < 1, (text, size)


def test_all_conditions_of_a_decision_share_one_allowance():
    """Many conditions that are each just bearable are not bearable together."""
    activation = activation_of(
        Entity("user", "bob"), Action("read"), Entity("record", "1"), {"l": list(range(5_000))}, NOW
    )
    outcomes = []
    for number in range(100):
        try:
            outcomes.append(compile_condition(f"!({-1 - number} in context.l)").evaluate(activation))
        except ConditionError:
            outcomes.append(None)
    assert outcomes[:5] == [True] * 5
    assert outcomes[50:] == [None] * 50


def test_too_many_values_are_not_even_counted():
    """Looking at half a million values, again for each question of a batch, would itself hold up others."""
    with pytest.raises(ConditionError, match="more than"):
        evaluate("context.ok", context={"ok": True, "l": [1] * 500_000})


@pytest.mark.parametrize(
    "text",
    [
        '"""\\""" """ == "x" || context.l.all(x, context.l.all(y, x != y)) || """q""" == "q"',
        "'''\\''' ''' == 'x' || context.l.all(x, context.l.all(y, x != y)) || '''q''' == 'q'",
        'r"\\" == "x" || context.l.all(x, context.l.all(y, x != y)) || "q" == "q"',
        '"""\\""" """ == "x" || subject.id.matches(context.p) || """q""" == "q"',
    ],
)
def test_a_string_hides_no_macro_from_the_checks(text):
    """Where a string ends is CEL's to say: in a long string a backslash escapes a quote, in a raw one it does not."""
    with pytest.raises(ConditionError):
        compile_condition(text)


@pytest.mark.parametrize(
    "text",
    ["has(resource // x\n .properties.locked)", "has(resource.properties.locked)", "has(resource . properties.a)"],
)
def test_a_comment_does_not_hide_that_stored_attributes_are_needed(text):
    """Unnoticed, the stored attributes would not be loaded, and `!has(…)` would hold."""
    assert compile_condition(text).uses_resource
