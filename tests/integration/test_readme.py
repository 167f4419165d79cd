"""The README's tour, run as printed."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.support.paths import ROOT
from tests.support.running_dev import RunningDev
from tests.support.running_service import clean_environment

pytestmark = [pytest.mark.integration, pytest.mark.process, pytest.mark.slow]

README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A checkout as the tour sees it: policies, a running `kasbah dev` with its state in .kasbah, `kasbah` on the PATH."""
    directory = tmp_path_factory.mktemp("tour")
    shutil.copytree(ROOT / "policies", directory / "policies")
    programs = directory / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "kasbah").write_text(f'#!/bin/sh\nexec {sys.executable} -m service "$@"\n')
    (programs / "kasbah").chmod(0o755)
    (programs / "activate").write_text(f'PATH="{programs}:$PATH"\nexport PYTHONPATH="{ROOT}"\n')
    dev = RunningDev(directory, state_name=".kasbah")
    dev.start()
    yield directory
    dev.kill_all()


@pytest.fixture(scope="module")
def outputs(place):
    """What each block of the tour printed, in order; they run in one shell, as in one terminal."""
    if shutil.which("curl") is None:
        pytest.skip("no curl here")
    mark = "----- next block -----"
    commands = [text for language, text in BLOCKS if language == "sh"]
    script = "set -eu\n" + f"\necho '{mark}'\n".join(commands)
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=place,
        env=clean_environment(PATH=os.environ["PATH"]),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(zip([command.strip().splitlines()[-1] for command in commands], done.stdout.split(mark), strict=True))


def output_of(outputs, fragment: str) -> str:
    """Return what the block printed in whose last line `fragment` stands."""
    (found,) = [output for command, output in outputs.items() if fragment in command]
    return found


def test_the_question_is_answered_as_printed(outputs):
    """The README shows the answer of the service, but for the revision."""
    (shown,) = [json.loads(text) for language, text in BLOCKS if language == "json"]
    answer = json.loads(output_of(outputs, '"resource": {"type": "record", "id": "record-1"}}'))
    shown["context"]["kasbah"]["revision"] = answer["context"]["kasbah"]["revision"]
    assert answer == shown


def test_the_rule_passes_lint_and_its_case(outputs):
    """The new golden decision is run."""
    output = output_of(outputs, "kasbah policy test")
    assert "0 errors" in output
    assert "0 failed" in output


def test_the_plan_is_applied(outputs):
    """One rule is added."""
    output = output_of(outputs, "kasbah policy apply plan.json")
    assert "+ p, role:viewer, acme, report:*, read" in output
    assert "1 added, 0 removed" in output


def test_the_new_rule_decides_and_the_refusal_is_explained_as_printed(outputs):
    """Bob reads reports now; Alice's refusal is the one that the README shows."""
    output = output_of(outputs, "user:alice delete record:record-1")
    (shown,) = [text for language, text in BLOCKS if language == "text"]
    assert output.strip().startswith("allow")
    assert shown.strip() in output


def test_the_rollback_takes_the_rule_back(outputs):
    """The reason stands in the history; Bob reads reports no more."""
    output = output_of(outputs, "user:bob read report:2026-q1")
    assert "everyone reads reports" in output
    assert re.search(r"^deny$", output, re.MULTILINE), output


def test_a_tenant_and_a_key_are_made(outputs):
    """The key's token is shown once, and the list shows its name."""
    output = output_of(outputs, "kasbah key list --tenant globex")
    assert re.search(r"kasbah_[0-9a-f]{8}_[\w-]{43}", output)
    assert "reporting" in output


def test_an_invitation_is_mailed(outputs):
    """The link stands in a file."""
    output = output_of(outputs, ".kasbah/mail/*.eml")
    assert re.search(r"^http://127\.0\.0\.1:\d+/account/invitation\?token=[\w-]{43}$", output, re.MULTILINE), output


def test_people_are_imported_and_one_is_disabled(outputs):
    """The list shows who came, and in what state."""
    output = output_of(outputs, "kasbah user list --tenant globex")
    assert re.search(r"^hal .* disabled ", output, re.MULTILINE), output
    assert re.search(r"^ida .* active ", output, re.MULTILINE), output


def test_the_audit_tells_it_and_holds(outputs):
    """What the tour did stands in the chain, which verifies to a signed checkpoint."""
    output = output_of(outputs, "kasbah audit verify --tenant globex")
    for action in ("tenant.create", "key.create", "invitation.create", "user.create", "user.disable"):
        assert action in output, output
    assert re.search(r"globex/tenant: \d+ events hold", output), output


def test_the_two_commands_are_the_makefile_s():
    """The README names targets that exist."""
    for target in re.findall(r"`?make ([a-z-]+)`?", README):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target


def test_every_file_it_points_to_exists():
    """No dead pointers."""
    for path in re.findall(r"`((?:docs|deploy|policies)/[\w./-]*)`", README):
        assert (ROOT / path).exists(), path


def test_somebody_signs_in_with_both_factors_and_out(outputs):
    """Ada lists the session in which she asks; then it ends."""
    listed = output_of(outputs, "kasbah session list")
    assert "aal2" in listed
    told = output_of(outputs, "kasbah audit list --tenant acme --limit 3")
    assert "session.end_all" in told
    assert "lost the laptop" in told
