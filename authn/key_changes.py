"""What is done to keys that are there, in the transaction of whoever calls: ended, changed, and replaced by another.

Whoever calls holds the tenant's lock and raises `keys_revision`, so that every node reads the key anew.
"""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text

from authn.api_keys import ApiKey, ApiKeyId
from authn.errors import ApiKeyNotFoundError, KeyEndedError
from authn.key_edits import EVERYBODY, KeyEdit, KeyOwner
from authn.key_rows import KEY_COLUMNS, insert_key, key_of, limit_columns, shown_limit
from authn.user_edits import Unchanged
from tenancy.audit import AuditEntry
from tenancy.unit_of_work import TenantUnitOfWork

_ONE = "tenant_id = :tenant_id AND key_id = :key_id"
OWNED = (
    "(CAST(:owner_id AS uuid) IS NULL OR owner_id = :owner_id) "
    "AND (CAST(:service_account_id AS uuid) IS NULL OR service_account_id = :service_account_id)"
)
_LOCK = text(
    f"SELECT {KEY_COLUMNS}, revoked_at IS NULL AND (expires_at IS NULL OR expires_at > clock_timestamp()) AS live "  # noqa: S608
    f"FROM api_keys WHERE {_ONE} AND {OWNED} FOR NO KEY UPDATE"
)
_REVOKE = text(f"UPDATE api_keys SET revoked_at = clock_timestamp() WHERE {_ONE}")  # noqa: S608 - constants
_END_LATER = text(
    "UPDATE api_keys SET expires_at = least(expires_at, clock_timestamp() + CAST(:overlap AS interval)) "  # noqa: S608
    f"WHERE {_ONE} RETURNING expires_at"
)
_CHANGE = text(
    "UPDATE api_keys SET name = :name, limit_per_second = :limit_per_second, limit_burst = :limit_burst "  # noqa: S608
    f"WHERE {_ONE}"
)


async def lock_key(work: TenantUnitOfWork, key_id: UUID, owner: KeyOwner = EVERYBODY, *, live: bool = True) -> ApiKey:
    """Lock a key until the transaction ends, and return it as it is now.

    Raises:
        ApiKeyNotFoundError: its owner, or the tenant, has no such key.
        KeyEndedError: it has ended, and a live one is asked for.
    """
    found = await work.session.execute(_LOCK, _named(work, key_id) | owner.named())
    row = found.one_or_none()
    if row is None:
        raise ApiKeyNotFoundError(f"the tenant has no key `{key_id}`")
    if live and not row.live:
        raise KeyEndedError("the key has ended")
    return key_of(row)


async def end_key(work: TenantUnitOfWork, key: ApiKey) -> AuditEntry:
    """End a key now; return what the audit says."""
    await work.session.execute(_REVOKE, _named(work, key.id))
    return AuditEntry("key.revoke", target=f"key:{key.id}", after={"prefix": key.prefix, "name": key.name})


async def replace_key(
    work: TenantUnitOfWork, previous: ApiKey, key: ApiKey, key_hash: bytes, overlap: timedelta
) -> tuple[ApiKey, datetime, AuditEntry]:
    """Enter `key` in the place of a locked one, which ends after `overlap` or before, as it would have.

    It has the name, scopes and limits of the one before it, as they are now. Raises as `insert_key`.
    """
    key = replace(key, name=previous.name, scopes=previous.scopes, limit=previous.limit, replaces=previous.id)
    await insert_key(work, key, key_hash, created_by=key.created_by)
    parameters = _named(work, previous.id) | {"overlap": overlap}
    ends_at: datetime = (await work.session.execute(_END_LATER, parameters)).scalar_one()
    if not overlap:
        await work.session.execute(_REVOKE, _named(work, previous.id))
    said: dict[str, Any] = {
        "prefix": key.prefix,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "expires_at": None if key.expires_at is None else key.expires_at.isoformat(),
    }
    detail = {"previous": f"key:{previous.id}", "previous_ends_at": ends_at.isoformat()}
    if key.owner is not None:
        detail["owner"] = key.owner
    return key, ends_at, AuditEntry("key.rotate", f"key:{key.id}", after=said, detail=detail)


async def change_key(work: TenantUnitOfWork, present: ApiKey, edit: KeyEdit) -> tuple[ApiKey, AuditEntry | None]:
    """Write what is wanted of a locked key; return it, and what the audit says of it if anything changed."""
    changed = replace(
        present,
        name=present.name if isinstance(edit.name, Unchanged) else edit.name,
        limit=present.limit if isinstance(edit.limit, Unchanged) else edit.limit,
    )
    if changed == present:
        return present, None
    parameters = _named(work, present.id) | {"name": changed.name} | limit_columns(changed.limit)
    await work.session.execute(_CHANGE, parameters)
    before, after = _told(present), _told(changed)
    fields = [field for field in before if before[field] != after[field]]
    return changed, AuditEntry(
        "key.update",
        f"key:{present.id}",
        before={field: before[field] for field in fields},
        after={field: after[field] for field in fields},
    )


def _told(key: ApiKey) -> dict[str, Any]:
    return {"name": key.name, "limits": shown_limit(key.limit)}


def _named(work: TenantUnitOfWork, key_id: UUID) -> dict[str, Any]:
    return {"tenant_id": work.tenant_id, "key_id": ApiKeyId(key_id)}
