"""Casbin's CSV as RFC 4180 has it.

Quoted fields may hold anything, `#` starts a comment line, blanks around unquoted fields do not count. Nothing is
guessed: what is not CSV is a fault with its place.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

BLANKS = " \t"


@dataclass(frozen=True, slots=True)
class CsvFault:
    """Text that is not CSV; positions count from 1, columns in code points."""

    line: int
    column: int
    message: str
    hint: str


@dataclass(slots=True)
class CsvRecord:
    """One record; `line` is where it starts. A quoted field may reach over several lines."""

    line: int
    fields: list[str]


def split_lines(text: str) -> list[str]:
    r"""Return physical lines: `\n` or `\r\n` end one, nothing else does (not U+2028, not form feeds)."""
    lines = text.split("\n")
    return [line.removesuffix("\r") for line in lines] if "\r" in text else lines


def scan(lines: Sequence[str]) -> Iterator[CsvRecord | CsvFault]:
    """Yield the records and faults of `lines` in order; empty lines and comments are left out.

    After a fault, reading goes on with the next line, so that one forgotten quote does not hide the rest.
    """
    index = 0
    count = len(lines)
    while index < count:
        line = lines[index]
        if '"' not in line:
            if line and not line.isspace() and line.lstrip(BLANKS)[:1] != "#":
                yield CsvRecord(index + 1, [field.strip(BLANKS) for field in line.split(",")])
            index += 1
            continue
        if line.lstrip(BLANKS).startswith("#"):
            index += 1
            continue
        fields, _, after = _scan_quoted(lines, index)
        if isinstance(fields, CsvFault):
            yield fields
            index += 1
        else:
            yield CsvRecord(index + 1, fields)
            index = after


def field_positions(lines: Sequence[str], line: int) -> list[tuple[int, int]]:
    """Return (line, column) of each field of the record that starts at `line`: of its value, not of its blanks.

    A quoted field starts at its quote; an empty field where its value would stand.
    """
    _, positions, _ = _scan_quoted(lines, line - 1)
    return positions


def offset_position(lines: Sequence[str], position: tuple[int, int], offset: int) -> tuple[int, int]:
    """Return (line, column) of the character at `offset` of the value of a field that starts at `position`."""
    line, column = position[0] - 1, position[1] - 1
    if not lines[line].startswith('"', column):
        return line + 1, column + offset + 1
    column += 1
    while True:
        text = lines[line]
        if column >= len(text):
            if offset == 0 or line + 1 >= len(lines):
                return line + 1, column + 1
            line, column = line + 1, 0
        elif offset == 0:
            return line + 1, column + 1
        else:
            column += 2 if text.startswith('""', column) else 1
        offset -= 1


def format_record(fields: Iterable[str]) -> str:
    """Return one record without line end, such that `scan` gives the same fields back."""
    return ", ".join(_quote(field) for field in fields)


def _quote(field: str) -> str:
    # str.strip also takes Unicode blanks away, as Casbin's own readers do: those are quoted for their sake.
    if field.strip() == field and not any(character in field for character in ',"\n\r'):
        return field
    return '"' + field.replace('"', '""') + '"'


def _scan_quoted(lines: Sequence[str], index: int) -> tuple[list[str] | CsvFault, list[tuple[int, int]], int]:
    """Read one record from `lines[index]`; the last value is the index of the line after it."""
    fields: list[str] = []
    positions: list[tuple[int, int]] = []
    line = lines[index]
    at = 0
    while True:
        start = _skip_blanks(line, at)
        positions.append((index + 1, start + 1))
        if line.startswith('"', start):
            value, index, at = _quoted_field(lines, index, start)
            if value is None:
                fault_line, column = positions[-1]
                message = "a quoted field is never closed"
                return CsvFault(fault_line, column, message, 'close it with `"`'), positions, index
            line = lines[index]
            end = _skip_blanks(line, at)
            if end < len(line) and line[end] != ",":
                message = "text after the closing quote of a field"
                hint = 'quote the whole field, and write a quote inside it twice: `""`'
                return CsvFault(index + 1, end + 1, message, hint), positions, index
            fields.append(value)
        else:
            end = line.find(",", start)
            end = len(line) if end < 0 else end
            value = line[start:end].rstrip(BLANKS)
            quote = value.find('"')
            if quote >= 0:
                message = "a quote inside an unquoted field"
                hint = "enclose the field in quotes and write inner quotes twice, or use `'` in conditions"
                return CsvFault(index + 1, start + quote + 1, message, hint), positions, index
            fields.append(value)
        if end >= len(line):
            return fields, positions, index + 1
        at = end + 1


def _quoted_field(lines: Sequence[str], index: int, start: int) -> tuple[str | None, int, int]:
    """Return the value, the index of the line it ends on, and the offset after its closing quote."""
    parts: list[str] = []
    line = lines[index]
    at = start + 1
    while True:
        quote = line.find('"', at)
        if quote < 0:
            parts.append(line[at:])
            if index + 1 >= len(lines):
                return None, index, len(line)
            parts.append("\n")
            index += 1
            line = lines[index]
            at = 0
        elif line.startswith('""', quote):
            parts.append(line[at : quote + 1])
            at = quote + 2
        else:
            parts.append(line[at:quote])
            return "".join(parts), index, quote + 1


def _skip_blanks(line: str, at: int) -> int:
    while at < len(line) and line[at] in BLANKS:
        at += 1
    return at
