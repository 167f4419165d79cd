"""What a benchmark hands back: tables for people, checks against the promised numbers, figures for machines."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable


@dataclass(frozen=True, slots=True)
class Check:
    """A measured number beside the number that was promised."""

    what: str
    measured: float
    unit: str
    limit: float
    at_most: bool = True
    """False when the limit is a floor."""

    @property
    def met(self) -> bool:
        """Whether the promise holds in this run."""
        return self.measured <= self.limit if self.at_most else self.measured >= self.limit

    @property
    def verdict(self) -> str:
        """`met`, or by how much it was missed."""
        if self.met:
            return "met"
        return f"missed by {abs(self.measured - self.limit) / self.limit:.0%}"


@dataclass(frozen=True, slots=True)
class Table:
    """Text cells under column names; the first column is left-aligned, the others right."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(slots=True)
class Result:
    """One benchmark's outcome."""

    name: str
    tables: list[Table] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` writes: the raw figures, and every check with its verdict."""
        checks = [{**asdict(check), "met": check.met} for check in self.checks]
        return {"name": self.name, "figures": self.figures, "checks": checks, "notes": self.notes}


def say(text: str) -> None:
    """Tell the person who waits what is going on (standard error, so that tables can be piped)."""
    print(text, file=sys.stderr, flush=True)


def show(results: Sequence[Result], about: dict[str, str]) -> None:
    """Print tables, then all checks together."""
    wide = None if sys.stdout.isatty() else 140
    console = Console(width=wide, highlight=False)
    for result in results:
        for table in result.tables:
            console.print(_rich(table))
        for note in result.notes:
            console.print(f"  {note}", markup=False)
    rows = [
        (
            check.what,
            f"{check.measured:,.4g} {check.unit}" if check.measured < 1000 else f"{check.measured:,.0f} {check.unit}",
            f"{'≤' if check.at_most else '≥'} {check.limit:,.10g} {check.unit}",
            check.verdict,
        )
        for result in results
        for check in result.checks
    ]
    if rows:
        console.print(_rich(Table("Against what was promised", ("what", "measured", "promised", "verdict"), rows)))
    console.print(", ".join(f"{name} {value}" for name, value in about.items()), markup=False)


def print_table(table: Table) -> None:
    """Print one table."""
    Console(width=None if sys.stdout.isatty() else 140, highlight=False).print(_rich(table))


def save(path: Path, results: Sequence[Result], about: dict[str, str]) -> None:
    """Write all figures as one JSON object."""
    text = json.dumps({"about": about, "results": [result.as_json() for result in results]}, indent=2)
    path.write_text(text + "\n", "utf-8")


def _rich(table: Table) -> RichTable:
    shown = RichTable(title=table.title, title_justify="left", title_style="bold")
    for number, column in enumerate(table.columns):
        shown.add_column(column, justify="left" if number == 0 else "right")
    for row in table.rows:
        shown.add_row(*row)
    return shown
