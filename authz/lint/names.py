"""Names that people take for each other: by case, by Unicode form, by letters that look alike, by what is not seen."""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from authz.findings import Severity
from authz.lint.part import Part
from authz.policy_files import TenantFiles
from authz.policy_files.values import ENTITIES_FILE
from authz.rules import RoleLink, Rule, StoredEntity

_LOOK_ALIKES: Final = str.maketrans(
    "аеорсухіјѕһԁԛԝкмтոսοανρικυτνɡıℓ‐‑‒–—−",  # noqa: RUF001 - the look-alikes themselves
    "aeopcyxijshdqwkmtnuoavpikutvgil------",
)
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f\u2060-\u2064\u3164\ufe00-\ufe0f\ufeff\uffa0]"
)
_MAX_TOLD = 3


@dataclass(frozen=True, slots=True)
class _Use:
    """Where a name stands first: a row, and which of its columns."""

    files: TenantFiles
    row: Rule | RoleLink | StoredEntity
    column: str

    def __str__(self) -> str:
        return str(self.row.source)


def check_names(part: Part) -> None:
    """Report look-alikes among all names a tenant sees, and names with something in them that is not seen."""
    for uses in _uses(part):
        spellings: dict[str, str] = {}
        for name, use in uses.items():
            own = use.files is part.own
            if own:
                _check_one(part, name, use)
            first = spellings.setdefault(_skeleton(name), name)
            if first != name and own:
                how, severity = _difference(first, name)
                message = f"`{name}` and `{first}` ({uses[first]}) {how}{_told_apart(name, first)}"
                _report(
                    part, use, "look-alike", message, "one of them is meant: write it the same way", severity=severity
                )


def _uses(part: Part) -> tuple[dict[str, _Use], dict[str, _Use]]:
    """Return typed names and actions, each with its first use, those of the base first."""
    names: dict[str, _Use] = {}
    actions: dict[str, _Use] = {}
    for files in (part.own,) if part.own.is_base else (part.base, part.own):
        for rule in files.rules:
            if rule.subject not in names:
                names[rule.subject] = _Use(files, rule, "sub")
            if rule.resource not in names:
                names[rule.resource] = _Use(files, rule, "obj")
            if rule.action not in actions:
                actions[rule.action] = _Use(files, rule, "act")
        for link in files.links:
            if link.member not in names:
                names[link.member] = _Use(files, link, "member")
            if link.role not in names:
                names[link.role] = _Use(files, link, "role")
        for entity in files.entities:
            if entity.ref not in names:
                names[entity.ref] = _Use(files, entity, ENTITIES_FILE)
    return names, actions


def _check_one(part: Part, name: str, use: _Use) -> None:
    identifier = name.partition(":")[2]
    spaces = _spaces_at_ends(name, identifier)
    if " " in spaces:
        message = f"`{name}` has a blank at one of its ends"
        _report(part, use, "blank-at-end", message, "remove it", severity=Severity.WARNING)
    if " #" in name:
        message = f"`{name}` holds what looks like a comment"
        hint = "comments stand on lines of their own"
        _report(part, use, "comment-in-value", message, hint, severity=Severity.WARNING)
    if name.isascii():
        return
    for space in dict.fromkeys(spaces.replace(" ", "")):
        message = f"`{name}` has a space at one of its ends that is no blank: U+{ord(space):04X} {_title(space)}"
        _report(part, use, "unicode-space", message.rstrip(), "remove it", severity=Severity.ERROR)
    for message in _unseen(name):
        _report(part, use, "invisible-character", message, "remove it", severity=Severity.ERROR)
    if unicodedata.normalize("NFC", name) != name:
        message = f"`{name}` is not in Unicode's composed form (NFC): what is typed elsewhere will not equal it"
        _report(part, use, "unicode-form", message, "retype it", severity=Severity.WARNING)


def _spaces_at_ends(name: str, identifier: str) -> str:
    """Return the blanks and Unicode spaces at the ends of a name, and at the beginning of its id."""
    front = name[: len(name) - len(name.lstrip())] + identifier[: len(identifier) - len(identifier.lstrip())]
    return front + name[len(name.rstrip()) :]


def _title(character: str) -> str:
    return unicodedata.name(character, "")


def _unseen(name: str) -> Iterator[str]:
    for match in _INVISIBLE.finditer(name):
        yield f"U+{ord(match.group()):04X} is not seen in `{name}`"


def _skeleton(name: str) -> str:
    """Return what is left of a name when case, form, width, look-alikes and what is not seen are taken away."""
    if name.isascii():
        return name.lower()
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return _INVISIBLE.sub("", folded).translate(_LOOK_ALIKES)


def _difference(first: str, second: str) -> tuple[str, Severity]:
    if first.casefold() == second.casefold():
        return "differ only by case", Severity.WARNING
    if unicodedata.normalize("NFKC", first) == unicodedata.normalize("NFKC", second):
        return "differ only by Unicode form", Severity.ERROR
    return "look alike", Severity.ERROR


def _told_apart(name: str, first: str) -> str:
    """Name the characters by which two names differ that look the same."""
    if name.isascii() and first.isascii():
        return ""
    only = [
        f"U+{ord(character):04X} {_title(character)}".rstrip()
        for character in dict.fromkeys(name + first)
        if not character.isascii() and (character in name) is not (character in first)
    ]
    return f": {', '.join(only[:_MAX_TOLD])} in one of them" if only else ""


def _report(part: Part, use: _Use, code: str, message: str, hint: str, *, severity: Severity) -> None:
    match use.row:
        case Rule():
            part.at_rule(use.row, use.column, code, message, hint, severity=severity)
        case RoleLink():
            part.at_link(use.row, use.column, code, message, hint, severity=severity)
        case StoredEntity():
            part.at_entity(use.row, code, message, hint, severity=severity)
