"""PostgreSQL and Valkey for tests: embedded ones, or those that KASBAH_DATABASE_URL and KASBAH_REDIS_URL name."""

import asyncio
import contextlib
import os
import secrets
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Identifier
from sqlalchemy.engine import make_url

from service.embedded import Server, start_postgres, start_valkey
from service.state_directory import StateDirectory
from tenancy import unit_of_work
from tenancy.database import DatabaseLimits
from tests.support.ports import free_port
from tests.support.process_logs import follow

VALKEY_DATABASES = 16


@dataclass(frozen=True)
class Servers:
    """Where the session's servers are. `postgres_url` is that of a user who may create databases and roles."""

    postgres_url: str
    redis_url: str


def patient(pool_size: int = 8, max_overflow: int = 4) -> DatabaseLimits:
    """Return limits for a machine that is busy with other tests; a node gives up far sooner."""
    return DatabaseLimits(
        pool_size, max_overflow, pool_wait_seconds=30, connect_seconds=30, statement_seconds=60, lock_seconds=30
    )


class _PatientAsyncio:
    """`asyncio` for units of work, whose waits may take ten times as long."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    @staticmethod
    async def wait(tasks: set[asyncio.Task[Any]], *, timeout: float) -> Any:  # noqa: ASYNC109 - as asyncio's own
        return await asyncio.wait(tasks, timeout=10 * timeout)


@contextlib.contextmanager
def patient_units() -> Iterator[None]:
    """Let whole units of work in this process take longer, as `patient` does with what they wait for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unit_of_work, "asyncio", _PatientAsyncio())
        yield


_running: list[Servers] = []


def session_servers() -> Servers:
    """Return the session's servers, for what is opened only where they run already."""
    return _running[-1]


@contextlib.contextmanager
def running_servers(directory: Path) -> Iterator[Servers]:
    """Yield servers for a session; embedded ones are stopped at the end."""
    postgres_url = os.environ.get("KASBAH_DATABASE_URL")
    redis_url = os.environ.get("KASBAH_REDIS_URL")
    state = StateDirectory(directory)
    state.open()
    try:
        servers = Servers(
            postgres_url or start_postgres(state, durable=False).url,
            redis_url or start_valkey(state).url,
        )
        _running.append(servers)
        yield servers
    finally:
        _running.clear()
        state.stop_children()
        state.close()


def plain_url(url: str) -> str:
    """Return a PostgreSQL URL as libpq and psycopg read it, without SQLAlchemy's driver."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def with_database(url: str, name: str) -> str:
    """Return `url` with another database."""
    return make_url(url).set(database=name, drivername="postgresql").render_as_string(hide_password=False)


@contextlib.contextmanager
def temporary_database(server_url: str, prefix: str, template: str | None = None) -> Iterator[str]:
    """Create a database (a copy of `template`), yield its URL, drop it with whoever is still connected."""
    name = f"{prefix}_{secrets.token_hex(4)}"
    create = SQL("CREATE DATABASE {}").format(Identifier(name))
    if template is not None:
        create += SQL(" TEMPLATE {} STRATEGY FILE_COPY").format(Identifier(template))
    admin = make_conninfo(plain_url(server_url), connect_timeout=60)
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(create)
    try:
        yield with_database(server_url, name)
    finally:
        with psycopg.connect(admin, autocommit=True) as connection:
            connection.execute(SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(Identifier(name)))


class OwnServer:
    """An embedded server of one test, to be killed, frozen and started again."""

    def __init__(self, state: StateDirectory, kind: str) -> None:
        self._state = state
        self._kind = kind
        self._server: Server | None = None

    @property
    def url(self) -> str:
        """URL of the running server; the port stays the same after `start_again`."""
        if self._server is None:
            raise RuntimeError("the server was never started")
        return self._server.url

    @property
    def pid(self) -> int:
        """Process id of the postmaster, or of Valkey."""
        if self._server is None:
            raise RuntimeError("the server was never started")
        return self._server.child.process.pid

    @property
    def data_directory(self) -> Path:
        """Where a PostgreSQL keeps its data."""
        return self._state.path / "postgres" / "data"

    def start(self, port: int | None = None) -> None:
        """Start the server, on a given port when it must be the one it had."""
        start = start_postgres if self._kind == "postgres" else start_valkey
        follow(f"{self._kind} of the test", self._state.path / self._kind / "log")
        self._server = start(self._state, port=port or free_port())

    def start_again(self) -> None:
        """Start a killed server on the port it had, as an operator would."""
        self.start(port=make_url(self.url).port)

    def kill(self) -> None:
        """SIGKILL: nothing is said, nothing is flushed."""
        os.kill(self.pid, signal.SIGKILL)
        if self._server is not None:
            self._server.child.process.wait(60)

    def freeze(self) -> None:
        """SIGSTOP: connections stay open, nobody answers. PostgreSQL's backends go on; freeze those by their pid."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Undo `freeze`."""
        os.kill(self.pid, signal.SIGCONT)
