"""A connection to PostgreSQL on which no wait is endless, whether the server answers or not."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from traceback import clear_frames
from typing import Any

from psycopg import AsyncConnection, AsyncServerCursor, OperationalError, waiting
from psycopg.abc import RV, PQGen
from psycopg.pq import TransactionStatus
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

GRACE_SECONDS = 0.5
"""How long the server's own bound on a statement may be overdue before its connection is given up."""


class _StreamCursor(AsyncServerCursor[Any]):
    """A cursor of the server that ends with its connection, which the driver takes for one that was forgotten."""

    def __del__(self, *warn: Any) -> None:
        if not self.connection.closed:
            super().__del__(*warn)


class BoundedConnection(AsyncConnection[Any]):
    """One whose every answer comes within `answer_seconds`, and that is closed at once when its task is cancelled.

    `statement_timeout` is kept by the server, so one that hangs keeps none. The driver's own way out of a
    cancellation asks the server to end the statement and waits up to ten seconds for that; here the connection is
    closed instead, which SQLAlchemy would throw away in any case, and the server rolls back when it finds out.
    """

    answer_seconds: float = 2.5
    """How long an answer may take, `GRACE_SECONDS` beyond `statement_timeout`."""
    longer_seconds: float | None = None
    """… while a unit of work has a bound of its own; ends when the connection is back in the pool."""

    async def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:  # noqa: ASYNC109 - the driver's signature
        """Wait as `AsyncConnection.wait` does, but never longer.

        Raises:
            OperationalError: no answer in time. The connection is closed.
        """
        seconds = self.longer_seconds or self.answer_seconds
        bound = asyncio.timeout(seconds if timeout is None else None)
        try:
            async with bound:
                return await waiting.wait_async(gen, self.pgconn.socket, interval=interval, timeout=timeout)
        except TimeoutError as error:
            if not bound.expired():
                raise
            self.pgconn.finish()
            raise OperationalError(f"no answer within {seconds} s") from error
        except asyncio.CancelledError:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                self.pgconn.finish()
            raise


def connect_bounded(statement_seconds: float) -> Callable[..., Awaitable[BoundedConnection]]:
    """Return what opens connections with this `statement_timeout`, for SQLAlchemy's `async_creator_fn`.

    A connection that was given up while it was made lets go of its socket at once: psycopg leaves that to the garbage
    collector, which is rare here, and until then PostgreSQL keeps a process that waits for the rest of the greeting, a
    minute (`authentication_timeout`), and `DROP DATABASE` waits for that.
    """

    async def connect(*args: Any, **options: Any) -> BoundedConnection:
        try:
            connection = await BoundedConnection.connect(*args, **options)
        except BaseException as error:
            clear_frames(error.__traceback__)
            raise
        connection.answer_seconds = statement_seconds + GRACE_SECONDS
        connection.server_cursor_factory = _StreamCursor
        return connection

    return connect


async def allow_longer(session: AsyncSession, statement_timeout: timedelta) -> None:
    """Let statements of this transaction take longer, on the server and here."""
    seconds = statement_timeout.total_seconds()
    await session.execute(select(func.set_config("statement_timeout", str(int(seconds * 1000)), True)))
    connection = await (await session.connection()).get_raw_connection()
    if isinstance(connection.driver_connection, BoundedConnection):
        connection.driver_connection.longer_seconds = seconds + GRACE_SECONDS
