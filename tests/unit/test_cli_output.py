"""What commands print: JSON for programs, plain text off a terminal, nothing that moves a terminal's cursor."""

import contextlib
import json
import os
import pty
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from service.cli.output import ExitCode, emit, fail, output_option, printable, progress, table
from tests.support.paths import ROOT


@click.command()
@output_option
def listing(output: str) -> None:
    """List."""
    emit(
        output,
        {"names": ["a\x1b[2J"]},
        lambda: table(["name", "count"], [["a\x1b[2J", 1], ["longer", None]], empty="none"),
    )


def test_json_is_one_document():
    """Programs get the data itself."""
    result = CliRunner().invoke(listing, ["--output", "json"])
    assert json.loads(result.output) == {"names": ["a\x1b[2J"]}


def test_text_is_aligned_and_harmless():
    """A name cannot send escape sequences to the terminal."""
    result = CliRunner().invoke(listing)
    assert result.output == "name      count\na\\x1b[2J  1\nlonger\n"


def test_an_empty_table_says_so(capsys):
    """Nothing found is said, not left blank."""
    table(["name"], [], empty="no tenants")
    assert capsys.readouterr().out == "no tenants\n"


@pytest.mark.parametrize("text", ["\n", "\r", "\x1b[31m", "\u202e", "\x9b", "\u2028", "\x07"])
def test_control_characters_are_escaped(text):
    """Neither new lines nor reversed text get through."""
    assert printable(text).isprintable()
    assert printable(f"a{text}b") != f"a{text}b"


def test_fail_ends_with_its_code():
    """A message on standard error, nothing on standard output, and the code that scripts read."""

    @click.command()
    def failing() -> None:
        """Fail."""
        fail("it moved on", ExitCode.REFUSED)

    result = CliRunner().invoke(failing)
    assert result.exit_code == 5
    assert result.stdout == ""
    assert result.stderr == "error: it moved on\n"


def test_progress_is_silent_off_a_terminal(capsys):
    """A log file is not filled with bars."""
    with progress("working", 10) as advance:
        advance(5)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def run_on_a_terminal(*arguments, **environment):
    """Run `kasbah` with a pseudo-terminal as its standard output and error; return what it showed."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "service", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=slave,
        stderr=slave,
        cwd=ROOT,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "200", **environment},
    )
    os.close(slave)
    shown = b""
    with contextlib.suppress(OSError), os.fdopen(master, "rb", buffering=0) as terminal:  # EIO: the last writer is gone
        while part := terminal.read(65536):
            shown += part
    process.wait()
    return shown.decode()


def test_a_terminal_gets_colour_and_a_bar(tmp_path):
    """People see that something is under way, and errors in red; NO_COLOR is heeded."""
    (tmp_path / "acme").mkdir()
    (tmp_path / "acme" / "policy.csv").write_text("p, role:a, acme, record:1\n")
    shown = run_on_a_terminal("policy", "lint", tmp_path)
    assert "checking" in shown
    assert "\x1b[31m" in shown
    plain = run_on_a_terminal("policy", "lint", tmp_path, NO_COLOR="1")
    assert "\x1b[31m" not in plain
    assert "[column-count]" in plain
