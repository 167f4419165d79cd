"""`kasbah user create|list|show|update|disable|enable|delete`."""

from collections.abc import Mapping
from typing import Any

import click

from service.cli.accounts import Accounts, print_account, reason_option
from service.cli.asking import asked, id_of, shown_time, tenant_option, tenant_or_only
from service.cli.output import emit, output_option, printable, table
from service.client import Client, path_of

_PEOPLE = Accounts("users", "username", id_of)
_SHOWN = (
    "subject",
    "username",
    "email",
    "email_verified_at",
    "display_name",
    "status",
    "status_reason",
    "mfa_required",
    "password_set",
    "created_at",
    "created_by",
    "last_sign_in_at",
)


@click.command("create")
@click.argument("username")
@click.option("--email", help="Address for links and notices; its person has to confirm it.")
@click.option("--name", "display_name", help="Name for people.")
@click.option("--mfa-required", is_flag=True, help="Demand a second factor of this person.")
@click.option("--reason", help="Why; kept in the history.")
@tenant_option
@output_option
def create(  # noqa: PLR0917 - click passes options by name
    username: str,
    email: str | None,
    display_name: str | None,
    mfa_required: bool,  # noqa: FBT001 - as above
    reason: str | None,
    tenant: str | None,
    output: str,
) -> None:
    """Create an account named USERNAME. It has no password: its person chooses one."""
    body: dict[str, Any] = {"username": username, "email": email, "display_name": display_name, "reason": reason}
    said = {name: value for name, value in body.items() if value is not None}
    said |= {"mfa_required": True} if mfa_required else {}

    async def work(client: Client) -> Any:
        return await client.create(path_of("users"), said, tenant=await tenant_or_only(client, tenant))

    made = asked(work)
    emit(output, made, lambda: click.echo(f"created user {printable(made['username'])} ({made['subject']})"))


@click.command("list")
@click.option("--search", "-q", help="Only accounts whose username, address or display name begins with this.")
@click.option("--status", type=click.Choice(["active", "disabled", "deleted"]), help="Only accounts in this state.")
@tenant_option
@output_option
def list_(search: str | None, status: str | None, tenant: str | None, output: str) -> None:
    """List accounts; deleted ones only when asked for."""

    async def work(client: Client) -> list[Any]:
        where = await tenant_or_only(client, tenant)
        pages = client.pages(path_of("users"), "users", limit=1000, q=search, status=status, tenant=where)
        return [user async for user in pages]

    found = asked(work)
    columns = ["user", "email", "name", "status", "id", "created"]
    rows = [
        (
            user["username"],
            user["email"],
            user["display_name"],
            user["status"],
            user["id"],
            shown_time(user["created_at"]),
        )
        for user in found
    ]
    emit(output, {"users": found}, lambda: table(columns, rows, empty="no users"))


@click.command("show")
@click.argument("user")
@tenant_option
@output_option
def show(user: str, tenant: str | None, output: str) -> None:
    """Show the account USER (username, address or id) with its roles."""
    _show(_PEOPLE.get(user, tenant), output)


@click.command("update")
@click.argument("user")
@click.option("--username", help="Another username. Rules go on: they name the id.")
@click.option("--email", help="Another address (needs --reason), or nothing: --email ''.")
@click.option("--name", "display_name", help="Another name for people, or nothing: --name ''.")
@click.option("--mfa-required/--no-mfa-required", default=None, help="Demand a second factor of this person, or not.")
@click.option("--reason", help="Why; kept in the history.")
@tenant_option
@output_option
def update(  # noqa: PLR0917 - click passes options by name
    user: str,
    username: str | None,
    email: str | None,
    display_name: str | None,
    mfa_required: bool | None,  # noqa: FBT001 - as above
    reason: str | None,
    tenant: str | None,
    output: str,
) -> None:
    """Change the account USER (username, address or id)."""
    said: dict[str, Any] = {"username": username, "mfa_required": mfa_required, "reason": reason}
    patch = {name: value for name, value in said.items() if value is not None}
    patch |= {
        name: value or None for name, value in (("email", email), ("display_name", display_name)) if value is not None
    }
    if not patch.keys() - {"reason"}:
        raise click.UsageError("say what is to change")

    _show(_PEOPLE.patch(user, patch, tenant), output)


@click.command("disable")
@click.argument("user")
@reason_option
@tenant_option
@output_option
def disable(user: str, reason: str, tenant: str | None, output: str) -> None:
    """Disable the account USER (username, address or id): it may do nothing, and its sign-ins are over."""
    _show(_PEOPLE.put(user, "disable", reason, tenant), output)


@click.command("enable")
@click.argument("user")
@reason_option
@tenant_option
@output_option
def enable(user: str, reason: str, tenant: str | None, output: str) -> None:
    """Enable the account USER (username, address or id) again."""
    _show(_PEOPLE.put(user, "enable", reason, tenant), output)


@click.command("delete")
@click.argument("user")
@reason_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@tenant_option
@output_option
def delete(user: str, reason: str, yes: bool, tenant: str | None, output: str) -> None:  # noqa: FBT001 - click's
    """Delete the account USER (username, address or id): what is personal is erased, for ever."""
    _PEOPLE.delete(user, reason, tenant, yes=yes, output=output)


def _show(user: Mapping[str, Any], output: str) -> None:
    emit(output, user, lambda: print_account(user, _SHOWN))
