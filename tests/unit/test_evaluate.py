"""Decisions of the served engine: deny overrides, default deny, conditions, expiry, priority, determining rules."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from authz.casbin_oracle import parse_model
from authz.compiler import compile_served
from authz.decision import Reason
from authz.default_model import DEFAULT_MODEL_TEXT
from authz.errors import ModelError
from authz.evaluate import Missing, evaluate_in, evaluate_many
from authz.ports import SubjectRecord
from authz.rules import Effect
from authz.served_model import ColumnMatch, PolicyEffect
from tenancy.ids import BASE_TENANT_ID, TenantStatus
from tests.support.policies import DEFAULT_MODEL, NOW, ask, policy, with_properties

ROLES = """
g user:alice role:editor
g role:editor role:viewer
g group:staff role:viewer
g user:bob group:staff
p role:viewer record:* read
p role:editor record:* write
p role:editor record:secret write deny
p user:carol record:1 read
p user:* page:home view
p * page:public *
"""


@pytest.mark.parametrize(
    ("subject", "action", "resource", "allowed"),
    [
        ("user:alice", "read", "record:1", True),
        ("user:alice", "write", "record:1", True),
        ("user:alice", "write", "record:secret", False),
        ("user:alice", "read", "record:secret", True),
        ("user:alice", "delete", "record:1", False),
        ("user:bob", "read", "record:1", True),
        ("user:bob", "write", "record:1", False),
        ("user:carol", "read", "record:1", True),
        ("user:carol", "read", "record:10", False),
        ("user:nobody", "read", "record:1", False),
        ("user:nobody", "view", "page:home", True),
        ("service:x", "view", "page:home", False),
        ("service:x", "anything", "page:public", True),
        ("user:alice", "read", "recordx:1", False),
        ("role:editor", "read", "record:1", True),
        ("user:alice ", "read", "record:1", False),
        ("user:ALICE", "read", "record:1", False),
    ],
)
def test_roles_wildcards_and_denies(subject, action, resource, allowed):
    """A role is inherited in full, a wildcard is a prefix, a deny overrides, and what no rule names is denied."""
    decision = policy(ROLES).decide(ask(subject, action, resource), NOW)
    assert decision.allowed is allowed


def test_group_wildcard_means_groups_not_their_members():
    """`group:*` as a rule's subject is matched by a group itself, never by those who are in one."""
    small = policy("g user:bob group:staff\np group:* door:1 open")
    assert small.decide(ask("group:staff", "open", "door:1"), NOW).allowed
    assert not small.decide(ask("user:bob", "open", "door:1"), NOW).allowed


def test_a_user_can_never_be_a_role():
    """An id that looks like a role's ref is still a user's id."""
    small = policy("p role:admin record:* read")
    assert not small.decide(ask("user:role:admin", "read", "record:1"), NOW).allowed


def test_patterns_of_one_length_do_not_hide_each_other():
    """Whatever character a prefix ends with, and however many others are as long."""
    small = policy("p user:a doc:a* read\np user:a doc:b* read\np user:a doc:c* read deny\np user:a doc:/* read")
    answers = {name: small.decide(ask("user:a", "read", f"doc:{name}1"), NOW).allowed for name in "abc/d"}
    assert answers == {"a": True, "b": True, "c": False, "/": True, "d": False}


def test_determining_rules_name_the_line_and_the_role_path():
    """An allow names all matching allows, each with the chain of roles that led to it."""
    decision = policy(ROLES).decide(ask("user:alice", "read", "record:1"), NOW)
    assert [(str(r.source), r.role_path) for r in decision.determining] == [
        ("policy.csv:6", ("user:alice", "role:editor", "role:viewer"))
    ]
    assert decision.reason is Reason.RULE


def test_a_role_path_goes_over_links_that_hold():
    """What led to a role is not told over a grant that is over."""
    expired = (NOW - timedelta(seconds=1)).isoformat()
    small = policy(f"""
        g user:a role:writer until {expired}
        g user:a role:lead
        g role:lead role:editor until {expired}
        g role:lead role:chief
        g role:chief role:editor
        g role:editor role:writer
        p role:writer doc:1 write
        """)
    (rule,) = small.decide(ask("user:a", "write", "doc:1"), NOW).determining
    assert rule.role_path == ("user:a", "role:lead", "role:chief", "role:editor", "role:writer")


