"""`kasbah audit retain`: lets the oldest months of the audit go, as the owner of the tables."""

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError

from service.cli.asking import confirm
from service.cli.output import ExitCode, emit, fail, output_option

if TYPE_CHECKING:
    from migrations.audit_retention import Retained


@click.command("retain")
@click.option("--keep-days", type=click.IntRange(1), required=True, help="Months that ended longer ago than this go.")
@click.option("--reason", help="Why; kept in the audit.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--database-url",
    metavar="URL",
    help="PostgreSQL as the owner of the tables. Default: KASBAH_MIGRATION_DATABASE_URL, else KASBAH_DATABASE_URL.",
)
@output_option
def retain(keep_days: int, reason: str | None, yes: bool, database_url: str | None, output: str) -> None:  # noqa: FBT001 - click passes options by name
    """Let whole months of the audit go that ended more than --keep-days ago, for every tenant.

    Only what lies behind a delivered checkpoint goes. Each chain says where it begins from now on, and the platform's
    says what went; `kasbah audit verify` holds that against the rows. The service needs no stop.
    """
    from migrations import audit_retention

    url = database_url or os.environ.get("KASBAH_MIGRATION_DATABASE_URL") or os.environ.get("KASBAH_DATABASE_URL")
    if not url:
        fail("no database: set KASBAH_DATABASE_URL or give --database-url", ExitCode.USAGE)
    if not yes:
        confirm(f"remove every month of the audit that ended more than {keep_days} days ago?", output)
    try:
        done = audit_retention.retain(url, keep_days, now=datetime.now(UTC), reason=reason)
    except ArgumentError:
        fail("the database URL is not a URL: write postgresql://user@host/database", ExitCode.USAGE)
    except audit_retention.NotDeliveredError as error:
        fail(f"nothing was removed: {error}", ExitCode.REFUSED)
    except OperationalError as error:
        fail(f"the database did not answer, try again: {_first_line(error)}", ExitCode.UNREACHABLE)
    except DBAPIError as error:
        fail(f"the database refused: {_first_line(error)}", ExitCode.REFUSED)
    before = None if done.before is None else done.before.isoformat()
    said = {"before": before, "partitions": list(done.partitions), "chains": done.chains}
    emit(output, said, lambda: click.echo(_shown(done)))


def _shown(done: "Retained") -> str:
    if done.before is None:
        return "no month is old enough"
    return f"removed {', '.join(done.partitions)}; {done.chains} chains begin anew, from {done.before:%Y-%m-%d} on"


def _first_line(error: DBAPIError) -> str:
    return str(error.orig).strip().partition("\n")[0]
