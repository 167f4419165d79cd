r"""What evaluating a condition can cost, bounded before it is evaluated: its operations times the values it meets.

The CEL runtime bounds iterations, not what one of them does: `context.l.all(x, x in context.l)` is quadratic, list `+`
copies, and nothing can interrupt it. So the work is estimated, never below what it can be, as

    operations x growth x (all values) x (iterations, if there is a macro)

`operations` counts what reads a whole value (calls, comparisons, `in`, `+`), each by its weight; `growth` is how many
times larger than the values a text can make one out of them (`l + l`, `[l, l]`, and `map` once more).
"""

import re
from collections.abc import Sequence, Sized
from dataclasses import dataclass

MAX_WORK = 200_000
"""Units of work of all conditions of one decision. A unit takes 0.1 to 0.4 microseconds, so this is 20 to 80 ms."""

MAX_WORK_OF_MANY = 10 * MAX_WORK
"""Units of all questions of one batch, or of one part of a search, together."""

MAX_WEIGHT = 50_000
"""Elements that a condition may be shown at all: already counting them takes time."""

EVALUATION = 50
"""Units that any evaluation takes."""

CHARACTERS = 8
"""Characters of a string that weigh as much as one element of a list."""

MAX_ITERATIONS = 10_000
"""The CEL runtime's own bound."""

MACROS = frozenset({"all", "exists", "exists_one", "filter", "map"})

# SECURITY: strings exactly as CEL's grammar has them: in a raw one a backslash is no escape, in a long one it is. Where
# this read another end of a string than CEL does, a text could hide macros from the checks.
TOKEN = re.compile(
    r"""(?P<comment>//[^\n]*)
      | (?P<string>[bB]?[rR](?:\"\"\".*?\"\"\"|'''.*?'''|"[^"\n\r]*"|'[^'\n\r]*')
                  |[bB]?(?:\"\"\"(?:\\.|[^\\])*?\"\"\"|'''(?:\\.|[^\\])*?'''
                          |"(?:\\.|[^"\\\n\r])*"|'(?:\\.|[^'\\\n\r])*'))
      | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<number>[0-9][0-9A-Za-z_.]*)
      | (?P<space>\s+)
      | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)

_READING = {"in": 1, "+": 2, "=": 2, "!": 2, "<": 1, ">": 1, "(": 1, "[": 1}
"""Tokens that stand for reading a whole value. `==` and `!=` may compare maps, `+` copies."""

_GROWING = frozenset({"+", "[", "{", ","})

_PLAIN_PATTERN = 4
_COUNTED_PATTERN = 200
"""A regular expression costs up to its length for each character, and far more than that with counted repetitions."""


class Weight:
    """How much there is to look at: elements, of which `CHARACTERS` of a string count as one; the longest container."""

    __slots__ = ("longest", "total")

    def __init__(self) -> None:
        self.total = 1
        self.longest = 1

    def add_text(self, text: str) -> None:
        """Count a string."""
        self.total += 1 + len(text) // CHARACTERS

    def add_container(self, container: Sized) -> None:
        """Count a list or map, without what is in it."""
        self.total += 1
        self.longest = max(self.longest, len(container))


class Allowance:
    """The work that conditions may still do; one of a single decision is part of that of its batch.

    `refused` says that it was too little once.
    """

    __slots__ = ("_whole", "left", "refused")

    def __init__(self, units: int = MAX_WORK, whole: "Allowance | None" = None) -> None:
        self.left = units
        self.refused = False
        self._whole = whole

    def takes(self, units: int) -> bool:
        """Take `units`, if there are so many; what is refused takes nothing."""
        if units > self.left or (self._whole is not None and not self._whole.takes(units)):
            self.refused = True
            return False
        self.left -= units
        return True


@dataclass(frozen=True, slots=True)
class Cost:
    """What a text can make of values; see the module."""

    operations: int
    growth: int
    literals: int
    has_macros: bool

    def of(self, weight: Weight) -> int:
        """Return the units of work of one evaluation on values of this weight."""
        units = self.operations * self.growth * (weight.total + self.literals)
        if self.has_macros:
            units *= min(MAX_ITERATIONS, self.growth * max(weight.longest, self.literals))
        return EVALUATION + units


def cost_of(tokens: Sequence[re.Match[str]]) -> Cost:
    """Return the cost of a text; `tokens` are those of `TOKEN` without blanks and comments."""
    operations = growth = 1
    literals = maps = 0
    has_macros = False
    for place, token in enumerate(tokens):
        word = token.group()
        if token.lastgroup == "string":
            literals += len(word) // CHARACTERS
            if place > 1 and tokens[place - 1].group() == "(" and tokens[place - 2].group() == "matches":
                operations += _COUNTED_PATTERN if "{" in word else _PLAIN_PATTERN + len(word)
            continue
        operations += _READING.get(word, 0)
        if word in _GROWING:
            growth += 1
        elif word in MACROS:
            has_macros = True
            maps += word == "map"
    return Cost(operations, growth ** (1 + min(maps, 4)), literals, has_macros)
