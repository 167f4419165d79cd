"""`kasbah bootstrap`: the first platform key of an installation."""

import asyncio
import os

import click

from service.cli.output import ExitCode, emit, fail, output_option


@click.command()
@click.option("--name", default="first platform key", show_default=True, help="What the key is called in lists.")
@click.option("--database-url", metavar="URL", help="Default: KASBAH_DATABASE_URL.")
@output_option
def bootstrap(name: str, database_url: str | None, output: str) -> None:
    """Create a platform key in the database, without a server; its token is shown once.

    It holds every scope: make narrower keys with `kasbah key create`, then revoke it with `kasbah key revoke`.
    """
    from authn.errors import AuthnError
    from service.bootstrap import PATIENT, create_platform_key
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
        token = asyncio.run(create_platform_key(url, name))
    except (AuthnError, TenancyError) as error:
        fail(str(error), ExitCode.UNREACHABLE)
    emit(output, {"token": token}, lambda: click.echo(token))