def test_a_deny_names_all_matching_denies_and_no_allow():
    """Under deny-overrides the denies are what determined."""
    decision = policy(ROLES).decide(ask("user:alice", "write", "record:secret"), NOW)
    assert [r.effect for r in decision.determining] == [Effect.DENY]
    assert policy(ROLES).decide(ask("user:x", "write", "record:2"), NOW).determining == ()


def test_base_rules_count_for_every_tenant():
    """A base row and a base role link read as rows of the tenant."""
    small = policy("base g role:owner role:reader\nbase p role:reader note:* read\ng user:ann role:owner")
    decision = small.decide(ask("user:ann", "read", "note:1"), NOW)
    assert decision.allowed
    assert decision.determining[0].base


def test_decision_has_no_truth_value():
    """`if decision:` must not compile into an allow."""
    decision = policy("").decide(ask("user:a", "b", "c:d"), NOW)
    with pytest.raises(TypeError):
        bool(decision)


CONDITIONAL = """
p role:doctor chart:* read if resource.properties.ward == subject.properties.ward
p role:doctor chart:* read deny if context.network == "public"
g user:dora role:doctor
"""


def test_condition_must_hold():
    """An allow with a condition allows only while the condition is true."""
    small = policy(
        CONDITIONAL, entities={"user:dora": {"ward": "A"}, "chart:1": {"ward": "A"}, "chart:2": {"ward": "B"}}
    )
    assert small.decide(ask("user:dora", "read", "chart:1", network="lan"), NOW).allowed
    other = small.decide(ask("user:dora", "read", "chart:2", network="lan"), NOW)
    assert (other.allowed, other.reason) == (False, Reason.NO_MATCH)
    assert not small.decide(ask("user:dora", "read", "chart:1", network="public"), NOW).allowed


def test_condition_in_error_denies_on_both_sides():
    """An error makes an allow rule not match and a deny rule match, and is reported."""
    small = policy(CONDITIONAL, entities={"user:dora": {"ward": "A"}, "chart:1": {"ward": "A"}})
    no_network = small.decide(ask("user:dora", "read", "chart:1"), NOW)
    assert (no_network.allowed, no_network.reason) == (False, Reason.CONDITION_ERROR)
    assert "policy.csv:3" in no_network.errors[0]
    no_ward = small.decide(ask("user:dora", "read", "chart:9", network="lan"), NOW)
    assert (no_ward.allowed, no_ward.reason) == (False, Reason.CONDITION_ERROR)
    assert "policy.csv:2" in no_ward.errors[0]


def test_stored_attributes_win_over_asserted_ones():
    """Nobody promotes a subject by asserting what is stored otherwise."""
    small = policy(
        'p user:* vault:1 open if subject.properties.level == "high"', entities={"user:eve": {"level": "low"}}
    )
    asked = with_properties(ask("user:eve", "open", "vault:1"), subject={"level": "high"})
    assert not small.decide(asked, NOW).allowed
    unknown = with_properties(ask("user:new", "open", "vault:1"), subject={"level": "high"})
    assert small.decide(unknown, NOW).allowed


def test_stored_attributes_of_a_resource_win_over_asserted_ones():
    """Nor does anybody open a resource by asserting that it is open."""
    small = policy(
        'p user:* vault:* open if resource.properties.state == "open"', entities={"vault:1": {"state": "locked"}}
    )
    asked = with_properties(ask("user:eve", "open", "vault:1"), resource={"state": "open"})
    assert not small.decide(asked, NOW).allowed
    unknown = with_properties(ask("user:eve", "open", "vault:2"), resource={"state": "open"})
    assert small.decide(unknown, NOW).allowed


@pytest.mark.parametrize("value", ["1", "1.0", '"true"', "[true]", "null", "subject.properties.flag"])
def test_only_a_boolean_true_is_true(value):
    """A truthy value of another type is an error."""
    small = policy(f"p user:* door:1 open if {value} == 0 || dyn({value})", entities={"user:a": {"flag": 1}})
    assert not small.decide(ask("user:a", "open", "door:1"), NOW).allowed


def test_expired_grant_is_gone_to_the_second():
    """A grant counts until its expiry and not at it."""
    small = policy("g user:tmp role:x until 2026-06-01T12:00:00+00:00\np role:x door:1 open")
    assert small.decide(ask("user:tmp", "open", "door:1"), NOW - timedelta(seconds=1)).allowed
    assert not small.decide(ask("user:tmp", "open", "door:1"), NOW).allowed


