"""What the use cases of tenants need from storage. Implementation: `tenancy/storage.py`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tenancy.ids import Slug, TenantId, TenantStatus
from tenancy.once import Once
from tenancy.tenant import ChangeMeta, Tenant


@dataclass(frozen=True, slots=True)
class TenantPage:
    """Tenants ascending by slug; `cursor` is None on the last page."""

    tenants: Sequence[Tenant]
    cursor: str | None


class TenantRegistry(Protocol):
    """The registry of tenants. Every method raises `DatabaseUnavailableError` when PostgreSQL cannot answer."""

    async def create(
        self, slug: Slug, display_name: str, *, meta: ChangeMeta, once: Once[Tenant] | None = None
    ) -> Tenant:
        """Enter a tenant at revision 1; raises `SlugTakenError`. With `once`, it acts once for its request."""

    async def find(self, tenant_id: TenantId) -> Tenant | None:
        """Return a tenant, or None."""

    async def find_by_slug(self, slug: str) -> Tenant | None:
        """Return a tenant, or None."""

    async def list(
        self, after: str | None, limit: int, *, status: TenantStatus | None = None, search: str | None = None
    ) -> TenantPage:
        """Return tenants whose slug comes after `after`; the two reserved entries are left out.

        Args:
            after: The last slug of the page before.
            limit: Most tenants of this page.
            status: Only these; without it all but those of which nothing is left.
            search: What slug or display name contain, whatever its case.
        """
