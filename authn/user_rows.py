"""Rows of accounts, within the transaction of whoever calls: each flow about an account stays one transaction.

Whatever changes an account takes the tenant's lock first (`tenancy.heads.lock_head`), then the account's (`lock_user`).
"""

import secrets
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.exc import IntegrityError

from authn.errors import EmailTakenError, UsernameTakenError
from authn.users import NewUser, StoredUser, User, UserId, UserStatus
from tenancy.ids import TenantId
from tenancy.one_trip import fetch_row
from tenancy.settings_storage import settings_of
from tenancy.tenant_settings import TenantLimits, TenantSettings
from tenancy.unit_of_work import Sessions, TenantUnitOfWork
from tenancy.uuid7 import make_uuid7

USER_COLUMNS = (
    "tenant_id, user_id, username, email, email_verified_at, display_name, status, status_reason, mfa_required, "
    "password_hash IS NOT NULL AS password_set, password_changed_at, created_at, updated_at, created_by, "
    "last_sign_in_at"
)
STORED_COLUMNS = (
    f"{USER_COLUMNS}, username_key, email_key, password_hash, password_set_by, auth_epoch, factors_reset_at, "
    "password_reset_at"
)
_MINE = "tenant_id = :tenant_id AND user_id = :user_id"
_ALIVE = f"{_MINE} AND status <> 'deleted'"

_LOCK = text(f"SELECT {STORED_COLUMNS} FROM users WHERE {_MINE} FOR NO KEY UPDATE")  # noqa: S608 - constants
_READ = text(f"SELECT {STORED_COLUMNS} FROM users WHERE {_MINE}")  # noqa: S608 - constants
_READ_WITH_SETTINGS = text(
    f"SELECT {STORED_COLUMNS}, (SELECT s.settings FROM tenant_settings AS s WHERE s.tenant_id = users.tenant_id) "  # noqa: S608
    f"AS settings FROM users WHERE {_MINE}"
)
_INSERT = text(
    "INSERT INTO users (tenant_id, user_id, username, username_key, email, email_key, email_verified_at, "  # noqa: S608
    "display_name, display_name_key, mfa_required, password_hash, password_set_by, password_changed_at, created_by) "
    "VALUES (:tenant_id, :user_id, :username, :username_key, :email, :email_key, :email_verified_at, "
    ":display_name, :display_name_key, :mfa_required, :password_hash, :password_set_by, "
    "CASE WHEN CAST(:password_hash AS text) IS NULL THEN NULL ELSE clock_timestamp() END, :created_by) "
    f"RETURNING {USER_COLUMNS}"
)
_SET_PASSWORD = text(
    "UPDATE users SET password_hash = :new_hash, password_changed_at = clock_timestamp(), "  # noqa: S608 - constants
    "password_set_by = :set_by, auth_epoch = auth_epoch + 1, updated_at = clock_timestamp() "
    f"WHERE {_ALIVE} AND password_hash IS NOT DISTINCT FROM CAST(:read AS text) RETURNING 1"
)
_REHASH = text(
    f"UPDATE users SET password_hash = :new_hash WHERE {_ALIVE} AND password_hash = :read RETURNING 1"  # noqa: S608
)
_RAISE_EPOCH = text(
    "UPDATE users SET auth_epoch = auth_epoch + 1, updated_at = clock_timestamp() "  # noqa: S608 - constants
    f"WHERE {_ALIVE} RETURNING auth_epoch"
)
_SET_EMAIL = text(
    "UPDATE users SET email = :email, email_key = :email_key, email_verified_at = :verified_at, "  # noqa: S608 - as above
    f"auth_epoch = auth_epoch + 1, updated_at = clock_timestamp() WHERE {_ALIVE} RETURNING 1"
)

_BY_EMAIL = text(
    f"SELECT {USER_COLUMNS} FROM users WHERE tenant_id = :tenant_id AND email_key = :key"  # noqa: S608 - constants
)

_TAKEN = {"users_username_key": UsernameTakenError, "users_email_key": EmailTakenError}


async def lock_user(work: TenantUnitOfWork, user_id: UUID) -> StoredUser | None:
    """Lock an account until the transaction ends, and return it as it is now; a tombstone, too."""
    row = (await work.session.execute(_LOCK, _named(work, user_id))).one_or_none()
    return None if row is None else stored_user_of(row)


async def read_user(work: TenantUnitOfWork, user_id: UUID) -> StoredUser | None:
    """Return an account as it is now, for whoever judges first and writes later, when it may be another one."""
    row = (await work.session.execute(_READ, _named(work, user_id))).one_or_none()
    return None if row is None else stored_user_of(row)


async def read_account(
    sessions: Sessions, tenant_id: TenantId, user_id: UUID, limits: TenantLimits | None
) -> tuple[StoredUser, TenantSettings] | None:
    """Return an account as it is now with its tenant's settings, in one trip and a transaction of its own.

    Raises:
        DatabaseUnavailableError: no answer.
    """
    row = await fetch_row(sessions, tenant_id, _READ_WITH_SETTINGS, {"tenant_id": tenant_id, "user_id": user_id})
    return None if row is None else (stored_user_of(row), settings_of(row.settings, limits))


