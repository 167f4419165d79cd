"""Removes everything of a tenant whose grace is over, a batch at a time; what is left is its slug and its audit.

A batch is one transaction, and where the work stands is in the database alone: whoever takes it up after a kill, on
this node or another, goes on where it ended. The service may not remove rows of a living tenant's history or keys; the
function `purge_tenant_rows` removes those of a deleted one, and asks for its status itself.
"""

from collections.abc import Sequence
from typing import Protocol

import structlog
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from tenancy.audit import AuditEntry
from tenancy.audit_log import append_audit
from tenancy.errors import TenancyError
from tenancy.heads import find_head, raise_head, record_change
from tenancy.ids import PLATFORM_TENANT_ID, TenantId, TenantStatus
from tenancy.tenant import ChangeMeta, TenantHead
from tenancy.unit_of_work import Sessions, TenantUnitOfWork, tenant_unit_of_work

PURGED_TABLES: tuple[str, ...] = (
    "kept_answers",
    "memberships",
    "entities",
    "role_links",
    "rules",
    "api_keys",
    "service_accounts",
    "mails",
    "links",
    "address_changes",
    "invitations",
    "throttles",
    "credential_failures",
    "sign_in_throttles",
    "known_devices",
    "former_passwords",
    "authenticators",
    "recovery_codes",
    "enrolment_codes",
    "webauthn_registrations",
    "ended_sessions",
    "spent_challenges",
    "users",
    "subject_keys",
    "data_keys",
    "tenant_settings",
    "change_items",
    "changes",
)
"""Tables whose rows go with their tenant, those that refer to others first."""

KEPT_TABLES = {
    "tenants": "the slug is never used again",
    "audit_events": "what happened stays; what is personal in it cannot be read once its keys are gone",
    "audit_chains": "without its head a chain proves nothing",
    "audit_sink": "the platform's own",
    "bootstrap_tokens": "the platform's own",
    "audit_keys": "the platform's own",
    "audit_checkpoints": "what was signed stays signed",
    "audit_signed": "how far the audit that stays was signed",
    "key_encryption": "the platform's own",
    "key_nodes": "the platform's own",
    "key_rotations": "the platform's own",
    "platform_model": "the platform's own",
}
"""Tables whose rows stay, and why."""

BATCH = 1000
SYSTEM = ChangeMeta("system", "the grace of the deleted tenant is over")

_log = structlog.get_logger(__name__)

_DUE = text(
    "SELECT tenant_id FROM tenants WHERE status IN ('deleting', 'deleted') AND purged_at IS NULL "
    "AND purge_after <= clock_timestamp() ORDER BY purge_after LIMIT :limit"
)
# Two nodes never work on one tenant at a time: the second one finds nothing, and leaves it to the first.
_LOCK = text(
    "SELECT status FROM tenants WHERE tenant_id = :tenant_id AND status IN ('deleting', 'deleted') "
    "AND purged_at IS NULL AND purge_after <= clock_timestamp() FOR NO KEY UPDATE SKIP LOCKED"
)
_END = text(
    "UPDATE tenants SET status = 'deleted', display_name = slug, rules_count = 0, links_count = 0, "
    "memberships_count = 0, entities_count = 0, users_count = 0 WHERE tenant_id = :tenant_id"
)
_REMOVE = text("SELECT purge_tenant_rows(:name, :batch)")
# Rows that refer to the tenant hold this lock shared while they are written, so whoever began before is waited for.
_LOCK_ALL = text("SELECT 1 FROM tenants WHERE tenant_id = :tenant_id AND purged_at IS NULL FOR UPDATE")
_DONE = text("UPDATE tenants SET purged_at = clock_timestamp() WHERE tenant_id = :tenant_id")


class Traces(Protocol):
    """What else holds something of a tenant: Valkey."""

    async def forget_tenant(self, tenant_id: TenantId) -> bool:
        """Remove every key of a tenant; whether that is certain."""


