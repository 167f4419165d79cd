"""Python's `re.match` for the regular part of its language, in time linear in pattern and subject.

Python's own parser says what a pattern means. RE2 runs it on plain subjects (ASCII, without line feed); for all others,
and for the short look-arounds that glob patterns are made of, a Thompson simulation below uses Python's own character
tables. What is not regular (back-references, atomic groups, conditionals, long look-arounds) or too big is refused.
"""

import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from re import _constants as sre  # type: ignore[attr-defined]
from re import _parser as sre_parser  # type: ignore[attr-defined]
from typing import Any

import re2

MAX_PATTERN_LENGTH = 1000
MAX_PROGRAM_SIZE = 1000
MAX_LOOKAROUND_WIDTH = 32
MAX_SIMULATED_STEPS = 500_000
ASCII_LIMIT = 128

_KNOWN_FLAGS = re.IGNORECASE | re.DOTALL | re.VERBOSE | re.ASCII | re.UNICODE


class PatternError(ValueError):
    """A pattern that is invalid, not regular or too big, or a subject that it cannot be run on."""


class UnsupportedPatternError(PatternError):
    """A pattern that Python takes and we do not: whether it matches is not known."""


Predicate = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class _Instruction:
    """One step of the simulation; `targets` are the next program counters."""

    kind: str
    targets: tuple[int, ...] = ()
    accepts: Predicate | None = None
    inner: "tuple[_Instruction, ...]" = ()
    negated: bool = False
    behind: int = 0


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
        self._program: tuple[_Instruction, ...] | None = None
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

    def _simulation(self) -> "tuple[_Instruction, ...]":
        """Return the program for the simulation; patterns that RE2 runs need it for few subjects."""
        if self._program is None:
            self._program = _compile_program(self._tree, self._flags, free_atomic=self._free_atomic)
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
        return _simulate(program, subject, 0, whole=whole)

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


def _scoped(flags: int, added: int, removed: int) -> int:
    if (added | removed) & ~(re.IGNORECASE | re.DOTALL | re.ASCII | re.UNICODE):
        raise UnsupportedPatternError("the pattern uses a scoped flag other than i, s, a and u")
    return (flags | added) & ~removed


def _refuse(operator: object) -> UnsupportedPatternError:
    names = {
        "GROUPREF": "a back-reference",
        "GROUPREF_EXISTS": "a conditional",
        "GROUPREF_IGNORE": "a back-reference",
        "ATOMIC_GROUP": "an atomic group",
        "POSSESSIVE_REPEAT": "a possessive repeat",
        "ASSERT": "a long look-around",
        "ASSERT_NOT": "a long look-around",
    }
    return UnsupportedPatternError(f"the pattern uses {names.get(str(operator), str(operator))}, which is not regular")


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
            text = self._sequence(inner, _scoped(flags, added, removed))
            return f"({text})" if group is not None else f"(?:{text})"
        if operator is sre.AT:
            return self._position(argument, tail=tail)
        if operator in {sre.ASSERT, sre.ASSERT_NOT}:
            self._translation.portable = False
            return ""
        if operator is sre.ATOMIC_GROUP and self._translation.free_atomic:
            return f"(?:{self._sequence(argument, flags)})"
        raise _refuse(operator)

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


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"


_CATEGORIES: dict[Any, Predicate] = {
    sre.CATEGORY_DIGIT: str.isdecimal,
    sre.CATEGORY_NOT_DIGIT: lambda c: not c.isdecimal(),
    sre.CATEGORY_SPACE: str.isspace,
    sre.CATEGORY_NOT_SPACE: lambda c: not c.isspace(),
    sre.CATEGORY_WORD: _is_word,
    sre.CATEGORY_NOT_WORD: lambda c: not _is_word(c),
}
_ASCII_SPACES = " \t\n\r\f\v"
_ASCII_CATEGORIES: dict[Any, Predicate] = {
    sre.CATEGORY_DIGIT: lambda c: c.isascii() and c.isdecimal(),
    sre.CATEGORY_NOT_DIGIT: lambda c: not (c.isascii() and c.isdecimal()),
    sre.CATEGORY_SPACE: lambda c: c in _ASCII_SPACES,
    sre.CATEGORY_NOT_SPACE: lambda c: c not in _ASCII_SPACES,
    sre.CATEGORY_WORD: lambda c: c.isascii() and _is_word(c),
    sre.CATEGORY_NOT_WORD: lambda c: not (c.isascii() and _is_word(c)),
}


