"""Reads the audit of one tenant: searches, and whole chains piece by piece."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, text

from tenancy.audit import AuditChain, AuditOutcome
from tenancy.audit_chain import AuditEvent, ChainHead
from tenancy.ids import TenantId
from tenancy.unit_of_work import Sessions, tenant_unit_of_work, within

REQUEST_SECONDS = 2.5
_COLUMNS = "seq, at, previous, hash, CAST(event AS text) AS said"


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """What is searched for: all that is given must hold. `since` is included, `until` is not; both are aware."""

    action: str | None = None
    actor: str | None = None
    target: str | None = None
    outcome: AuditOutcome | None = None
    request_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None


# What lies before a chain's beginning was let go, whether its partition is gone already or not.
_KEPT = (
    "tenant_id = :tenant_id AND chain = :chain AND seq >= "
    "(SELECT c.first_seq FROM audit_chains AS c WHERE c.tenant_id = :tenant_id AND c.chain = :chain)"
)
_CONDITIONS = {
    "action": "action = :action",
    "outcome": "outcome = :outcome",
    "since": "at >= :since",
    "until": "at < :until",
    # The columns hold the first 256 characters, which are indexed; the event holds all of them.
    "actor": "actor = \"left\"(:actor, 256) AND event ->> 'actor' = :actor",
    "target": "target = \"left\"(:target, 256) AND event ->> 'target' = :target",
    "request_id": "request_id = \"left\"(:request_id, 256) AND event ->> 'request_id' = :request_id",
}


_HEAD = text(
    "SELECT seq, hash, first_seq, first_previous FROM audit_chains WHERE tenant_id = :tenant_id AND chain = :chain"
)


class AuditReader:
    """The audit in PostgreSQL. Every method raises `DatabaseUnavailableError` when that cannot answer."""

    def __init__(self, sessions: Sessions, *, request_seconds: float = REQUEST_SECONDS) -> None:
        """Keep where units of work come from, and how long a call may take."""
        self._sessions = sessions
        self._seconds = request_seconds

    async def search(
        self,
        tenant_id: TenantId,
        chain: AuditChain,
        wanted: AuditFilter,
        *,
        after: int | None,
        limit: int,
        newest_first: bool = True,
    ) -> list[AuditEvent]:
        """Return events, those behind number `after` in the order that is asked for."""
        conditions = [_CONDITIONS[name] for name in _CONDITIONS if getattr(wanted, name) is not None]
        if after is not None:
            conditions.append("seq < :after" if newest_first else "seq > :after")
        where = " AND ".join([_KEPT, *conditions])
        order = "DESC" if newest_first else "ASC"
        query = f"SELECT {_COLUMNS} FROM audit_events WHERE {where} ORDER BY seq {order} LIMIT :limit"  # noqa: S608 - ours
        parameters: dict[str, Any] = {name: getattr(wanted, name) for name in _CONDITIONS}
        parameters |= {"after": after, "limit": limit}
        used = {name: value for name, value in parameters.items() if value is not None}
        return await self._events(tenant_id, chain, query, used)

    async def read(
        self, tenant_id: TenantId, chain: AuditChain, *, after: tuple[int, datetime] | None, limit: int
    ) -> tuple[ChainHead, Sequence[AuditEvent]]:
        """Return where a chain stands, and what lies behind a row, oldest first: also rows that should not be there.

        Both are of one moment, so an event behind the head's number was not appended as all others are.
        """
        behind = "" if after is None else "AND (seq, at) > (:seq, :at) "
        query = text(
            f"SELECT {_COLUMNS} FROM audit_events WHERE {_KEPT} "  # noqa: S608 - ours
            f"{behind}ORDER BY seq, at LIMIT :limit"
        )
        named: dict[str, Any] = {"tenant_id": tenant_id, "chain": chain.value}
        place = {} if after is None else {"seq": after[0], "at": after[1]}

        async def ask() -> tuple[ChainHead, Sequence[AuditEvent]]:
            async with tenant_unit_of_work(self._sessions, tenant_id, repeatable_read=True) as work:
                found = (await work.session.execute(_HEAD, named)).one_or_none()
                rows = (await work.session.execute(query, named | place | {"limit": limit})).all()
            return _head(tenant_id, chain, found), [_event(tenant_id, chain, row) for row in rows]

        return await within(self._seconds, ask)

    async def checkpoints(
        self, tenant_id: TenantId, chain: AuditChain, *, before: int | None, limit: int
    ) -> list[tuple[int, str]]:
        """Return signed checkpoints of a chain with their numbers, the newest first."""
        query = text(
            "SELECT number, line FROM audit_checkpoints WHERE tenant_id = :tenant_id AND chain = :chain "
            "AND number < coalesce(:before, 9223372036854775807) ORDER BY seq DESC, number DESC LIMIT :limit"
        )

        async def ask() -> list[tuple[int, str]]:
            async with tenant_unit_of_work(self._sessions, tenant_id) as work:
                named = {"tenant_id": tenant_id, "chain": chain.value, "before": before, "limit": limit}
                return [(row.number, row.line) for row in (await work.session.execute(query, named)).all()]

        return await within(self._seconds, ask)

    async def _events(
        self, tenant_id: TenantId, chain: AuditChain, query: str, parameters: dict[str, Any]
    ) -> list[AuditEvent]:
        async def ask() -> list[AuditEvent]:
            async with tenant_unit_of_work(self._sessions, tenant_id) as work:
                named = {"tenant_id": tenant_id, "chain": chain.value} | parameters
                rows = (await work.session.execute(text(query), named)).all()
            return [_event(tenant_id, chain, row) for row in rows]

        return await within(self._seconds, ask)


def _event(tenant_id: TenantId, chain: AuditChain, row: Row[Any]) -> AuditEvent:
    return AuditEvent(tenant_id, chain, row.seq, row.at, bytes(row.previous), bytes(row.hash), row.said)


def _head(tenant_id: TenantId, chain: AuditChain, row: Row[Any] | None) -> ChainHead:
    if row is None:
        return ChainHead(tenant_id, chain)
    return ChainHead(tenant_id, chain, row.first_seq, bytes(row.first_previous), row.seq, bytes(row.hash))
