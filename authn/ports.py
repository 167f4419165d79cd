"""What authentication needs from storage. Implementation: `authn/storage.py`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from authn.api_keys import ApiKey, ApiKeyId
from tenancy.ids import Slug, TenantId
from tenancy.once import Once
from tenancy.tenant import ChangeMeta, TenantHead


@dataclass(frozen=True, slots=True)
class FoundKey:
    """A key, and where its tenant stood in the same database snapshot."""

    key: ApiKey
    slug: Slug
    tenant_head: TenantHead


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
        self, key: ApiKey, key_hash: bytes, *, meta: ChangeMeta, once: Once[TenantHead] | None = None
    ) -> TenantHead:
        """Store a key; raises `KeyTenantNotFoundError` or `KeyLimitExceededError`.

        With `once`, it acts once for its request.
        """

    async def list(self, tenant_id: TenantId, after: str | None, limit: int) -> ApiKeyPage:
        """Return keys of a tenant, with the ended ones."""

    async def revoke(self, tenant_id: TenantId, key_id: ApiKeyId, *, meta: ChangeMeta) -> TenantHead:
        """End a key now; raises `ApiKeyNotFoundError`. A key that was revoked before stays so, and nothing changes."""
