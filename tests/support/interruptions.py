"""Servers that are killed at a chosen moment of a request: before it asks Valkey, or before or after PostgreSQL commits.

What a request asks is watched in the process that answers it; the servers that are killed are real ones.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from enum import StrEnum
from typing import Any

import psutil
import psycopg
import pytest
from aiohttp import web
from sqlalchemy import event

from authn.volatile_values import VolatileValues
from service.routes import Handler
from tenancy import one_trip
from tenancy.unit_of_work import database_errors
from tests.support.servers import OwnServer
from tests.support.sign_in import FrontDoor

_of_a_request: ContextVar[bool] = ContextVar("of_a_request", default=False)
"""Whether what runs was begun by a request, and not by the node or a job."""


class Moment(StrEnum):
    """Where a request can be cut."""

    VALKEY = "before Valkey is asked"
    BEGIN = "before a transaction"
    COMMIT = "before its commit"
    COMMITTED = "after its commit"
    TRIP = "before a statement in one trip"
    ANSWERED = "after a statement in one trip"


class Fault(StrEnum):
    """What happens then."""

    VALKEY_KILLED = "valkey killed"
    VALKEY_FROZEN = "valkey frozen"
    POSTGRES_KILLED = "postgres killed"
    COMMIT_UNANSWERED = "commit unanswered"
    """PostgreSQL is killed when it has committed, and before it says so."""
    VANISHED = "vanished"
    """Nothing more is done for the request, as if its process were killed there."""


MOMENTS = {
    Fault.VALKEY_KILLED: (Moment.VALKEY,),
    Fault.VALKEY_FROZEN: (Moment.VALKEY,),
    Fault.POSTGRES_KILLED: (Moment.COMMIT, Moment.BEGIN, Moment.TRIP),
    Fault.COMMIT_UNANSWERED: (Moment.COMMITTED, Moment.ANSWERED),
    Fault.VANISHED: (Moment.COMMITTED, Moment.COMMIT, Moment.VALKEY, Moment.TRIP, Moment.ANSWERED),
}
"""When each can happen, the moment first that leaves most behind."""


class Interruptions:
    """Cuts one request at a time."""

    def __init__(self, postgres: OwnServer, valkey: OwnServer) -> None:
        self.postgres = postgres
        self.valkey = valkey
        self.moments: list[Moment] = []
        """Of the request that was watched last, in their order."""
        self.known: dict[str, tuple[Moment, ...]] = {}
        """Of steps that were watched, by their names."""
        self._at: tuple[Moment, int] | None = None
        self._fault: Fault | None = None
        self._watching = False

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Write down the moments of the requests within."""
        self.moments, self._watching = [], True
        try:
            yield
        finally:
            self._watching, self._at = False, None

    @contextlib.contextmanager
    def cutting(self, fault: Fault, moment: Moment, number: int) -> Iterator[None]:
        """Let a fault happen when the request within reaches such a moment, counted from 0."""
        self._fault, self._at = fault, (moment, number)
        with self.watching():
            yield

    def heal(self) -> None:
        """Bring back what was killed or frozen."""
        for server in (self.postgres, self.valkey):
            with contextlib.suppress(ProcessLookupError):
                server.thaw()
            if not psutil.pid_exists(server.pid):
                server.start_again()

    def _reached(self, moment: Moment) -> None:
        if not (self._watching and _of_a_request.get()):
            return
        self.moments.append(moment)
        if (moment, self.moments.count(moment) - 1) == self._at and self._fault is not None:
            fault, self._fault = self._fault, None
            self.let(fault)

    def let(self, fault: Fault) -> None:
        """Let a fault happen now."""
        if fault is Fault.VALKEY_KILLED:
            self.valkey.kill()
        elif fault is Fault.VALKEY_FROZEN:
            self.valkey.freeze()
        elif fault is Fault.VANISHED:
            raise asyncio.CancelledError
        else:
            kill_all(self.postgres)
            if fault is Fault.COMMIT_UNANSWERED:
                raise psycopg.OperationalError("server closed the connection unexpectedly")

    @contextlib.contextmanager
    def within(self, door: FrontDoor) -> Iterator[None]:
        """Watch what this application asks."""
        reached, engine = self._reached, door._engine.sync_engine
        call, fetch, commit = VolatileValues.call, one_trip._fetch, engine.dialect.do_commit

        async def called(values: VolatileValues, operation: Any) -> Any:
            reached(Moment.VALKEY)
            return await call(values, operation)

        async def fetched(*asked: Any) -> Any:
            reached(Moment.TRIP)
            found = await fetch(*asked)
            with database_errors():
                reached(Moment.ANSWERED)
            return found

        def committed(connection: Any) -> None:
            reached(Moment.COMMIT)
            commit(connection)
            reached(Moment.COMMITTED)

        def begun(_: Any) -> None:
            reached(Moment.BEGIN)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(VolatileValues, "call", called)
            patched.setattr(one_trip, "_fetch", fetched)
            patched.setattr(engine.dialect, "do_commit", committed)
            event.listen(engine, "begin", begun)
            try:
                yield
            finally:
                event.remove(engine, "begin", begun)


@web.middleware
async def marked(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Mark what is done for a request."""
    _of_a_request.set(True)
    return await handler(request)


def kill_all(postgres: OwnServer) -> None:
    """SIGKILL the server and its backends: what was not committed is lost."""
    backends = psutil.Process(postgres.pid).children()
    postgres.kill()
    for backend in backends:
        with contextlib.suppress(psutil.NoSuchProcess):
            backend.kill()


def without_sync(postgres: OwnServer) -> None:
    """Let it trust the machine, which is not killed: coming back takes tenths of a second."""
    with psycopg.connect(postgres.url, autocommit=True) as owner:
        for name in ("fsync", "full_page_writes"):
            owner.execute(f"ALTER SYSTEM SET {name} = off".encode())
    postgres.kill()
    postgres.start_again()
