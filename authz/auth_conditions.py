"""What conditions ask about how the subject signed in: `auth.acr`, `auth.amr`, `auth.time`, and `has(auth.acr)`.

The three are variables of their own types, so that a misspelt member or a comparison of the wrong kind is found when
the condition is compiled. CEL has no presence test for variables: `has(auth.acr)` becomes one more variable.

To say how fresh a sign-in has to be, one must know at which ages a condition may turn. Where it compares the age with
written durations, in one of the forms below, it turns there and nowhere else.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from authz.errors import ConditionError

MEMBERS = ("acr", "amr", "time")
HAS = {name: f"auth_has_{name}" for name in MEMBERS}
"""The variable that stands for `has(auth.<member>)`; it is no longer than that."""

_HIDDEN = frozenset(HAS.values())

_FORMS = tuple(
    tuple(form.split())
    for form in (
        "now - auth.time <> duration",
        "( now - auth.time ) <> duration",
        "duration <> now - auth.time",
        "duration <> ( now - auth.time )",
        "auth.time <> now - duration",
        "now - duration <> auth.time",
        "auth.time + duration <> now",
        "now <> auth.time + duration",
    )
)
"""Comparisons of the age of a sign-in. `<>` is any comparison, `duration` a written one."""

_BEFORE = frozenset({"", "(", "[", ",", "&", "|", "?", ":"})
_AFTER = frozenset({"", ")", "]", ",", "&", "|", "?", ":"})
_COMPARISONS = frozenset({"<", ">", "<=", ">=", "==", "!="})

Tokens = Sequence[re.Match[str]]


@dataclass(frozen=True, slots=True)
class AuthUse:
    """What a condition asks of the sign-in.

    `members` are those that it names. `ages` are the ages at which its answer may change, ascending; None when it asks
    for the time in another way.
    """

    members: frozenset[str]
    ages: tuple[timedelta, ...] | None = ()


def auth_use(tokens: Tokens, duration_of: Callable[[str], timedelta | None]) -> AuthUse | None:
    """Return how a condition asks about the sign-in, or None if it does not.

    Args:
        tokens: Of the text, without blanks and comments.
        duration_of: Reads a string literal.

    Raises:
        ConditionError: `auth` stands for anything but one of its three members.
    """
    for place, token in enumerate(tokens):
        if token.group() in _HIDDEN and _is_root(tokens, place, token.group()):
            raise ConditionError(f"column {token.start() + 1}: `{token.group()}` is no name: write `has(auth.acr)`")
    roots = [place for place in range(len(tokens)) if _is_root(tokens, place, "auth")]
    if not roots:
        return None
    for place in roots:
        dotted = place > 0 and tokens[place - 1].group() == "."
        named = place + 2 < len(tokens) and tokens[place + 1].group() == "." and tokens[place + 2].group() in MEMBERS
        if dotted or not named:
            members = ", ".join(f"`auth.{name}`" for name in MEMBERS)
            raise ConditionError(f"column {tokens[place].start() + 1}: of `auth` there is {members}")
    asked = frozenset(tokens[place + 2].group() for place in roots)
    return AuthUse(asked, _ages(tokens, roots, duration_of))


def with_presence(text: str, tokens: Tokens) -> str:
    """Return the text with each `has(auth.<member>)` as its variable, every other character in its place."""
    for place in range(len(tokens) - 5):
        words = [token.group() for token in tokens[place : place + 6]]
        called = _is_root(tokens, place, "has") and words[1:4] == ["(", "auth", "."] and words[5] == ")"
        if called and words[4] in MEMBERS:
            begin, end = tokens[place].start(), tokens[place + 5].end()
            kept = "".join(mark if mark == "\n" else " " for mark in text[begin + len(HAS[words[4]]) : end])
            text = text[:begin] + HAS[words[4]] + kept + text[end:]
    return text


def _is_root(tokens: Tokens, place: int, name: str) -> bool:
    """Whether the token is the name itself, and no member of something else (`context.auth`)."""
    token = tokens[place]
    if token.group() != name or token.lastgroup != "name":
        return False
    if not place or tokens[place - 1].group() != ".":
        return True
    # SECURITY: a dot without anything before it makes a name absolute, and is no choice of a member.
    before = tokens[place - 2] if place > 1 else None
    return before is None or before.group() == "in" or (before.lastgroup == "other" and before.group() not in ")]}")


def _ages(
    tokens: Tokens, roots: Sequence[int], duration_of: Callable[[str], timedelta | None]
) -> tuple[timedelta, ...] | None:
    words, owners = _joined(tokens)
    if any(word == "now" and words[at + 1 : at + 2] == [","] for at, word in enumerate(words)):
        return None  # a macro's variable of that name
    found: set[timedelta] = set()
    explained: set[int] = set()
    for at in range(len(words)):
        for form in _FORMS:
            literal = _matched(words, at, form)
            if literal is None:
                continue
            age = duration_of(literal)
            if age is None:
                return None
            found.add(age)
            explained.update(owners[at : at + len(form)])
    times = {place for place in roots if tokens[place + 2].group() == "time" and not _is_presence(tokens, place)}
    return tuple(sorted(found)) if times <= explained else None


def _is_presence(tokens: Tokens, place: int) -> bool:
    return place > 1 and tokens[place - 2].group() == "has"


def _joined(tokens: Tokens) -> tuple[list[str], list[int]]:
    """Return words with `auth.time`, comparisons and written durations as one each, and where each word begins."""
    words: list[str] = []
    owners: list[int] = []
    place = 0
    while place < len(tokens):
        following = [token.group() for token in tokens[place : place + 4]]
        taken, word = 1, following[0]
        if following[:3] == ["auth", ".", "time"]:
            taken, word = 3, "auth.time"
        elif following[0] == "duration" and following[1:2] == ["("] and following[3:4] == [")"]:
            taken, word = 4, f"duration{following[2]}"
        elif "".join(following[:2]) in _COMPARISONS:
            taken, word = 2, "".join(following[:2])
        words.append(word)
        owners.append(place)
        place += taken
    return words, owners


def _matched(words: Sequence[str], at: int, form: Sequence[str]) -> str | None:
    """Return the literal of the duration if the words from `at` on are of the form, and nothing around binds closer."""
    end = at + len(form)
    before, after = words[at - 1] if at else "", words[end] if end < len(words) else ""
    if end > len(words) or before not in _BEFORE or after not in _AFTER:
        return None
    literal = None
    for word, wanted in zip(words[at:end], form, strict=True):
        if wanted == "<>":
            if word not in _COMPARISONS:
                return None
        elif wanted == "duration":
            if not word.startswith(("duration'", 'duration"')):
                return None
            literal = word.removeprefix("duration")
        elif word != wanted:
            return None
    return literal