def _compile_program(tree: Any, flags: int, *, free_atomic: bool) -> tuple[_Instruction, ...]:
    try:
        return _Compiler(free_atomic=free_atomic).compile(tree, flags)
    except RecursionError as error:
        raise UnsupportedPatternError("the pattern is nested too deeply") from error


class _Compiler:
    """Compiles a parse tree to a program for the simulation (Thompson 1968; Cox, "Regular Expression Matching")."""

    def __init__(self, *, free_atomic: bool) -> None:
        self._program: list[_Instruction] = []
        self._free_atomic = free_atomic

    def compile(self, tree: Any, flags: int) -> tuple[_Instruction, ...]:
        self._sequence(tree, flags)
        self._emit(_Instruction("accept"))
        return tuple(self._program)

    def _emit(self, instruction: _Instruction) -> int:
        if len(self._program) >= MAX_PROGRAM_SIZE:
            raise UnsupportedPatternError(f"the pattern needs more than {MAX_PROGRAM_SIZE} steps")
        self._program.append(instruction)
        return len(self._program) - 1

    def _sequence(self, items: Iterable[Any], flags: int) -> None:
        for operator, argument in items:
            self._item(operator, argument, flags)

    def _item(self, operator: Any, argument: Any, flags: int) -> None:
        if operator in {sre.LITERAL, sre.NOT_LITERAL, sre.ANY, sre.IN}:
            here = len(self._program)
            self._emit(_Instruction("take", (here + 1,), accepts=_predicate(operator, argument, flags)))
        elif operator in {sre.MAX_REPEAT, sre.MIN_REPEAT}:
            self._repeat(argument, flags)
        elif operator is sre.BRANCH:
            self._branch(argument[1], flags)
        elif operator is sre.SUBPATTERN:
            _group, added, removed, inner = argument
            self._sequence(inner, _scoped(flags, added, removed))
        elif operator is sre.AT:
            here = len(self._program)
            self._emit(_Instruction(str(argument), (here + 1,)))
        elif operator in {sre.ASSERT, sre.ASSERT_NOT}:
            self._look_around(operator, argument, flags)
        elif operator is sre.ATOMIC_GROUP and self._free_atomic:
            self._sequence(argument, flags)
        else:
            raise _refuse(operator)

    def _repeat(self, argument: tuple[int, Any, Any], flags: int) -> None:
        low, high, inner = argument
        for _ in range(low):
            self._sequence(inner, flags)
        if high is sre.MAXREPEAT:
            start = self._emit(_Instruction("fork"))
            self._sequence(inner, flags)
            self._emit(_Instruction("fork", (start,)))
            self._program[start] = _Instruction("fork", (start + 1, len(self._program)))
            return
        exits = []
        for _ in range(high - low):
            exits.append(self._emit(_Instruction("fork")))
            self._sequence(inner, flags)
        for start in exits:
            self._program[start] = _Instruction("fork", (start + 1, len(self._program)))

    def _branch(self, branches: Sequence[Any], flags: int) -> None:
        fork = self._emit(_Instruction("fork"))
        starts, ends = [], []
        for branch in branches:
            starts.append(len(self._program))
            self._sequence(branch, flags)
            ends.append(self._emit(_Instruction("fork")))
        self._program[fork] = _Instruction("fork", tuple(starts))
        for end in ends:
            self._program[end] = _Instruction("fork", (len(self._program),))

    def _look_around(self, operator: Any, argument: Any, flags: int) -> None:
        direction, inner = argument
        shortest, longest = inner.getwidth()
        if longest > MAX_LOOKAROUND_WIDTH or (direction < 0 and shortest != longest):
            raise _refuse(operator)
        self._emit(
            _Instruction(
                "look",
                (len(self._program) + 1,),
                inner=_Compiler(free_atomic=self._free_atomic).compile(inner, flags),
                negated=operator is sre.ASSERT_NOT,
                behind=shortest if direction < 0 else 0,
            )
        )


