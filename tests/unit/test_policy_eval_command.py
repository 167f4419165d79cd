"""`kasbah policy eval` as it is called."""

import json

import pytest
from click.testing import CliRunner

from service.cli.policy_eval import evaluate

MODEL = """[request_definition]
r = sub, obj, act
[policy_definition]
p = sub, obj, act
[role_definition]
g = _, _
[policy_effect]
e = some(where (p.eft == allow))
[matchers]
m = g(r.sub, p.sub) && r.obj == p.obj && r.act == p.act
"""
POLICY = "p, admin, data1, read\ng, alice, admin\n"


@pytest.fixture
def run(tmp_path):
    def call(requests, *options, model=MODEL, policy=POLICY):
        (tmp_path / "model.conf").write_text(model)
        (tmp_path / "policy.csv").write_text(policy)
        arguments = ["--model", str(tmp_path / "model.conf"), "--policy", str(tmp_path / "policy.csv"), *options]
        result = CliRunner().invoke(evaluate, arguments, input=requests)
        return result.exit_code, [json.loads(line) for line in result.stdout.splitlines()], result.stderr

    return call


def test_one_answer_a_line(run):
    """Decisions with their rules, errors in their place."""
    code, answers, _ = run('["alice","data1","read"]\n\n["bob","data1","read"]\n["alice"]\n{"a": 1}\nnonsense\n')
    assert code == 0
    assert answers[:2] == [{"decision": True, "rules": ["policy.csv:1"]}, {"decision": False, "rules": []}]
    assert all(set(answer) == {"error"} for answer in answers[2:])
    assert len(answers) == 5


@pytest.mark.parametrize("line", ['[NaN,"a","b"]', '[{"a":1,"a":2},"a","b"]', "[" * 100_000, '["a","b","c"] trailing'])
def test_bad_json_is_an_error_line(run, line):
    """Never a guess."""
    code, answers, _ = run(line)
    assert code == 0
    assert [set(answer) for answer in answers] == [{"error"}]


def test_requests_that_are_not_utf8_are_a_usage_error(run):
    """Said in one line."""
    code, _, stderr = run(b'["\xff"]')
    assert code == 2
    assert "not UTF-8" in stderr


def test_lone_surrogates_are_answered(run):
    """JSON can carry them; no answer breaks the output."""
    code, answers, _ = run('["\\ud800","data1","read"]', "--compare")
    assert code == 0
    assert answers == [{"decision": False, "rules": []}]


def test_rows_without_definition_are_warned_of(run):
    """PyCasbin ignores them without a word."""
    _, _, stderr = run("", policy="P, alice, data1, read\n")
    assert "policy.csv:1: no definition `P`" in stderr


def test_compare_agrees(run):
    """No difference: exit code 0."""
    code, answers, stderr = run('["alice","data1","read"]\n["bob","data1","read"]\n', "--compare")
    assert code == 0
    assert "0 differences" in stderr
    assert not any("pycasbin" in answer for answer in answers)


def test_compare_lists_differences(run):
    """A corner of PyCasbin: exit code 1, and the other answer beside ours."""
    code, answers, stderr = run('["","",""]\n', "--compare", policy="# nothing\n")
    assert code == 1
    assert answers == [{"decision": False, "rules": [], "pycasbin": {"decision": True}}]
    assert "Kasbah denies, PyCasbin allows" in stderr
    assert "1 differences" in stderr


def test_compare_says_where_pycasbin_reads_other_fields(run):
    """Its CSV code knows no quotes."""
    _, answers, stderr = run('["alice","data,1","read"]\n', "--compare", policy='p, alice, "data,1", read\n')
    assert answers[0]["decision"] is True
    assert "policy.csv:1: PyCasbin's own CSV code" in stderr


def test_compare_says_where_pycasbin_reads_another_model(run):
    """A comment behind `p` hides `eft` from PyCasbin, whose denies then allow; nobody must learn that elsewhere."""
    model = MODEL.replace("p = sub, obj, act", "p = sub, obj, act, eft  # who may").replace(
        "some(where (p.eft == allow))", "some(where (p.eft == allow)) && !some(where (p.eft == deny))"
    )
    policy = "p, alice, data1, read, deny\np, alice, data1, read, allow\n"
    _, answers, stderr = run('["alice","data1","read"]\n', "--compare", model=model, policy=policy)
    assert answers == [{"decision": False, "rules": ["policy.csv:1"]}]
    assert "model.conf:4: PyCasbin itself takes `# who may` for a part of the last name" in stderr


def test_a_byte_order_mark_is_left_out_and_said(run):
    """Editors on Windows write one; PyCasbin cannot read the model then, and loses the first row."""
    code, answers, stderr = run(
        '["alice","data1","read"]\n', "--compare", model=f"\ufeff{MODEL}", policy=f"\ufeff{POLICY}"
    )
    assert (code, answers[0]["decision"]) == (0, True)
    assert "model.conf: PyCasbin itself does not read a file that begins with a byte order mark" in stderr
    assert "policy.csv:1: PyCasbin's own CSV code knows no byte order mark" in stderr


def test_a_model_that_cannot_be_used(run):
    """Every request gets an error line, and the command says it failed."""
    code, answers, stderr = run('["alice","data1","read"]\n', model=MODEL.replace("r.act == p.act", "open(r.act)"))
    assert code == 1
    assert "unknown function `open`" in answers[0]["error"]
    assert "unknown function `open`" in stderr


def test_functions_of_role_definitions(run):
    """Role names as patterns."""
    model = MODEL.replace("g = _, _", "g = _, _\ng2 = _, _").replace("r.obj == p.obj", "g2(r.obj, p.obj)")
    policy = "p, admin, books, read\ng, alice, admin\ng2, /book/:id, books\n"
    request = '["alice","/book/7","read"]\n'
    assert run(request, model=model, policy=policy)[1][0]["decision"] is False
    assert run(request, "--function", "g2=role:keyMatch2", model=model, policy=policy)[1][0]["decision"] is True


@pytest.mark.parametrize("option", ["g2", "g2=keyMatch2", "g2=user:keyMatch2", "g2=role:nope", "=role:keyMatch"])
def test_a_bad_function_is_a_usage_error(run, option):
    """With the accepted form, or the known names."""
    code, _, stderr = run("", "--function", option)
    assert code == 2
    assert "keyMatch2" in stderr


def test_missing_files_are_usage_errors(run):
    """Nothing is read as empty."""
    result = CliRunner().invoke(evaluate, ["--model", "/nonexistent", "--policy", "/nonexistent"])
    assert result.exit_code == 2


def test_help_has_an_example():
    """The first thing a newcomer reads."""
    result = CliRunner().invoke(evaluate, ["--help"])
    assert result.exit_code == 0
    assert "Example" in result.output
    assert "--context" in result.output
