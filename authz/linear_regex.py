"""Python's `re.match` for the regular part of its language, in time linear in pattern and subject.

Python's own parser says what a pattern means. RE2 runs it on plain subjects (ASCII, without line feed); for all others,
and for the short look-arounds that glob patterns are made of, a Thompson simulation below uses Python's own character
tables. What is not regular (back-references, atomic groups, conditionals, long look-arounds) or too big is refused.
"""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from re import _constants as sre  # type: ignore[attr-defined]
from re import _parser as sre_parser  # type: ignore[attr-defined]
from typing import Any

import re2

from authz.pattern_machine import (
    Instruction,
    PatternError,
    UnsupportedPatternError,
    compile_program,
    refusal,
    scoped_flags,
    simulate,
)

MAX_PATTERN_LENGTH = 1000
MAX_SIMULATED_STEPS = 500_000

_KNOWN_FLAGS = re.IGNORECASE | re.DOTALL | re.VERBOSE | re.ASCII | re.UNICODE


@dataclass(slots=True)
class _Translation:
    """What is collected while the parse tree is walked."""

    portable: bool = True
    """RE2 can run it."""
    tables: bool = False
    """It asks for `\\w`, `\\d`, `\\s`, `\\b`, or ignores case: RE2 agrees with Python on ASCII subjects only."""
    free_atomic: bool = False
    """Atomic groups are known to change nothing, as in translated globs."""
    inner_end: bool = False
    """A `$` that is not the last item: RE2 has no word for it before a final line feed."""


class LinearPattern:
    """A compiled pattern. Immutable in what it answers."""

    __slots__ = ("_engine", "_flags", "_free_atomic", "_inner_end", "_program", "_tables", "_tree", "groups")

    def __init__(self, text: str, *, free_atomic: bool = False) -> None:
        self._tree, self._flags = _parse(text)
        self._free_atomic = free_atomic
        self._program: tuple[Instruction, ...] | None = None
        self.groups: int = self._tree.state.groups - 1
        translation = _Translation(free_atomic=free_atomic)
        try:
            source = _Re2Writer(translation, self._flags).write(self._tree)
        except RecursionError as error:
            raise UnsupportedPatternError("the pattern is nested too deeply") from error
        self._tables = translation.tables
        self._inner_end = translation.inner_end
        self._engine = _compile_re2(source) if translation.portable else None
        if self._engine is None:
            self._simulation()

    def _simulation(self) -> "tuple[Instruction, ...]":
        """Return the program for the simulation; patterns that RE2 runs need it for few subjects."""
        if self._program is None:
            self._program = compile_program(self._tree, self._flags, free_atomic=self._free_atomic)
        return self._program

    def matches(self, subject: str, *, whole: bool = False) -> bool:
        """Answer as `re.match(pattern, subject)` does, or `re.fullmatch` when `whole`.

        Raises:
            PatternError: the subject is too long for a pattern that RE2 cannot run.
        """
        if self._engine is not None and subject.isascii() and "\n" not in subject:
            found = self._engine.fullmatch(subject) if whole else self._engine.match(subject)
            return found is not None
        program = self._simulation()
        if len(program) * (len(subject) + 1) > MAX_SIMULATED_STEPS:
            raise UnsupportedPatternError("the value is too long for this pattern")
        return simulate(program, subject, 0, whole=whole)

    def captures(self, subject: str) -> tuple[str | None, ...] | None:
        """Return the groups of `re.match(pattern, subject)`, or None when it does not match.

        Raises:
            PatternError: RE2 cannot run the pattern on this subject as Python does.
        """
        plain = subject.isascii() or not self._tables
        if self._engine is None or not plain or (self._inner_end and "\n" in subject):
            raise UnsupportedPatternError("the pattern cannot be matched with its groups on this value")
        try:
            found = self._engine.match(subject)
        except UnicodeEncodeError as error:
            raise UnsupportedPatternError("the value holds a lone surrogate") from error
        return None if found is None else tuple(found.groups())


@lru_cache(maxsize=4096)
def compile_pattern(text: str, *, free_atomic: bool = False) -> LinearPattern:
    """Return the compiled pattern, from a bounded cache.

    Args:
        free_atomic: Read atomic groups as plain ones; only for patterns where that is known to change nothing.

    Raises:
        PatternError: the pattern is invalid, not regular, or too big.
    """
    return LinearPattern(text, free_atomic=free_atomic)


