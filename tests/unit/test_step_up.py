"""A deny says which sign-in would turn it; roles that demand a second factor are inactive without one."""

import json
from dataclasses import replace

import pytest

from authz.condition_cost import Allowance
from authz.decision import StepUp
from authz.evaluate import evaluate_in
from authz.explain import explain
from authz.flip_sets import PolicyState
from authz.flips import count_flips
from authz.request import AAL1, AAL2, Auth
from authz.rules import Rule
from authz.served_model import PolicyEffect
from service.http.authzen_wire import encode_decision
from tests.support.policies import DEFAULT_MODEL, NOW, ask, policy, rows
from tests.support.sign_ins import demanding, signed_in

WEAK = signed_in(AAL1)
STRONG = signed_in(AAL2)
QUESTION = ask("user:alice", "read", "doc:1")


def decide(small, auth=None, *, looking=True, units=None, question=QUESTION):
    small.decide(question, NOW)
    allowance = (Allowance() if units is None else Allowance(units)) if looking else None
    return evaluate_in(small, replace(question, auth=auth), now=NOW, looking=allowance)


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        (["allow if auth.acr == 'aal2'"], StepUp((AAL2,))),
        (["allow if has(auth.acr)"], StepUp((AAL1, AAL2))),
        (["allow if 'hwk' in auth.amr"], StepUp((AAL2,), None, ("hwk",))),
        (["allow if now - auth.time < duration('5m')"], StepUp((AAL1, AAL2), 299)),
        (["allow if 'hwk' in auth.amr && auth.time.getHours() >= 0"], StepUp((AAL2,), 0, ("hwk",))),
        (["allow if now - auth.time <= duration('1500ms')"], StepUp((AAL1, AAL2), 1)),
        (
            ["allow if now - auth.time <= duration('1m') || now - auth.time == duration('2m')"],
            StepUp((AAL1, AAL2), 60),
        ),
        (
            ["allow if auth.time.getHours() >= 0", "deny if now - auth.time > duration('1h')"],
            StepUp((AAL1, AAL2), 0),
        ),
        (["allow if auth.acr == 'aal2' || now - auth.time <= duration('1m')"], StepUp((AAL1, AAL2), 60)),
        (["allow if auth.acr == 'aal2' && auth.time.getHours() >= 0"], StepUp((AAL2,), 0)),
        (["allow", "deny if auth.acr != 'aal2'"], StepUp((AAL2,))),
        (["allow", "deny if now - auth.time > duration('1h')"], StepUp((AAL1, AAL2), 3600)),
        (["allow if now - auth.time > duration('1h')"], None),
        (["allow if auth.acr == 'aal2'", "deny"], None),
        (["allow if auth.acr == 'aal2' && context.x"], None),
        (["allow if context.x == 'auth.acr'"], None),
        ([], None),
    ],
)
def test_a_deny_says_which_sign_in_would_turn_it(rules, told):
    """The weakest level that does, how old it may be, and by which method if not by any."""
    small = policy("\n".join(f"p user:alice doc:1 read {rule}" for rule in rules))
    decision = decide(small)
    assert not decision.allowed
    assert decision.step_up == told


def test_it_is_looked_for_where_wanted_and_where_denied():
    """Searches do not look for it, and an allow needs none."""
    small = policy("p user:alice doc:1 read allow if auth.acr == 'aal2'")
    assert decide(small, looking=False).step_up is None
    assert decide(small, STRONG).allowed
    assert decide(small, STRONG).step_up is None
    assert decide(small, WEAK).step_up == StepUp((AAL2,))


def test_an_old_sign_in_is_told_to_be_fresh():
    """Level and methods are there, and only time is missing."""
    small = policy("p user:alice doc:1 read allow if auth.acr == 'aal2' && now - auth.time < duration('5m')")
    assert decide(small, signed_in(seconds_ago=299)).allowed
    assert decide(small, signed_in(seconds_ago=300)).step_up == StepUp((AAL2,), 299)


def test_more_than_can_be_tried_is_not_told():
    """Too little work left, or too many rows that ask: no answer, and never a wrong one."""
    conditions = [f"auth.acr == 'aal2' && context.x{number}" for number in range(101)]
    text = "\n".join(f"p user:alice doc:1 read allow if {each}" for each in [*conditions, "auth.acr == 'aal2'"])
    assert decide(policy(text)).step_up is None
    small = policy("p user:alice doc:1 read allow if auth.acr == 'aal2'")
    assert decide(small, units=100).step_up is None
    many = " || ".join(f"now - auth.time == duration('{number}s')" for number in range(9))
    told = decide(policy(f"p user:alice doc:1 read allow if !({many}) || now - auth.time == duration('0s')")).step_up
    assert told == StepUp((AAL1, AAL2), 0)
    always = " || ".join(f"now - auth.time >= duration('{number}s')" for number in range(9))
    assert decide(policy(f"p user:alice doc:1 read allow if {always}")).step_up == StepUp((AAL1, AAL2), 4)


