"""Conditions that ask how the subject signed in: types, presence, what is missing, and at which ages they turn."""

from datetime import timedelta

import pytest

from authz.conditions import activation_of, compile_condition
from authz.errors import ConditionError
from authz.request import Action, Auth, Entity
from tests.support.policies import NOW
from tests.support.sign_ins import signed_in


def holds(text, auth=None, context=None):
    seen = activation_of(Entity("user", "bob"), Action("read"), Entity("record", "1"), context or {}, NOW, auth=auth)
    return compile_condition(text).evaluate(seen)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("auth.acr == 'aal2'", True),
        ("'otp' in auth.amr && !('hwk' in auth.amr)", True),
        ("auth.amr.exists(method, method == 'mfa')", True),
        ("now - auth.time <= duration('60s')", True),
        ("now - auth.time < duration('60s')", False),
        ("auth.time.getFullYear() == 2026", True),
        ("has(auth.acr) && has( auth . amr ) && has(\n  auth.time // when\n)", True),
    ],
)
def test_a_sign_in_is_seen(text, expected):
    """Level, methods and time are there, each in its own type."""
    assert holds(text, signed_in(seconds_ago=60)) is expected


@pytest.mark.parametrize("auth", [None, Auth(), Auth(amr=("pwd",))])
def test_what_is_not_known_is_an_error_and_can_be_asked_for(auth):
    """A missing level is an error as a missing property is, never an empty text; `has()` asks first."""
    with pytest.raises(ConditionError, match=r"`auth\.acr` is missing"):
        holds("auth.acr != 'aal1'", auth)
    assert holds("has(auth.acr)", auth) is False
    assert holds("!has(auth.acr) || auth.acr == 'aal2'", auth) is True


@pytest.mark.parametrize("name", ["auth", "auth.acr", "acr"])
def test_the_context_never_fills_it_in(name):
    """What a caller writes in `context` under these names is context."""
    context = {"auth": {"acr": "aal2"}, "auth.acr": "aal2", "acr": "aal2", "auth_has_acr": True}
    with pytest.raises(ConditionError, match="missing"):
        holds("auth.acr == 'aal2'", None, context)
    assert holds("has(auth.acr)", None, context) is False
    assert name in context


@pytest.mark.parametrize(
    "text",
    [
        "auth.acr > 1",
        "auth.level == 'aal2'",
        "auth.amr == 'pwd'",
        "auth.time == '2026-06-01T00:00:00Z'",
        "auth == {}",
        "auth['acr'] == 'aal2'",
        "(auth).acr == 'aal2'",
        ".auth.acr == 'aal2'",
        "has(.auth.acr)",
        "has(auth)",
        "has(auth.acr.name)",
        "size(auth) > 0",
        "[1].exists(auth, auth == 1)",
        "auth_has_acr",
        "'x' in .auth.amr",
    ],
)
def test_other_uses_are_refused_when_compiled(text):
    """Lint finds a misspelt member and a comparison that can never be."""
    with pytest.raises(ConditionError):
        compile_condition(text)


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("auth", 1),
        ("auth == {}", 1),
        ("auth['acr'] == 'aal2'", 1),
        ("auth.level == 'aal2'", 1),
        (".auth.acr == 'aal2'", 2),
        ("has(.auth.acr)", 6),
        ("'aal2' == .auth.acr", 12),
        ("has(auth)", 5),
        ("1 < size(auth)", 10),
    ],
)
def test_a_refusal_says_where_and_what_there_is(text, column):
    """A name of the sign-in itself is no value, absolute or not."""
    with pytest.raises(
        ConditionError, match=rf"^column {column}: of `auth` there is `auth\.acr`, `auth\.amr`, `auth\.time`"
    ):
        compile_condition(text)


def test_members_of_other_things_may_have_the_same_name():
    """`context.auth` is the caller's own, and no question about the sign-in."""
    assert compile_condition("context.auth.acr == 'x'").auth is None
    assert compile_condition("{'auth': 1}.auth == 1").auth is None
    assert holds("context.auth.acr == 'x' && context.auth_has_acr", None, {"auth": {"acr": "x"}, "auth_has_acr": True})


@pytest.mark.parametrize(
    ("text", "ages"),
    [
        ("auth.acr == 'aal2'", ()),
        ("has(auth.time)", ()),
        ("now - auth.time < duration('5m')", (300,)),
        ("(now - auth.time) <= duration(\"1h30m\") && 'otp' in auth.amr", (5400,)),
        ("duration('10s') >= now - auth.time || duration('20s') == (now - auth.time)", (10, 20)),
        ("!(auth.time < now - duration('90s'))", (90,)),
        ("now - duration('90s') <= auth.time", (90,)),
        ("auth.time + duration('1m') > now ? true : now <= auth.time + duration('2m')", (60, 120)),
        ("[now - auth.time < duration('1s')].all(x, x)", (1,)),
        ("auth.time.getHours() > 3", None),
        ("auth.time > subject.properties.since", None),
        ("now - auth.time < duration(context.longest)", None),
        ("now - auth.time < duration('1m') + duration('1m')", None),
        ("timestamp(context.t) + (now - auth.time) < now", None),
        ("now - auth.time < duration('1m') == context.x", None),
        ("now - auth.time < duration('5m') && auth.time.getHours() > 3", None),
        ("[now].exists(now, now - auth.time < duration('5m'))", None),
        ("now - auth.time < duration('five')", None),
    ],
)
def test_it_is_known_at_which_ages_a_condition_turns(text, ages):
    """Only where the age is compared with a written duration, and nothing around changes what is compared."""
    use = compile_condition(text).auth
    assert use is not None
    assert use.ages == (None if ages is None else tuple(timedelta(seconds=age) for age in ages))


def test_a_condition_without_sign_in_asks_for_none():
    """Most conditions do not; a text in quotes is no name."""
    assert compile_condition("context.x == 'auth.acr'").auth is None


@pytest.mark.parametrize(
    ("text", "members"),
    [
        ("auth.acr == 'aal2'", {"acr"}),
        ("has(auth.amr) && 'otp' in auth.amr", {"amr"}),
        ("auth.acr == 'aal2' && now - auth.time < duration('5m')", {"acr", "time"}),
    ],
)
def test_it_is_known_what_a_condition_asks_for(text, members):
    """So that ways of signing in that differ in nothing else are tried once."""
    use = compile_condition(text).auth
    assert use is not None
    assert use.members == members
