"""One request, one tenant, one transaction: the only way to the tables."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import psycopg
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError, InterfaceError, PendingRollbackError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from tenancy.bounded_connection import allow_longer
from tenancy.errors import DatabaseUnavailableError
from tenancy.ids import TenantId

T = TypeVar("T")

Sessions = async_sessionmaker[AsyncSession]

_UNAVAILABLE_CLASSES = ("08", "53", "57", "58", "XX")
"""SQLSTATE classes: connection, resources, operator intervention (also a cancelled statement), system, internal."""

_UNAVAILABLE_STATES = frozenset({"25006", "25P03", "40001", "40P01", "55P03"})
"""Read-only standby, idle transaction ended, serialization failure, deadlock, lock timeout: all may pass."""


@dataclass(frozen=True, slots=True)
class TenantUnitOfWork:
    """An open transaction that sees the rows of one tenant."""

    tenant_id: TenantId
    session: AsyncSession


@asynccontextmanager
async def tenant_unit_of_work(
    sessions: Sessions,
    tenant_id: TenantId,
    *,
    statement_timeout: timedelta | None = None,
    repeatable_read: bool = False,
) -> AsyncIterator[TenantUnitOfWork]:
    """Commit on a clean exit, roll back on an exception; row-level security reads `app.tenant_id`.

    Args:
        sessions: From `tenancy.database.open_sessions`.
        tenant_id: Whose rows are seen; the setting ends with the transaction.
        statement_timeout: Longer than the connection's, for large writes.
        repeatable_read: All statements see one database snapshot, and none may write.

    Raises:
        DatabaseUnavailableError: no connection, a timeout, or a transaction that PostgreSQL broke off.
    """
    with database_errors():
        async with sessions.begin() as session:
            if repeatable_read:
                await session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
            await bind_tenant(session, tenant_id)
            if statement_timeout is not None:
                await allow_longer(session, statement_timeout)
            yield TenantUnitOfWork(tenant_id, session)


async def bind_tenant(session: AsyncSession, tenant_id: TenantId) -> None:
    """Let row-level security show this tenant's rows until the transaction ends."""
    await session.execute(select(func.set_config("app.tenant_id", str(tenant_id), True)))


@asynccontextmanager
async def unbound_session(sessions: Sessions) -> AsyncIterator[AsyncSession]:
    """Open a transaction without a tenant: no rows, only the few SECURITY DEFINER functions."""
    with database_errors():
        async with sessions.begin() as session:
            yield session


@contextmanager
def database_errors() -> Iterator[None]:
    """Turn every way in which PostgreSQL fails to answer into `DatabaseUnavailableError`; others pass unchanged."""
    try:
        yield
    except PoolTimeoutError as error:
        raise DatabaseUnavailableError("no database connection was free in time") from error
    except DBAPIError as error:
        state = getattr(error.orig, "sqlstate", None)
        if is_unavailable(state, connection_lost=error.connection_invalidated or isinstance(error, InterfaceError)):
            raise DatabaseUnavailableError(f"the database did not answer ({state or 'no connection'})") from error
        raise
    except psycopg.Error as error:
        if is_unavailable(error.sqlstate, connection_lost=isinstance(error, psycopg.InterfaceError)):
            state = error.sqlstate or "no connection"
            raise DatabaseUnavailableError(f"the database did not answer ({state})") from error
        raise
    except PendingRollbackError as error:
        raise DatabaseUnavailableError("the transaction was lost") from error
    except (OSError, TimeoutError) as error:
        raise DatabaseUnavailableError("the database was not reached") from error


def is_unavailable(sqlstate: str | None, *, connection_lost: bool) -> bool:
    """Whether an error says "no answer" rather than "a wrong question"."""
    if sqlstate is None or connection_lost:
        return True
    return sqlstate.startswith(_UNAVAILABLE_CLASSES) or sqlstate in _UNAVAILABLE_STATES


async def within(seconds: float, work: Callable[[], Awaitable[T]]) -> T:
    """Run `work`, but answer after `seconds` at the latest: what it waits for then is given up (`BoundedConnection`).

    Raises:
        DatabaseUnavailableError: it took longer.
    """
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await work()
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise DatabaseUnavailableError(f"the database did not answer within {seconds} s") from error
