"""Usernames and e-mail addresses: which are taken, how they are shown, and which of them are the same.

A name is kept twice: as it is shown, and as its *key*, which is equal for all spellings of one name. Keys are unique in
a tenant. What looks like another name without being one is refused rather than told apart: a name is of one script, or
of those that one language writes together (Unicode TR 39, "highly restrictive"), and only of scripts that are in
everyday use (UAX 31, table 5). Names of one script that look like a name of another one are not found.
"""

import re
import unicodedata
from functools import lru_cache
from typing import Any
from uuid import UUID

import re2
from email_validator import SPECIAL_USE_DOMAIN_NAMES, EmailNotValidError, validate_email
from precis_i18n import get_profile

from authn.errors import InvalidEmailError, InvalidPersonNameError, InvalidUsernameError

# The library's documented way to take such addresses: private networks have `.local` names, whatever RFC 6762 says.
SPECIAL_USE_DOMAIN_NAMES[:] = [name for name in SPECIAL_USE_DOMAIN_NAMES if name != "local"]

MAX_USERNAME_LENGTH = 64
"""Code points."""

MAX_DISPLAY_NAME_LENGTH = 200
MAX_FOLDED = 256
"""Characters that searches compare: at most 1,024 bytes, of the 2,704 that a B-tree takes."""

MAX_MARKS = 4
"""Combining marks in a row, of which no two alike follow each other (Unicode TR 39, section 5.4)."""

_MAX_TYPED_LENGTH = 512
"""Longer text is refused before any of it is looked at."""

_PUNCTUATION = frozenset("._-+")

_SCRIPTS = (
    "Arabic",
    "Armenian",
    "Bengali",
    "Cyrillic",
    "Devanagari",
    "Ethiopic",
    "Georgian",
    "Greek",
    "Gujarati",
    "Gurmukhi",
    "Hebrew",
    "Kannada",
    "Khmer",
    "Lao",
    "Latin",
    "Malayalam",
    "Myanmar",
    "Oriya",
    "Sinhala",
    "Tamil",
    "Telugu",
    "Thaana",
    "Thai",
    "Tibetan",
)
_TOGETHER = (("Latin", "Han", "Hiragana", "Katakana"), ("Latin", "Han", "Bopomofo"), ("Latin", "Han", "Hangul"))
_ANY_SCRIPT = r"\p{Common}\p{Inherited}"

# What lower case does to these depends on what follows, or on the language: they count as one letter in a key.
_SAME_LETTER = str.maketrans(
    {"\N{GREEK SMALL LETTER FINAL SIGMA}": "\N{GREEK SMALL LETTER SIGMA}", "\N{LATIN SMALL LETTER DOTLESS I}": "i"}
)
_DOTTED_I = re.compile("i\N{COMBINING DOT ABOVE}+")


def normalize_username(text: str) -> tuple[str, str]:
    """Return a username as it is shown, and its key (RFC 8265 section 3, UsernameCaseMapped).

    Both are NFC with fullwidth letters made ordinary; the key is in lower case. Normalising either again changes
    nothing. Beyond the profile, of ASCII punctuation only `.`, `_`, `-` and `+` are taken, so that a name means
    nothing in policies, addresses, paths or spreadsheets; and no name is written like the id of an account.

    Raises:
        InvalidUsernameError: it cannot be a username; the text says why, without the name.
    """
    if not text:
        raise InvalidUsernameError("a username is not empty")
    if len(text) > _MAX_TYPED_LENGTH:
        raise InvalidUsernameError(f"a username has at most {MAX_USERNAME_LENGTH} characters")
    try:
        shown: str = _profile("UsernameCasePreserved").enforce(text)
        key: str = _same_letters(_profile("UsernameCaseMapped").enforce(text))
    except (UnicodeError, ValueError):
        raise InvalidUsernameError("it holds a character that a username cannot have (RFC 8265)") from None
    if "@" in shown:
        raise InvalidUsernameError("a username has no `@`, so that it is never an e-mail address")
    for form in (shown, key):
        if len(form) > MAX_USERNAME_LENGTH:
            raise InvalidUsernameError(f"a username has at most {MAX_USERNAME_LENGTH} characters")
    if not all(letter in _PUNCTUATION or not letter.isascii() or letter.isalnum() for letter in key):
        raise InvalidUsernameError("of punctuation, a username has `.`, `_`, `-` and `+` alone")
    if not (key[0].isalnum() and (key[-1].isalnum() or unicodedata.category(key[-1]).startswith("M"))):
        raise InvalidUsernameError("a username begins and ends with a letter or digit")
    doubt = _doubt(key)
    if doubt is not None:
        raise InvalidUsernameError(f"a username {doubt}")
    if _is_id(key):
        raise InvalidUsernameError("a username is not written like the id of an account")
    return shown, key


