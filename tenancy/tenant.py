"""A tenant as storage knows it: where it stands, and who changed it."""

from dataclasses import dataclass
from datetime import datetime

from tenancy.ids import Slug, TenantId, TenantStatus


@dataclass(frozen=True, slots=True)
class TenantHead:
    """Where a tenant stands. All numbers only grow.

    `revision` rises with every change, `rules_revision` is the last revision that changed rules, hierarchy, base or
    model, `keys_revision` the last one that changed API keys.
    """

    tenant_id: TenantId
    slug: Slug
    status: TenantStatus
    revision: int
    rules_revision: int
    keys_revision: int


@dataclass(frozen=True, slots=True)
class Tenant:
    """One entry of the registry."""

    head: TenantHead
    display_name: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class ChangeMeta:
    """Who changed something and why. `actor` is `key:<prefix>` today; never a secret."""

    actor: str
    reason: str | None = None
    git_commit: str | None = None
    request_id: str | None = None
