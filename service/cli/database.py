"""`kasbah migrate`: bring the database to the schema of this version."""

import os
import time

import click
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError

from service.cli.output import ExitCode, emit, fail, output_option


@click.command()
@click.option("--check", is_flag=True, help="Change nothing; exit 4 when migrations are pending.")
@click.option(
    "--database-url",
    metavar="URL",
    help="PostgreSQL as the owner of the tables. Default: KASBAH_MIGRATION_DATABASE_URL, else KASBAH_DATABASE_URL.",
)
@output_option
def migrate(check: bool, database_url: str | None, output: str) -> None:  # noqa: FBT001 - click passes options so
    """Bring the database to the schema of this version.

    Safe to repeat and to run from several places at once: one migrates, the others wait.
    """
    from migrations import runner
    from migrations.service_role import ServiceRoleError

    url = database_url or os.environ.get("KASBAH_MIGRATION_DATABASE_URL") or os.environ.get("KASBAH_DATABASE_URL")
    if not url:
        fail("no database: set KASBAH_DATABASE_URL or give --database-url", ExitCode.USAGE)
    try:
        where = make_url(url).render_as_string(hide_password=True)
        started = time.monotonic()
        revisions = runner.pending(url) if check else runner.upgrade(url)
    except ArgumentError:
        fail("the database URL is not a URL: write postgresql://user@host/database", ExitCode.USAGE)
    except (ServiceRoleError, runner.SchemaTooNewError, runner.ServerTooOldError) as error:
        fail(str(error), ExitCode.REFUSED)
    except OperationalError as error:
        fail(f"the database did not answer: {_first_line(error)}", ExitCode.UNREACHABLE)
    except DBAPIError as error:
        fail(f"the database refused the migration, nothing was changed by it: {_first_line(error)}", ExitCode.REFUSED)
    data = {"database": where, "head": runner.head(), "pending" if check else "applied": revisions}
    emit(output, data, lambda: _render(where, revisions, check=check, seconds=time.monotonic() - started))
    if check and revisions:
        raise SystemExit(int(ExitCode.PENDING))


def _render(where: str, revisions: list[str], *, check: bool, seconds: float) -> None:
    if not revisions:
        click.echo(f"{where} is up to date")
    elif check:
        click.echo(f"{where}: pending: {', '.join(revisions)}")
    else:
        click.echo(f"{where}: applied {', '.join(revisions)} in {seconds:.1f} s")


def _first_line(error: DBAPIError) -> str:
    return str(error.orig).strip().partition("\n")[0]