def test_as_much_as_can_be_tried_is_told():
    """A hundred rows, and four ages besides none: one more of either is too many."""
    conditions = [*(f"auth.acr == 'aal2' && context.x{number}" for number in range(99)), "auth.acr == 'aal2'"]
    text = "\n".join(f"p user:alice doc:1 read allow if {each}" for each in conditions)
    assert decide(policy(text)).step_up == StepUp((AAL2,))
    always = " || ".join(f"now - auth.time >= duration('{number}s')" for number in range(5))
    assert decide(policy(f"p user:alice doc:1 read allow if {always}")).step_up == StepUp((AAL1, AAL2))


def test_an_error_in_another_condition_counts_as_in_the_decision():
    """A deny in error goes on denying, whatever the sign-in."""
    small = policy(
        "p user:alice doc:1 read allow if auth.acr == 'aal2'\np user:alice doc:1 read deny if context.missing"
    )
    assert decide(small).step_up is None


def test_priority_is_followed():
    """Under a priority effect the first row that applies decides, and any error denies."""
    model = replace(DEFAULT_MODEL, effect=PolicyEffect.PRIORITY, columns=(*DEFAULT_MODEL.columns, "priority"))
    text = (
        "p user:alice doc:1 read deny 1 if has(auth.acr) && auth.acr == 'aal1'\n"
        "p user:alice doc:1 read allow 2 if has(auth.acr)"
    )
    small = policy(text, model=model)
    assert decide(small).step_up == StepUp((AAL2,))
    assert decide(small, WEAK).step_up == StepUp((AAL2,))
    assert decide(small, STRONG).allowed


ROLES = "p role:editor doc:1 read\ng user:alice role:boss\ng role:boss role:editor"


@pytest.mark.parametrize("demanding_role", ["role:boss", "role:editor", "*"])
def test_a_role_that_demands_mfa_is_inactive_without(demanding_role):
    """With it goes what is reached through it alone; two factors bring it, and a plain question asks about all."""
    small = demanding(ROLES, demanding_role)
    assert decide(small).allowed
    assert decide(small, STRONG).allowed
    for weak in (WEAK, Auth(), Auth(acr=None, amr=("hwk", "mfa"))):
        denied = decide(small, weak)
        assert not denied.allowed
        assert denied.step_up == StepUp((AAL2,))


def test_what_is_reached_another_way_stays():
    """A role that comes by another path, or by the subject's own name, is no less active."""
    assert decide(demanding(f"{ROLES}\ng user:alice role:editor", "role:boss"), WEAK).allowed
    assert decide(demanding(f"{ROLES}\np user:alice doc:1 read", "role:boss"), WEAK).allowed
    assert decide(demanding(f"{ROLES}\np user:* doc:1 read", "*"), WEAK).allowed
    assert decide(demanding(ROLES, "role:other"), WEAK).allowed


def test_what_an_inactive_role_denies_stays_denied():
    """A weaker sign-in never allows what a stronger one would not."""
    small = demanding("p user:alice doc:1 read\np role:boss doc:1 read deny\ng user:alice role:boss", "role:boss")
    assert not decide(small, STRONG).allowed
    assert not decide(small, WEAK).allowed
    assert decide(small, WEAK).step_up is None


def test_expired_roles_count_on_neither_level():
    """Facts hold until the first of all links ends."""
    small = demanding("p role:boss doc:1 read\ng user:alice role:boss until 2026-06-01T11:00:00Z", "role:boss")
    assert decide(small).step_up is None
    assert not decide(small, STRONG).allowed


def test_an_explanation_says_what_is_inactive():
    """Whoever asks why sees which roles wait for a second factor."""
    small = demanding(ROLES, "role:boss")
    question = replace(QUESTION, auth=WEAK)
    told = explain(small, question, decide(small, WEAK), NOW)
    assert told.inactive_roles == ("role:boss", "role:editor")
    assert told.roles == ()
    assert "second factor" in told.summary
    assert explain(small, QUESTION, decide(small), NOW).inactive_roles == ()


def test_a_plan_counts_rules_that_ask_about_the_sign_in_as_conditional():
    """Whether they allow is settled when somebody asks."""
    before, after = (
        PolicyState([row for row in rows(text) if isinstance(row, Rule)], [])
        for text in ("", "p user:alice doc:1 read allow if auth.acr == 'aal2'")
    )
    flips = count_flips(before, after, DEFAULT_MODEL, now=NOW)
    assert (flips.gained, flips.lost, flips.conditional) == (0, 0, 1)


def test_what_a_deny_names_stands_on_the_wire():
    """What makes no difference is left out, and an answer without it stays as it was."""
    small = policy("p user:alice doc:1 read allow if 'hwk' in auth.amr && now - auth.time < duration('5m')")
    decision = decide(small)
    told = {"acr_values": ["aal2"], "max_age": 299, "amr_values": ["hwk"]}
    kasbah = {"revision": 1, "reason": "condition_error", "step_up": told}
    assert json.loads(encode_decision(decision)) == {"decision": False, "context": {"kasbah": kasbah}}
    assert b"step_up" not in encode_decision(replace(decision, step_up=None))
    assert json.loads(encode_decision(decide(policy("p user:alice doc:1 read allow if has(auth.acr)"))))["context"][
        "kasbah"
    ]["step_up"] == {"acr_values": ["aal1", "aal2"]}
