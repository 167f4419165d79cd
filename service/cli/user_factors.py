"""`kasbah user factors|revoke-factor|reset-factors`: the second factors of other people."""

from typing import Any

import click

from service.cli.accounts import reason_option
from service.cli.asking import asked, confirm, id_of, shown_time, tenant_option, tenant_or_only
from service.cli.output import emit, output_option, printable, table
from service.client import Client, RefusedError, path_of

_NONE_LEFT = (
    "nobody is signed in before a new second factor is bound, by password and ticket: "
    "`kasbah user reset-factors` mails a ticket"
)

_yes = click.option("--yes", is_flag=True, help="Do not ask.")


@click.command("factors")
@click.argument("user")
@tenant_option
@output_option
def factors(user: str, tenant: str | None, output: str) -> None:
    """List what is bound to the account USER (username, address or id)."""

    async def work(client: Client) -> Any:
        where = await tenant_or_only(client, tenant)
        return await client.get(path_of("users", await id_of(client, user, where), "factors"), tenant=where)

    found = asked(work)
    columns = ["factor", "kind", "id", "confirmed", "last used", "state"]
    rows = [
        (
            one["name"],
            one["kind"],
            one["id"],
            shown_time(one["confirmed_at"]),
            shown_time(one["last_used_at"]),
            "disabled" if one["disabled_at"] else "",
        )
        for one in found["factors"]
    ]

    def show() -> None:
        table(columns, rows, empty="no second factors")
        click.echo(f"recovery codes left: {found['recovery_codes_left']}")
        if found["enrolment_demanded"]:
            click.echo(_NONE_LEFT)

    emit(output, found, show)


@click.command("revoke-factor")
@click.argument("user")
@click.argument("factor")
@reason_option
@_yes
@tenant_option
@output_option
def revoke(  # noqa: PLR0917 - click passes options by name
    user: str,
    factor: str,
    reason: str,
    yes: bool,  # noqa: FBT001 - as above
    tenant: str | None,
    output: str,
) -> None:
    """End the second factor FACTOR (id) of the account USER (username, address or id); all its sign-ins end."""
    if not yes:
        confirm(f"End the second factor {printable(factor)} of {printable(user)}, and all sign-ins?", output)

    async def work(client: Client) -> Any:
        where = await tenant_or_only(client, tenant)
        of = await id_of(client, user, where)
        await client.delete(path_of("users", of, "factors", factor), reason=reason, tenant=where)
        try:
            return await client.get(path_of("users", of, "factors"), tenant=where)
        except RefusedError:  # a key that may change accounts, and not read them
            return {"enrolment_demanded": False}

    left = asked(work)

    def show() -> None:
        click.echo(printable(f"revoked {factor}"))
        if left["enrolment_demanded"]:
            click.echo(_NONE_LEFT)

    emit(output, {"revoked": factor}, show)


@click.command("reset-factors")
@click.argument("user")
@reason_option
@_yes
@tenant_option
@output_option
def reset(
    user: str,
    reason: str,
    yes: bool,  # noqa: FBT001 - click passes options by name
    tenant: str | None,
    output: str,
) -> None:
    """Take all second factors of USER (username, address or id) away, and mail its person a ticket for new ones."""
    if not yes:
        confirm(f"Take all second factors of {printable(user)} away, and end all sign-ins?", output)

    async def work(client: Client) -> Any:
        where = await tenant_or_only(client, tenant)
        path = path_of("users", await id_of(client, user, where), "factors", "reset")
        return await client.post(path, {"reason": reason}, tenant=where)

    done = asked(work)
    emit(
        output, done, lambda: click.echo("they are gone; a ticket for new ones is on its way to the account's address")
    )
