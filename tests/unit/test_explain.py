"""Explanations: what they call a reason is the reason, under each effect that is served."""

from dataclasses import replace

import pytest

from authz.explain import explain
from authz.served_model import PolicyEffect
from tests.support.policies import DEFAULT_MODEL, NOW, ask, policy

PRIORITY = replace(DEFAULT_MODEL, effect=PolicyEffect.PRIORITY, columns=("priority", *DEFAULT_MODEL.columns))
ALLOW_OVERRIDE = replace(DEFAULT_MODEL, effect=PolicyEffect.ALLOW_OVERRIDE)
QUESTION = ask("user:a", "open", "door:1")


def told(text, model=DEFAULT_MODEL, question=QUESTION):
    small = policy(text, model=model)
    return explain(small, question, small.decide(question, NOW), NOW)


def lines_of(rules):
    return [rule.source.line for rule in rules]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("p user:a door:1 open\np user:a door:* open deny", "a deny rule applies"),
        ("p user:a door:1 open if context.missing", "a condition could not be evaluated"),
        ("p user:a door:1 open if false", "its condition is false"),
        ("p role:x door:1 open", "rules allow it to others"),
        ("p user:a door:2 open", "no rule names this action"),
        ("p user:a door:1 open deny if false", "no rule names this action"),
        ("p user:a door:1 open deny if false\np role:x door:1 open", "rules allow it to others"),
    ],
)
def test_a_denial_says_why(text, why):
    """A deny rule that does not apply never passes for a rule that would allow."""
    assert why in told(text).summary


def test_under_priority_the_first_rule_alone_decides():
    """Rules after it match too, and had no say."""
    denied = told("p user:a door:1 open allow 2\np user:a door:1 open deny 1\np user:a door:1 open deny 3", PRIORITY)
    assert "the first rule that applies, by priority, denies" in denied.summary
    assert (lines_of(denied.granted_by), lines_of(denied.blocked_by)) == ([], [2])
    allowed = told("p user:a door:1 open deny 2\np user:a door:1 open allow 1", PRIORITY)
    assert allowed.summary.startswith("allowed")
    assert (lines_of(allowed.granted_by), lines_of(allowed.blocked_by)) == ([2], [])


def test_under_priority_an_error_denies_and_is_named():
    """It is not the deny further down that did."""
    found = told("p user:a door:1 open allow 1 if context.missing\np user:a door:1 open deny 2", PRIORITY)
    assert "a condition could not be evaluated" in found.summary
    assert lines_of(found.failed_conditions) == [1]


def test_where_only_allows_count_no_deny_is_blamed():
    """An effect without denies ignores such rows, and so does the explanation."""
    found = told("p user:a door:1 open deny\np role:x door:1 open", ALLOW_OVERRIDE)
    assert "rules allow it to others" in found.summary
    assert found.blocked_by == ()


def test_rules_are_cut_and_it_is_said():
    """At most fifty in each part."""
    found = told("\n".join(f"p role:r{number} door:1 open" for number in range(51)))
    assert len(found.would_grant) == 50
    assert found.truncated
    assert found.lines()[-1].endswith("only the first 50 rules of each part are shown")
