"""Lint never calls a rule idle that is not: taking it away changes no answer."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from authz.lint import lint
from authz.lint.prefixes import Prefixes
from authz.offline import OfflinePolicy
from authz.policy_files import PolicyColumns, PolicyDirectory
from authz.request import Action, EvaluationRequest, parse_ref
from authz.served_model import PolicyEffect
from tests.support.policies import DEFAULT_MODEL, NOW
from tests.support.policy_texts import tenant_files

IDLE = {"covered-rule", "overruled-rule", "duplicate-rule", "idle-deny", "never-matches"}
PRIORITY = PolicyColumns(("priority", "sub", "dom", "obj", "act", "eft", "cond"))
MODEL_TEXT = "p = \n"

SUBJECTS = ["user:a", "user:ab", "user:*", "user:a*", "*", "role:r", "role:s", "role:t", "group:g", "role:*", "group:*"]
RESOURCES = ["doc:1", "doc:10", "doc:*", "doc:1*", "*", "note:1"]
PLATFORM = ["role:platform-x", "role:platform-*"]
ADMINISTRATION = ["kasbah:key", "kasbah:*"]
"""What only the base may speak of."""
CONDITIONS = ["", "", "", "", "context.x == 1", "context.missing == 1", "false"]


@st.composite
def rule_lines(draw, base):
    """A `p` line of a tenant or of the base, after its priority."""
    domain = "*" if base else "acme"
    parts = [draw(st.sampled_from(SUBJECTS + PLATFORM * base)), domain]
    parts.append(draw(st.sampled_from(RESOURCES + ADMINISTRATION * base)))
    parts += [draw(st.sampled_from(["read", "write", "*"])), draw(st.sampled_from(["allow", "allow", "deny"]))]
    return draw(st.integers(0, 3)), ", ".join([*parts, draw(st.sampled_from(CONDITIONS))])


@st.composite
def link_lines(draw, base):
    """A `g` line; the base has roles only."""
    members = (
        ["role:r", "role:s", "group:g", "role:platform-x"]
        if base
        else ["role:r", "role:s", "role:t", "group:g", "user:a", "user:ab"]
    )
    roles = ["role:r", "role:s", "role:t", "group:g"]
    until = draw(st.sampled_from(["", "", ", 2026-06-01T13:00:00Z", ", 2026-06-01T11:00:00Z"]))
    return f"g, {draw(st.sampled_from(members))}, {draw(st.sampled_from(roles))}, {'*' if base else 'acme'}{until}"


def policies(base):
    return st.tuples(
        st.lists(rule_lines(base), max_size=3 if base else 8), st.lists(link_lines(base), max_size=3 if base else 6)
    )


QUESTIONS = [
    EvaluationRequest(parse_ref(subject), Action(action), parse_ref(resource), {"x": x})
    for subject in ["user:a", "user:ab", "user:b", "service:a", "role:r", "role:s", "group:g", "role:platform-x"]
    for resource in ["doc:1", "doc:10", "doc:2", "note:1", "other:1", "kasbah:key"]
    for action in ["read", "delete"]
    for x in [1, 2]
]


def answers(model, base, tenant):
    policy = OfflinePolicy.from_rows("acme", model, base.rows, tenant.rows)
    return [policy.decide(question, NOW, trace=False).effect for question in QUESTIONS]


def text_of(rules, links, *, priority):
    lines = [f"p, {f'{rank}, ' if priority else ''}{line}" for rank, line in rules]
    return "".join(f"{line}\n" for line in [*lines, *links])


EFFECTS = [PolicyEffect.ALLOW_AND_DENY, PolicyEffect.ALLOW_AND_DENY, PolicyEffect.ALLOW_OVERRIDE, PolicyEffect.PRIORITY]


@given(policies(base=True), policies(base=False), st.sampled_from(EFFECTS))
@settings(max_examples=200, deadline=None)
def test_an_idle_rule_can_be_taken_away(base_rows, tenant_rows, effect):
    """Each rule that lint calls covered, overruled, written twice or idle is removed alone: every answer stays."""
    by_priority = effect is PolicyEffect.PRIORITY
    columns = PRIORITY if by_priority else PolicyColumns()
    model = replace(DEFAULT_MODEL, effect=effect, columns=columns.rule)
    base = tenant_files("_base", text_of(*base_rows, priority=by_priority), columns)
    tenant = tenant_files("acme", text_of(*tenant_rows, priority=by_priority), columns)
    assert base.findings == tenant.findings == ()
    directory = PolicyDirectory(MODEL_TEXT, base, {"acme": tenant}, columns=columns)
    found = lint(directory, now=NOW, compile_model=lambda _text: model)
    idle = {finding.line for finding in found if finding.code in IDLE and finding.file == "acme/policy.csv"}
    if not idle:
        return
    before = answers(model, base, tenant)
    for line in idle:
        kept = tuple(rule for rule in tenant.rules if rule.source.line != line)
        assert len(kept) == len(tenant.rules) - 1
        assert answers(model, base, replace(tenant, rules=kept)) == before, line


@given(policies(base=True))
@settings(max_examples=200, deadline=None)
def test_an_idle_rule_of_the_base_can_be_taken_away(base_rows):
    """As those of tenants; the base also speaks of reserved names, which no other wildcard reaches."""
    base, tenant = tenant_files("_base", text_of(*base_rows, priority=False)), tenant_files("acme", "")
    assert base.findings == ()
    directory = PolicyDirectory(MODEL_TEXT, base, {"acme": tenant})
    found = lint(directory, now=NOW, compile_model=lambda _text: DEFAULT_MODEL)
    idle = {finding.line for finding in found if finding.code in IDLE and finding.file == "_base/policy.csv"}
    before = answers(DEFAULT_MODEL, base, tenant) if idle else []
    for line in idle:
        kept = tuple(rule for rule in base.rules if rule.source.line != line)
        assert answers(DEFAULT_MODEL, replace(base, rules=kept), tenant) == before, line


NAMES = st.text(alphabet="ab\uffff", max_size=6)


@given(st.lists(NAMES, max_size=12), NAMES)
def test_prefixes_are_exactly_those_of_the_name(prefixes, name):
    """Bisection finds what looking at each would; the shortest comes first."""
    found = list(Prefixes(prefixes).of(name))
    assert sorted(found) == sorted({prefix for prefix in prefixes if name.startswith(prefix)})
    assert found[:1] == sorted(found, key=len)[:1]