def _parse(text: str) -> tuple[Any, int]:
    if len(text) > MAX_PATTERN_LENGTH:
        raise UnsupportedPatternError(f"the pattern is longer than {MAX_PATTERN_LENGTH} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = sre_parser.parse(text)
    except (re.error, OverflowError, ValueError) as error:
        raise PatternError(f"invalid pattern: {error}") from error
    except RecursionError as error:
        raise UnsupportedPatternError("the pattern is nested too deeply") from error
    flags: int = tree.state.flags
    if flags & ~_KNOWN_FLAGS:
        raise UnsupportedPatternError("the pattern uses a flag other than i, s, x, a and u")
    if flags & re.IGNORECASE and not text.isascii():
        raise UnsupportedPatternError("ignoring case is limited to ASCII patterns")
    return tree, flags


def _compile_re2(source: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = 1 << 22
    try:
        return re2.compile(source, options)
    except (re2.error, UnicodeEncodeError) as error:
        raise UnsupportedPatternError(f"the pattern is too big or not regular: {error}") from error


class _Re2Writer:
    """Writes a parse tree as RE2 text whose meaning on ASCII subjects is Python's."""

    def __init__(self, translation: _Translation, flags: int) -> None:
        self._translation = translation
        self._flags = flags

    def write(self, tree: Any) -> str:
        return self._sequence(tree, self._flags, tail=True)

    def _sequence(self, items: Sequence[Any], flags: int, *, tail: bool = False) -> str:
        last = len(items) - 1
        return "".join(
            self._item(operator, argument, flags, tail=tail and position == last)
            for position, (operator, argument) in enumerate(items)
        )

    def _item(self, operator: Any, argument: Any, flags: int, *, tail: bool) -> str:
        if operator in {sre.LITERAL, sre.NOT_LITERAL, sre.ANY, sre.IN}:
            return self._one_character(operator, argument, flags)
        if operator in {sre.MAX_REPEAT, sre.MIN_REPEAT}:
            low, high, inner = argument
            lazy = "?" if operator is sre.MIN_REPEAT else ""
            bound = f"{{{low},}}" if high is sre.MAXREPEAT else f"{{{low},{high}}}"
            bound = {"{0,}": "*", "{1,}": "+", "{0,1}": "?"}.get(bound, bound)
            return f"(?:{self._sequence(inner, flags)}){bound}{lazy}"
        if operator is sre.BRANCH:
            return "(?:" + "|".join(self._sequence(branch, flags) for branch in argument[1]) + ")"
        if operator is sre.SUBPATTERN:
            group, added, removed, inner = argument
            text = self._sequence(inner, scoped_flags(flags, added, removed))
            return f"({text})" if group is not None else f"(?:{text})"
        if operator is sre.AT:
            return self._position(argument, tail=tail)
        if operator in {sre.ASSERT, sre.ASSERT_NOT}:
            self._translation.portable = False
            return ""
        if operator is sre.ATOMIC_GROUP and self._translation.free_atomic:
            return f"(?:{self._sequence(argument, flags)})"
        raise refusal(operator)

    def _position(self, argument: Any, *, tail: bool) -> str:
        if argument in {sre.AT_BEGINNING, sre.AT_BEGINNING_STRING}:
            return r"\A"
        if argument is sre.AT_END_STRING:
            return r"\z"
        if argument is sre.AT_END:
            if tail:
                return r"(?:\n?\z)"
            self._translation.inner_end = True
            return r"\z"
        if argument is sre.AT_BOUNDARY:
            self._translation.tables = True
            return r"\b"
        self._translation.portable = False
        return ""

    def _one_character(self, operator: Any, argument: Any, flags: int) -> str:
        if operator is sre.ANY:
            return "(?s:.)" if flags & re.DOTALL else r"[^\n]"
        if flags & re.IGNORECASE:
            self._translation.tables = True
        if operator is sre.IN:
            text = self._set(argument)
        else:
            text = f"[{'^' if operator is sre.NOT_LITERAL else ''}{_hex(argument)}]"
        return f"(?i:{text})" if flags & re.IGNORECASE else text

    def _set(self, members: Sequence[Any]) -> str:
        negated = bool(members) and members[0][0] is sre.NEGATE
        parts = []
        for operator, argument in members[1:] if negated else members:
            if operator is sre.LITERAL:
                parts.append(_hex(argument))
            elif operator is sre.RANGE:
                parts.append(f"{_hex(argument[0])}-{_hex(argument[1])}")
            else:
                self._translation.tables = True
                parts.append(_ASCII_CLASSES[argument])
        return f"[{'^' if negated else ''}{''.join(parts)}]"


def _hex(code: int) -> str:
    return f"\\x{{{code:x}}}"


_ASCII_CLASSES: dict[Any, str] = {
    sre.CATEGORY_DIGIT: "0-9",
    sre.CATEGORY_NOT_DIGIT: r"\D",
    # Python's white space has the four information separators as well.
    sre.CATEGORY_SPACE: r"\x{9}-\x{d}\x{1c}-\x{20}",
    sre.CATEGORY_NOT_SPACE: r"\x{0}-\x{8}\x{e}-\x{1b}\x{21}-\x{10ffff}",
    sre.CATEGORY_WORD: "0-9A-Za-z_",
    sre.CATEGORY_NOT_WORD: r"\W",
}