def test_expiring_hierarchy_link_ends_for_all_below():
    """Facts made before an expiry do not outlive it."""
    small = policy("g user:t role:x\ng role:x role:y until 2026-06-01T12:00:00+00:00\np role:y door:1 open")
    before, question = NOW - timedelta(seconds=1), ask("user:t", "open", "door:1")
    assert small.decide(question, before).allowed
    assert isinstance(evaluate_in(small, question, now=NOW), Missing)
    assert not small.decide(question, NOW).allowed


def test_deep_chains_are_followed_to_the_end():
    """Twenty levels of roles are twenty levels, where PyCasbin stops at ten."""
    chain = "\n".join(f"g role:r{i} role:r{i + 1}" for i in range(20))
    small = policy(f"g user:a role:r0\n{chain}\np role:r20 door:1 open")
    assert small.decide(ask("user:a", "open", "door:1"), NOW).allowed


def test_a_role_cycle_ends():
    """A cycle in the hierarchy is walked once."""
    small = policy("g role:a role:b\ng role:b role:a\ng user:u role:a\np role:b door:1 open")
    assert small.decide(ask("user:u", "open", "door:1"), NOW).allowed


def test_suspended_tenant_is_a_deny_with_its_reason():
    """Status comes before every rule."""
    small = policy("p user:a door:1 open")
    small.head = replace(small.head, status=TenantStatus.SUSPENDED)
    decision = small.decide(ask("user:a", "open", "door:1"), NOW)
    assert (decision.allowed, decision.reason) == (False, Reason.TENANT_SUSPENDED)


PRIORITY_MODEL = replace(
    DEFAULT_MODEL, effect=PolicyEffect.PRIORITY, columns=("priority", "sub", "dom", "obj", "act", "eft")
)


def test_priority_is_decided_by_the_first_row():
    """The lowest number decides; among equals base rows come first, then file order."""
    small = policy(
        "p user:a door:1 open allow 10\np user:a door:1 open deny 1\nbase p user:a door:2 open deny 5\np user:a door:2 open allow 5",
        model=PRIORITY_MODEL,
    )
    first = small.decide(ask("user:a", "open", "door:1"), NOW)
    assert (first.allowed, len(first.determining)) == (False, 1)
    assert not small.decide(ask("user:a", "open", "door:2"), NOW).allowed


def test_any_error_under_priority_ends_in_deny():
    """A condition in error on a later row still denies."""
    small = policy("p user:a door:1 open allow 1\np user:a door:1 open allow 2 if context.x", model=PRIORITY_MODEL)
    decision = small.decide(ask("user:a", "open", "door:1"), NOW)
    assert (decision.allowed, decision.reason) == (False, Reason.CONDITION_ERROR)


def test_residual_decides_what_the_index_cannot():
    """A column out of index makes every row a candidate, and an error in the residual denies."""

    def residual(_rs, _rd, _ro, r_act, _ps, _pd, _po, p_act):
        if r_act == "boom":
            raise ValueError("boom")
        return r_act.startswith(p_act)

    model = replace(DEFAULT_MODEL, action=ColumnMatch(), residual=residual)
    small = policy("p user:a door:1 op", model=model)
    assert small.decide(ask("user:a", "open", "door:1"), NOW).allowed
    assert not small.decide(ask("user:a", "close", "door:1"), NOW).allowed
    broken = small.decide(ask("user:a", "boom", "door:1"), NOW)
    assert (broken.allowed, broken.reason) == (False, Reason.CONDITION_ERROR)
    denying = policy("p user:a door:1 o allow\np user:a door:1 o deny", model=model)
    assert not denying.decide(ask("user:a", "boom", "door:1"), NOW).allowed


def test_a_residual_sees_the_domain_of_base_rows():
    """A model that binds rows to their own tenant leaves the base's out, and does not take them for the tenant's."""
    model = compile_served(
        parse_model(DEFAULT_MODEL_TEXT.replace('(p.dom == r.dom || p.dom == "*")', "p.dom == r.dom")), "digest"
    )
    small = policy("base p user:a door:1 open\np user:a door:2 open", model=model)
    assert not small.decide(ask("user:a", "open", "door:1"), NOW).allowed
    assert small.decide(ask("user:a", "open", "door:2"), NOW).allowed


