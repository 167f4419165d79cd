"""A Thompson simulation of regular patterns, with Python's own character tables: time linear in program and subject.

Sources: Thompson, "Regular expression search algorithm" (1968); Cox, "Regular Expression Matching Can Be Simple And
Fast" (2007).
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from re import _constants as sre  # type: ignore[attr-defined]
from typing import Any

MAX_PROGRAM_SIZE = 1000
MAX_LOOKAROUND_WIDTH = 32


class PatternError(ValueError):
    """A pattern that is invalid, not regular or too big, or a subject that it cannot be run on."""


class UnsupportedPatternError(PatternError):
    """A pattern that Python takes and we do not: whether it matches is not known."""


Predicate = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Instruction:
    """One step of the simulation; `targets` are the next program counters."""

    kind: str
    targets: tuple[int, ...] = ()
    accepts: Predicate | None = None
    inner: "tuple[Instruction, ...]" = ()
    negated: bool = False
    behind: int = 0


def scoped_flags(flags: int, added: int, removed: int) -> int:
    if (added | removed) & ~(re.IGNORECASE | re.DOTALL | re.ASCII | re.UNICODE):
        raise UnsupportedPatternError("the pattern uses a scoped flag other than i, s, a and u")
    return (flags | added) & ~removed


def refusal(operator: object) -> UnsupportedPatternError:
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


def compile_program(tree: Any, flags: int, *, free_atomic: bool) -> tuple[Instruction, ...]:
    try:
        return _Compiler(free_atomic=free_atomic).compile(tree, flags)
    except RecursionError as error:
        raise UnsupportedPatternError("the pattern is nested too deeply") from error


class _Compiler:
    """Compiles a parse tree to a program for the simulation (Thompson 1968; Cox, "Regular Expression Matching")."""

    def __init__(self, *, free_atomic: bool) -> None:
        self._program: list[Instruction] = []
        self._free_atomic = free_atomic

    def compile(self, tree: Any, flags: int) -> tuple[Instruction, ...]:
        self._sequence(tree, flags)
        self._emit(Instruction("accept"))
        return tuple(self._program)

    def _emit(self, instruction: Instruction) -> int:
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
            self._emit(Instruction("take", (here + 1,), accepts=_predicate(operator, argument, flags)))
        elif operator in {sre.MAX_REPEAT, sre.MIN_REPEAT}:
            self._repeat(argument, flags)
        elif operator is sre.BRANCH:
            self._branch(argument[1], flags)
        elif operator is sre.SUBPATTERN:
            _group, added, removed, inner = argument
            self._sequence(inner, scoped_flags(flags, added, removed))
        elif operator is sre.AT:
            here = len(self._program)
            self._emit(Instruction(str(argument), (here + 1,)))
        elif operator in {sre.ASSERT, sre.ASSERT_NOT}:
            self._look_around(operator, argument, flags)
        elif operator is sre.ATOMIC_GROUP and self._free_atomic:
            self._sequence(argument, flags)
        else:
            raise refusal(operator)

    def _repeat(self, argument: tuple[int, Any, Any], flags: int) -> None:
        low, high, inner = argument
        for _ in range(low):
            self._sequence(inner, flags)
        if high is sre.MAXREPEAT:
            start = self._emit(Instruction("fork"))
            self._sequence(inner, flags)
            self._emit(Instruction("fork", (start,)))
            self._program[start] = Instruction("fork", (start + 1, len(self._program)))
            return
        exits = []
        for _ in range(high - low):
            exits.append(self._emit(Instruction("fork")))
            self._sequence(inner, flags)
        for start in exits:
            self._program[start] = Instruction("fork", (start + 1, len(self._program)))

    def _branch(self, branches: Sequence[Any], flags: int) -> None:
        fork = self._emit(Instruction("fork"))
        starts, ends = [], []
        for branch in branches:
            starts.append(len(self._program))
            self._sequence(branch, flags)
            ends.append(self._emit(Instruction("fork")))
        self._program[fork] = Instruction("fork", tuple(starts))
        for end in ends:
            self._program[end] = Instruction("fork", (len(self._program),))

    def _look_around(self, operator: Any, argument: Any, flags: int) -> None:
        direction, inner = argument
        shortest, longest = inner.getwidth()
        if longest > MAX_LOOKAROUND_WIDTH or (direction < 0 and shortest != longest):
            raise refusal(operator)
        self._emit(
            Instruction(
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


def simulate(program: Sequence[Instruction], subject: str, start: int, *, whole: bool) -> bool:
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
    program: Sequence[Instruction], threads: Iterable[int], subject: str, position: int
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


def _holds(instruction: Instruction, subject: str, position: int) -> bool:
    end = len(subject)
    match instruction.kind:
        case "look":
            start = position - instruction.behind
            found = start >= 0 and simulate(instruction.inner, subject, start, whole=False)
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
