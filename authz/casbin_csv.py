"""Reads a Casbin policy file as its author meant it: RFC 4180 where fields are quoted, else as PyCasbin splits lines.

PyCasbin knows no quotes, and does not split at commas inside brackets (`keyMatch(r.obj, p.obj)` is one field). Fields
are trimmed, lines that begin with `#` are comments, and a quoted field may go on over several lines.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from authz.positional import PolicyRow

_OPENING = "(["
_CLOSING = ")]"
_BRACKETS = frozenset(_OPENING + _CLOSING)


class PolicySyntaxError(ValueError):
    """A line that is neither RFC 4180 nor what PyCasbin reads."""


@dataclass(frozen=True, slots=True)
class _Record:
    line: int
    text: str


def read_policy(text: str, name: str) -> list[PolicyRow]:
    """Return the rows of a policy file; their sources are `name:line`, lines counted from 1.

    Raises:
        PolicySyntaxError: a line cannot be read; the message names it.
    """
    rows = []
    for record in _records(text.removeprefix("\ufeff")):
        fields = _quoted_fields(record.text) if '"' in record.text else None
        try:
            fields = fields or _plain_fields(record.text)
        except PolicySyntaxError as error:
            raise PolicySyntaxError(f"{name}:{record.line}: {error}") from error
        rows.append(PolicyRow(fields[0], tuple(fields[1:]), f"{name}:{record.line}"))
    return rows


def _records(text: str) -> Iterator[_Record]:
    lines = text.split("\n")
    number = 0
    while number < len(lines):
        start = number
        record = lines[number]
        number += 1
        if not record.strip() or record.lstrip().startswith("#"):
            continue
        if _quoted_fields(record) is None and '"' in record:
            number, record = _joined(lines, start)
        yield _Record(start + 1, record.strip())


def _joined(lines: list[str], start: int) -> tuple[int, str]:
    """Return the record that begins at `start`, over as many lines as its quoted fields need; or that line alone."""
    record = lines[start]
    if not _is_open(record):
        return start + 1, record
    for end in range(start + 1, len(lines)):
        record = f"{record}\n{lines[end]}"
        if not _is_open(record):
            if _quoted_fields(record) is not None:
                return end + 1, record
            break
    return start + 1, lines[start]


def _is_open(record: str) -> bool:
    """Whether a quoted field has begun and not ended."""
    inside = False
    start_of_field = True
    for character in record:
        if character == '"' and (inside or start_of_field):
            inside = not inside
            start_of_field = False
        elif not inside:
            start_of_field = character == "," or (start_of_field and character.isspace())
    return inside


def _quoted_fields(record: str) -> list[str] | None:
    """Return the fields by RFC 4180, or None when a quote stands where that does not allow one."""
    fields: list[str] = []
    place, end = 0, len(record)
    while True:
        while place < end and record[place].isspace():
            place += 1
        if place < end and record[place] == '"':
            field, place = _quoted_field(record, place + 1)
            while 0 <= place < end and record[place].isspace():
                place += 1
            if place < 0 or (place < end and record[place] != ","):
                return None
        else:
            comma = record.find(",", place)
            stop = end if comma == -1 else comma
            field = record[place:stop].strip()
            if '"' in field:
                return None
            place = stop
        fields.append(field)
        if place >= end:
            return fields
        place += 1


def _quoted_field(record: str, place: int) -> tuple[str, int]:
    """Return the field and the place behind its closing quote, -1 without one."""
    parts: list[str] = []
    while True:
        quote = record.find('"', place)
        if quote == -1:
            return "", -1
        parts.append(record[place:quote])
        if record[quote + 1 : quote + 2] != '"':
            return "".join(parts), quote + 1
        parts.append('"')
        place = quote + 2


def _plain_fields(record: str) -> list[str]:
    """Return the fields as PyCasbin does: split at commas outside brackets, trimmed."""
    if not _BRACKETS.intersection(record):
        return [field.strip() for field in record.split(",")]
    fields: list[str] = []
    depth = start = 0
    for place, character in enumerate(record):
        if character in _OPENING:
            depth += 1
        elif character in _CLOSING:
            depth -= 1
            if depth < 0:
                raise PolicySyntaxError("a bracket is closed that was not opened; quote the field")
        elif character == "," and depth == 0:
            fields.append(record[start:place].strip())
            start = place + 1
    fields.append(record[start:].strip())
    return fields
