"""What authentication needs from storage. Implementation: `authn/storage.py`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol
from uuid import UUID

from authn.api_keys import ApiKey, ApiKeyId
from authn.key_edits import EVERYBODY, KeyEdit, KeyOwner, KeyResult, RotatedKey
from authn.sessions import Session
from tenancy.ids import Slug, TenantId
from tenancy.once import Once
from tenancy.tenant import ChangeMeta, TenantHead


@dataclass(frozen=True, slots=True)
class FoundKey:
    """A key, and where its tenant stood in the same database snapshot.

    `owner_lives`: the owner of a personal key may still use it; true for a service's key.
    """

    key: ApiKey
    slug: Slug
    tenant_head: TenantHead
    owner_lives: bool = True


@dataclass(frozen=True, slots=True)
class ApiKeyPage:
    """Keys ascending by id, which is by age; `cursor` is None on the last page."""

    keys: Sequence[ApiKey]
    cursor: str | None


class ApiKeys(Protocol):
    """The store of API keys. Every method raises `KeyStorageUnavailableError` when PostgreSQL cannot answer."""

    async def find_by_hash(self, key_hash: bytes) -> FoundKey | None:
        """Return the key with this hash, also an expired or revoked one: the caller checks `is_live`."""

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

    async def find(self, tenant_id: TenantId, key_id: ApiKeyId) -> ApiKey | None:
        """Return a key of a tenant, also one that ended."""

    async def list(
        self, tenant_id: TenantId, after: str | None, limit: int, *, owner: KeyOwner = EVERYBODY
    ) -> ApiKeyPage:
        """Return keys of a tenant, or those of one owner, with the ended ones."""

    async def revoke(
        self, tenant_id: TenantId, key_id: ApiKeyId, *, meta: ChangeMeta, owner: KeyOwner = EVERYBODY
    ) -> TenantHead:
        """End a key now; raises `ApiKeyNotFoundError`. A key that was revoked before stays so, and nothing changes."""

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

    async def update(
        self, tenant_id: TenantId, key_id: ApiKeyId, edit: KeyEdit, *, meta: ChangeMeta, owner: KeyOwner = EVERYBODY
    ) -> KeyResult:
        """Change a live key's name and limit; raises `ApiKeyNotFoundError` and `KeyEndedError`."""
