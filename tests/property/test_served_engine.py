"""The served engine against two others: PyCasbin on the same rows, and the definition written out as loops."""

from datetime import timedelta

import casbin
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from authz.explain import explain
from authz.ports import SubjectRecord
from authz.request import Ref
from authz.rules import Effect, RoleLink, Rule
from tests.support.policies import NOW, ask, policy, rows

MODEL = """
[request_definition]
r = sub, dom, obj, act
[policy_definition]
p = sub, dom, obj, act, eft
[role_definition]
g = _, _, _
[policy_effect]
e = some(where (p.eft == allow)) && !some(where (p.eft == deny))
[matchers]
m = (g(r.sub, p.sub, r.dom) || keyMatch(r.sub, p.sub)) && (p.dom == r.dom || p.dom == "*") && keyMatch(r.obj, p.obj) && (p.act == "*" || r.act == p.act)
"""

SUBJECTS = ["user:a", "user:ab", "user:b", "service:a", "user:*", "user:a*", "*", "role:p*", "role:platform-*"]
ROLES = ["role:r", "role:s", "role:t", "group:g", "role:platform-x"]
RESOURCES = ["doc:1", "doc:10", "doc:2", "doc:*", "doc:1*", "*", "docs:1", "doc:a/*", "doc:a/b/*", "doc:/*", "d:*"]
RESOURCES += ["kasbah:key", "kasbah:*", "kasbah:k*"]
ACTIONS = ["read", "write", "*"]

rule_lines = st.builds(
    "{}p {} {} {} {}".format,
    st.sampled_from(["", "", "", "base "]),
    st.sampled_from(SUBJECTS + ROLES + ["role:*", "group:*"]),
    st.sampled_from(RESOURCES),
    st.sampled_from(ACTIONS),
    st.sampled_from(["allow", "allow", "deny"]),
)
link_lines = st.builds(
    "g {} {}".format, st.sampled_from(["user:a", "user:ab", "user:b", "service:a", *ROLES]), st.sampled_from(ROLES)
)
policies = st.lists(st.one_of(rule_lines, link_lines), max_size=14, unique=True).map("\n".join)
QUESTIONS = [
    (subject, resource, action)
    for subject in ["user:a", "user:ab", "user:b", "user:x", "service:a", "role:r", "group:g", "role:platform-x"]
    for resource in ["doc:1", "doc:10", "docs:1", "other:1", "doc:a/b/c", "doc:a/", "doc://a", "d:e:f", "kasbah:key"]
    for action in ["read", "write", "delete"]
]


def reaches(rule: Rule, subject: str, resource: str) -> bool:
    """Whether a row may be about these names: a wildcard that does not begin as a reserved name does not reach it."""
    wild_subject = rule.subject.endswith("*") and not rule.subject.startswith("role:platform-")
    wild_resource = rule.resource.endswith("*") and not rule.resource.startswith("kasbah:")
    return not (wild_subject and subject.startswith("role:platform-")) and not (
        wild_resource and resource.startswith("kasbah:")
    )


def casbin_decisions(text: str) -> list[bool]:
    """Ask PyCasbin, loaded with the rows that may be about the names of the question."""
    kinds = {
        (subject.startswith("role:platform-"), resource.startswith("kasbah:")) for subject, resource, _ in QUESTIONS
    }
    enforcers = {kind: casbin_with(text, *kind) for kind in kinds}
    return [
        bool(enforcers[s.startswith("role:platform-"), r.startswith("kasbah:")].enforce(s, "acme", r, a))
        for s, r, a in QUESTIONS
    ]


def casbin_with(text: str, platform_role: bool, platform_resource: bool) -> casbin.Enforcer:
    names = ("role:platform-" if platform_role else "user:"), ("kasbah:" if platform_resource else "doc:")
    enforcer = casbin.Enforcer(casbin.Enforcer.new_model(text=MODEL))
    # Without any row PyCasbin evaluates its matcher once against empty values; that corner has its own test.
    enforcer.add_policy("user:nobody-at-all", "acme", "none:none", "none", "allow")
    for row in rows(text):
        if isinstance(row, Rule) and reaches(row, *names):
            enforcer.add_policy(row.subject, "*" if row.base else "acme", row.resource, row.action, row.effect.value)
        elif isinstance(row, RoleLink):
            enforcer.add_grouping_policy(row.member, row.role, "acme")
    return enforcer


