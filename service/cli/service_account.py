"""`kasbah service-account …`; keys of service accounts are `kasbah key … --service-account NAME`."""

from collections.abc import Mapping
from typing import Any

import click

from service.cli.accounts import Accounts, print_account, reason_option
from service.cli.asking import account_id_of, asked, shown_time, tenant_option, tenant_or_only
from service.cli.output import emit, output_option, printable, table
from service.client import Client, path_of

_PROGRAMS = Accounts("service-accounts", "name", account_id_of)
_SHOWN = ("subject", "client_id", "name", "description", "status", "status_reason", "created_at", "created_by")


@click.command("create")
@click.argument("name")
@click.option("--description", help="What it is for.")
@click.option("--reason", help="Why; kept in the history.")
@tenant_option
@output_option
def create(name: str, description: str | None, reason: str | None, tenant: str | None, output: str) -> None:
    """Make a service account called NAME. It has no rights and no key until it is given some."""
    body = {"name": name, "description": description, "reason": reason}
    said = {field: value for field, value in body.items() if value is not None}

    async def work(client: Client) -> Any:
        return await client.create(path_of("service-accounts"), said, tenant=await tenant_or_only(client, tenant))

    made = asked(work)
    emit(output, made, lambda: click.echo(f"created service account {printable(made['name'])} ({made['subject']})"))


@click.command("list")
@click.option("--search", "-q", help="Only those whose name begins with this.")
@click.option("--status", type=click.Choice(["active", "disabled", "deleted"]), help="Only those in this state.")
@tenant_option
@output_option
def list_(search: str | None, status: str | None, tenant: str | None, output: str) -> None:
    """List service accounts; deleted ones only when asked for."""

    async def work(client: Client) -> list[Any]:
        where = await tenant_or_only(client, tenant)
        path = path_of("service-accounts")
        pages = client.pages(path, "service_accounts", limit=1000, q=search, status=status, tenant=where)
        return [account async for account in pages]

    found = asked(work)
    columns = ["name", "description", "status", "id", "created"]
    rows = [
        (each["name"], each["description"], each["status"], each["id"], shown_time(each["created_at"]))
        for each in found
    ]
    emit(output, {"service_accounts": found}, lambda: table(columns, rows, empty="no service accounts"))


@click.command("show")
@click.argument("account")
@tenant_option
@output_option
def show(account: str, tenant: str | None, output: str) -> None:
    """Show the service account ACCOUNT (name or id) with its roles and live keys."""

    async def work(client: Client) -> Any:
        where = await tenant_or_only(client, tenant)
        path = await _PROGRAMS.path(client, account, where)
        keys = client.pages(f"{path}/keys", "keys", limit=1000, tenant=where)
        live = [key async for key in keys if key["revoked_at"] is None]
        return await client.get(path, tenant=where) | {"keys": live}

    _show(asked(work), output)


@click.command("update")
@click.argument("account")
@click.option("--name", help="Another name. Rules go on: they name the id.")
@click.option("--description", help="What it is for, or nothing: --description ''.")
@click.option("--reason", help="Why; kept in the history.")
@tenant_option
@output_option
def update(  # noqa: PLR0917 - click passes options by name
    account: str, name: str | None, description: str | None, reason: str | None, tenant: str | None, output: str
) -> None:
    """Change the service account ACCOUNT (name or id)."""
    patch: dict[str, Any] = {} if name is None else {"name": name}
    patch |= {} if description is None else {"description": description or None}
    if not patch:
        raise click.UsageError("say what is to change")
    patch |= {"reason": reason} if reason else {}

    _show(_PROGRAMS.patch(account, patch, tenant), output)


@click.command("disable")
@click.argument("account")
@reason_option
@tenant_option
@output_option
def disable(account: str, reason: str, tenant: str | None, output: str) -> None:
    """Disable the service account ACCOUNT (name or id): it may do nothing, and its keys do nothing."""
    _show(_PROGRAMS.put(account, "disable", reason, tenant), output)


@click.command("enable")
@click.argument("account")
@reason_option
@tenant_option
@output_option
def enable(account: str, reason: str, tenant: str | None, output: str) -> None:
    """Enable the service account ACCOUNT (name or id) again, and its keys with it."""
    _show(_PROGRAMS.put(account, "enable", reason, tenant), output)


@click.command("delete")
@click.argument("account")
@reason_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@tenant_option
@output_option
def delete(account: str, reason: str, yes: bool, tenant: str | None, output: str) -> None:  # noqa: FBT001 - click's
    """Delete the service account ACCOUNT (name or id), for ever: its keys end, its id is never given again."""
    _PROGRAMS.delete(account, reason, tenant, yes=yes, output=output)


def _show(account: Mapping[str, Any], output: str) -> None:
    emit(output, account, lambda: _print(account))


def _print(account: Mapping[str, Any]) -> None:
    print_account(account, _SHOWN)
    for key in account.get("keys", ()):
        used = shown_time(key["last_used_at"]) or "never"
        click.echo(printable(f"key: {key['prefix']} {key['name']}, last used {used}"))
