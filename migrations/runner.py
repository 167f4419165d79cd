"""Apply the migrations: needs no alembic.ini, so that an installed package can run it from anywhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

LOCK_KEY = 0x6B61736261680001
"""Advisory lock that one migrator holds; the others wait for it."""

WAIT_FOR_OTHER_MIGRATOR_SECONDS = 120
LOCK_TIMEOUT_SECONDS = 3
STATEMENT_TIMEOUT_SECONDS = 300
CONNECT_TIMEOUT_SECONDS = 5
MIN_POSTGRES = 15
"""First version whose views can run with the rights of whoever reads them."""


def upgrade(url: str) -> list[str]:
    """Bring the database to the newest revision, one transaction per migration.

    Args:
        url: Of the user that owns the tables, `postgresql://…` or `postgresql+psycopg://…`.

    Returns:
        The revisions applied, oldest first; empty when the database was up to date.

    Raises:
        ServiceRoleError: the service role is missing and this user may not create it.
        SchemaTooNewError: the database belongs to a newer version.
        ServerTooOldError: PostgreSQL before 15.
        sqlalchemy.exc.OperationalError: no connection, or a lock was not had in time; nothing half done remains.
    """
    with connect(url) as connection:
        _require_version(connection)
        connection.execute(text(f"SET lock_timeout = '{WAIT_FOR_OTHER_MIGRATOR_SECONDS}s'"))
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": LOCK_KEY})
        connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT_SECONDS}s'"))
        connection.execute(text(f"SET statement_timeout = '{STATEMENT_TIMEOUT_SECONDS}s'"))
        connection.commit()
        pending_before = _pending(connection)
        connection.commit()
        if pending_before:
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()
        return pending_before


def pending(url: str) -> list[str]:
    """Return the revisions that `upgrade` would apply, oldest first."""
    with connect(url) as connection:
        return _pending(connection)


class SchemaTooNewError(Exception):
    """The database was migrated by a newer version of this program."""


class ServerTooOldError(Exception):
    """The PostgreSQL server lacks what the schema rests on."""


def head() -> str:
    """Return the newest revision that this code knows."""
    newest = ScriptDirectory.from_config(_config()).get_current_head()
    if newest is None:
        raise RuntimeError("there are no migrations")
    return newest


def sync_url(url: str) -> str:
    """Return `url` with psycopg as its driver."""
    return make_url(url).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


def _require_version(connection: Connection) -> None:
    version = connection.scalar(text("SELECT current_setting('server_version_num')::integer"))
    if version // 10_000 < MIN_POSTGRES:
        raise ServerTooOldError(f"this is PostgreSQL {version // 10_000}; Kasbah needs {MIN_POSTGRES} or newer")


def _pending(connection: Connection) -> list[str]:
    script = ScriptDirectory.from_config(_config())
    current = MigrationContext.configure(connection).get_current_revision()
    revisions = [entry.revision for entry in script.walk_revisions(base="base", head="heads")]
    revisions.reverse()
    if current is None:
        return revisions
    if current not in revisions:
        raise SchemaTooNewError(f"the database is at revision `{current}`, which this version does not know")
    return revisions[revisions.index(current) + 1 :]


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


@contextmanager
def connect(url: str) -> Iterator[Connection]:
    """Yield a connection as the user of `url`, with a bound on the wait for it."""
    engine = create_engine(sync_url(url), poolclass=NullPool, connect_args={"connect_timeout": CONNECT_TIMEOUT_SECONDS})
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()
