"""Running `cases.yaml`: what passes, what fails and why, and which rules no case reaches."""

import pytest

from authz.golden import run_cases
from authz.policy_files import PolicyDirectory
from tests.support.policies import DEFAULT_MODEL, NOW
from tests.support.policy_texts import tenant_files

POLICY = """\
p, role:a, acme, r:*, read
p, user:x, acme, r:9, read, deny
p, user:y, acme, r:*, read, allow, resource.properties.open
p, user:y, acme, r:*, export, allow, auth.acr == 'aal2' && now - auth.time < duration('5m')
g, user:x, role:a, acme
g, user:z, role:a, acme, 2026-06-01T12:00:00Z
"""
BASE = "p, role:member, *, kasbah:tenant, read\np, role:a, *, r:*, list\n"


def run(cases, *, base_cases="", tenants=None, policy=POLICY):
    base = tenant_files("_base", BASE, cases=base_cases)
    acme = tenant_files("acme", policy, cases=cases, entities="resources: {r:1: {open: true}, r:2: {}}\n")
    assert base.findings == acme.findings == ()
    return run_cases(PolicyDirectory("", base, {"acme": acme}), DEFAULT_MODEL, now=NOW, tenants=tenants)


def case(subject, action, resource, decision, more=""):
    return f"- {{name: {subject} {action} {resource}, subject: {subject}, action: {action}, resource: {resource}, decision: {decision}{more}}}\n"


def acme(report):
    return report.tenants[0]


PASSING = [
    case("user:x", "read", "r:1", "true"),
    case("user:x", "read", "r:1", "true", ", rules: [policy.csv:1]"),
    case("user:x", "list", "r:1", "true", ", rules: [_base/policy.csv:2]"),
    case("user:x", "read", "r:9", "false", ", rules: [policy.csv:2]"),
    case("user:y", "read", "r:1", "true", ", rules: [policy.csv:3]"),
    case("user:y", "read", "r:2", "false", ", rules: []"),
    case("user:z", "read", "r:1", "false"),
    case("user:y", "export", "r:1", "false"),
    case("user:y", "export", "r:1", "false", ", auth: {acr: aal2}"),
    case("user:y", "export", "r:1", "true", ", auth: {acr: aal2, time: 2026-06-01T11:59:00Z}"),
    case("user:y", "export", "r:1", "false", ", auth: {acr: aal2, time: 2026-06-01T11:55:00Z}"),
    case("user:z", "read", "r:1", "true", ", now: 2026-06-01T11:59:59Z"),
]


@pytest.mark.parametrize("text", PASSING)
def test_a_case_passes_when_decision_and_rules_are_as_written(text):
    """Without `rules`, any will do; `[]` means that no rule may determine it; `now` moves the clock."""
    (result,) = acme(run(text)).results
    assert (result.passed, result.problems, result.explanation) == (True, (), ())


FAILING = [
    (case("user:x", "read", "r:1", "false"), "expected deny, got allow", "allowed by: policy.csv:1"),
    (case("user:x", "read", "r:9", "true"), "expected allow, got deny", "blocked by: policy.csv:2"),
    (case("user:q", "read", "r:1", "true"), "expected allow, got deny", "would be granted by: policy.csv:1"),
    (case("user:y", "read", "r:2", "true"), "expected allow, got deny", "condition in error: policy.csv:3"),
    (
        case("user:x", "read", "r:1", "true", ", rules: [policy.csv:2]"),
        "expected allow by policy.csv:2, got allow by policy.csv:1",
        "allowed by: policy.csv:1",
    ),
    (
        case("user:x", "read", "r:9", "false", ", rules: []"),
        "expected deny by no rule, got deny by policy.csv:2",
        "blocked by: policy.csv:2",
    ),
]


@pytest.mark.parametrize(("text", "problem", "explanation"), FAILING)
def test_a_failing_case_is_explained(text, problem, explanation):
    """The problem in a line, and why the answer is what it is."""
    report = run(text)
    (result,) = acme(report).results
    assert not report.passed
    assert result.problems == (problem,)
    assert explanation in "\n".join(result.explanation)


def test_errors_of_conditions_are_kept():
    """An answer that came from an error says so."""
    (result,) = acme(run(case("user:y", "read", "r:2", "false"))).results
    assert result.passed
    assert result.errors


def test_rules_that_no_case_reaches_are_named():
    """A rule is reached when it determines an answer; rules of the base by cases of any tenant."""
    report = run(case("user:x", "read", "r:9", "false") + case("user:x", "list", "r:1", "true"))
    tenant, base = report.tenants
    assert ([rule.source.line for rule in tenant.missed], tenant.rules) == ([1, 3, 4], 4)
    assert ([str(rule.source) for rule in base.missed], base.rules) == (["_base/policy.csv:1"], 2)


def test_cases_of_the_base_are_asked_of_the_base_alone():
    """No tenant's rule takes part in them."""
    text = case("role:member", "read", "kasbah:tenant", "true") + case("role:a", "read", "r:1", "false", ", rules: []")
    report = run("", base_cases=text)
    assert report.passed
    assert [len(tenant.results) for tenant in report.tenants] == [0, 2]


def test_only_named_tenants_are_run():
    """The others do not appear."""
    assert [tenant.slug for tenant in run("", tenants=["acme"]).tenants] == ["acme"]
