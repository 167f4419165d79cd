"""The audit in PostgreSQL. Events are appended in the transaction of what they record, or it does not happen."""

from collections.abc import Sequence

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from tenancy.audit import AuditChain, AuditEntry, event_text
from tenancy.errors import AuditUnavailableError
from tenancy.ids import TenantId
from tenancy.tenant import ChangeMeta
from tenancy.unit_of_work import TenantUnitOfWork

_REFUSED = "KA001"
"""SQLSTATE of `append_audit`: what was written before has not reached the sink for too long."""

_APPEND = text("SELECT append_audit(:tenant_id, :chain, CAST(:events AS text[]))")


async def append_audit(
    work: TenantUnitOfWork,
    meta: ChangeMeta,
    entries: Sequence[AuditEntry],
    *,
    revision: int | None = None,
    chain: AuditChain = AuditChain.TENANT,
) -> None:
    """Append what happened to a chain of the tenant: events without a new revision, refusals among them.

    INVARIANT: a chain's row is locked until the transaction ends, and always after the tenant's row.

    Raises:
        AuditUnavailableError: it must not be written now, so what it would record must not happen.
    """
    await append_entries(work.session, work.tenant_id, meta, entries, revision=revision, chain=chain)


async def append_entries(
    session: AsyncSession,
    tenant_id: TenantId,
    meta: ChangeMeta,
    entries: Sequence[AuditEntry],
    *,
    revision: int | None = None,
    chain: AuditChain = AuditChain.TENANT,
) -> None:
    """As `append_audit`; a session that is bound to the platform may append to any tenant's chain."""
    events = [event_text(entry, meta, revision) for entry in entries]
    try:
        await session.execute(_APPEND, {"tenant_id": tenant_id, "chain": chain.value, "events": events})
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) == _REFUSED:
            raise AuditUnavailableError("the audit has not reached its sink for too long") from error
        raise
