"""One statement under a tenant, in one trip to the server.

A unit of work takes four: BEGIN, the tenant, the statement, COMMIT. For what a first decision about a subject or a key
waits for, and for tries of a password, these go out together (PostgreSQL's pipeline mode), which costs a third of the
processor time.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import psycopg
from psycopg.rows import namedtuple_row
from sqlalchemy import TextClause
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.ext.asyncio import AsyncEngine

from tenancy.errors import DatabaseUnavailableError
from tenancy.ids import BASE_TENANT_ID, TenantId
from tenancy.unit_of_work import Sessions, database_errors

_BIND = "SELECT set_config('app.tenant_id', %s, true)"
_BIND_NAMED = "SELECT set_config('app.tenant_id', coalesce(find_tenant_id(%s), %s)::text, true)"


async def fetch_row(
    sessions: Sessions, tenant_id: TenantId | None, statement: TextClause, parameters: Mapping[str, Any]
) -> Any | None:
    """Return the row that a statement gives, with its columns as attributes, or None when it gives none.

    Args:
        sessions: From `tenancy.database.open_sessions`.
        tenant_id: Whose rows are seen, as in `tenant_unit_of_work`; None as in `unbound_session`.
        statement: Gives at most one row. What it writes is committed when this returns.
        parameters: Of the statement.

    Raises:
        DatabaseUnavailableError: no connection, a timeout, or a statement that PostgreSQL broke off.
    """
    bind = None if tenant_id is None else _BIND
    return await _fetch(sessions, bind, (str(tenant_id),), statement, parameters)


async def fetch_row_of_named(
    sessions: Sessions, slug: str, statement: TextClause, parameters: Mapping[str, Any]
) -> Any | None:
    """As `fetch_row`, for a tenant that is given by its name; that of none stands for `_base`, where nobody is.

    SECURITY: it costs the same whether there is such a tenant. Who asks compares the names.
    """
    return await _fetch(sessions, _BIND_NAMED, (slug, BASE_TENANT_ID), statement, parameters)


async def _fetch(
    sessions: Sessions, bind: str | None, bound: tuple[Any, ...], statement: TextClause, parameters: Mapping[str, Any]
) -> Any | None:
    engine: AsyncEngine = sessions.kw["bind"]
    with database_errors():
        async with engine.connect() as pooled:
            connection = (await pooled.get_raw_connection()).driver_connection
            if not isinstance(connection, psycopg.AsyncConnection):
                raise DatabaseUnavailableError("the connection was lost")
            async with connection.pipeline(), connection.cursor(row_factory=namedtuple_row) as cursor:
                # The driver begins a transaction before the first statement; the tenant is bound until it ends here.
                if bind is not None:
                    await connection.execute(bind.encode(), bound)
                await cursor.execute(_text_of(statement), parameters)
                await connection.execute("COMMIT")
                return await cursor.fetchone()


@lru_cache(maxsize=64)
def _text_of(statement: TextClause) -> bytes:
    compiled = statement.compile(dialect=PGDialect_psycopg())  # type: ignore[no-untyped-call]
    return str(compiled).encode()