def reference_decision(text: str, subject: str, resource: str, action: str) -> tuple[bool, set[int]]:
    """Return the answer and the lines that determine it, by the words of the model."""
    written = rows(text)
    names = {subject}
    while True:
        more = {r.role for r in written if isinstance(r, RoleLink) and r.member in names} - names
        if not more:
            break
        names |= more

    def takes(pattern: str, value: str) -> bool:
        return value.startswith(pattern[:-1]) if pattern.endswith("*") else value == pattern

    matched = [
        r
        for r in written
        if isinstance(r, Rule)
        and (r.subject in names or takes(r.subject, subject))
        and takes(r.resource, resource)
        and r.action in {"*", action}
        and (reaches(r, subject, resource) or (r.subject in names and reaches(r, "", resource)))
    ]
    denies = [r for r in matched if r.effect is Effect.DENY]
    winners = denies or matched
    return bool(matched) and not denies, {r.source.line for r in winners if r.source is not None}


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(policies)
def test_answers_equal_pycasbin_and_the_definition(text):
    """For every policy and question the three agree, with and without tracing, and the same rules determine."""
    small = policy(text)
    expected = casbin_decisions(text)
    for (subject, resource, action), from_casbin in zip(QUESTIONS, expected, strict=True):
        question = ask(subject, action, resource)
        allowed, lines = reference_decision(text, subject, resource, action)
        traced = small.decide(question, NOW, trace=True)
        quick = small.decide(question, NOW, trace=False)
        assert traced.allowed is quick.allowed is allowed is from_casbin
        assert (traced.effect, traced.reason) == (quick.effect, quick.reason)
        assert {r.source.line for r in traced.determining if r.source is not None} == lines


@settings(max_examples=60, deadline=None)
@given(policies, st.randoms(use_true_random=False))
def test_order_and_duplicates_do_not_matter(text, random):
    """Shuffled and doubled rows answer the same."""
    lines = text.splitlines()
    shuffled = [*lines, *lines]
    random.shuffle(shuffled)
    before, after = policy(text), policy("\n".join(shuffled))
    for subject, resource, action in QUESTIONS:
        question = ask(subject, action, resource)
        assert before.decide(question, NOW).effect is after.decide(question, NOW).effect


@settings(max_examples=60, deadline=None)
@given(policies, rule_lines)
def test_adding_a_deny_never_allows_and_adding_an_allow_never_denies_what_no_deny_names(text, line):
    """A deny row only takes away; an allow row only gives."""
    before = policy(text)
    after = policy(f"{text}\n{line}")
    denies = line.endswith("deny")
    for subject, resource, action in QUESTIONS:
        question = ask(subject, action, resource)
        was, now = before.decide(question, NOW).allowed, after.decide(question, NOW).allowed
        assert not (denies and now and not was)
        assert not (not denies and was and not now)


@settings(max_examples=40, deadline=None)
@given(policies)
def test_explanation_agrees_with_the_decision(text):
    """What explains an allow are allows, what explains a deny is a deny, a false condition or the lack of a rule."""
    small = policy(text)
    for subject, resource, action in QUESTIONS[:20]:
        question = ask(subject, action, resource)
        decision = small.decide(question, NOW)
        told = explain(small, question, decision, NOW)
        if decision.allowed:
            assert told.granted_by
            assert not told.blocked_by
            assert told.summary.startswith("allowed")
        else:
            assert told.summary.startswith("denied")
            assert bool(told.blocked_by) is bool(decision.determining)
            names = {subject, *told.roles}
            assert not names & {rule.subject for rule in told.would_grant}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_facts_hold_exactly_until_they_say(seconds):
    """Before `valid_until` nothing expires; at it something does."""
    links = [f"g user:u role:r{n} until {(NOW + timedelta(seconds=n)).isoformat()}" for n in seconds]
    text = "\n".join([*links, *(f"p role:r{n} y:z x" for n in set(seconds))])
    small = policy(text)
    small.decide(ask("user:u", "x", "y:z"), NOW)
    (facts,) = small.subjects.values()
    assert facts.valid_until == (NOW + timedelta(seconds=min(seconds))).timestamp()
    later = small.snapshot.facts(facts.subject, facts.record, NOW + timedelta(seconds=min(seconds)))
    assert later.names < facts.names


def test_names_that_no_row_has_are_left_out_and_equal_sets_are_one_object():
    """A subject goes by what rows may have as their subject; thousands of members then share one set."""
    small = policy("g user:a role:r\ng user:b role:r\ng role:r role:unused\np role:r doc:1 read\np user:c doc:1 read")
    facts = small.snapshot.facts
    a, b, c, d = (
        facts(Ref(name), small.records.get(Ref(name), SubjectRecord()), NOW).names
        for name in ("user:a", "user:b", "user:c", "user:d")
    )
    assert a is b
    assert (a, c, d) == ({"role:r"}, {"user:c"}, set())