def test_resource_roles_group_resources():
    """`g2` reaches a rule through the groups of the resource."""
    model = replace(DEFAULT_MODEL, resource=ColumnMatch(roles="g2"))
    small = policy("g2 record:1 folder:a\ng2 folder:a folder:root\np user:u folder:root read", model=model)
    assert small.decide(ask("user:u", "read", "record:1"), NOW).allowed
    assert not small.decide(ask("user:u", "read", "record:2"), NOW).allowed


def test_expiring_resource_link_is_refused():
    """Only `g` links may expire: an index of resources has no clock."""
    model = replace(DEFAULT_MODEL, resource=ColumnMatch(roles="g2"))
    with pytest.raises(ModelError, match="g2"):
        policy("g2 record:1 folder:a until 2026-01-01T00:00:00+00:00", model=model)


def test_unserved_effect_is_refused():
    """Plain deny-override allows what no rule names, so no snapshot is built for it."""
    with pytest.raises(ModelError):
        policy("", model=replace(DEFAULT_MODEL, effect=PolicyEffect.DENY_OVERRIDE))


class _SlowNode:
    """A node whose clock moves on by a millisecond at each look."""

    def __init__(self, held):
        self.held = held
        self.looks = 0

    async def load(self, _tenant_id, subjects, resources, _min_revision=None):
        for subject in subjects:
            self.held.subjects[subject] = self.held.snapshot.facts(subject, SubjectRecord(), NOW)
        for resource in resources:
            self.held.resources[resource] = {}
        return self.held

    def now(self):
        self.looks += 1
        return NOW + timedelta(milliseconds=self.looks)


async def test_a_long_batch_lets_other_requests_pass():
    """A thousand questions with conditions take long; whoever waits meanwhile is not made to wait for all of them."""
    node = _SlowNode(policy("p user:* record:1 read allow if context.n > 0"))
    questions = [ask(f"user:{number}", "read", "record:1", n=1) for number in range(100)]
    rounds = 0

    async def others():
        nonlocal rounds
        while True:
            await asyncio.sleep(0)
            rounds += 1

    waiting = asyncio.create_task(others())
    await asyncio.sleep(0)
    before = rounds
    decisions = await evaluate_many(node, BASE_TENANT_ID, questions)
    waiting.cancel()
    assert [decision.allowed for decision in decisions] == [True] * 100
    assert rounds - before >= 5


@pytest.mark.parametrize("effect", [PolicyEffect.ALLOW_AND_DENY, PolicyEffect.ALLOW_OVERRIDE, PolicyEffect.PRIORITY])
@pytest.mark.parametrize(
    "text",
    [
        "p user:a door:1 open allow 1",
        "p user:a door:1 open deny 1",
        "p user:a door:1 open deny 1 if context.missing",
        "p user:a door:1 open allow 1 if context.missing",
        "p user:a door:1 open deny 1 if context.missing\np user:a door:1 open allow 2",
        "p user:a door:1 open deny 1\np user:a door:1 open allow 2",
        "p user:a door:2 open allow 1",
    ],
)
def test_the_answer_is_the_same_whether_its_rules_are_named_or_not(effect, text):
    """Decision, reason and errors: what the index says of itself is what its rows say one by one."""
    small = policy(text, model=replace(PRIORITY_MODEL, effect=effect))
    question = ask("user:a", "open", "door:1")
    plain, traced = (small.decide(question, NOW, trace=trace) for trace in (False, True))
    assert (plain.effect, plain.reason, plain.errors) == (traced.effect, traced.reason, traced.errors)


async def test_a_batch_ends_at_the_effect_that_stops_it():
    """What comes after the stop is not evaluated at all."""
    node = _SlowNode(policy("p user:a doc:* read\np user:a doc:3 read deny"))
    questions = [ask("user:a", "read", f"doc:{number}") for number in range(6)]
    decisions = await evaluate_many(node, BASE_TENANT_ID, questions, stop=Effect.DENY)
    assert [decision.allowed for decision in decisions] == [True, True, True, False]
    assert len(await evaluate_many(node, BASE_TENANT_ID, questions, stop=Effect.ALLOW)) == 1


