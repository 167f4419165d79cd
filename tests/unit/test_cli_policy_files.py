"""`kasbah policy lint` and `kasbah policy test` as people and scripts see them."""

import json
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from authz.compile_model import compile_model
from authz.ports import StoredModel
from authz.served_model import PolicyEffect
from service.cli.root import root
from tests.support.paths import ROOT
from tests.support.policies import DEFAULT_MODEL


@pytest.fixture
def policies(tmp_path):
    """A copy of the small samples, to break."""
    for name in ("model.conf", "_base", "acme", "todo"):
        source = ROOT / "policies" / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(root, ["policy", *map(str, arguments)])


def append(path, text):
    path.write_text(path.read_text() + text)


def test_the_samples_model_compiles_to_what_tests_use():
    """The default model is fully indexed."""
    model = compile_model(StoredModel.of((ROOT / "policies" / "model.conf").read_text()))
    assert (model.effect, model.columns, model.residual, model.notes) == (
        PolicyEffect.ALLOW_AND_DENY,
        DEFAULT_MODEL.columns,
        None,
        (),
    )
    assert (model.subject, model.resource, model.action) == (
        DEFAULT_MODEL.subject,
        DEFAULT_MODEL.resource,
        DEFAULT_MODEL.action,
    )


def lines_of(directory: Path, name: str, beginning: str) -> int:
    """Count the lines of the files of one name that begin as a pattern says."""
    texts = (path.read_text() for path in directory.rglob(name))
    return sum(len(re.findall(f"^{beginning}", text, re.MULTILINE)) for text in texts)


def test_lint_of_a_clean_directory(policies):
    """Exit 0 and one line."""
    result = run("lint", policies)
    assert (result.exit_code, result.stdout) == (
        0,
        f"0 errors, 0 warnings in 2 tenants, {lines_of(policies, 'policy.csv', '[pg],')} rows\n",
    )


def test_lint_names_place_hint_and_code(policies):
    """As compilers do: path:line:column, then what and how to mend it."""
    append(policies / "acme" / "policy.csv", "p, role:viewer, acme, record:1, raed, alow\n")
    result = run("lint", policies)
    assert result.exit_code == 1
    line = len((policies / "acme" / "policy.csv").read_text().splitlines())
    assert result.stdout.splitlines() == [
        f"{policies}/acme/policy.csv:{line}:39: error: `alow` is no effect [unknown-effect]",
        "    hint: did you mean `allow`?",
        f"1 error, 0 warnings in 2 tenants, {lines_of(policies, 'policy.csv', '[pg],') - 1} rows",
    ]


def test_lint_fails_for_warnings_when_strict(policies):
    """Warnings are for people unless a script says otherwise."""
    append(policies / "acme" / "policy.csv", "p, role:viewer, acme, record:1, read\n")
    assert run("lint", policies).exit_code == 0
    assert run("lint", policies, "--strict").exit_code == 1


def test_lint_as_json(policies):
    """One document, all findings, nothing else on standard output."""
    append(policies / "acme" / "policy.csv", "p, role:viewer, acme, record:1, read\nbroken\n")
    result = run("lint", policies, "--output", "json")
    assert result.exit_code == 1
    data = json.loads(result.stdout)
    assert (data["errors"], data["warnings"]) == (1, 2)
    assert data["findings"][-1] == {
        "file": "acme/policy.csv",
        "line": 27,
        "column": 1,
        "severity": "error",
        "code": "unknown-kind",
        "message": "`broken` is no kind of row",
        "hint": "rows start with `p`, `g`",
    }


@pytest.mark.parametrize("command", ["lint", "test"])
def test_usage_errors_exit_with_2(policies, command):
    """No directory, or a tenant that it does not have."""
    assert run(command, policies / "nowhere").exit_code == 2
    assert run(command, policies, "--tenant", "globex").exit_code == 2
    assert run(command).exit_code == 2


@pytest.mark.parametrize("command", ["lint", "test"])
def test_one_tenant_can_be_asked_for(policies, command):
    """Another tenant's faults do not count."""
    append(policies / "todo" / "policy.csv", "broken\n")
    assert run(command, policies).exit_code == 1
    assert run(command, policies, "--tenant", "acme").exit_code == 0
    assert run(command, policies, "--tenant", "todo").exit_code == 1


@pytest.mark.parametrize("command", ["lint", "test", "plan", "apply"])
def test_a_directory_without_a_tenant_is_refused(policies, tmp_path_factory, command):
    """Nothing was looked at, so nothing passed; the message names the directory that was meant."""
    empty = tmp_path_factory.mktemp("empty")
    above = tmp_path_factory.mktemp("above")
    policies.rename(above / "policies")
    for directory, meant in (
        (empty, "a tenant is a directory with a policy.csv, named for its slug"),
        (above, f"did you mean `{above / 'policies'}`?"),
        (above / "policies" / "acme", "it is a tenant's own directory; name the one above it"),
    ):
        result = run(command, directory)
        assert (result.exit_code, result.stderr) == (2, f"error: `{directory}` holds no tenant: {meant}\n")


def test_lint_says_what_the_model_lacks(policies):
    """A model that is not fit to be served is an error of `model.conf`."""
    text = (policies / "model.conf").read_text()
    (policies / "model.conf").write_text(text.replace("e = some(where (p.eft == allow)) && ", "e = "))
    result = run("lint", policies)
    assert result.exit_code == 1
    assert "model.conf:11:1: error: " in result.stdout
    assert run("test", policies).exit_code == 1


