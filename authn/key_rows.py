"""Rows of API keys, within the transaction of whoever calls: an account and its first key can be made together."""

import secrets
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text

from authn.api_keys import PERSONAL_LIFE, SCOPES, ApiKey, ApiKeyId, KeyLimit, new_api_key
from authn.errors import (
    KeyLimitExceededError,
    KeyMakerEndedError,
    ServiceAccountNotActiveError,
    UserNotFoundError,
)
from authn.service_accounts import ServiceAccountId
from authn.session_rows import require_session
from authn.sessions import Acr, Session
from authn.users import UserId
from tenancy.audit import AuditEntry
from tenancy.ids import TenantId
from tenancy.unit_of_work import TenantUnitOfWork
from tenancy.uuid7 import make_uuid7

KEY_COLUMNS = (
    "tenant_id, key_id, prefix, name, scopes, created_at, expires_at, revoked_at, created_by, owner_id, "
    "service_account_id, limit_per_second, limit_burst, last_used_at, replaces, acr"
)
MAX_OWNED_KEYS = 50
"""Live keys of one person, or of one service account."""

_LIVE = "revoked_at IS NULL AND (expires_at IS NULL OR expires_at > clock_timestamp())"
_COUNT = text(
    "SELECT count(*) FROM api_keys WHERE tenant_id = :tenant_id "  # noqa: S608 - constants
    "AND owner_id IS NOT DISTINCT FROM CAST(:owner_id AS uuid) "
    f"AND service_account_id IS NOT DISTINCT FROM CAST(:service_account_id AS uuid) AND {_LIVE}"
)
_INSERT = (
    "INSERT INTO api_keys (tenant_id, key_id, key_hash, prefix, name, scopes, created_at, expires_at, created_by, "
    "limit_per_second, limit_burst, replaces, acr"
)
_VALUES = (
    ":tenant_id, :key_id, :key_hash, :prefix, :name, :scopes, :created_at, :expires_at, :created_by, "
    ":limit_per_second, :limit_burst, :replaces, :acr"
)
_INSERT_SERVICE = text(f"{_INSERT}) VALUES ({_VALUES})")
# The key is of the epoch that its owner is in: whatever raises the epoch later ends it.
_INSERT_PERSONAL = text(
    f"{_INSERT}, owner_id, owner_epoch) SELECT {_VALUES}, user_id, auth_epoch FROM users "  # noqa: S608 - constants
    "WHERE tenant_id = :tenant_id AND user_id = :owner_id AND status = 'active' RETURNING 1"
)

_INSERT_ACCOUNTS = text(
    f"{_INSERT}, service_account_id) SELECT {_VALUES}, service_account_id FROM service_accounts "  # noqa: S608 - as above
    "WHERE tenant_id = :tenant_id AND service_account_id = :service_account_id AND status = 'active' RETURNING 1"
)

# What `find_api_key` says of a key, inside the tenant and under its lock.
_MAKER_LIVES = text(
    "SELECT 1 FROM api_keys AS k LEFT JOIN users AS u ON u.tenant_id = k.tenant_id AND u.user_id = k.owner_id "
    "LEFT JOIN service_accounts AS a ON a.tenant_id = k.tenant_id AND a.service_account_id = k.service_account_id "
    "WHERE k.tenant_id = :tenant_id AND k.key_id = :key_id AND k.revoked_at IS NULL "
    "AND (k.expires_at IS NULL OR k.expires_at > clock_timestamp()) "
    "AND (k.owner_id IS NULL OR (u.status = 'active' AND u.auth_epoch = k.owner_epoch)) "
    "AND (k.service_account_id IS NULL OR a.status = 'active')"
)


async def require_maker(work: TenantUnitOfWork, maker: UUID | Session) -> None:
    """Refuse a key or a session that ended since its request was admitted; whoever calls holds the tenant's lock.

    SECURITY: a key of a person is of the epoch that its owner is in *now*. Without this, whoever stole one makes keys
    without pause, and the one that is made just after the owner ended all sign-ins lives on.

    Raises:
        KeyMakerEndedError: the tenant has no live key with this id.
        SessionEndedError: it was a session, and that has ended.
    """
    if isinstance(maker, Session):
        await require_session(work, maker)
        return
    found = await work.session.execute(_MAKER_LIVES, {"tenant_id": work.tenant_id, "key_id": maker})
    if found.one_or_none() is None:
        raise KeyMakerEndedError(f"the key `{maker}` has ended")


