"""A tenant as storage knows it: where it stands, and who changed it."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from tenancy.ids import Slug, TenantId, TenantStatus

NO_STAMP = UUID(int=0)
"""Of policies that have one history only, such as files."""


@dataclass(frozen=True, slots=True)
class TenantHead:
    """Where a tenant stands. All numbers only grow.

    `revision` rises with every change, `rules_revision` is the last revision that changed rules, hierarchy, base or
    model, `keys_revision` the last one that changed API keys.

    A database that is put back to an earlier state counts on from there, so a number alone may stand for two different
    states. `stamp` is drawn at random with each `revision`, `rules_stamp` with each `rules_revision`: number and stamp
    together stand for one.
    """

    tenant_id: TenantId
    slug: Slug
    status: TenantStatus
    revision: int
    rules_revision: int
    keys_revision: int
    stamp: UUID = NO_STAMP
    rules_stamp: UUID = NO_STAMP

    @property
    def version(self) -> tuple[int, UUID]:
        """What no other state of this tenant has, in this history or another."""
        return self.revision, self.stamp

    @property
    def rules_version(self) -> tuple[int, UUID]:
        """What no other state of this tenant's rules has."""
        return self.rules_revision, self.rules_stamp

    def contradicts(self, other: "TenantHead") -> bool:
        """Whether both cannot be from one history: the same number for two states."""
        return self.revision == other.revision and self.stamp != other.stamp


@dataclass(frozen=True, slots=True)
class Tenant:
    """One entry of the registry."""

    head: TenantHead
    display_name: str
    created_at: datetime
    purge_after: datetime | None = None
    """When everything of a deleted tenant is removed; until then it can be restored."""


@dataclass(frozen=True, slots=True)
class ChangeMeta:
    """Who changed something, how, from where and why; never a secret.

    `actor` is `user:<uuid>` for a person, `key:<prefix>` for a service, or a word for a command. `credential` is what
    they proved it with (`key:<prefix>`), `address` the IP address that they called from.
    """

    actor: str
    reason: str | None = None
    git_commit: str | None = None
    request_id: str | None = None
    credential: str | None = None
    address: str | None = None
