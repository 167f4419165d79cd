"""Lets the oldest months of the audit go: as the owner of the tables, for the service itself removes nothing.

A chain says first, as its newest event, where it begins from now on, and which hash that beginning follows; then whole
partitions are dropped. Whoever verifies the chain demands that event, so nobody can cut a beginning off in silence.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, text

from migrations.runner import connect
from tenancy.audit import AuditChain, AuditEntry, event_text
from tenancy.ids import PLATFORM_TENANT_ID
from tenancy.tenant import ChangeMeta

LOCK_TIMEOUT_SECONDS = 3
_PARTITION = re.compile(r"audit_events_(\d{4})_(\d{2})\Z")
_ACTOR = "kasbah audit retain"


class NotDeliveredError(Exception):
    """Events that would go are behind no checkpoint that was delivered."""


@dataclass(frozen=True, slots=True)
class Retained:
    """What went. `before`: events of an earlier time are gone; None when there was nothing to drop."""

    before: datetime | None
    partitions: tuple[str, ...]
    chains: int


def retain(url: str, keep_days: int, *, now: datetime, reason: str | None = None) -> Retained:
    """Drop the partitions of months that ended more than `keep_days` ago.

    Safe to repeat: what a run that broke off left is done by the next one.

    Args:
        url: Of the user that owns the tables.
        keep_days: From 1.
        now: Aware.
        reason: Why; kept in the audit.

    Raises:
        NotDeliveredError: nothing was dropped.
        sqlalchemy.exc.OperationalError: no connection, or a lock was not had in time.
    """
    meta = ChangeMeta(_ACTOR, reason)
    with connect(url) as connection:
        connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT_SECONDS}s'"))
        connection.execute(text("SELECT set_config('app.tenant_id', :id, false)"), {"id": str(PLATFORM_TENANT_ID)})
        partitions = _ended(connection, now - timedelta(days=keep_days))
        connection.commit()
        if not partitions:
            return Retained(None, (), 0)
        before = max(partitions.values())
        boundaries = connection.execute(_BOUNDARIES, {"before": before}).all()
        connection.commit()
        open_chains = [row for row in boundaries if row.seq > (row.delivered_seq or 0)]
        if open_chains:
            row = open_chains[0]
            raise NotDeliveredError(
                f"the chain {row.tenant_id}/{row.chain} has no delivered checkpoint at or behind event {row.seq} "
                f"({len(open_chains)} chains in all): is a service running, and does its sink take checkpoints?"
            )
        for row in boundaries:
            _begin_anew(connection, row.tenant_id, row.chain, row.seq, meta)
        _drop(connection, tuple(partitions), before, len(boundaries), meta)
        return Retained(before, tuple(partitions), len(boundaries))


_BOUNDARIES = text(
    "SELECT DISTINCT ON (e.tenant_id, e.chain) e.tenant_id, e.chain, e.seq, s.delivered_seq FROM audit_events AS e "
    "JOIN audit_chains AS c ON c.tenant_id = e.tenant_id AND c.chain = e.chain AND c.first_seq <= e.seq "
    "LEFT JOIN audit_signed AS s ON s.tenant_id = e.tenant_id AND s.chain = e.chain "
    "WHERE e.at < :before ORDER BY e.tenant_id, e.chain, e.seq DESC"
)
_LOCK = text("SELECT 1 FROM audit_chains WHERE tenant_id = :tenant_id AND chain = :chain FOR NO KEY UPDATE")
_HASH = text("SELECT hash FROM audit_events WHERE tenant_id = :tenant_id AND chain = :chain AND seq = :seq LIMIT 1")
_APPEND = text("SELECT append_audit(:tenant_id, :chain, CAST(:events AS text[]))")
_BEGIN = text(
    "UPDATE audit_chains SET first_seq = :first_seq, first_previous = :previous "
    "WHERE tenant_id = :tenant_id AND chain = :chain"
)


def _ended(connection: Connection, by: datetime) -> dict[str, datetime]:
    """Return partitions whose month ended by then, with the end."""
    names = connection.scalars(
        text(
            "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
            "WHERE i.inhparent = 'public.audit_events'::regclass ORDER BY c.relname"
        )
    )
    found: dict[str, datetime] = {}
    for name in names:
        month = _PARTITION.match(name)
        if month is None:
            continue
        begins = datetime(int(month.group(1)), int(month.group(2)), 1, tzinfo=UTC)
        ends = (begins + timedelta(days=32)).replace(day=1)
        if ends <= by:
            found[name] = ends
    return found


def _begin_anew(connection: Connection, tenant_id: object, chain: str, last_seq: int, meta: ChangeMeta) -> None:
    """Have a chain begin behind an event, and say so in it; one short transaction."""
    named = {"tenant_id": tenant_id, "chain": chain}
    connection.execute(_LOCK, named)
    previous = bytes(connection.execute(_HASH, named | {"seq": last_seq}).scalar_one())
    detail = {"first_seq": last_seq + 1, "first_prev_hash": previous.hex()}
    event = event_text(AuditEntry("audit.retain", target=f"tenant:{tenant_id}", detail=detail), meta, None)
    connection.execute(_APPEND, named | {"events": [event]})
    connection.execute(_BEGIN, named | {"first_seq": last_seq + 1, "previous": previous})
    connection.commit()


def _drop(connection: Connection, partitions: tuple[str, ...], before: datetime, chains: int, meta: ChangeMeta) -> None:
    """Drop the partitions and what is older in the one without a month; the platform's chain tells of it.

    The event comes first, in a transaction of its own: what breaks off behind it is done, and told, again. Who writes
    waits for the drop alone.
    """
    detail = {"partitions": list(partitions), "before": before.isoformat(), "chains": chains}
    event = event_text(AuditEntry("audit.retain", detail=detail), meta, None)
    named = {"tenant_id": PLATFORM_TENANT_ID, "chain": AuditChain.TENANT.value, "events": [event]}
    connection.execute(_APPEND, named)
    connection.commit()
    connection.execute(
        text(
            "DELETE FROM audit_checkpoints AS p USING audit_signed AS s WHERE s.tenant_id = p.tenant_id "
            "AND s.chain = p.chain AND p.seq < s.delivered_seq AND p.until < :before"
        ),
        {"before": before},
    )
    for name in partitions:
        connection.execute(text(f"DROP TABLE public.{name}"))  # a name of `_PARTITION` and nothing else
    connection.execute(text("DELETE FROM audit_events WHERE at < :before"), {"before": before})
    connection.commit()
