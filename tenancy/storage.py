"""The registry of tenants in PostgreSQL."""

import secrets
from dataclasses import replace
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.exc import IntegrityError

from tenancy.audit import AuditEntry, person_of
from tenancy.audit_log import append_audit
from tenancy.errors import SlugTakenError, TenantGoneError
from tenancy.heads import HEAD_COLUMNS, head_of, record_change, share_base_lock
from tenancy.ids import BASE_TENANT_ID, PLATFORM_TENANT_ID, Slug, TenantId, TenantStatus
from tenancy.kept_answers import claim, keep
from tenancy.once import Once
from tenancy.ports import TenantPage
from tenancy.tenant import ChangeMeta, Tenant
from tenancy.unit_of_work import Sessions, TenantUnitOfWork, tenant_unit_of_work, unbound_session, within
from tenancy.uuid7 import make_uuid7

_COLUMNS = f"{HEAD_COLUMNS}, display_name, created_at, purge_after"
_SLUG_CONSTRAINT = "tenants_slug_key"
REQUEST_SECONDS = 2.5


class TenantStore:
    """`TenantRegistry` on PostgreSQL."""

    def __init__(self, sessions: Sessions, *, request_seconds: float = REQUEST_SECONDS) -> None:
        """Keep where units of work come from, and how long a call may take."""
        self._sessions = sessions
        self._seconds = request_seconds

    async def create(
        self, slug: Slug, display_name: str, *, meta: ChangeMeta, once: Once[Tenant] | None = None
    ) -> Tenant:
        """Enter a tenant at revision 1; raises `SlugTakenError`. With `once`, it acts once for its request."""
        return await within(self._seconds, lambda: self._create(slug, display_name, meta, once))

    async def find(self, tenant_id: TenantId) -> Tenant | None:
        """Return a tenant, or None."""
        return await within(self._seconds, lambda: self._find(tenant_id))

    async def find_by_slug(self, slug: str) -> Tenant | None:
        """Return a tenant, or None."""
        return await within(self._seconds, lambda: self._find_by_slug(slug))

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
        return await within(self._seconds, lambda: self._list(after, limit, status, search))

    async def was_changed_by(self, tenant_id: TenantId, kind: str) -> bool:
        """Whether the tenant's history has a change of this kind (`apply`, `api`, …)."""
        return await within(self._seconds, lambda: self._was_changed_by(tenant_id, kind))

    async def _create(self, slug: Slug, display_name: str, meta: ChangeMeta, once: Once[Tenant] | None) -> Tenant:
        try:
            async with tenant_unit_of_work(self._sessions, PLATFORM_TENANT_ID) as work:
                await claim(work, once)
                await share_base_lock(work.session)
                now = (await work.session.execute(text("SELECT clock_timestamp()"))).scalar_one()
                query = text(
                    "INSERT INTO tenants (tenant_id, slug, display_name, created_at) "  # noqa: S608 - constant columns
                    f"VALUES (:tenant_id, :slug, :display_name, :now) RETURNING {_COLUMNS}"
                )
                parameters = {
                    "tenant_id": make_uuid7(now, secrets.token_bytes(10)),
                    "slug": slug,
                    "display_name": display_name,
                    "now": now,
                }
                tenant = _tenant((await work.session.execute(query, parameters)).one())
                entry = AuditEntry(
                    "tenant.create",
                    target=f"tenant:{tenant.head.tenant_id}",
                    after={"slug": slug, "display_name": display_name},
                )
                # The tenant's own chain begins with it; the platform's tells of it, should the other ever be missing.
                # Where a person of the platform sits is sealed under a key of theirs, which is in the platform.
                told = replace(meta, address=None) if person_of(meta.actor) else meta
                await record_change(work.session, tenant.head, "tenant", told, audit=[entry])
                await append_audit(work, meta, [entry])
                await keep(work, once, tenant)
                return tenant
        except IntegrityError as error:
            if getattr(getattr(error.orig, "diag", None), "constraint_name", None) == _SLUG_CONSTRAINT:
                raise SlugTakenError(slug) from error
            raise

    async def _find(self, tenant_id: TenantId) -> Tenant | None:
        async with tenant_unit_of_work(self._sessions, tenant_id) as work:
            return await _find_own(work)

    async def _was_changed_by(self, tenant_id: TenantId, kind: str) -> bool:
        query = text("SELECT EXISTS (SELECT FROM changes WHERE tenant_id = :tenant_id AND kind = :kind)")
        async with tenant_unit_of_work(self._sessions, tenant_id) as work:
            found: bool = (await work.session.execute(query, {"tenant_id": work.tenant_id, "kind": kind})).scalar_one()
        return found

    async def _find_by_slug(self, slug: str) -> Tenant | None:
        async with unbound_session(self._sessions) as session:
            tenant_id = (await session.execute(text("SELECT find_tenant_id(:slug)"), {"slug": slug})).scalar_one()
        return None if tenant_id is None else await self._find(TenantId(tenant_id))

    async def _list(self, after: str | None, limit: int, status: TenantStatus | None, search: str | None) -> TenantPage:
        wanted = "status <> 'deleted'" if status is None else "status = :status"
        if search is not None:
            # `strpos` knows no wildcards, so that `%` and `_` mean themselves.
            wanted += " AND (strpos(slug, lower(:search)) > 0 OR strpos(lower(display_name), lower(:search)) > 0)"
        query = text(
            f"SELECT {_COLUMNS} FROM tenants WHERE slug > :after AND tenant_id NOT IN (:base, :platform) "  # noqa: S608
            f"AND {wanted} ORDER BY slug LIMIT :limit"
        )
        parameters: dict[str, Any] = {"after": after or "", "limit": limit + 1}
        parameters |= {"base": BASE_TENANT_ID, "platform": PLATFORM_TENANT_ID}
        parameters |= {} if status is None else {"status": status.value}
        parameters |= {} if search is None else {"search": search}
        async with tenant_unit_of_work(self._sessions, PLATFORM_TENANT_ID) as work:
            rows = (await work.session.execute(query, parameters)).all()
        tenants = [_tenant(row) for row in rows[:limit]]
        return TenantPage(tenants, tenants[-1].head.slug if len(rows) > limit else None)


async def read_tenant(work: TenantUnitOfWork) -> Tenant:
    """Return the bound tenant, inside a transaction; raises `TenantGoneError`."""
    tenant = await _find_own(work)
    if tenant is None:
        raise TenantGoneError
    return tenant


async def _find_own(work: TenantUnitOfWork) -> Tenant | None:
    query = text(f"SELECT {_COLUMNS} FROM tenants WHERE tenant_id = :tenant_id")  # noqa: S608 - constant columns
    row = (await work.session.execute(query, {"tenant_id": work.tenant_id})).one_or_none()
    return None if row is None else _tenant(row)


def _tenant(row: Row[Any]) -> Tenant:
    return Tenant(head_of(row), row.display_name, row.created_at, row.purge_after)
