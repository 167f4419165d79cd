"""What becomes of an account when an administrator edits it: the new row, and what the audit says of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from authn.users import NewUser, StoredUser

Name = tuple[str, str]
"""A name as it is shown, and its key."""


class Unchanged(Enum):
    """Stands for what an edit leaves as it is."""

    UNCHANGED = "unchanged"


UNCHANGED = Unchanged.UNCHANGED

PERSONAL = ("username", "email", "display_name")


@dataclass(frozen=True, slots=True)
class UserEdit:
    """What is wanted of an account; None takes a name away, and every account has a username."""

    username: Name | Unchanged = UNCHANGED
    email: Name | Unchanged | None = UNCHANGED
    display_name: Name | Unchanged | None = UNCHANGED
    mfa_required: bool | Unchanged = UNCHANGED


@dataclass(frozen=True, slots=True)
class UserChange:
    """What an edit changes.

    `columns` are those of the row. `before`, `after` and `fields` are for the audit and hold nothing personal; what is
    goes into `personal`, to be sealed. `ends_sign_ins`: outstanding links and sign-ins were given to another account,
    in effect, or proved less than is demanded from now on.
    """

    columns: Mapping[str, Any] = field(default_factory=dict)
    fields: tuple[str, ...] = ()
    before: Mapping[str, Any] = field(default_factory=dict)
    after: Mapping[str, Any] = field(default_factory=dict)
    personal: Mapping[str, str] = field(default_factory=dict)
    ends_sign_ins: bool = False


def change_of(stored: StoredUser, edit: UserEdit) -> UserChange:
    """Return what an edit changes in an account as it is; nothing, where all is so already.

    SECURITY: an address that an administrator sets is not verified, in whatever spelling: mail goes to what is shown,
    and only who reads it there can show that it is theirs.
    """
    user = stored.user
    columns: dict[str, Any] = {}
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    personal: dict[str, str] = {}
    fields: list[str] = []
    for name in PERSONAL:
        wanted, shown = getattr(edit, name), getattr(user, name)
        if wanted is UNCHANGED or (wanted[0] if wanted else None) == shown:
            continue
        columns[name], columns[f"{name}_key"] = wanted or (None, None)
        fields.append(name)
        for when, text in (("before", shown), ("after", wanted[0] if wanted else None)):
            if text is not None:
                personal[f"{when}.{name}"] = text
    if "email" in columns:
        columns["email_verified_at"] = None
        if user.email_verified_at is not None:
            before["email_verified"], after["email_verified"] = True, False
    if edit.mfa_required is not UNCHANGED and edit.mfa_required is not user.mfa_required:
        columns["mfa_required"] = edit.mfa_required
        fields.append("mfa_required")
        before["mfa_required"], after["mfa_required"] = user.mfa_required, edit.mfa_required
    ends_sign_ins = "email" in columns or columns.get("mfa_required") is True
    return UserChange(columns, tuple(fields), before, after, personal, ends_sign_ins=ends_sign_ins)


def personal_of(new: NewUser) -> dict[str, str]:
    """Return what is personal in a new account, as the audit seals it."""
    names = {"username": new.username, "email": new.email, "display_name": new.display_name}
    return {f"after.{name}": value[0] for name, value in names.items() if value is not None}
