"""API keys in PostgreSQL."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar
from uuid import UUID

from sqlalchemy import text

from authn.api_keys import ApiKey, ApiKeyId
from authn.errors import ApiKeyNotFoundError, KeyStorageUnavailableError, KeyTenantNotFoundError
from authn.key_changes import OWNED, change_key, end_key, lock_key, replace_key
from authn.key_edits import EVERYBODY, KeyEdit, KeyOwner, KeyResult, RotatedKey
from authn.key_notices import tell_of_keys
from authn.key_rows import KEY_COLUMNS, created_entry, insert_key, key_of, require_maker, require_room
from authn.ports import ApiKeyPage, FoundKey
from authn.sessions import Session
from tenancy.errors import DatabaseUnavailableError
from tenancy.heads import head_of, lock_head, raise_head, record_change
from tenancy.ids import Slug, TenantId
from tenancy.kept_answers import claim, keep
from tenancy.key_ring import KeyRing
from tenancy.once import Once
from tenancy.one_trip import fetch_row
from tenancy.tenant import ChangeMeta, TenantHead
from tenancy.unit_of_work import Sessions, TenantUnitOfWork, tenant_unit_of_work, within

T = TypeVar("T")

REQUEST_SECONDS = 2.5
MAX_LIVE_KEYS = 1000
_FIND = text("SELECT * FROM find_api_key(:key_hash)")


class ApiKeyStore:
    """`ApiKeys` on PostgreSQL. Creating and revoking raise the tenant's `revision` and `keys_revision`."""

    def __init__(
        self,
        sessions: Sessions,
        ring: KeyRing | None = None,
        *,
        request_seconds: float = REQUEST_SECONDS,
        max_live_keys: int = MAX_LIVE_KEYS,
    ) -> None:
        """Keep where units of work come from, how long a call may take, and how many keys a tenant may hold.

        `ring` seals what people are told of their keys; without it nobody is told: where keys are looked up only, or
        are those of services.
        """
        self._sessions = sessions
        self._ring = ring
        self._seconds = request_seconds
        self._max_live_keys = max_live_keys

    async def find_by_hash(self, key_hash: bytes) -> FoundKey | None:
        """Return the key with this hash, also an expired or revoked one: the caller checks `is_live`."""
        return await self._bounded(lambda: self._find_by_hash(key_hash))

    async def create(
        self,
        key: ApiKey,
        key_hash: bytes,
        *,
        meta: ChangeMeta,
        once: Once[TenantHead] | None = None,
        maker: UUID | Session | None = None,
    ) -> TenantHead:
        """Store a key; raises `KeyTenantNotFoundError`, `UserNotFoundError` or `KeyLimitExceededError`.

        With `once`, it acts once for its request. With `maker`, a key of the same tenant, only while that one lives;
        else raises `KeyMakerEndedError`.
        """
        return await self._bounded(lambda: self._create(key, key_hash, meta, once, maker))

    async def find(self, tenant_id: TenantId, key_id: ApiKeyId) -> ApiKey | None:
        """Return a key of a tenant, also one that ended."""
        return await self._bounded(lambda: self._find(tenant_id, key_id))

    async def list(
        self, tenant_id: TenantId, after: str | None, limit: int, *, owner: KeyOwner = EVERYBODY
    ) -> ApiKeyPage:
        """Return keys of a tenant, or those of one owner, with the ended ones."""
        return await self._bounded(lambda: self._list(tenant_id, after, limit, owner))

    async def revoke(
        self, tenant_id: TenantId, key_id: ApiKeyId, *, meta: ChangeMeta, owner: KeyOwner = EVERYBODY
    ) -> TenantHead:
        """End a key now; raises `ApiKeyNotFoundError`. A key that was revoked before stays so, and nothing changes."""
        return await self._bounded(lambda: self._revoke(tenant_id, key_id, meta, owner))

    async def rotate(
        self,
        previous_id: ApiKeyId,
        key: ApiKey,
        key_hash: bytes,
        *,
        overlap: timedelta,
        meta: ChangeMeta,
        once: Once[RotatedKey] | None = None,
        maker: UUID | Session | None = None,
    ) -> RotatedKey:
        """Store a key in the place of another one of its owner, which ends after `overlap`.

        Raises what `create` does, and `ApiKeyNotFoundError` or `KeyEndedError` for the one before it.
        """
        return await self._bounded(
            lambda: self._rotate(previous_id, key, key_hash, overlap, meta=meta, once=once, maker=maker)
        )

    async def update(
        self, tenant_id: TenantId, key_id: ApiKeyId, edit: KeyEdit, *, meta: ChangeMeta, owner: KeyOwner = EVERYBODY
    ) -> KeyResult:
        """Change a live key's name and limit; raises `ApiKeyNotFoundError` and `KeyEndedError`."""
        return await self._bounded(lambda: self._update(tenant_id, key_id, edit, meta, owner))

    async def _bounded(self, work: Callable[[], Awaitable[T]]) -> T:
        try:
            return await within(self._seconds, work)
        except DatabaseUnavailableError as error:
            raise KeyStorageUnavailableError(str(error)) from error

    async def _find_by_hash(self, key_hash: bytes) -> FoundKey | None:
        # SECURITY: the tenant is not known yet, so no tenant is bound: the function returns this one key or nothing.
        row = await fetch_row(self._sessions, None, _FIND, {"key_hash": key_hash})
        return None if row is None else FoundKey(key_of(row), Slug(row.slug), head_of(row), row.owner_lives)

    async def _create(
        self,
        key: ApiKey,
        key_hash: bytes,
        meta: ChangeMeta,
        once: Once[TenantHead] | None,
        maker: UUID | Session | None,
    ) -> TenantHead:
        async with tenant_unit_of_work(self._sessions, key.tenant_id) as work:
            await claim(work, once)
            await _lock(work)
            if maker is not None:
                await require_maker(work, maker)
            await self._require_room(work, key)
            head = await raise_head(work, keys=True)
            await insert_key(work, key, key_hash, created_by=key.created_by or meta.actor)
            await self._tell_owner(work, key.owner_id)
            await record_change(work.session, head, "key", meta, added=1, audit=[created_entry(key)])
            await keep(work, once, head)
            return head

    async def _find(self, tenant_id: TenantId, key_id: ApiKeyId) -> ApiKey | None:
        query = text(
            f"SELECT {KEY_COLUMNS} FROM api_keys WHERE tenant_id = :tenant_id AND key_id = :key_id"  # noqa: S608 - constants
        )
        async with tenant_unit_of_work(self._sessions, tenant_id) as work:
            row = (await work.session.execute(query, {"tenant_id": tenant_id, "key_id": key_id})).one_or_none()
        return None if row is None else key_of(row)

    async def _list(self, tenant_id: TenantId, after: str | None, limit: int, owner: KeyOwner) -> ApiKeyPage:
        query = text(
            f"SELECT {KEY_COLUMNS} FROM api_keys WHERE tenant_id = :tenant_id AND key_id > :after "  # noqa: S608 - constants
            f"AND {OWNED} ORDER BY key_id LIMIT :limit"
        )
        place = UUID(after or "0" * 32)
        parameters = {"tenant_id": tenant_id, "after": place, "limit": limit + 1} | owner.named()
        async with tenant_unit_of_work(self._sessions, tenant_id) as work:
            rows = (await work.session.execute(query, parameters)).all()
        keys = [key_of(row) for row in rows[:limit]]
        return ApiKeyPage(keys, str(keys[-1].id) if len(rows) > limit else None)

    async def _revoke(self, tenant_id: TenantId, key_id: ApiKeyId, meta: ChangeMeta, owner: KeyOwner) -> TenantHead:
        async with tenant_unit_of_work(self._sessions, tenant_id) as work:
            head = await _lock(work)
            key = await lock_key(work, key_id, owner, live=False)
            if key.revoked_at is not None:
                return head
            head = await raise_head(work, keys=True)
            entry = await end_key(work, key)
            await self._tell_owner(work, key.owner_id)
            await record_change(work.session, head, "key", meta, removed=1, audit=[entry])
            return head

    async def _rotate(
        self,
        previous_id: ApiKeyId,
        key: ApiKey,
        key_hash: bytes,
        overlap: timedelta,
        *,
        meta: ChangeMeta,
        once: Once[RotatedKey] | None,
        maker: UUID | Session | None,
    ) -> RotatedKey:
        async with tenant_unit_of_work(self._sessions, key.tenant_id) as work:
            await claim(work, once)
            await _lock(work)
            if maker is not None:
                await require_maker(work, maker)
            previous = await lock_key(work, previous_id, KeyOwner(key.owner_id, key.service_account_id))
            if previous.owner != key.owner:
                raise ApiKeyNotFoundError(f"there is no such key `{previous_id}`")
            await self._require_room(work, key)
            head = await raise_head(work, keys=True)
            made, ends_at, entry = await replace_key(work, previous, key, key_hash, overlap)
            await self._tell_owner(work, key.owner_id)
            await record_change(work.session, head, "key", meta, added=1, audit=[entry])
            rotated = RotatedKey(head, made, ends_at)
            await keep(work, once, rotated)
            return rotated

    async def _update(
        self, tenant_id: TenantId, key_id: ApiKeyId, edit: KeyEdit, meta: ChangeMeta, owner: KeyOwner
    ) -> KeyResult:
        async with tenant_unit_of_work(self._sessions, tenant_id) as work:
            head = await _lock(work)
            key, entry = await change_key(work, await lock_key(work, key_id, owner), edit)
            if entry is None:
                return KeyResult(head, key)
            head = await raise_head(work, keys=True)
            await self._tell_owner(work, key.owner_id)
            await record_change(work.session, head, "key", meta, audit=[entry])
            return KeyResult(head, key)

    async def _require_room(self, work: TenantUnitOfWork, key: ApiKey) -> None:
        if key.owner is None:
            await require_room(work, self._max_live_keys)

    async def _tell_owner(self, work: TenantUnitOfWork, owner_id: UUID | None) -> None:
        if owner_id is not None and self._ring is not None:
            await tell_of_keys(work, self._ring, owner_id)


async def _lock(work: TenantUnitOfWork) -> TenantHead:
    locked = await lock_head(work)
    if locked is None:
        raise KeyTenantNotFoundError(f"no tenant has the id `{work.tenant_id}`")
    return locked[0]
