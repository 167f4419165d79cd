"""Answers to creations, kept for a day, so that a request that is sent twice acts once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, text

from tenancy.errors import IdempotencyConflictError
from tenancy.ids import TenantId
from tenancy.unit_of_work import Sessions, TenantUnitOfWork, tenant_unit_of_work, within

REQUEST_SECONDS = 2.5

_FORGET_OLD = text(
    "DELETE FROM idempotency_keys WHERE tenant_id = :tenant_id AND (created_at < clock_timestamp() - interval '1 day' "
    "OR (status IS NULL AND created_at < clock_timestamp() - interval '1 minute'))"
)
_BEGIN = text(
    "INSERT INTO idempotency_keys (tenant_id, route, key_hash, request_hash) "
    "VALUES (:tenant_id, :route, :key_hash, :request_hash) ON CONFLICT DO NOTHING RETURNING 1"
)
_FIND = text(
    "SELECT request_hash, status, body, headers FROM idempotency_keys "
    "WHERE tenant_id = :tenant_id AND route = :route AND key_hash = :key_hash"
)
_FINISH = text(
    "UPDATE idempotency_keys SET status = :status, body = :body, headers = CAST(:headers AS json) "
    "WHERE tenant_id = :tenant_id AND route = :route AND key_hash = :key_hash"
)
_FORGET = text(
    "DELETE FROM idempotency_keys WHERE tenant_id = :tenant_id AND route = :route AND key_hash = :key_hash "
    "AND status IS NULL"
)


@dataclass(frozen=True, slots=True)
class RequestKey:
    """What one request is known by. Both hashes are SHA-256; `key_hash` covers the caller, too."""

    tenant_id: TenantId
    route: str
    key_hash: bytes
    request_hash: bytes


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """An answer as it was given, without what may be said only once."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class IdempotencyStore:
    """Kept answers in PostgreSQL, each bound to its tenant."""

    def __init__(self, sessions: Sessions, *, request_seconds: float = REQUEST_SECONDS) -> None:
        """Keep where units of work come from, and how long a call may take."""
        self._sessions = sessions
        self._seconds = request_seconds

    async def begin(self, key: RequestKey) -> KeptAnswer | None:
        """Return the answer that was given before, or None when this request is the first and may act.

        A request that never came to its answer stands in the way for a minute, then it is forgotten.

        Raises:
            IdempotencyConflictError: the key came with another request, or the first one is under way.
            DatabaseUnavailableError: not known; do not act.
        """
        return await within(self._seconds, lambda: self._begin(key))

    async def finish(self, key: RequestKey, answer: KeptAnswer, encoded_headers: str) -> None:
        """Keep the answer; `encoded_headers` is its headers as JSON."""

        async def work(unit: TenantUnitOfWork) -> None:
            parameters = _named(key) | {"status": answer.status, "body": answer.body, "headers": encoded_headers}
            await unit.session.execute(_FINISH, parameters)

        await within(self._seconds, lambda: self._bound(key, work))

    async def forget(self, key: RequestKey) -> None:
        """Let the request be sent again: it was refused."""

        async def work(unit: TenantUnitOfWork) -> None:
            await unit.session.execute(_FORGET, _named(key))

        await within(self._seconds, lambda: self._bound(key, work))

    async def _begin(self, key: RequestKey) -> KeptAnswer | None:
        named = _named(key)
        async with tenant_unit_of_work(self._sessions, key.tenant_id) as unit:
            await unit.session.execute(_FORGET_OLD, {"tenant_id": key.tenant_id})
            started = await unit.session.execute(_BEGIN, named | {"request_hash": key.request_hash})
            if started.one_or_none() is not None:
                return None
            found = (await unit.session.execute(_FIND, named)).one_or_none()
        if found is None:
            raise IdempotencyConflictError("the first request with this key is under way")
        return _kept(found, key)

    async def _bound(self, key: RequestKey, work: Any) -> None:
        async with tenant_unit_of_work(self._sessions, key.tenant_id) as unit:
            await work(unit)


def _kept(row: Row[Any], key: RequestKey) -> KeptAnswer:
    if bytes(row.request_hash) != key.request_hash:
        raise IdempotencyConflictError("this key was used for another request")
    if row.status is None:
        raise IdempotencyConflictError("the first request with this key is under way")
    return KeptAnswer(row.status, row.headers, bytes(row.body))


def _named(key: RequestKey) -> dict[str, Any]:
    return {"tenant_id": key.tenant_id, "route": key.route, "key_hash": key.key_hash}
