"""The sample tenants: clean, right about every case of theirs, and right about the public data they stand for."""

import json

import pytest

from authz.golden import run_cases
from authz.lint import lint
from authz.offline import OfflinePolicy
from authz.policy_files import read_directory
from authz.request import Action, Entity, EvaluationRequest
from tests.support.paths import ROOT, require_shared_data
from tests.support.policies import DEFAULT_MODEL, NOW

POLICIES = ROOT / "policies"


@pytest.fixture(scope="module")
def directory():
    return read_directory(POLICIES)


@pytest.fixture(scope="module")
def report(directory):
    return run_cases(directory, DEFAULT_MODEL, now=NOW)


def offline(directory, slug):
    return OfflinePolicy.from_rows(slug, DEFAULT_MODEL, directory.base.rows, directory.tenants[slug].rows)


def test_the_samples_are_there(directory):
    """Three tenants and the base, each with cases."""
    assert set(directory.tenants) == {"acme", "kubernetes", "todo"}
    assert all(part.cases for part in directory.parts())


@pytest.mark.parametrize("slug", ["_base", "acme", "kubernetes", "todo"])
def test_golden_cases_come_out(report, slug):
    """Every case of every sample tenant gives its decision by its rules."""
    (tenant,) = [each for each in report.tenants if each.slug == slug]
    assert tenant.results
    failures = [(each.case.name, each.problems, each.explanation) for each in tenant.results if not each.passed]
    assert failures == []


def test_every_case_says_why(directory):
    """Cases are documentation: each has its sentence."""
    assert [case.name for part in directory.parts() for case in part.cases if not case.why] == []


def test_small_samples_are_reached_completely(report):
    """What newcomers read has a case for every rule."""
    missed = {each.slug: [str(rule.source) for rule in each.missed] for each in report.tenants}
    assert missed["acme"] == []
    assert missed["todo"] == []


def test_samples_have_no_errors_and_only_known_warnings(directory):
    """The small samples are clean; Kubernetes' own roles are as redundant as they are."""
    found = lint(directory, now=NOW, compile_model=lambda _text: DEFAULT_MODEL)
    assert [finding for finding in found if finding.is_error or not finding.file.startswith("kubernetes/")] == []
    assert {finding.code for finding in found} == {"covered-rule", "shadowing-wildcard", "unknown-role"}


def test_the_model_is_that_of_the_design():
    """`policies/model.conf` holds the model that the documentation explains."""
    text = (POLICIES / "model.conf").read_text()
    assert "e = some(where (p.eft == allow)) && !some(where (p.eft == deny))" in text
    assert (
        'm = (g(r.sub, p.sub, r.dom) || keyMatch(r.sub, p.sub)) && (p.dom == r.dom || p.dom == "*") && '
        'keyMatch(r.obj, p.obj) && (p.act == "*" || r.act == p.act)'
    ) in text


def entity(value):
    return Entity(value["type"], value["id"], value.get("properties", {}))


def request_of(value):
    return EvaluationRequest(entity(value["subject"]), Action(value["action"]["name"]), entity(value["resource"]))


def todo_questions():
    """Yield (draft, request, expected) of the final request form, batches taken apart."""
    for draft in ("01", "02"):
        data = json.loads(
            require_shared_data("authzen", "todo", f"decisions-authorization-api-1_0-{draft}.json").read_text()
        )
        for each in data["evaluation"]:
            yield draft, request_of(each["request"]), each["expected"]
        for each in data.get("evaluations", ()):
            defaults = {key: value for key, value in each["request"].items() if key != "evaluations"}
            for item, expected in zip(each["request"]["evaluations"], each["expected"], strict=True):
                yield draft, request_of({**defaults, **item}), expected["decision"]


def test_authzen_todo_decisions_come_out(directory):
    """All decisions of the interoperability scenario, drafts 01 and 02, batches included."""
    policy = offline(directory, "todo")
    questions = list(todo_questions())
    assert len(questions) == 40 + 40 + 6
    wrong = [
        (draft, request)
        for draft, request, expected in questions
        if policy.decide(request, NOW).allowed is not expected
    ]
    assert wrong == []


def test_authzen_todo_draft_00_comes_out_when_its_fields_are_properties(directory):
    """The earliest draft names users by e-mail; with its stray fields where the standard has them, all is the same."""
    policy = offline(directory, "todo")
    data = json.loads(require_shared_data("authzen", "todo", "decisions-authorization-api-1_0-00.json").read_text())
    assert len(data["evaluation"]) == 40
    for each in data["evaluation"]:
        resource = each["request"]["resource"]
        stray = {key: value for key, value in resource.items() if key not in {"type", "id"}}
        resource = {"type": resource["type"], "id": resource["id"], "properties": stray}
        decision = policy.decide(request_of({**each["request"], "resource": resource}), NOW)
        assert decision.allowed is each["expected"], each


def test_authzen_todo_without_asserted_owner_never_allows_more(directory):
    """A caller that may not assert attributes gets no ownership: fewer allows, never one more."""
    policy = offline(directory, "todo")
    fewer = 0
    for _, request, expected in todo_questions():
        bare = EvaluationRequest(request.subject, request.action, Entity(request.resource.type, request.resource.id))
        allowed = policy.decide(bare, NOW).allowed
        assert expected or not allowed
        fewer += expected and not allowed
    assert fewer > 0
