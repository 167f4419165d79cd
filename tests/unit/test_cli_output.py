"""What commands print: JSON for programs, plain text off a terminal, nothing that moves a terminal's cursor."""

import json

import click
import pytest
from click.testing import CliRunner

from service.cli.output import ExitCode, emit, fail, output_option, printable, progress, table


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