@pytest.mark.parametrize("text", ["", "[", "no model", "[request_definition]\nr\n", "\x00", "[matchers]\nm = (\n"])
def test_any_model_ends_in_a_finding(policies, text):
    """Whatever stands in `model.conf`, lint says so and does not fall over."""
    (policies / "model.conf").write_text(text)
    result = run("lint", policies)
    assert result.exit_code == 1
    assert "model.conf:1:1: error: " in result.stdout


def test_lint_warns_of_a_matcher_that_is_slow(policies):
    """A clause that no index takes is named."""
    text = (policies / "model.conf").read_text()
    (policies / "model.conf").write_text(text.replace("r.act == p.act)", "regexMatch(r.act, p.act))"))
    result = run("lint", policies, "--output", "json")
    codes = {finding["code"] for finding in json.loads(result.stdout)["findings"]}
    assert codes == {"unindexed-matcher"}
    assert result.exit_code == 0


def test_names_cannot_write_to_the_terminal(policies):
    """An escape sequence in a file is shown as text."""
    append(policies / "acme" / "policy.csv", "p, role:viewer, acme, record:1, read, \x1b[2Jalow\n")
    result = run("lint", policies)
    assert "\x1b" not in result.output
    assert result.exit_code == 1


def test_golden_cases_pass(policies):
    """Counts, coverage, exit 0."""
    base, rules = lines_of(policies / "_base", "cases.yaml", "- name"), lines_of(policies / "_base", "policy.csv", "p,")
    result = run("test", policies)
    assert (result.exit_code, result.stdout.splitlines()) == (
        0,
        [
            "acme: 17 of 17 cases passed, 8 of 8 rules reached",
            "todo: 13 of 13 cases passed, 7 of 7 rules reached",
            f"_base: {base} of {base} cases passed, {rules} of {rules} rules reached",
            f"{17 + 13 + base} cases, 0 failed",
        ],
    )


def test_a_failing_case_is_a_row_and_an_explanation(policies):
    """Expected, got, where the case stands, why it should be so, why it is not, and which rule nothing reaches."""
    path = policies / "acme" / "policy.csv"
    path.write_text(path.read_text().replace("g, user:alice, role:editor, acme", "g, user:alice, role:viewer, acme"))
    result = run("test", policies)
    assert result.exit_code == 1
    rows = [line.split("  ") for line in result.stdout.splitlines() if line.startswith("an editor writes records")]
    assert [[cell.strip() for cell in row if cell.strip()] for row in rows] == [
        [
            "an editor writes records",
            "user:alice write record:record-1",
            "expected allow, got deny",
            f"{policies}/acme/cases.yaml:9",
        ]
    ]
    assert "    why: writing is what makes an editor" in result.stdout
    assert "would be granted by: policy.csv:6: allow role:editor write record:*" in result.stdout
    assert "    policy.csv:6: allow role:editor write record:*" in result.stdout
    assert result.stdout.splitlines()[-1] == f"{lines_of(policies, 'cases.yaml', '- name')} cases, 2 failed"


def test_failing_cases_as_json(policies):
    """Everything a script needs to say the same."""
    path = policies / "acme" / "policy.csv"
    path.write_text(path.read_text().replace("g, user:alice, role:editor, acme", "g, user:alice, role:viewer, acme"))
    result = run("test", policies, "--output", "json", "--tenant", "acme")
    assert result.exit_code == 1
    data = json.loads(result.stdout)
    assert data["passed"] is False
    acme = next(tenant for tenant in data["tenants"] if tenant["tenant"] == "acme")
    (failed, _) = [each for each in acme["cases"] if not each["passed"]]
    assert (failed["name"], failed["file"], failed["line"]) == ("an editor writes records", "acme/cases.yaml", 9)
    assert failed["expected"] == {"decision": True, "rules": ["policy.csv:6"]}
    assert failed["actual"] == {"decision": False, "rules": [], "errors": []}
    assert failed["problems"] == ["expected allow, got deny"]
    assert failed["explanation"]
    assert acme["coverage"]["missed"][0] == {"rule": "policy.csv:6", "text": "allow role:editor write record:*"}


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("acme/policy.csv", "p, user:bob, acme, record:*, read, dney\n"),
        ("acme/policy.csv", "p, user:bob, acme, record:*, read, deny, subject.nme == 1\n"),
        ("acme/entities.yaml", "subjects: {}\n"),
        ("acme/cases.yaml", "- {name: x}\n"),
    ],
)
def test_a_tenant_with_errors_is_not_run(policies, file, text):
    """A row that could not be read might be the one that denies: no answer is given from the others."""
    append(policies / file, text)
    result = run("test", policies)
    assert result.exit_code == 1
    assert not any(line.startswith("acme: ") for line in result.stdout.splitlines())
    assert any(line.startswith("todo: 13 of 13") for line in result.stdout.splitlines())
    assert " in the files: tenants with errors were not run" in result.stdout


def test_a_broken_base_stops_every_tenant(policies):
    """All inherit from it."""
    append(policies / "_base" / "policy.csv", "broken\n")
    result = run("test", policies)
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-1].startswith("0 cases")