async def require_room(
    work: TenantUnitOfWork,
    limit: int,
    owner_id: UserId | None = None,
    service_account_id: ServiceAccountId | None = None,
) -> None:
    """Raise `KeyLimitExceededError` when there are `limit` live keys of one owner, or of none."""
    parameters = {"tenant_id": work.tenant_id, "owner_id": owner_id, "service_account_id": service_account_id}
    if (await work.session.execute(_COUNT, parameters)).scalar_one() >= limit:
        owner = "the tenant has" if owner_id is None else "you have"
        who = owner if service_account_id is None else "the service account has"
        raise KeyLimitExceededError(f"{who} {limit} live keys, which is the limit")


async def insert_key(work: TenantUnitOfWork, key: ApiKey, key_hash: bytes, *, created_by: str) -> None:
    """Enter a key; whoever calls holds the tenant's lock.

    Raises:
        UserNotFoundError: no active account is its owner.
        ServiceAccountNotActiveError: its service account may do nothing.
        KeyLimitExceededError: its owner has too many.
    """
    parameters: dict[str, Any] = {
        "tenant_id": key.tenant_id,
        "key_id": key.id,
        "key_hash": key_hash,
        "prefix": key.prefix,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "created_by": created_by,
        "replaces": key.replaces,
        "acr": key.acr.value,
    } | limit_columns(key.limit)
    if key.owner is None:
        await work.session.execute(_INSERT_SERVICE, parameters)
        return
    await require_room(work, MAX_OWNED_KEYS, key.owner_id, key.service_account_id)
    if key.owner_id is not None:
        made = await work.session.execute(_INSERT_PERSONAL, parameters | {"owner_id": key.owner_id})
        if made.one_or_none() is None:
            raise UserNotFoundError(f"the tenant has no active account `{key.owner_id}`")
        return
    parameters["service_account_id"] = key.service_account_id
    if (await work.session.execute(_INSERT_ACCOUNTS, parameters)).one_or_none() is None:
        raise ServiceAccountNotActiveError("the service account is disabled or deleted")


def limit_columns(limit: KeyLimit | None) -> dict[str, int | None]:
    """Return the columns that hold a key's limit."""
    if limit is None:
        return {"limit_per_second": None, "limit_burst": None}
    return {"limit_per_second": limit.requests_per_second, "limit_burst": limit.burst}


def shown_limit(limit: KeyLimit | None) -> dict[str, int] | None:
    """Return a limit as answers and the audit have it."""
    if limit is None:
        return None
    return {"requests_per_second": limit.requests_per_second, "burst": limit.burst}


async def insert_personal_key(
    work: TenantUnitOfWork,
    owner_id: UserId,
    name: str,
    *,
    now: datetime,
    created_by: str,
    scopes: frozenset[str] = SCOPES,
    ttl: timedelta = PERSONAL_LIFE,
) -> tuple[str, ApiKey]:
    """Make a key of a person in the caller's transaction; return its token, which nobody can read again, and the key.

    It may carry every scope: it never does more than its owner may.

    Raises:
        UserNotFoundError: no active account is its owner.
        KeyLimitExceededError, KeyLifeError, InvalidKeyNameError, UnknownScopeError: as `new_api_key`.
    """
    key_id = make_uuid7(now, secrets.token_bytes(10))
    entropy = secrets.token_bytes(36)
    token, key, key_hash = new_api_key(
        work.tenant_id,
        name,
        scopes,
        key_id=key_id,
        entropy=entropy,
        now=now,
        ttl=ttl,
        created_by=created_by,
        owner_id=owner_id,
    )
    await insert_key(work, key, key_hash, created_by=created_by)
    return token, key


def created_entry(key: ApiKey) -> AuditEntry:
    """Return what the audit says of a key that was made: neither the token nor its hash."""
    expires_at = None if key.expires_at is None else key.expires_at.isoformat()
    said: dict[str, Any] = {
        "prefix": key.prefix,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "expires_at": expires_at,
    }
    if key.owner is not None:
        said["owner"] = key.owner
    if key.owner_id is not None:
        said["acr"] = key.acr.value
    if key.limit is not None:
        said["limits"] = shown_limit(key.limit)
    return AuditEntry("key.create", target=f"key:{key.id}", after=said)


def key_of(row: Row[Any]) -> ApiKey:
    """Return the key in a result row that has `KEY_COLUMNS`."""
    return ApiKey(
        ApiKeyId(row.key_id),
        TenantId(row.tenant_id),
        row.name,
        row.prefix,
        frozenset(row.scopes),
        row.created_at,
        row.expires_at,
        row.revoked_at,
        row.created_by,
        None if row.owner_id is None else UserId(row.owner_id),
        None if row.service_account_id is None else ServiceAccountId(row.service_account_id),
        None if row.limit_per_second is None else KeyLimit(row.limit_per_second, row.limit_burst),
        row.last_used_at,
        None if row.replaces is None else ApiKeyId(row.replaces),
        Acr(row.acr),
    )
