"""Accounts from another directory: what a record may say, and what is wrong with one that may not come in.

A record makes an account and never changes one, so whoever may import takes over nobody: neither names, nor states, nor
passwords of accounts that are there.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

from authn.errors import AuthnError
from authn.password_hash_forms import read_password_hash
from authn.password_hashes import Argon2Hash
from authn.users import NewUser, normalize_display_name, normalize_email, normalize_username

FIELDS = ("username", "email", "display_name", "mfa_required", "password_hash")
IMPORTED = "import"
"""Who set a password that came as a hash."""

_VERIFIED = "whether an address is verified is shown by its owner alone: they are sent a link"
_ROLES = "roles and groups are granted through memberships, by who may grant them"
REFUSED_FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "password": "passwords are not taken as text: give `password_hash`, or invite the person",
        "email_verified": _VERIFIED,
        "email_verified_at": _VERIFIED,
        "verified": _VERIFIED,
        "roles": _ROLES,
        "groups": _ROLES,
        "memberships": _ROLES,
        "id": "ids are given out here and never again",
        "user_id": "ids are given out here and never again",
        "tenant": "the tenant is that of the request",
        "tenant_id": "the tenant is that of the request",
        "columns": "the row has another number of cells than the first one",
    }
)
"""Fields that other directories have, and why they are not taken."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class ImportedUser:
    """A record that may come in; `line` counts from 1."""

    line: int
    new: NewUser


@dataclass(frozen=True, slots=True)
class BadLine:
    """A record that may not, and why; never with what stood in it."""

    line: int
    field: str | None
    reason: str


class _RefusedField(Exception):  # noqa: N818 - never leaves this module
    def __init__(self, field: str | None, reason: str) -> None:
        super().__init__(reason)
        self.field = field
        self.reason = reason


def read_record(line: int, value: Any) -> ImportedUser | BadLine:
    """Return the account that a record describes, or what is wrong with it first."""
    try:
        return ImportedUser(line, _new_user(value))
    except _RefusedField as refused:
        return BadLine(line, refused.field, refused.reason)


def without_repeats(records: Iterable[ImportedUser]) -> tuple[list[ImportedUser], list[BadLine]]:
    """Return the records whose names no earlier one has, and the others as bad lines."""
    kept: list[ImportedUser] = []
    bad: list[BadLine] = []
    seen: dict[tuple[str, str], int] = {}
    for record in records:
        keys = [("username", record.new.username[1])]
        if record.new.email is not None:
            keys.append(("email", record.new.email[1]))
        before = next(((name, seen[name, key]) for name, key in keys if (name, key) in seen), None)
        if before is None:
            kept.append(record)
            seen |= dict.fromkeys(keys, record.line)
        else:
            bad.append(BadLine(record.line, before[0], f"line {before[1]} has the same"))
    return kept, bad


def _new_user(value: Any) -> NewUser:
    if not isinstance(value, Mapping):
        raise _RefusedField(None, "is not a JSON object")
    for name in value:
        if name not in FIELDS:
            raise _RefusedField(
                str(name)[:100], REFUSED_FIELDS.get(name, f"is no field: there are {', '.join(FIELDS)}")
            )
    username = _text(value, "username", normalize_username)
    if username is None:
        raise _RefusedField("username", "is missing")
    stored = _text(value, "password_hash", _password_hash)
    mfa_required = value.get("mfa_required")
    if mfa_required is not None and not isinstance(mfa_required, bool):
        raise _RefusedField("mfa_required", "is `true` or `false`")
    return NewUser(
        username=username,
        email=_text(value, "email", normalize_email),
        display_name=_text(value, "display_name", normalize_display_name),
        mfa_required=bool(mfa_required),
        password_hash=stored,
        password_set_by=None if stored is None else IMPORTED,
    )


def _text(value: Mapping[str, Any], name: str, read: Callable[[str], _T]) -> _T | None:
    given = value.get(name)
    if given is None:
        return None
    if not isinstance(given, str):
        raise _RefusedField(name, "is text")
    try:
        return read(given)
    except AuthnError as error:
        raise _RefusedField(name, str(error)) from None


def _password_hash(text: str) -> str:
    """Return a hash that is read here, within the bounds of what a sign-in may cost."""
    found = read_password_hash(text)
    if isinstance(found, Argon2Hash) and found.pepper is not None:
        raise _RefusedField("password_hash", "depends on a key of another installation")
    return text
