"""Rows of sessions that ended before their time, within the transaction of whoever calls."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import text

from authn.errors import SessionEndedError
from authn.sessions import Session
from authn.user_rows import raise_auth_epoch
from tenancy.unit_of_work import TenantUnitOfWork

MAX_ENDED = 500
"""Rows of one account. They are read with each look-up of it, so after more of them all its sign-ins end instead."""

_MINE = "tenant_id = :tenant_id AND user_id = :user_id"
_IS_ENDED = text(f"SELECT 1 FROM ended_sessions WHERE {_MINE} AND session_id = :session_id")  # noqa: S608 - constants
_LIVES = text(
    "SELECT 1 FROM users AS u WHERE u.tenant_id = :tenant_id AND u.user_id = :user_id AND u.status = 'active' "
    "AND u.auth_epoch = :auth_epoch AND NOT EXISTS (SELECT FROM ended_sessions AS s WHERE s.tenant_id = :tenant_id "
    "AND s.user_id = :user_id AND s.session_id = :session_id)"
)
_END = text(
    "INSERT INTO ended_sessions (tenant_id, user_id, session_id, expires_at) "
    "VALUES (:tenant_id, :user_id, :session_id, :expires_at) ON CONFLICT DO NOTHING RETURNING 1"
)
_COUNT = text(f"SELECT count(*) FROM ended_sessions WHERE {_MINE}")  # noqa: S608 - constants
_CLEAR = text(f"DELETE FROM ended_sessions WHERE {_MINE}")  # noqa: S608 - constants
_SWEEP = text(
    "DELETE FROM ended_sessions WHERE (tenant_id, user_id, session_id) IN (SELECT tenant_id, user_id, session_id "
    "FROM ended_sessions WHERE tenant_id = :tenant_id AND expires_at < clock_timestamp() - interval '1 hour' LIMIT 100)"
)


async def is_ended(work: TenantUnitOfWork, session: Session) -> bool:
    """Return whether a session was ended by itself; one that ended with all others has another epoch."""
    named = _named(work, session.user_id) | {"session_id": session.session_id}
    return (await work.session.execute(_IS_ENDED, named)).one_or_none() is not None


async def require_session(work: TenantUnitOfWork, session: Session) -> None:
    """Refuse a session that ended since its request was admitted; whoever calls holds the tenant's lock.

    Raises:
        SessionEndedError: it was ended, alone or with all others, or its account is not active any more.
    """
    if (await work.session.execute(_LIVES, _named(work, session.user_id) | _said(session))).one_or_none() is None:
        raise SessionEndedError("the session was ended meanwhile")


async def end_session_row(work: TenantUnitOfWork, user_id: UUID, session_id: UUID, expires_at: datetime) -> bool:
    """End a session for good; return whether it had not ended before.

    Args:
        work: Holds the locks of the tenant and the account.
        user_id: Whose it is.
        session_id: Which.
        expires_at: Its absolute end.
    """
    named = _named(work, user_id)
    await work.session.execute(_SWEEP, named)
    row = await work.session.execute(_END, named | {"session_id": session_id, "expires_at": expires_at})
    if row.one_or_none() is None:
        return False
    if (await work.session.execute(_COUNT, named)).scalar_one() > MAX_ENDED:
        await end_all_rows(work, user_id)
    return True


async def end_all_rows(work: TenantUnitOfWork, user_id: UUID) -> bool:
    """End every sign-in of an account, its personal keys with them; return whether there is such an account."""
    if await raise_auth_epoch(work, user_id) is None:
        return False
    # Whatever they named is of an older epoch now.
    await work.session.execute(_CLEAR, _named(work, user_id))
    return True


async def drop_ended(work: TenantUnitOfWork, user_id: UUID) -> None:
    """Forget what an account's sessions were, when it is deleted: none of them counts any more."""
    await work.session.execute(_CLEAR, _named(work, user_id))


def _said(session: Session) -> dict[str, object]:
    return {"auth_epoch": session.auth_epoch, "session_id": session.session_id}


def _named(work: TenantUnitOfWork, user_id: UUID) -> dict[str, object]:
    return {"tenant_id": work.tenant_id, "user_id": user_id}
