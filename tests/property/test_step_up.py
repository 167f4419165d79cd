"""Sign-ins in decisions against the definition: what they allow, and which one a deny names."""

from dataclasses import replace
from itertools import product

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from authz.condition_cost import Allowance
from authz.evaluate import evaluate_in
from authz.request import ACR_VALUES
from authz.rules import Effect, RoleLink, Rule
from authz.step_up import WAYS
from tests.support.policies import NOW, ask, rows
from tests.support.sign_ins import demanding, signed_in

CONDITIONS = {
    "auth.acr == 'aal2'": lambda acr, amr, age: acr == "aal2",
    "auth.acr == 'aal1'": lambda acr, amr, age: acr == "aal1",
    "'hwk' in auth.amr": lambda acr, amr, age: "hwk" in amr,
    "!('otp' in auth.amr)": lambda acr, amr, age: "otp" not in amr,
    "now - auth.time < duration('5m')": lambda acr, amr, age: age < 300,
    "now - auth.time <= duration('60s')": lambda acr, amr, age: age <= 60,
    "now - auth.time > duration('60s')": lambda acr, amr, age: age > 60,
    "auth.time + duration('2m') != now": lambda acr, amr, age: age != 120,
    "auth.acr == 'aal2' || now - auth.time < duration('1m')": lambda acr, amr, age: acr == "aal2" or age < 60,
    "auth.acr == 'aal2' && now - auth.time < duration('10m')": lambda acr, amr, age: acr == "aal2" and age < 600,
    "true": lambda acr, amr, age: True,
    "false": lambda acr, amr, age: False,
}
SUBJECTS = ["user:a", "role:r", "role:s", "role:t", "user:*"]
ROLES = ["role:r", "role:s", "role:t"]
rule_lines = st.builds(
    "p {} doc:1 read {}{}".format,
    st.sampled_from(SUBJECTS),
    st.sampled_from(["allow", "allow", "deny"]),
    st.sampled_from(["", *(f" if {text}" for text in CONDITIONS)]),
)
link_lines = st.builds("g {} {}".format, st.sampled_from(["user:a", *ROLES]), st.sampled_from(ROLES))
policies = st.lists(st.one_of(rule_lines, link_lines), max_size=9, unique=True).map("\n".join)
demands = st.lists(st.sampled_from([*ROLES, "*"]), max_size=2, unique=True)
AGES = [0, 0.5, 1, 59, 60, 60.5, 61, 119, 120, 120.5, 121, 299, 300, 301, 599, 600, 601, 3600, 40_000]
QUESTION = ask("user:a", "read", "doc:1")


def reached(written, without):
    names, waiting = {"user:a", "user:*"}, ["user:a"]
    while waiting:
        name = waiting.pop()
        for row in written:
            inactive = isinstance(row, RoleLink) and (row.role in without or "*" in without)
            if isinstance(row, RoleLink) and row.member == name and row.role not in names and not inactive:
                names.add(row.role)
                waiting.append(row.role)
    return names


def defined(text, demanded, sign_in):
    """Return the answer by the words of the design; `sign_in` is level, methods and age, or None."""
    written = rows(text)
    everything = reached(written, ())
    active = everything if sign_in is None or sign_in[0] == "aal2" else reached(written, demanded)
    allowed = denied = False
    for row in written:
        if not isinstance(row, Rule) or row.subject not in everything:
            continue
        asks = row.condition is not None and "auth" in row.condition
        in_error = asks and sign_in is None
        true = row.condition is None or in_error or CONDITIONS[row.condition](*(sign_in or ("", (), 0)))
        if row.effect is Effect.DENY:
            denied = denied or true
        elif row.subject in active and not in_error:
            allowed = allowed or true
    return allowed and not denied


def asked(small, auth, *, trace=False):
    question = replace(QUESTION, auth=auth)
    return evaluate_in(small, question, now=NOW, trace=trace, looking=Allowance())


def world(text, demanded):
    small = demanding(text, *demanded)
    small.decide(QUESTION, NOW)
    return small


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(policies, demands)
def test_decisions_with_a_sign_in_are_as_defined(text, demanded):
    """For every level, method and age, and without a sign-in; with and without tracing."""
    small = world(text, demanded)
    assert asked(small, None).allowed is defined(text, demanded, None)
    for way, age in product(WAYS, AGES):
        expected = defined(text, demanded, (way.acr, way.amr, age))
        auth = signed_in(way.acr, way.amr, seconds_ago=age)
        assert asked(small, auth).allowed is asked(small, auth, trace=True).allowed is expected


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(policies, demands, st.sampled_from([None, ("aal1", 0), ("aal1", 700), ("aal2", 700)]))
def test_what_a_deny_names_is_sound_and_complete(text, demanded, held):
    """Signing in as told allows at every age that is told, the next age does not, and nothing told means no way."""
    small = world(text, demanded)
    decision = asked(small, None if held is None else signed_in(held[0], seconds_ago=held[1]))
    fresh = [way for way in WAYS if defined(text, demanded, (way.acr, way.amr, 0))]
    if decision.allowed or (held is None and not any(" if " in line and "auth" in line for line in text.splitlines())):
        assert decision.step_up is None
        return
    told = decision.step_up
    assert (told is None) is not bool(fresh)
    if told is None:
        return
    assert set(told.acr_values) <= set(ACR_VALUES)
    meant = [way for way in WAYS if way.acr in told.acr_values and set(told.amr_values) <= set(way.amr)]
    assert meant
    ages = [age for age in AGES if told.max_age is None or age <= told.max_age]
    for way, age in product(meant, [*ages, told.max_age or 0]):
        assert defined(text, demanded, (way.acr, way.amr, age)), (told, way, age)
    if told.max_age is not None:
        least = [way for way in meant if way.acr == told.acr_values[0]]
        beyond = product(least, (told.max_age + 0.5, told.max_age + 1))
        assert not all(defined(text, demanded, (way.acr, way.amr, age)) for way, age in beyond)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(policies, demands, demands)
def test_demanding_more_never_allows_more(text, one, other):
    """Each role that demands a second factor only takes away from who has not proven it."""
    auth = signed_in("aal1")
    if asked(world(text, [*one, *other]), auth).allowed:
        assert asked(world(text, one), auth).allowed
