"""How commands speak: exit codes, text for people, JSON for programs, colour and bars only on a terminal."""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum, StrEnum
from typing import Any, NoReturn, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


class ExitCode(IntEnum):
    """What a command's exit status means to a script."""

    OK = 0
    """Nothing to do, or done."""
    FINDINGS = 1
    """Findings, failing cases, or a start that did not work."""
    USAGE = 2
    """The command line or a setting is wrong."""
    UNREACHABLE = 3
    """No server answered."""
    PENDING = 4
    """Changes are pending (`plan --detailed-exitcode`)."""
    REFUSED = 5
    """Conflict, stale plan, unknown tenant, missing right."""


class OutputFormat(StrEnum):
    """Who reads the output."""

    TEXT = "text"
    JSON = "json"


class CommandError(click.ClickException):
    """Ends a command with one message on standard error and an exit code."""

    def __init__(self, message: str, exit_code: int = ExitCode.FINDINGS) -> None:
        super().__init__(message)
        self.exit_code = int(exit_code)  # type: ignore[misc]  # click reads it from the instance

    def show(self, file: Any = None) -> None:
        """Print the message; several lines stay several lines."""
        click.secho("error: ", fg="red", bold=True, nl=False, err=True, file=file)
        click.echo(self.format_message(), err=True, file=file)


def fail(message: str, exit_code: int = ExitCode.FINDINGS) -> NoReturn:
    """End the command with a message on standard error."""
    raise CommandError(message, exit_code)


def output_option(command: Command) -> Command:
    """Add `--output text|json`; the command takes it as `output: str`."""
    option = click.option(
        "--output",
        type=click.Choice([form.value for form in OutputFormat]),
        default=OutputFormat.TEXT.value,
        show_default=True,
        help="Text for people, or JSON for programs.",
    )
    return option(command)


def emit(output: str, data: object, render: Callable[[], None]) -> None:
    """Print `data` as one JSON document, or call `render` to print it for people."""
    if output == OutputFormat.JSON:
        click.echo(json.dumps(data, indent=2, ensure_ascii=False, default=str))
    else:
        render()


def on_terminal(*, err: bool = False) -> bool:
    """Whether a person looks at the output."""
    return (sys.stderr if err else sys.stdout).isatty()


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str | None = None) -> None:
    """Print rows: a drawn table on a terminal, aligned columns elsewhere.

    Args:
        columns: Headings.
        rows: Cells; None is printed as nothing.
        empty: What to say instead when there is no row.
    """
    if not rows:
        if empty is not None:
            click.echo(empty)
        return
    cells = [["" if cell is None else printable(str(cell)) for cell in row] for row in rows]
    if on_terminal():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        drawn = Table(*columns, header_style="bold")
        for row in cells:
            drawn.add_row(*(Text(cell) for cell in row))
        Console().print(drawn)
        return
    widths = [max(len(row[index]) for row in [list(columns), *cells]) for index in range(len(columns))]
    for row in [list(columns), *cells]:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def printable(text: str) -> str:
    """Return `text` with control characters escaped.

    SECURITY: names come from policies and other people; on a terminal, an escape sequence could rewrite what was said.
    """
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


@contextlib.contextmanager
def progress(label: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Show a bar on standard error while something runs; silent where nobody looks.

    Yields:
        `advance(steps)`.
    """
    if not on_terminal(err=True):
        yield lambda _steps: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    several = total is not None and total > 1
    columns = [TextColumn("{task.description}"), BarColumn(), *([MofNCompleteColumn()] if several else [])]
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(label, total=total if several else None)  # one step of unknown length only moves
        yield lambda steps: bars.advance(task, steps)
