"""The audit in PostgreSQL. Events are appended in the transaction of what they record, or it does not happen."""

from collections.abc import Mapping, Sequence
from typing import Protocol
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from tenancy.audit import AuditChain, AuditEntry, SealedPersonal, event_text, whose_address
from tenancy.errors import AuditUnavailableError
from tenancy.ids import TenantId
from tenancy.tenant import ChangeMeta
from tenancy.unit_of_work import Sessions, TenantUnitOfWork

_REFUSED = "KA001"
"""SQLSTATE of `append_audit`: what was written before has not reached the sink for too long."""

_APPEND = text("SELECT append_audit(:tenant_id, :chain, CAST(:events AS text[]))")


_SEALER = "audit.sealer"


class PersonalSealer(Protocol):
    """What of the key ring the audit needs."""

    async def seal_personal(
        self, work: TenantUnitOfWork, subject_id: UUID, fields: Mapping[str, str]
    ) -> SealedPersonal:
        """Return fields sealed under the subject's own key."""


def seal_personal_with(sessions: Sessions, sealer: PersonalSealer) -> None:
    """Have the audit hold, from now on, from where people acted; without this it leaves that out."""
    sessions.configure(info={_SEALER: sealer})


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
    personal = await _where_from(TenantUnitOfWork(tenant_id, session), meta, entries)
    await _append(session, tenant_id, [event_text(entry, meta, revision, personal) for entry in entries], chain)


async def append_each(
    work: TenantUnitOfWork, events: Sequence[tuple[ChangeMeta, AuditEntry]], *, chain: AuditChain
) -> None:
    """As `append_audit`, for events that each have their own actor and request."""
    texts = [event_text(entry, meta, None, await _where_from(work, meta, [entry])) for meta, entry in events]
    await _append(work.session, work.tenant_id, texts, chain)


async def _append(session: AsyncSession, tenant_id: TenantId, events: Sequence[str], chain: AuditChain) -> None:
    try:
        await session.execute(_APPEND, {"tenant_id": tenant_id, "chain": chain.value, "events": list(events)})
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) == _REFUSED:
            raise AuditUnavailableError("the audit has not reached its sink for too long") from error
        raise


async def _where_from(work: TenantUnitOfWork, meta: ChangeMeta, entries: Sequence[AuditEntry]) -> SealedPersonal | None:
    """Return the address of a person, sealed under a key of theirs in this tenant."""
    person = whose_address(meta, entries)
    sealer: PersonalSealer | None = work.session.info.get(_SEALER)
    if person is None or meta.address is None or sealer is None:
        return None
    return await sealer.seal_personal(work, person, {"address": meta.address})
