"""The command line as a stranger meets it."""

import re
import subprocess
import sys
import tomllib

import click
import pytest
from click.testing import CliRunner

import service
from service.cli.output import ExitCode
from service.cli.root import KEY_COMMANDS, PASSWORD_COMMANDS, POLICY_COMMANDS, ROOT_COMMANDS, TENANT_COMMANDS, root
from tests.support.paths import ROOT

GROUPS = {"policy": POLICY_COMMANDS, "tenant": TENANT_COMMANDS, "key": KEY_COMMANDS, "passwords": PASSWORD_COMMANDS}
EVERY_COMMAND = [(name,) for name in ROOT_COMMANDS] + [
    (group, name) for group, names in GROUPS.items() for name in names
]


def run(*arguments: str):
    return CliRunner().invoke(root, list(arguments), prog_name="kasbah")


@pytest.mark.parametrize("path", EVERY_COMMAND, ids=" ".join)
def test_every_command_has_help(path):
    """It says in a sentence what the command does, and what each option is for."""
    result = run(*path, "--help")
    assert result.exit_code == 0, result.output
    assert result.output.startswith(f"Usage: kasbah {' '.join(path)}")
    context = click.Context(root)
    command: click.Command | None = root
    for name in path:
        assert isinstance(command, click.Group)
        command = command.get_command(context, name)
    assert command is not None
    assert command.help, "no help text"
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{parameter.name} has no help"


@pytest.mark.parametrize("path", [(), ("policy",), ("tenant",), ("key",)], ids=" ".join)
def test_every_group_lists_its_commands(path):
    """The listing names each command, on one screen."""
    result = run(*path, "--help")
    assert result.exit_code == 0
    names = GROUPS[path[0]] if path else [*ROOT_COMMANDS, *GROUPS]
    for name in names:
        assert f"  {name} " in result.output


@pytest.mark.parametrize(
    ("typed", "meant"),
    [(["polcy"], "policy"), (["policy", "lnt"], "lint"), (["serv"], "serve"), (["key", "creat"], "create")],
)
def test_a_misspelt_command_is_answered_with_the_nearest(typed, meant):
    """Usage errors end with 2 and help on."""
    result = run(*typed)
    assert result.exit_code == 2
    assert f"Did you mean `{meant}`?" in result.output


def test_version_is_that_of_the_package():
    """One version everywhere."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == service.__version__
    assert run("--version").output == f"kasbah, version {service.__version__}\n"


def test_the_listing_imports_nothing_heavy():
    """`kasbah --help` answers at once: no database, HTTP or engine is loaded for it."""
    code = (
        "import sys; from service.cli.root import root; root(['--help'], standalone_mode=False); "
        "print('HEAVY', sorted({'sqlalchemy', 'aiohttp', 'pydantic', 'casbin', 'redis', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "HEAVY []" in done.stdout


def test_exit_codes_are_documented():
    """The help and the page about policy files name each code that a command can end with, and no other."""
    shown = CliRunner().invoke(root, ["policy", "--help"]).output.partition("Exit codes:")[2]
    page = (ROOT / "docs" / "policy-files.md").read_text().partition("## Exit codes")[2].partition("\n## ")[0]
    codes = [str(code.value) for code in ExitCode]
    assert re.findall(r"^ +(\d+)  ", shown, re.MULTILINE) == codes
    assert re.findall(r"^\| (\d+) \|", page, re.MULTILINE) == codes
