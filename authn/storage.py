"""API keys in PostgreSQL."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import Row, text

from authn.api_keys import ApiKey, ApiKeyId
from authn.errors import (
    ApiKeyNotFoundError,
    KeyLimitExceededError,
    KeyStorageUnavailableError,
    KeyTenantNotFoundError,
)
from authn.ports import ApiKeyPage, FoundKey
from tenancy.audit import AuditEntry
from tenancy.errors import DatabaseUnavailableError
from tenancy.heads import head_of, lock_head, raise_head, record_change
from tenancy.ids import Slug, TenantId
from tenancy.kept_answers import claim, keep
from tenancy.once import Once
from tenancy.tenant import ChangeMeta, TenantHead
from tenancy.unit_of_work import Sessions, TenantUnitOfWork, tenant_unit_of_work, unbound_session, within

T = TypeVar("T")

REQUEST_SECONDS = 2.5
MAX_LIVE_KEYS = 1000
_COLUMNS = "tenant_id, key_id, prefix, name, scopes, created_at, expires_at, revoked_at, created_by"


class ApiKeyStore:
    """`ApiKeys` on PostgreSQL. Creating and revoking raise the tenant's `revision` and `keys_revision`."""

    def __init__(
        self, sessions: Sessions, *, request_seconds: float = REQUEST_SECONDS, max_live_keys: int = MAX_LIVE_KEYS
    ) -> None:
        """Keep where units of work come from, how long a call may take, and how many keys a tenant may hold."""
        self._sessions = sessions
        self._seconds = request_seconds
        self._max_live_keys = max_live_keys

    async def find_by_hash(self, key_hash: bytes) -> FoundKey | None:
        """Return the key with this hash, also an expired or revoked one: the caller checks `is_live`."""
        return await self._bounded(lambda: self._find_by_hash(key_hash))

    async def create(
        self, key: ApiKey, key_hash: bytes, *, meta: ChangeMeta, once: Once[TenantHead] | None = None
    ) -> TenantHead:
        """Store a key; raises `KeyTenantNotFoundError` or `KeyLimitExceededError`.

        With `once`, it acts once for its request.
        """
        return await self._bounded(lambda: self._create(key, key_hash, meta, once))

    async def list(self, tenant_id: TenantId, after: str | None, limit: int) -> ApiKeyPage:
        """Return keys of a tenant, with the ended ones."""
        return await self._bounded(lambda: self._list(tenant_id, after, limit))

    async def revoke(self, tenant_id: TenantId, key_id: ApiKeyId, *, meta: ChangeMeta) -> TenantHead:
        """End a key now; raises `ApiKeyNotFoundError`. A key that was revoked before stays so, and nothing changes."""
        return await self._bounded(lambda: self._revoke(tenant_id, key_id, meta))

    async def _bounded(self, work: Callable[[], Awaitable[T]]) -> T:
        try:
            return await within(self._seconds, work)
        except DatabaseUnavailableError as error:
            raise KeyStorageUnavailableError(str(error)) from error

    async def _find_by_hash(self, key_hash: bytes) -> FoundKey | None:
        # SECURITY: the tenant is not known yet, so no tenant is bound: the function returns this one key or nothing.
        async with unbound_session(self._sessions) as session:
            query = text("SELECT * FROM find_api_key(:key_hash)")
            row = (await session.execute(query, {"key_hash": key_hash})).one_or_none()
        return None if row is None else FoundKey(_key(row), Slug(row.slug), head_of(row))

    async def _create(
        self, key: ApiKey, key_hash: bytes, meta: ChangeMeta, once: Once[TenantHead] | None
    ) -> TenantHead:
        async with tenant_unit_of_work(self._sessions, key.tenant_id) as work:
            await claim(work, once)
            await _lock(work)
            live = await work.session.execute(
                text(
                    "SELECT count(*) FROM api_keys WHERE tenant_id = :tenant_id AND revoked_at IS NULL "
                    "AND (expires_at IS NULL OR expires_at > clock_timestamp())"
                ),
                {"tenant_id": key.tenant_id},
            )
            if live.scalar_one() >= self._max_live_keys:
                raise KeyLimitExceededError(f"the tenant has {self._max_live_keys} live keys, which is the limit")
            head = await raise_head(work, keys=True)
            query = text(
                "INSERT INTO api_keys (tenant_id, key_id, key_hash, prefix, name, scopes, created_at, expires_at, "
                "created_by) VALUES (:tenant_id, :key_id, :key_hash, :prefix, :name, :scopes, :created_at, "
                ":expires_at, :created_by)"
            )
            await work.session.execute(
                query,
                {
                    "tenant_id": key.tenant_id,
                    "key_id": key.id,
                    "key_hash": key_hash,
                    "prefix": key.prefix,
                    "name": key.name,
                    "scopes": sorted(key.scopes),
                    "created_at": key.created_at,
                    "expires_at": key.expires_at,
                    "created_by": key.created_by or meta.actor,
                },
            )
            entry = AuditEntry("key.create", target=f"key:{key.id}", after=_said(key))
            await record_change(work.session, head, "key", meta, added=1, audit=[entry])
            await keep(work, once, head)
            return head

    async def _list(self, tenant_id: TenantId, after: str | None, limit: int) -> ApiKeyPage:
        query = text(
            f"SELECT {_COLUMNS} FROM api_keys WHERE tenant_id = :tenant_id AND key_id > :after "  # noqa: S608 - constants
            "ORDER BY key_id LIMIT :limit"
        )
        parameters = {"tenant_id": tenant_id, "after": UUID(after or "0" * 32), "limit": limit + 1}
        async with tenant_unit_of_work(self._sessions, tenant_id) as work:
            rows = (await work.session.execute(query, parameters)).all()
        keys = [_key(row) for row in rows[:limit]]
        return ApiKeyPage(keys, str(keys[-1].id) if len(rows) > limit else None)

    async def _revoke(self, tenant_id: TenantId, key_id: ApiKeyId, meta: ChangeMeta) -> TenantHead:
        async with tenant_unit_of_work(self._sessions, tenant_id) as work:
            head = await _lock(work)
            parameters = {"tenant_id": tenant_id, "key_id": key_id}
            found = await work.session.execute(
                text("SELECT revoked_at, prefix, name FROM api_keys WHERE tenant_id = :tenant_id AND key_id = :key_id"),
                parameters,
            )
            row = found.one_or_none()
            if row is None:
                raise ApiKeyNotFoundError(f"the tenant has no key `{key_id}`")
            if row.revoked_at is not None:
                return head
            head = await raise_head(work, keys=True)
            await work.session.execute(
                text(
                    "UPDATE api_keys SET revoked_at = clock_timestamp() "
                    "WHERE tenant_id = :tenant_id AND key_id = :key_id"
                ),
                parameters,
            )
            entry = AuditEntry("key.revoke", target=f"key:{key_id}", after={"prefix": row.prefix, "name": row.name})
            await record_change(work.session, head, "key", meta, removed=1, audit=[entry])
            return head


async def _lock(work: TenantUnitOfWork) -> TenantHead:
    locked = await lock_head(work)
    if locked is None:
        raise KeyTenantNotFoundError(f"no tenant has the id `{work.tenant_id}`")
    return locked[0]


def _said(key: ApiKey) -> dict[str, Any]:
    """Return what the audit may say of a key: neither the token nor its hash."""
    expires_at = None if key.expires_at is None else key.expires_at.isoformat()
    return {"prefix": key.prefix, "name": key.name, "scopes": sorted(key.scopes), "expires_at": expires_at}


def _key(row: Row[Any]) -> ApiKey:
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
    )
