"""Files of accounts, as CSV or JSON lines, read record by record; and how far an import of one has come."""

import csv
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from authn.user_import import FIELDS, REFUSED_FIELDS

FLAGS = {"true": True, "false": False}


class UserFileError(Exception):
    """A file that cannot be imported as a whole."""


@dataclass(frozen=True, slots=True)
class Record:
    """One account's JSON, and the line of the file where it ends."""

    line: int
    text: bytes


def read_records(path: Path, form: str) -> Iterator[Record]:
    """Yield the records of a file; `form` is `csv` or `jsonl`. Raises `UserFileError` or OSError."""
    try:
        yield from (_read_csv(path) if form == "csv" else _read_lines(path))
    except UnicodeDecodeError:
        raise UserFileError(f"`{path}` is not UTF-8") from None


def _read_lines(path: Path) -> Iterator[Record]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            text = line.strip().removeprefix(b"\xef\xbb\xbf")
            if text:
                yield Record(number, text)


def _read_csv(path: Path) -> Iterator[Record]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, strict=True)
        try:
            header = _header(next(rows, []), path)
            for row in rows:
                if row:
                    yield Record(rows.line_num, json.dumps(_value(header, row), ensure_ascii=False).encode())
        except csv.Error as error:
            raise UserFileError(f"{path}:{rows.line_num}: {error}") from None


def _header(names: list[str], path: Path) -> list[str]:
    header = [name.strip() for name in names]
    for name in header:
        if name not in FIELDS:
            why = REFUSED_FIELDS.get(name, f"there are {', '.join(FIELDS)}")
            raise UserFileError(f"{path}:1: the column `{name}` cannot be imported: {why}")
    if len(set(header)) != len(header) or "username" not in header:
        raise UserFileError(f"{path}:1: the first line names each column once, `username` among them")
    return header


def _value(header: list[str], row: list[str]) -> dict[str, Any]:
    """Return a row as JSON; an empty cell says nothing, and a row of another length is one that the server refuses."""
    if len(row) != len(header):
        return {"columns": len(row)}
    value: dict[str, Any] = {name: cell for name, cell in zip(header, row, strict=True) if cell}
    if "mfa_required" in value:
        value["mfa_required"] = FLAGS.get(value["mfa_required"].lower(), value["mfa_required"])
    return value


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an import has come. `digest` is the file's SHA-256, `report_bytes` the length of the report by then."""

    digest: str
    form: str
    tenant: str
    records: int = 0
    created: int = 0
    existing: int = 0
    bad: int = 0
    report_bytes: int = 0

    def after(self, records: int, answer: dict[str, Any], report_bytes: int) -> "Progress":
        """Return where it stands after one more batch."""
        return replace(
            self,
            records=self.records + records,
            created=self.created + answer["created"],
            existing=self.existing + answer["existing"],
            bad=self.bad + len(answer["bad"]),
            report_bytes=report_bytes,
        )


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_progress(path: Path) -> Progress | None:
    """Return what an earlier import left, or None; raises `UserFileError` when it cannot be read."""
    try:
        return Progress(**json.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise UserFileError(f"`{path}` does not say how far an import came: {error}") from None


def save_progress(path: Path, progress: Progress) -> None:
    """Write it so that it is there whole, whatever ends this process or machine."""
    written = path.with_name(f"{path.name}.new")
    with written.open("w", encoding="utf-8") as file:
        json.dump(asdict(progress), file)
        file.flush()
        os.fsync(file.fileno())
    written.replace(path)
