"""Answers to writes, kept for a day, so that a request that is sent twice acts once.

INVARIANT: an answer is kept in the transaction of the write that it answers. So both are there or neither is, whatever
is lost after the commit: the answer on its way, the connection, the process.
"""

from typing import Any, TypeVar

from sqlalchemy import text

from tenancy.errors import IdempotencyKeyReusedError
from tenancy.once import Once, RequestKey
from tenancy.unit_of_work import Sessions, TenantUnitOfWork, tenant_unit_of_work, within

T = TypeVar("T")

REQUEST_SECONDS = 2.5

_KEY = "tenant_id = :tenant_id AND route = :route AND key_hash = :key_hash"
_DAY = "clock_timestamp() - interval '1 day'"

# Rows that another claim removes at the same time are left to it: two of them never wait for each other.
_FORGET_OLD = text(
    "DELETE FROM kept_answers WHERE (tenant_id, route, key_hash) IN (SELECT tenant_id, route, key_hash "  # noqa: S608
    f"FROM kept_answers WHERE tenant_id = :tenant_id AND created_at < {_DAY} FOR UPDATE SKIP LOCKED)"
)
# A request with the same key waits here until the first one commits (and finds its answer) or rolls back (and acts).
_CLAIM = text(
    "INSERT INTO kept_answers (tenant_id, route, key_hash, request_hash, sealed) "
    "VALUES (:tenant_id, :route, :key_hash, :request_hash, '') ON CONFLICT DO NOTHING RETURNING 1"
)
_KEEP = text(f"UPDATE kept_answers SET sealed = :sealed WHERE {_KEY}")  # noqa: S608 - constants of this file
_FIND = text(f"SELECT request_hash, sealed FROM kept_answers WHERE {_KEY} AND created_at >= {_DAY}")  # noqa: S608


class AnsweredBeforeError(Exception):
    """Another request with this key was answered: this one must not act. `KeptAnswers.find` has the answer."""


async def claim(work: TenantUnitOfWork, once: Once[T] | None) -> None:
    """Take the key for this transaction, before anything else in it; without `once` nothing happens.

    Raises:
        AnsweredBeforeError: it is taken.
    """
    if once is None:
        return
    await work.session.execute(_FORGET_OLD, {"tenant_id": work.tenant_id})
    named = _named(once.key) | {"request_hash": once.key.request_hash}
    if (await work.session.execute(_CLAIM, named)).one_or_none() is None:
        raise AnsweredBeforeError


async def keep(work: TenantUnitOfWork, once: Once[T] | None, outcome: T) -> None:
    """Keep the answer to a write whose key was claimed, as its last step."""
    if once is not None:
        await work.session.execute(_KEEP, _named(once.key) | {"sealed": once.answer(outcome)})


class KeptAnswers:
    """Kept answers in PostgreSQL, each bound to its tenant."""

    def __init__(self, sessions: Sessions, *, request_seconds: float = REQUEST_SECONDS) -> None:
        """Keep where units of work come from, and how long a call may take."""
        self._sessions = sessions
        self._seconds = request_seconds

    async def find(self, key: RequestKey) -> bytes | None:
        """Return what was kept for this request, or None when none was answered within a day.

        Raises:
            IdempotencyKeyReusedError: the key came with another request.
            DatabaseUnavailableError: not known; do not act.
        """
        return await within(self._seconds, lambda: self._find(key))

    async def _find(self, key: RequestKey) -> bytes | None:
        async with tenant_unit_of_work(self._sessions, key.tenant_id) as work:
            found = (await work.session.execute(_FIND, _named(key))).one_or_none()
        if found is None:
            return None
        if bytes(found.request_hash) != key.request_hash:
            raise IdempotencyKeyReusedError("this key was used for another request")
        return bytes(found.sealed)


def _named(key: RequestKey) -> dict[str, Any]:
    return {"tenant_id": key.tenant_id, "route": key.route, "key_hash": key.key_hash}