def normalize_email(text: str) -> tuple[str, str]:
    """Return an e-mail address as it is shown and written to, and its key. Nothing is asked of any name server.

    The key has the local part in lower case and the domain as A-labels (IDNA 2008). Mail goes to the shown form of the
    address that is stored, never to one that somebody typed in: two spellings with one key may be two mailboxes.

    Raises:
        InvalidEmailError: it cannot be an address of a person; the text says why, without the address.
    """
    if len(text) > _MAX_TYPED_LENGTH:
        raise InvalidEmailError("the address is too long")
    try:
        found = validate_email(
            text,
            check_deliverability=False,
            test_environment=True,  # takes `.test`: no name server is asked in any case
            strict=True,
            allow_smtputf8=True,
            allow_quoted_local=False,
            allow_domain_literal=False,
            allow_empty_local=False,
            allow_display_name=False,
        )
    except (EmailNotValidError, UnicodeError, ValueError):
        raise InvalidEmailError("it is not an e-mail address") from None
    local = found.local_part
    if unicodedata.normalize("NFKC", local) != local:
        raise InvalidEmailError("it holds a character that is another form of an ordinary one")
    for part in (local, *found.domain.split(".")):
        doubt = _doubt(part)
        if doubt is not None:
            raise InvalidEmailError(f"a part of an address {doubt}")
    key = unicodedata.normalize("NFC", local.lower()) + "@" + found.ascii_domain.lower()
    return found.normalized, key


def normalize_display_name(text: str) -> tuple[str, str]:
    """Return a name for people as it is shown, and what searches for its beginning compare.

    Raises:
        InvalidPersonNameError: empty, too long, or with characters that do not print (which could turn text around).
    """
    shown = unicodedata.normalize("NFC", text.strip()) if len(text) <= _MAX_TYPED_LENGTH else ""
    if not shown or len(shown) > MAX_DISPLAY_NAME_LENGTH or not shown.isprintable():
        raise InvalidPersonNameError(f"a display name has 1 to {MAX_DISPLAY_NAME_LENGTH} printable characters")
    return shown, fold(shown)


def fold(text: str) -> str:
    """Return what a search compares: compatible forms and case do not count (Unicode, D147).

    It is cut: one character may stand for eighteen, and an index takes no more than so many.
    """
    return _same_letters(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).lower()))[:MAX_FOLDED]


def _same_letters(text: str) -> str:
    return unicodedata.normalize("NFC", _DOTTED_I.sub("i", text.translate(_SAME_LETTER)))


@lru_cache(maxsize=4)
def _profile(name: str) -> Any:
    """Return a PRECIS profile; making one takes longer than using it."""
    return get_profile(name)


def _doubt(text: str) -> str | None:
    """Return what makes a name look like another one, or None."""
    if _one_script().fullmatch(text) is None:
        return "is written in one script that is in everyday use"
    decimals = {ord(letter) - unicodedata.decimal(letter) for letter in text if unicodedata.category(letter) == "Nd"}
    if len(decimals) > 1:
        return "has digits of one kind"
    run, before = 0, ""
    for letter in unicodedata.normalize("NFD", text):
        run = run + 1 if unicodedata.category(letter) == "Mn" else 0
        if run > MAX_MARKS or (run and letter == before):
            return f"has at most {MAX_MARKS} marks on a letter, and none twice"
        before = letter
    return None


@lru_cache(maxsize=1)
def _one_script() -> Any:
    families = [(script,) for script in _SCRIPTS] + list(_TOGETHER)
    classes = ("".join(rf"\p{{{script}}}" for script in family) for family in families)
    return re2.compile("|".join(f"[{_ANY_SCRIPT}{each}]*" for each in classes))


def _is_id(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
