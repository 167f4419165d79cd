"""`kasbah bootstrap`: the base, the first platform key and the first administrator's token of an installation."""

import asyncio
import os
from typing import TYPE_CHECKING

import click

from service.cli.output import ExitCode, emit, fail, output_option

if TYPE_CHECKING:
    from service.bootstrap import FirstSteps


@click.command()
@click.option("--name", default="first platform key", show_default=True, help="What the key is called in lists.")
@click.option("--database-url", metavar="URL", help="Default: KASBAH_DATABASE_URL.")
@click.option(
    "--administrator",
    is_flag=True,
    help="Only a token for an administrator, also where there is one: the way back in for who lost every other.",
)
@output_option
def bootstrap(name: str, database_url: str | None, output: str, *, administrator: bool) -> None:
    """Begin an installation in the database, without a server.

    Creates a platform key, whose token is shown once. It holds every scope: make narrower keys with
    `kasbah key create`, then revoke it with `kasbah key revoke`. An installation without a base gets the shipped one.
    As long as the platform has no administrator, a one-time token for the first is shown as well (on standard error):
    `POST /v1/bootstrap` takes it within 24 hours.
    """
    from authn.errors import AuthnError
    from authz.errors import AuthzError
    from service.bootstrap import PATIENT, begin
    from service.preflight import check_postgres
    from service.settings import postgres_url_fault
    from tenancy.errors import TenancyError

    url = database_url or os.environ.get("KASBAH_DATABASE_URL")
    if not url:
        fail("no database: set KASBAH_DATABASE_URL or give --database-url", ExitCode.USAGE)
    fault = postgres_url_fault(url)
    if fault is not None:
        fail(f"the database URL {fault}", ExitCode.USAGE)
    found = asyncio.run(check_postgres(url, PATIENT))
    if found.faults:
        fail(found.faults[0], ExitCode.REFUSED)
    if found.unreachable:
        fail(found.unreachable[0], ExitCode.UNREACHABLE)
    try:
        made = asyncio.run(begin(url, None if administrator else name, administrator_again=administrator))
    except (AuthnError, AuthzError, TenancyError) as error:
        fail(str(error), ExitCode.UNREACHABLE)
    said: dict[str, object] = {} if made.platform_key is None else {"token": made.platform_key}
    if made.administrator is not None:
        expires_at = made.administrator.expires_at.isoformat()
        said |= {"administrator_token": made.administrator.token, "administrator_token_expires_at": expires_at}
    emit(output, said, lambda: _show(made))


def _show(made: "FirstSteps") -> None:
    """Print the key on standard output, for programs; what is for people goes to standard error."""
    if made.platform_key is not None:
        click.echo(made.platform_key)
    if made.administrator is None:
        return
    if made.platform_key is None:
        click.echo(made.administrator.token)
        return
    click.echo(f"first administrator, until {made.administrator.expires_at:%Y-%m-%d %H:%M} UTC, by", err=True)
    click.echo(f"POST /v1/bootstrap with the token {made.administrator.token}", err=True)
