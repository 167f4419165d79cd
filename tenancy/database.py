"""Opens PostgreSQL as the service sees it: under a role that owns nothing, with a bound on every wait."""

from dataclasses import dataclass
from time import monotonic
from typing import Any

from sqlalchemy import event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from tenancy.bounded_connection import connect_bounded
from tenancy.errors import UnsafeDatabaseRoleError
from tenancy.unit_of_work import Sessions, database_errors

SERVICE_ROLE = "kasbah_service"

RESTED_SECONDS = 0.05
"""A connection that was returned to the pool longer ago is asked whether it lives before it is used again.

Shorter than any restart of a server, so that nobody is refused because of a connection from before one.
"""

_RETURNED = "kasbah.returned"


@dataclass(frozen=True, slots=True)
class DatabaseLimits:
    """How many connections one process holds, and how long it waits for what (seconds).

    What bounds a whole unit of work, also against a server that stopped answering, is `unit_of_work.within`.
    """

    pool_size: int = 8
    """Connections kept open."""
    max_overflow: int = 4
    """Connections opened beside them for a while."""
    pool_wait_seconds: float = 0.5
    """Longest wait for a free connection."""
    connect_seconds: int = 2
    """Longest wait for a new connection."""
    statement_seconds: float = 2.0
    """Longest statement; writing a large policy has a bound of its own.

    A server that hangs has half a second more (`BoundedConnection`)."""
    lock_seconds: float = 1.5
    """Longest wait for a lock."""


def open_engine(url: str, limits: DatabaseLimits | None = None, *, role: str | None = SERVICE_ROLE) -> AsyncEngine:
    """Return an engine whose every connection has become `role` before its first statement; nothing connects yet.

    The role comes with the connection's start-up options, so `RESET ROLE` and `DISCARD ALL` lead back to it, never to
    the user who logged in.

    Args:
        url: `postgresql://…` or `postgresql+psycopg://…`.
        limits: Defaults where None.
        role: None keeps the user who logs in (tools of the owner only).
    """
    limits = limits or DatabaseLimits()
    parsed = make_url(url).set(drivername="postgresql+psycopg")
    given = parsed.query.get("options", "")
    options = [given if isinstance(given, str) else " ".join(given)]
    if role is not None:
        options.append(f"-c role={role}")
    options += [
        f"-c statement_timeout={int(limits.statement_seconds * 1000)}",
        f"-c lock_timeout={int(limits.lock_seconds * 1000)}",
        "-c idle_in_transaction_session_timeout=10000",
        "-c timezone=UTC",
        "-c client_encoding=UTF8",
    ]
    engine = create_async_engine(
        parsed.difference_update_query(["options"]),
        pool_size=limits.pool_size,
        max_overflow=limits.max_overflow,
        pool_timeout=limits.pool_wait_seconds,
        pool_recycle=1800,
        hide_parameters=True,
        connect_args={
            "async_creator_fn": connect_bounded(limits.statement_seconds),
            "connect_timeout": limits.connect_seconds,
            "options": " ".join(part for part in options if part),
            "application_name": "kasbah",
            "tcp_user_timeout": int(limits.statement_seconds * 1000),
            "keepalives_idle": 5,
            "keepalives_interval": 1,
            "keepalives_count": 3,
        },
    )
    _ping_rested(engine)
    return engine


def _ping_rested(engine: AsyncEngine) -> None:
    """Ask connections that rested for a while whether they still live, before they are used.

    SQLAlchemy's `pool_pre_ping` asks every time, which is a trip to the server for each unit of work.
    """
    pool, dialect = engine.sync_engine.pool, engine.sync_engine.dialect

    def note(connection: Any, record: ConnectionPoolEntry) -> None:
        record.info[_RETURNED] = monotonic()
        if connection is not None:  # None: it was given up
            connection.driver_connection.longer_seconds = None

    def ask(connection: Any, record: ConnectionPoolEntry, _proxy: Any) -> None:
        if monotonic() - record.info.get(_RETURNED, monotonic()) < RESTED_SECONDS:
            return
        try:
            dialect.do_ping(connection)
        except dialect.loaded_dbapi.Error as error:
            # A server that went away took the others along.
            raise InvalidatePoolError from error

    event.listen(pool, "checkin", note)
    event.listen(pool, "checkout", ask)


def open_sessions(engine: AsyncEngine) -> Sessions:
    """Return what units of work are opened from."""
    return async_sessionmaker(engine, expire_on_commit=False, autoflush=False)


async def require_safe_role(engine: AsyncEngine) -> None:
    """Refuse a database in which this connection could see past row-level security.

    Raises:
        UnsafeDatabaseRoleError: the role is a superuser, bypasses row-level security, owns a table, may create objects
            in the schema, or a tenant table has no forced row-level security.
        DatabaseUnavailableError: no answer.
    """
    with database_errors():
        async with engine.connect() as connection:
            row = (await connection.execute(text(_ROLE_FACTS))).one()
    faults = [name for name, bad in row._mapping.items() if bad]  # noqa: SLF001 - SQLAlchemy's documented accessor
    if faults:
        raise UnsafeDatabaseRoleError(f"the database role is not safe: {', '.join(faults)}")


_ROLE_FACTS = """
SELECT rolsuper AS superuser, rolbypassrls AS bypasses_row_level_security,
       EXISTS (SELECT 1 FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
               AND pg_has_role(current_user, c.relowner, 'USAGE')) AS owns_tables,
       has_schema_privilege(current_user, 'public', 'CREATE') AS may_create_objects,
       EXISTS (SELECT 1 FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
               WHERE a.attname = 'tenant_id' AND a.attnum > 0 AND c.relkind IN ('r', 'p')
               AND c.relnamespace = 'public'::regnamespace
               AND NOT (c.relrowsecurity AND c.relforcerowsecurity)) AS tables_without_row_level_security,
       to_regclass('public.tenants') IS NULL AS schema_is_missing
FROM pg_roles WHERE rolname = current_user
"""
