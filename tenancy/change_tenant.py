"""Changes of a tenant as a whole: its name, its status. Each is one revision, one entry of history, one audit event."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, text

from tenancy.audit import AuditEntry
from tenancy.create_tenant import check_display_name
from tenancy.errors import TenantGoneError, TenantMovedOnError
from tenancy.heads import lock_head, raise_head, record_change
from tenancy.ids import TenantId, TenantStatus
from tenancy.storage import read_tenant
from tenancy.tenant import ChangeMeta, Tenant
from tenancy.tenant_life import TenantAct, status_after
from tenancy.tenant_settings import TenantLimits
from tenancy.unit_of_work import Sessions, TenantUnitOfWork, tenant_unit_of_work, within

REQUEST_SECONDS = 2.5

_NOW = text(
    "SELECT display_name, purge_after, status_before, coalesce(purge_after <= clock_timestamp(), false) AS over "
    "FROM tenants WHERE tenant_id = :tenant_id"
)
# The grace begins with the act, by the database's clock, and does not grow when the setting does.
_SET_STATUS = text(
    "UPDATE tenants SET status = :status, "
    "purge_after = CASE WHEN :deleting THEN clock_timestamp() + make_interval(secs => :grace) END, "
    "status_before = CASE WHEN :deleting THEN :before END WHERE tenant_id = :tenant_id"
)
_SET_NAME = text("UPDATE tenants SET display_name = :display_name WHERE tenant_id = :tenant_id")


@dataclass(frozen=True, slots=True)
class Asked:
    """Who asks for a change, and which revision they saw; None where any will do."""

    meta: ChangeMeta
    expected_revision: int | None = None


class TenantChanges:
    """Changes tenants; every method raises `DatabaseUnavailableError` when PostgreSQL cannot answer.

    Each returns the tenant as it is afterwards. What is so already makes no revision.
    """

    def __init__(self, sessions: Sessions, limits: TenantLimits, *, request_seconds: float = REQUEST_SECONDS) -> None:
        """Keep where units of work come from, and how long a deleted tenant can be restored."""
        self._sessions = sessions
        self._grace_seconds = limits.deletion_grace_seconds
        self._seconds = request_seconds

    async def rename(self, tenant_id: TenantId, display_name: str, asked: Asked) -> Tenant:
        """Give a tenant another name for people.

        Raises:
            InvalidDisplayNameError: it cannot be shown.
            TenantGoneError, TenantMovedOnError: as `act`.
        """
        shown = check_display_name(display_name)
        return await within(self._seconds, lambda: self._rename(tenant_id, shown, asked))

    async def act(self, tenant_id: TenantId, act: TenantAct, asked: Asked) -> Tenant:
        """Suspend, reactivate, delete or restore a tenant.

        Raises:
            TenantGoneError: no such tenant, or everything of it is gone.
            TenantMovedOnError: it is not at the revision that was seen.
            TenantStatusError: the act does not fit its status.
        """
        return await within(self._seconds, lambda: self._act(tenant_id, act, asked))

    async def _rename(self, tenant_id: TenantId, display_name: str, asked: Asked) -> Tenant:
        async with tenant_unit_of_work(self._sessions, tenant_id) as work:
            _, present = await self._locked(work, asked)
            if present.display_name != display_name:
                await work.session.execute(_SET_NAME, {"tenant_id": tenant_id, "display_name": display_name})
                # The names stay out of the audit: they may be a person's, and the chain outlives the tenant.
                await _record(work, "tenant.update", asked.meta, {}, {"changed": ["display_name"]})
            return await read_tenant(work)

    async def _act(self, tenant_id: TenantId, act: TenantAct, asked: Asked) -> Tenant:
        async with tenant_unit_of_work(self._sessions, tenant_id) as work:
            status, present = await self._locked(work, asked)
            was = None if present.status_before is None else TenantStatus(present.status_before)
            wanted = status_after(act, status, was=was, grace_is_over=present.over)
            if wanted is not status:
                deleting = wanted is TenantStatus.DELETING
                said = {"status": wanted.value, "deleting": deleting, "grace": self._grace_seconds}
                await work.session.execute(_SET_STATUS, {"tenant_id": tenant_id, "before": status.value} | said)
                tenant = await read_tenant(work)
                before = _status(status, present.purge_after)
                await _record(work, f"tenant.{act.value}", asked.meta, before, _status(wanted, tenant.purge_after))
            return await read_tenant(work)

    async def _locked(self, work: TenantUnitOfWork, asked: Asked) -> tuple[TenantStatus, Row[Any]]:
        locked = await lock_head(work)
        if locked is None:
            raise TenantGoneError
        head = locked[0]
        if asked.expected_revision is not None and head.revision != asked.expected_revision:
            raise TenantMovedOnError(head.revision)
        return head.status, (await work.session.execute(_NOW, {"tenant_id": work.tenant_id})).one()


def _status(status: TenantStatus, purge_after: datetime | None) -> dict[str, Any]:
    return {"status": status.value} | ({} if purge_after is None else {"purge_after": purge_after.isoformat()})


async def _record(
    work: TenantUnitOfWork, action: str, meta: ChangeMeta, before: Mapping[str, Any], after: Mapping[str, Any]
) -> None:
    head = await raise_head(work)
    entry = AuditEntry(action, target=f"tenant:{work.tenant_id}", before=before or None, after=after)
    await record_change(work.session, head, "tenant", meta, audit=[entry])