async def test_the_conditions_of_a_batch_share_an_allowance():
    """A small body may ask a thousand times about one large context; what is too much is an error, never an allow."""
    node = _SlowNode(policy("p user:* record:1 read allow if !(-1 in context.l)"))
    large = list(range(20_000))
    questions = [ask(f"user:{number}", "read", "record:1", l=large) for number in range(100)]
    decisions = await evaluate_many(node, BASE_TENANT_ID, questions)
    assert decisions[0].allowed
    assert decisions[-1].reason is Reason.CONDITION_ERROR
    assert "too much work" in decisions[-1].errors[0]


RESERVED = """
base p role:tenant-admin kasbah:key write
base p role:auditor kasbah:* read
base g role:platform-support role:auditor
g user:carol role:tenant-admin
p user:* * *
p * * read deny
p role:p* doc:1 write
"""


@pytest.mark.parametrize(
    ("subject", "action", "resource", "allowed"),
    [
        ("user:mallory", "write", "kasbah:key", False),
        ("user:carol", "write", "kasbah:key", True),
        ("role:auditor", "read", "kasbah:policy", True),
        ("role:platform-support", "read", "kasbah:policy", True),
        ("role:platform-support", "write", "doc:1", False),
        ("role:pilot", "write", "doc:1", True),
        ("user:mallory", "write", "kasbahs:key", True),
        ("user:mallory", "write", "Kasbah:key", True),
        ("user:mallory", "read", "doc:1", False),
    ],
)
def test_wildcards_reach_no_reserved_name(subject, action, resource, allowed):
    """Neither to allow nor to deny, whoever wrote them: only rules that say `kasbah:` or `role:platform-` do."""
    assert policy(RESERVED).decide(ask(subject, action, resource), NOW).allowed is allowed


@pytest.mark.parametrize("effect", [PolicyEffect.ALLOW_OVERRIDE, PolicyEffect.PRIORITY])
def test_wildcards_reach_no_reserved_name_under_any_effect(effect):
    """Rows that are looked at one by one hold to it as sets do."""
    small = policy(
        "base p role:a kasbah:key write\np * * *\ng user:a role:a", model=replace(DEFAULT_MODEL, effect=effect)
    )
    assert small.decide(ask("user:a", "write", "kasbah:key"), NOW).allowed
    assert not small.decide(ask("user:b", "write", "kasbah:key"), NOW).allowed
    assert not small.decide(ask("role:platform-x", "read", "doc:1"), NOW).allowed
    assert small.decide(ask("user:b", "read", "doc:1"), NOW).allowed


def test_no_pattern_of_a_model_reaches_a_reserved_name():
    """Columns that no index takes, conditions and groups of resources: the row must begin as the name does."""
    text = DEFAULT_MODEL_TEXT.replace("keyMatch(r.obj, p.obj)", "regexMatch(r.obj, p.obj)")
    text = text.replace("(g(r.sub, p.sub, r.dom) || keyMatch(r.sub, p.sub))", "regexMatch(r.sub, p.sub)")
    model = compile_served(parse_model(text), digest="regex")
    small = policy("p user:. k.sbah:key write\np role:.* doc:1 write\nbase p user:a kasbah:k.y write", model=model)
    assert small.decide(ask("user:a", "write", "kasbah:key"), NOW).allowed
    assert not small.decide(ask("user:b", "write", "kasbah:key"), NOW).allowed
    assert small.decide(ask("user:b", "write", "kXsbah:key"), NOW).allowed
    assert small.decide(ask("role:x", "write", "doc:1"), NOW).allowed
    assert not small.decide(ask("role:platform-x", "write", "doc:1"), NOW).allowed
    conditional = policy("p user:* * write allow if true")
    assert not conditional.decide(ask("user:b", "write", "kasbah:key"), NOW).allowed
    grouped = replace(DEFAULT_MODEL, resource=ColumnMatch(prefix=True, roles="g2"))
    links = "base g2 kasbah:key doc:all\nbase g2 kasbah:key kasbah:all\nbase g2 doc:1 doc:all\n"
    small = policy(f"{links}p user:a doc:all read\nbase p user:a kasbah:all write", model=grouped)
    assert small.decide(ask("user:a", "read", "doc:1"), NOW).allowed
    assert small.decide(ask("user:a", "write", "kasbah:key"), NOW).allowed
    assert not small.decide(ask("user:a", "read", "kasbah:key"), NOW).allowed
