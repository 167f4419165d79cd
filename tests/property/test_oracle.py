"""The compiled answer is PyCasbin's, for models, policies and requests that Hypothesis makes.

10,000 requests per run; 1,000,000 with `--nightly`, or as many as `KASBAH_ORACLE_REQUESTS` says.
"""

import os

import pytest
from hypothesis import HealthCheck, Phase, event, given, settings

from authz.casbin_oracle import CasbinOracle, OracleAnswer, parse_model
from authz.errors import ModelError
from authz.positional import Answer, PositionalEngine, Unanswered
from tests.support.casbin_worlds import REQUESTS_PER_WORLD, World, worlds

REQUESTS = 10_000
NIGHTLY_REQUESTS = int(os.environ.get("KASBAH_ORACLE_REQUESTS", "1000000"))


def made(requests: int) -> settings:
    """Return the settings for a number of requests; shrinking a world takes longer than reading it."""
    return settings(
        max_examples=requests // REQUESTS_PER_WORLD,
        deadline=None,
        phases=[Phase.explicit, Phase.reuse, Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    )


@made(REQUESTS)
@given(worlds())
def test_answers_are_those_of_pycasbin(world: World) -> None:
    """Equal decisions, errors where PyCasbin raises, and differences only where a corner explains them."""
    check(world)


@pytest.mark.nightly
@made(NIGHTLY_REQUESTS)
@given(worlds())
def test_a_million_answers_are_those_of_pycasbin(world: World) -> None:
    """As above, through the night."""
    check(world)


def check(world: World) -> None:
    """Ask both engines everything."""
    oracle = CasbinOracle(world.model, world.rows, functions=world.functions)
    try:
        engine = PositionalEngine(parse_model(world.model), world.rows, functions=world.functions)
    except ModelError as error:
        event("model refused")
        raise AssertionError(f"every made model is within the language: {error}") from error
    for request in world.requests:
        answer, expected = engine.decide(request), oracle.ask(request)
        assert agrees(world, engine, answer, expected), (
            world.model,
            request,
            answer,
            expected,
            world.functions,
            world.rows,
        )


def agrees(world: World, engine: PositionalEngine, answer: Answer | Unanswered, expected: OracleAnswer) -> bool:
    """Whether the two answers are equal, or differ in a corner of ADR 0002 towards less access."""
    if expected.decision is None:
        # A raise is no decision: an error here as well, or a deny; never an allow.
        return isinstance(answer, Unanswered) or not answer.decision
    no_rows = not any(row.kind == "p" for row in world.rows)
    if isinstance(answer, Answer):
        if answer.decision is expected.decision:
            return named_rule_is_among(world, answer, expected)
        return no_rows and not answer.decision
    return no_rows or is_known_refusal(answer.error)


def named_rule_is_among(world: World, answer: Answer, expected: OracleAnswer) -> bool:
    """PyCasbin names the row it matched last; where that row had a say, it is one of ours."""
    if not answer.rules or not expected.rule or "indeterminate" in expected.rule:
        return True
    rows = {row.source: row.values for row in world.rows}
    return expected.rule in {rows[source] for source in answer.rules}


REFUSALS = (
    "which is not regular",  # patterns that need backtracking
    "ignoring case is limited",
    "eval(): ",  # a cell that is no expression of its own
    "is a method of Python's objects",
    "`.items` of something that is not an object",
)


def is_known_refusal(error: str) -> bool:
    """Whether Kasbah refuses by a named corner what PyCasbin answers."""
    return any(refusal in error for refusal in REFUSALS)