async def find_by_email_key(work: TenantUnitOfWork, email_key: str) -> User | None:
    """Return the account that has an address, given by its key."""
    row = (await work.session.execute(_BY_EMAIL, {"tenant_id": work.tenant_id, "key": email_key})).one_or_none()
    return None if row is None else user_of(row)


async def insert_user(work: TenantUnitOfWork, new: NewUser, *, created_by: str, user_id: UserId | None = None) -> User:
    """Enter an account under a fresh id, or one that was set aside for it; the caller counts it in the tenant's head.

    Raises:
        UsernameTakenError: another account of the tenant has the name.
        EmailTakenError: another account of the tenant has the address.
    """
    parameters = {
        "user_id": user_id or make_uuid7(datetime.now(UTC), secrets.token_bytes(10)),
        "tenant_id": work.tenant_id,
        "email_verified_at": new.email_verified_at,
        "mfa_required": new.mfa_required,
        "password_hash": new.password_hash,
        "password_set_by": new.password_set_by,
        "created_by": created_by,
    }
    for column, name in (("username", new.username), ("email", new.email), ("display_name", new.display_name)):
        parameters[column], parameters[f"{column}_key"] = name or (None, None)
    try:
        return user_of((await work.session.execute(_INSERT, parameters)).one())
    except IntegrityError as error:
        raise taken(error) from error


async def set_password_hash(
    work: TenantUnitOfWork,
    user_id: UUID,
    new_hash: str,
    *,
    read: str | None,
    set_by: str = "user",
    rehash: bool = False,
) -> bool:
    """Replace the password's hash if it is still the one that was read; return whether it was.

    Another password ends all sign-ins; a rehash of the same password does not.

    Args:
        work: Holds the tenant's lock, except for a rehash.
        user_id: Whose it is.
        new_hash: What is stored from now on.
        read: The stored hash that the decision to write was based on; None for none.
        set_by: Who chose the password.
        rehash: The new hash is of the same password.
    """
    query, parameters = (_REHASH, {}) if rehash else (_SET_PASSWORD, {"set_by": set_by})
    parameters |= {"new_hash": new_hash, "read": read} | _named(work, user_id)
    return (await work.session.execute(query, parameters)).one_or_none() is not None


async def raise_auth_epoch(work: TenantUnitOfWork, user_id: UUID) -> int | None:
    """End all sign-ins of an account; return its new epoch, or None when there is no such account."""
    row = (await work.session.execute(_RAISE_EPOCH, _named(work, user_id))).one_or_none()
    return None if row is None else int(row.auth_epoch)


async def set_email(
    work: TenantUnitOfWork, user_id: UUID, email: tuple[str, str] | None, *, verified_at: datetime | None
) -> bool:
    """Give an account another address, which ends all sign-ins; return whether there is such an account.

    Raises:
        EmailTakenError: another account of the tenant has the address.
    """
    shown, key = email or (None, None)
    parameters = {"email": shown, "email_key": key, "verified_at": verified_at} | _named(work, user_id)
    try:
        return (await work.session.execute(_SET_EMAIL, parameters)).one_or_none() is not None
    except IntegrityError as error:
        raise taken(error) from error


def taken(error: IntegrityError) -> Exception:
    """Return which name was taken, or the error itself: judged by the constraint's name, never by a message."""
    name = getattr(getattr(error.orig, "diag", None), "constraint_name", None)
    found = _TAKEN.get(name or "")
    return error if found is None else found("another account of this tenant has it")


def user_of(row: Row[Any]) -> User:
    """Return the account in a result row that has `USER_COLUMNS`."""
    return User(
        id=UserId(row.user_id),
        tenant_id=TenantId(row.tenant_id),
        username=row.username,
        email=row.email,
        email_verified_at=row.email_verified_at,
        display_name=row.display_name,
        status=UserStatus(row.status),
        status_reason=row.status_reason,
        mfa_required=row.mfa_required,
        password_set=row.password_set,
        password_changed_at=row.password_changed_at,
        created_at=row.created_at,
        updated_at=row.updated_at,
        created_by=row.created_by,
        last_sign_in_at=row.last_sign_in_at,
    )


def stored_user_of(row: Row[Any]) -> StoredUser:
    """Return the account in a result row that has `STORED_COLUMNS`."""
    return StoredUser(
        user=user_of(row),
        username_key=row.username_key,
        email_key=row.email_key,
        password_hash=row.password_hash,
        password_set_by=row.password_set_by,
        auth_epoch=row.auth_epoch,
        factors_reset_at=row.factors_reset_at,
        password_reset_at=row.password_reset_at,
    )


def _named(work: TenantUnitOfWork, user_id: UUID) -> dict[str, Any]:
    return {"tenant_id": work.tenant_id, "user_id": user_id}