def _predicate(operator: Any, argument: Any, flags: int) -> Predicate:
    if operator is sre.ANY:
        return (lambda _: True) if flags & re.DOTALL else (lambda c: c != "\n")
    if operator is sre.IN:
        negated = bool(argument) and argument[0][0] is sre.NEGATE
        members = argument[1:] if negated else argument
        tests = [_member(kind, value, flags) for kind, value in members]
    else:
        negated = operator is sre.NOT_LITERAL
        tests = [_member(sre.LITERAL, argument, flags)]

    def accepts(character: str) -> bool:
        return any(test(character) for test in tests) is not negated

    if not flags & re.IGNORECASE:
        return accepts

    def accepts_any_case(character: str) -> bool:
        if not character.isascii():
            raise UnsupportedPatternError("ignoring case is limited to ASCII values")
        found = any(test(character.lower()) or test(character.upper()) for test in tests)
        return found is not negated

    return accepts_any_case


def _member(kind: Any, value: Any, flags: int) -> Predicate:
    if kind is sre.LITERAL:
        literal = chr(value)
        return lambda c: c == literal
    if kind is sre.RANGE:
        low, high = chr(value[0]), chr(value[1])
        return lambda c: low <= c <= high
    return (_ASCII_CATEGORIES if flags & re.ASCII else _CATEGORIES)[value]


def _simulate(program: Sequence[_Instruction], subject: str, start: int, *, whole: bool) -> bool:
    """Run all threads side by side; each position visits an instruction at most once."""
    end = len(subject)
    threads = {0}
    for position in range(start, end + 1):
        takers, accepted = _closure(program, threads, subject, position)
        if accepted and (not whole or position == end):
            return True
        if position == end or not takers:
            return False
        character = subject[position]
        threads = set()
        for counter in takers:
            instruction = program[counter]
            if instruction.accepts is not None and instruction.accepts(character):
                threads.update(instruction.targets)
    return False


def _closure(
    program: Sequence[_Instruction], threads: Iterable[int], subject: str, position: int
) -> tuple[list[int], bool]:
    pending, seen = list(threads), set(threads)
    takers: list[int] = []
    accepted = False
    while pending:
        counter = pending.pop()
        instruction = program[counter]
        if instruction.kind == "take":
            takers.append(counter)
        elif instruction.kind == "accept":
            accepted = True
        elif instruction.kind == "fork" or _holds(instruction, subject, position):
            for target in instruction.targets:
                if target not in seen:
                    seen.add(target)
                    pending.append(target)
    return takers, accepted


def _holds(instruction: _Instruction, subject: str, position: int) -> bool:
    end = len(subject)
    match instruction.kind:
        case "look":
            start = position - instruction.behind
            found = start >= 0 and _simulate(instruction.inner, subject, start, whole=False)
            return found is not instruction.negated
        case "AT_BEGINNING" | "AT_BEGINNING_STRING":
            return position == 0
        case "AT_END":
            return position == end or (position == end - 1 and subject[position] == "\n")
        case "AT_END_STRING":
            return position == end
        case "AT_BOUNDARY" | "AT_NON_BOUNDARY":
            if end == 0:
                return False
            before = position > 0 and _is_word(subject[position - 1])
            after = position < end and _is_word(subject[position])
            return (before != after) is (instruction.kind == "AT_BOUNDARY")
        case kind:
            raise UnsupportedPatternError(f"the pattern uses {kind}, which is not supported")
