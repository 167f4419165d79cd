"""What accounts need of a tenant's policy, within their own transaction. Implementation: `authz/subject_rows.py`."""

from collections.abc import Mapping
from typing import Protocol

from tenancy.unit_of_work import TenantUnitOfWork


class OwnedRows(Protocol):
    """Rows of a tenant's policy that are about one subject, locked by the transaction that found them."""

    @property
    def growth(self) -> Mapping[str, int]:
        """How many rows of each kind the tenant loses, below 0, as `tenancy.heads.raise_head` takes it."""

    @property
    def count(self) -> int:
        """How many there are."""

    async def remove(self, work: TenantUnitOfWork, revision: int) -> None:
        """Remove them, and write that into the history of `revision`, whose entry is there."""


class SubjectPolicy(Protocol):
    """What the policy of a tenant holds of one subject."""

    async def owned_by_api(self, work: TenantUnitOfWork, subject: str) -> OwnedRows:
        """Return the subject's memberships and attributes that the API owns; the tenant's lock is held."""
