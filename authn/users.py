"""Accounts: the people that a tenant knows, and what state an account is in."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NewType
from uuid import UUID

from authn.errors import InvalidEmailError as InvalidEmailError  # noqa: PLC0414 - part of these values
from authn.errors import InvalidUsernameError as InvalidUsernameError  # noqa: PLC0414
from authn.user_names import normalize_display_name as normalize_display_name  # noqa: PLC0414
from authn.user_names import normalize_email as normalize_email  # noqa: PLC0414
from authn.user_names import normalize_username as normalize_username  # noqa: PLC0414
from tenancy.ids import TenantId

UserId = NewType("UserId", UUID)

SUBJECT_TYPE = "user"


class UserStatus(StrEnum):
    """Life of an account. Nothing comes after `deleted`: the row stays, so that its id is never given again."""

    ACTIVE = "active"
    DISABLED = "disabled"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class User:
    """An account as administrators see it; times are aware, UTC.

    The personal fields (`username`, `email`, `display_name`) are None in a deleted account. `password_set` says whether
    there is a password, `created_by` who made the account.
    """

    id: UserId
    tenant_id: TenantId
    username: str | None
    email: str | None
    email_verified_at: datetime | None
    display_name: str | None
    status: UserStatus
    status_reason: str | None
    mfa_required: bool
    password_set: bool
    password_changed_at: datetime | None
    created_at: datetime
    updated_at: datetime
    created_by: str
    last_sign_in_at: datetime | None = None

    @property
    def ref(self) -> str:
        """What rules, decisions and tokens call it."""
        return subject_ref(self.id)


@dataclass(frozen=True, slots=True)
class StoredUser:
    """An account with what proves and ends sign-ins, for whoever holds its row's lock. Never shown.

    `auth_epoch` is raised by whatever ends sign-ins. `password_set_by` says who set the password.
    """

    user: User
    username_key: str | None
    email_key: str | None
    password_hash: str | None = field(repr=False)
    password_set_by: str | None
    auth_epoch: int
    factors_reset_at: datetime | None
    password_reset_at: datetime | None


@dataclass(frozen=True, slots=True)
class NewUser:
    """An account to be made; every name is normalised already: (as shown, key)."""

    username: tuple[str, str]
    email: tuple[str, str] | None = None
    display_name: tuple[str, str] | None = None
    email_verified_at: datetime | None = None
    mfa_required: bool = False
    password_hash: str | None = field(default=None, repr=False)
    password_set_by: str | None = None


def subject_ref(user_id: UUID) -> str:
    """Return the subject that stands for an account: `user:` and its id in lower case."""
    return f"{SUBJECT_TYPE}:{user_id}"


def user_id_of(ref: str) -> UserId | None:
    """Return the id that a subject is, if it is written as the id of an account; None for every other spelling."""
    kind, _, identifier = ref.partition(":")
    if kind != SUBJECT_TYPE or len(identifier) != 36:  # noqa: PLR2004 - the length of a UUID's one canonical form
        return None
    try:
        found = UUID(identifier)
    except ValueError:
        return None
    return UserId(found) if str(found) == identifier else None
