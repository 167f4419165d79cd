"""A matcher's text rewritten as Python, as PyCasbin rewrites it: `r.sub` becomes `r_sub`, `&&` becomes `and`.

Each character remembers where it came from, so that an error names the column of the text as written. Source:
`casbin.util.util` of PyCasbin 2.8.
"""

import ast
import re
import warnings
from dataclasses import dataclass

from authz.errors import ModelError

MAX_TEXT_LENGTH = 8192
_NEGATION = re.compile(r"!(?!=)")


class MatcherError(ModelError):
    """A matcher, or an expression in a policy cell, that is not allowed; `column` counts from 1."""

    def __init__(self, reason: str, column: int) -> None:
        super().__init__(f"{reason} (column {column})")
        self.reason = reason
        self.column = column


@dataclass(frozen=True, slots=True)
class Rewritten:
    """Rewritten text, and for each of its characters where it came from."""

    text: str
    origins: tuple[int, ...]


def plain(text: str) -> Rewritten:
    """Return text as it is written; raises `MatcherError` when it is too long."""
    if len(text) > MAX_TEXT_LENGTH:
        raise MatcherError(f"the expression is longer than {MAX_TEXT_LENGTH} characters", MAX_TEXT_LENGTH)
    return Rewritten(text, tuple(range(len(text))))


def _substitute(source: Rewritten, pattern: re.Pattern[str], replacement: str) -> Rewritten:
    parts: list[str] = []
    origins: list[int] = []
    done = 0
    for match in pattern.finditer(source.text):
        parts += [source.text[done : match.start()], replacement]
        origins += source.origins[done : match.start()]
        origins += [source.origins[match.start()]] * len(replacement)
        done = match.end()
    parts.append(source.text[done:])
    origins += source.origins[done:]
    return Rewritten("".join(parts), tuple(origins))


def escape(source: Rewritten) -> Rewritten:
    """Rewrite `p.` and `r.` (with the number that stands first) as PyCasbin's `escape_assertion` does."""
    for letter in ("p", "r"):
        found = re.search(rf"\b{letter}(\d*)\.", source.text)
        if found is not None:
            name = letter + found.group(1)
            source = _substitute(source, re.compile(rf"\b{name}\."), f"{name}_")
    return source


def without_comment(source: Rewritten) -> Rewritten:
    """Drop what stands behind the first `#`, even inside quotes, as PyCasbin does."""
    end = source.text.find("#")
    return source if end == -1 else Rewritten(source.text[:end], source.origins[:end])


def operators(source: Rewritten) -> Rewritten:
    """Spell `&&`, `||` and `!` as Python does, and trim blanks at the ends."""
    source = _substitute(source, re.compile("&&"), "and")
    source = _substitute(source, re.compile(r"\|\|"), "or")
    source = _substitute(source, _NEGATION, "not ")
    start = len(source.text) - len(source.text.lstrip())
    end = max(start, len(source.text.rstrip()))
    return Rewritten(source.text[start:end], source.origins[start:end])


def in_parentheses(source: Rewritten) -> Rewritten:
    """Return the text between parentheses."""
    return Rewritten(f"({source.text})", (0, *source.origins, 0))


def parse_python(source: Rewritten) -> ast.expr:
    """Return Python's tree of rewritten text; raises `MatcherError` with the column of the text as written."""
    if not source.text:
        raise MatcherError("the expression is empty", 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source.text, mode="eval").body
    except SyntaxError as error:
        offset = min(max((error.offset or 1) - 1, 0), len(source.origins) - 1)
        raise MatcherError(f"syntax error: {error.msg}", source.origins[offset] + 1) from error
    except ValueError as error:
        raise MatcherError(f"syntax error: {error}", 1) from error
    except (MemoryError, RecursionError) as error:
        raise MatcherError("the expression is nested too deeply", 1) from error
