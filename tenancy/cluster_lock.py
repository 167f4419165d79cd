"""Work that one node of many does at a time, by a lock that PostgreSQL holds for a connection."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from tenancy.unit_of_work import Sessions, database_errors

_TAKE = text("SELECT pg_try_advisory_lock(:key)")
_RELEASE = text("SELECT pg_advisory_unlock(:key)")


@asynccontextmanager
async def once_in_cluster(sessions: Sessions, name: str) -> AsyncIterator[bool]:
    """Say whether the work called `name` is this caller's: nobody else, on any node, was told so meanwhile.

    The lock waits outside of a transaction, so no timeout ends it. It ends with its connection; should the server be
    started again meanwhile, another node may begin before this one is done. Work must be right even then: what must
    not happen twice belongs into one statement.

    Raises:
        DatabaseUnavailableError: not known.
    """
    key = int.from_bytes(hashlib.sha256(f"kasbah-job:{name}".encode()).digest()[:8], "big", signed=True)
    engine: AsyncEngine = sessions.kw["bind"]
    with database_errors():
        connection = await engine.connect()
    try:
        with database_errors():
            connection = await connection.execution_options(isolation_level="AUTOCOMMIT")
            held = bool(await connection.scalar(_TAKE, {"key": key}))
        try:
            yield held
        finally:
            if held:
                with database_errors():
                    released = await connection.scalar(_RELEASE, {"key": key})
                held = not released
    except BaseException:
        # INVARIANT: a connection that may still hold the lock never goes back to the pool.
        await connection.invalidate()
        raise
    finally:
        await connection.close()
