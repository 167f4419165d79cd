"""Whether a whole password is a word that everybody tries, or a trivial variation of one.

Compared whole, never as a part (NIST SP 800-63B-4 section 3.1.1.2): `acme` alone, reversed, repeated, in other letters
(`@cm3`), or with a year behind it is refused for the tenant `acme`; `acme sells purple ladders` is a good password.
"""

import itertools
import unicodedata
from collections.abc import Collection, Container, Iterable, Iterator

MIN_CONTEXT_WORD = 3
"""Shorter words are in everything."""
MAX_DECORATION = 4
"""Digits or signs around a word that change nothing, as a year does; more only if they are plain themselves."""

FILLERS = frozenset({"admin", "login", "pass", "passwd", "password", "secret", "test", "user", "welcome"})
"""What people put beside the name of a service."""

_LEET = [str.maketrans("034578@$+(91|!", f"oeastbastcg{3 * one}") for one in "il"]
"""Signs that stand for letters; `1` for one of two."""
_LAYOUTS = (
    "qwertyuiop[] asdfghjkl;' zxcvbnm,./",
    "1234567890-= qwertyuiop[] asdfghjkl;' zxcvbnm,./",
    "1234567890ß qwertzuiopü+ asdfghjklöä# yxcvbnm,.-",
    "qwertzuiopü asdfghjklöä yxcvbnm",
    "azertyuiop qsdfghjklm wxcvbn",
    "!@#$%^&*()_+",
)
_KEYBOARD = tuple(
    row * 2
    for layout in _LAYOUTS
    for row in ("".join(layout.split()), "".join(key for key in layout if key.isalnum() and key.isascii()))
    if row
)
"""Rows of keys, one after the other in a circle, with and without those at their ends."""


def is_common(password: str, words: Container[str]) -> bool:
    """Whether a password is one of `words` (lower case), or a pattern, but for trivial variations."""
    return any(form in words or is_pattern(form) for form in variations(password, words))


def is_made_of(password: str, context: Iterable[str], words: Container[str] = ()) -> bool:
    """Whether a password consists of context words (service, tenant, own names) and nothing else that counts."""
    parts = {form for word in context for form in _bare(word) if len(form) >= MIN_CONTEXT_WORD}
    if not parts:
        return False
    return any(_consists_of(form, parts) for form in variations(password, words))


def is_pattern(text: str) -> bool:
    """Whether a text is one character or a few in a circle, an ascending or descending run, or a row of keys."""
    if len(_unit(text)) <= MIN_CONTEXT_WORD < len(text):
        return True
    steps = {ord(b) - ord(a) for a, b in itertools.pairwise(text)}
    if len(text) > MIN_CONTEXT_WORD and (steps in ({1}, {-1}) or (text.isdigit() and steps in ({1, -9}, {-1, 9}))):
        return True
    return len(text) > MAX_DECORATION and any(text in row or text[::-1] in row for row in _KEYBOARD)


def variations(password: str, words: Container[str]) -> set[str]:
    """Return what a password is without what changes nothing: case, signs, look-alikes, decoration, repetition."""
    folded = unicodedata.normalize("NFKC", password).casefold()
    forms: set[str] = {folded}
    for core in (folded, _undecorated(folded, words, left=False), _undecorated(folded, words, left=True)):
        forms |= _bare(core)
    forms |= {_unit(form) for form in forms}
    forms |= {form[::-1] for form in forms}
    return forms - {""}


def _bare(text: str) -> set[str]:
    """Return the letters and digits of a text, also with look-alikes read as letters."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    read = [folded, *(folded.translate(table) for table in _LEET)]
    return {"".join(character for character in form if character.isalnum()) for form in read}


def _undecorated(text: str, words: Container[str], *, left: bool) -> str:
    """Return a text without plain digits and signs at its end, and at its beginning too if `left`."""
    start, end = 0, len(text)
    while end and not text[end - 1].isalpha():
        end -= 1
    while left and start < end and not text[start].isalpha():
        start += 1
    around = (text[:start], text[end:])
    return text[start:end] if all(_is_plain(run, words) for part in around for run in _runs(part)) else text


def _runs(text: str) -> Iterator[str]:
    for _, run in itertools.groupby(text, str.isdigit):
        yield "".join(run)


def _is_plain(run: str, words: Container[str]) -> bool:
    return len(run) <= MAX_DECORATION or run in words or is_pattern(run)


def _unit(text: str) -> str:
    """Return the shortest beginning that a text repeats, the last time perhaps cut off; else the text."""
    borders = [0] * len(text)
    for position in range(1, len(text)):
        border = borders[position - 1]
        while border and text[position] != text[border]:
            border = borders[border - 1]
        borders[position] = border + (text[position] == text[border])
    return text[: len(text) - borders[-1]] if text and borders[-1] >= len(text) / 2 else text


def _consists_of(text: str, parts: Collection[str]) -> bool:
    """Whether a text is a sequence of parts and fillers with at least one part."""
    found = [part for part in parts if part in text]  # few of perhaps thousands
    if not found:
        return False
    found += [filler for filler in FILLERS if filler in text]
    ends = {0}
    for start in range(len(text)):
        if start in ends:
            ends |= {start + len(part) for part in found if text.startswith(part, start)}
    return len(text) in ends