class Watching(Protocol):
    """What of the node is told of a change."""

    async def note_write(self, head: TenantHead) -> None:
        """Take up an own write and tell the other nodes."""


class Purge:
    """Removes tenants whose grace is over."""

    def __init__(self, sessions: Sessions, traces: Traces, node: Watching, *, batch: int = BATCH) -> None:
        """Keep where units of work come from, and who else must forget; `batch` rows go in one transaction."""
        self._sessions = sessions
        self._traces = traces
        self._node = node
        self._batch = batch

    async def run(self) -> None:
        """Remove every tenant that is due; one that cannot be now is left for the next time, and holds up no other.

        Raises:
            TenancyError, SQLAlchemyError: what kept the last of those that were left.
        """
        kept: Exception | None = None
        for tenant_id in await self._due():
            try:
                await self.remove(tenant_id)
            except (TenancyError, SQLAlchemyError) as error:
                _log.warning("tenancy.purge.failed", tenant_id=str(tenant_id), error=str(error))
                kept = error
        if kept is not None:
            raise kept

    async def remove(self, tenant_id: TenantId) -> bool:
        """Remove one tenant as far as it is due; whether nothing of it is left."""
        if not await self._end(tenant_id):
            return False
        removed: dict[str, int] = {}
        while True:
            for table in PURGED_TABLES:
                while (count := await self._remove_batch(tenant_id, table)) != 0:
                    removed[table] = removed.get(table, 0) + count
            if not await self._traces.forget_tenant(tenant_id):
                _log.warning("tenancy.purge.traces_left", tenant_id=str(tenant_id))
                return False
            if await self._close(tenant_id, removed):
                _log.info("tenancy.purged", tenant_id=str(tenant_id), **removed)
                return True

    async def _due(self, limit: int = 100) -> Sequence[TenantId]:
        async with tenant_unit_of_work(self._sessions, PLATFORM_TENANT_ID) as work:
            rows = (await work.session.execute(_DUE, {"limit": limit})).scalars().all()
        return [TenantId(row) for row in rows]

    async def _end(self, tenant_id: TenantId) -> bool:
        """Make the tenant a deleted one, for which nothing is written any more; whether it is one, and due."""
        async with tenant_unit_of_work(self._sessions, tenant_id) as work:
            status = (await work.session.execute(_LOCK, {"tenant_id": tenant_id})).scalar_one_or_none()
            if status != TenantStatus.DELETING:
                return status is not None
            await work.session.execute(_END, {"tenant_id": tenant_id})
            head = await raise_head(work, rules=True, keys=True)
            entry = AuditEntry("tenant.end", target=f"tenant:{tenant_id}", after={"status": TenantStatus.DELETED.value})
            await record_change(work.session, head, "tenant", SYSTEM, audit=[entry])
        await self._node.note_write(head)
        return True

    async def _remove_batch(self, tenant_id: TenantId, table: str) -> int:
        async with tenant_unit_of_work(self._sessions, tenant_id) as work:
            return await _remove(work, table, self._batch)

    async def _close(self, tenant_id: TenantId, removed: dict[str, int]) -> bool:
        """Say that nothing is left, unless there is: then what was written meanwhile is to be removed, too."""
        async with tenant_unit_of_work(self._sessions, tenant_id) as work:
            if (await work.session.execute(_LOCK_ALL, {"tenant_id": tenant_id})).scalar_one_or_none() is None:
                return True
            for table in PURGED_TABLES:
                if await _remove(work, table, self._batch):
                    return False
            head = await find_head(work.session, tenant_id)
            revision = None if head is None else head.revision
            entry = AuditEntry("tenant.purge", target=f"tenant:{tenant_id}", detail={"removed": dict(removed)})
            await append_audit(work, SYSTEM, [entry], revision=revision)
            await work.session.execute(_DONE, {"tenant_id": tenant_id})
        return True


async def _remove(work: TenantUnitOfWork, table: str, batch: int) -> int:
    count: int = (await work.session.execute(_REMOVE, {"name": table, "batch": batch})).scalar_one()
    return count
