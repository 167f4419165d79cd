"""How often something may be tried, counted in PostgreSQL: by every node together, and not forgotten with a cache.

Windows are fixed: they begin with the first attempt. What is counted is kept as a hash, and for no longer than needed.
"""

import hashlib
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import text

from tenancy.unit_of_work import TenantUnitOfWork


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `most` attempts in `window`, for each name that is counted under `name`."""

    name: str
    most: int
    window: timedelta


_COUNT = text(
    "INSERT INTO throttles AS t (tenant_id, name, key_hash, ends_at) "
    "VALUES (:tenant_id, :name, :key_hash, clock_timestamp() + :window) "
    "ON CONFLICT (tenant_id, name, key_hash) DO UPDATE SET "
    "count = CASE WHEN t.ends_at <= clock_timestamp() THEN 1 ELSE least(t.count + 1, 1000000) END, "
    "ends_at = CASE WHEN t.ends_at <= clock_timestamp() THEN excluded.ends_at ELSE t.ends_at END "
    "RETURNING count AS number, ends_at - clock_timestamp() AS left_over"
)
# Rows that another transaction removes or counts at the same time are left to it.
_FORGET_OLD = text(
    "DELETE FROM throttles WHERE (tenant_id, name, key_hash) IN (SELECT tenant_id, name, key_hash FROM throttles "
    "WHERE tenant_id = :tenant_id AND ends_at < clock_timestamp() LIMIT 100 FOR UPDATE SKIP LOCKED)"
)


async def count_attempt(work: TenantUnitOfWork, limit: Limit, key: str) -> timedelta | None:
    """Count an attempt; return None when it may go on, or how long to wait.

    The count is part of the transaction: whoever refuses must commit it.
    """
    await work.session.execute(_FORGET_OLD, {"tenant_id": work.tenant_id})
    counted = await work.session.execute(
        _COUNT,
        {
            "tenant_id": work.tenant_id,
            "name": limit.name,
            "key_hash": hashlib.sha256(f"{limit.name}\0{key}".encode("utf-8", "surrogatepass")).digest(),
            "window": limit.window,
        },
    )
    row = counted.one()
    if row.number <= limit.most:
        return None
    left: timedelta = row.left_over
    return left
