"""`kasbah auth devices list|forget`: devices that an account knows, whose failed sign-ins count apart."""

from typing import Any

import click

from service.cli.asking import asked, confirm, id_of, shown_time, tenant_option, tenant_or_only
from service.cli.output import emit, output_option, printable, table
from service.client import Client, path_of

_MINE = path_of("users", "me", "devices")


@click.command("list")
@output_option
def list_(output: str) -> None:
    """List the devices that one's own account knows, the one that was used last first."""

    async def work(client: Client) -> Any:
        return (await client.get(_MINE))["devices"]

    found = asked(work)
    columns = ["device", "known since", "last signed in from", "forgotten"]
    rows = [
        (
            each["id"],
            shown_time(each["created_at"]),
            shown_time(each["last_used_at"]) if each["signed_in"] else "never",
            shown_time(each["expires_at"]),
        )
        for each in found
    ]
    emit(output, {"devices": found}, lambda: table(columns, rows, empty="no known devices"))


@click.command("forget")
@click.argument("device", required=False)
@click.option("--user", metavar="USER", help="All of an account (username, address or id); left out, one's own.")
@click.option("--reason", help="Why; needed with --user, and kept in the audit.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@tenant_option
@output_option
def forget(  # noqa: PLR0917 - click passes options by name
    device: str | None,
    user: str | None,
    reason: str | None,
    yes: bool,  # noqa: FBT001 - as above
    tenant: str | None,
    output: str,
) -> None:
    """Forget DEVICE (an id of the list), or without one all devices. Nobody is signed out."""
    if user is not None and device is not None:
        raise click.UsageError("give DEVICE or --user, not both")
    if (user is None) != (reason is None):
        raise click.UsageError("say why: --reason" if reason is None else "--reason goes with --user")
    whose = "your account" if user is None else printable(user)
    if device is None and not yes:
        confirm(f"Forget every device that {whose} knows?", output)

    async def work(client: Client) -> Any:
        if user is None:
            return await client.delete(_MINE if device is None else path_of("users", "me", "devices", device))
        where = await tenant_or_only(client, tenant)
        path = path_of("users", await id_of(client, user, where), "sign-in", "devices")
        return await client.delete(path, reason=reason, tenant=where)

    asked(work)
    what = f"device {printable(device)}" if device is not None else f"every device that {whose} knew"
    emit(output, {"forgotten": device or "all"}, lambda: click.echo(f"forgot {what}"))
