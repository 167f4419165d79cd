"""What is wrong with a policy directory, where, and what to do about it."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """An error keeps a directory from being applied; a warning asks a human to look."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault of one place.

    `file` is relative to the policy directory, with `/` (`acme/policy.csv`); `line` and `column` count from 1, columns
    in code points. `code` is a stable kebab-case word. `hint` says what to do about it.
    """

    file: str
    line: int
    column: int
    code: str
    severity: Severity
    message: str
    hint: str

    @property
    def is_error(self) -> bool:
        """Whether this finding keeps the directory from being applied."""
        return self.severity is Severity.ERROR


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings by file, line and column."""
    return sorted(findings, key=_place)


def _place(finding: Finding) -> tuple[str, int, int, str, str]:
    return (finding.file, finding.line, finding.column, finding.code, finding.message)
