"""`kasbah invitation create|list|resend|revoke`, and `kasbah user reset-password|verify`: what goes out by mail."""

from typing import Any

import click

from service.cli.asking import asked, confirm, id_of, shown_time, tenant_option, tenant_or_only
from service.cli.output import ExitCode, emit, fail, output_option, printable, table
from service.client import Client, path_of

_PATH = path_of("invitations")


@click.command("create")
@click.argument("email")
@click.option("--role", "roles", multiple=True, metavar="ROLE", help="role:… or group:…; may be repeated.")
@click.option("--name", "display_name", help="Name for people.")
@click.option("--reason", help="Why; kept in the history.")
@tenant_option
@output_option
def create(  # noqa: PLR0917 - click passes options by name
    email: str, roles: tuple[str, ...], display_name: str | None, reason: str | None, tenant: str | None, output: str
) -> None:
    """Invite the person at EMAIL: a link is mailed that makes their account, once, within seven days."""
    body: dict[str, Any] = {"email": email, "roles": list(roles), "display_name": display_name, "reason": reason}
    said = {name: value for name, value in body.items() if value is not None}

    async def work(client: Client) -> Any:
        return await client.create(_PATH, said, tenant=await tenant_or_only(client, tenant))

    made = asked(work)
    ends = shown_time(made["expires_at"])
    emit(output, made, lambda: click.echo(f"invited {printable(made['email'])} until {ends} ({made['id']})"))


@click.command("list")
@click.option("--all", "everything", is_flag=True, help="Also those that are over.")
@tenant_option
@output_option
def list_(everything: bool, tenant: str | None, output: str) -> None:  # noqa: FBT001 - click passes options by name
    """List invitations that can be accepted."""
    found = asked(lambda client: _all(client, tenant))
    shown = [entry for entry in found if everything or entry["status"] == "pending"]
    columns = ["email", "name", "roles", "status", "ends", "created by", "id"]
    rows = [
        (
            entry["email"],
            entry["display_name"],
            " ".join(entry["roles"]),
            entry["status"],
            shown_time(entry["expires_at"]),
            entry["created_by"],
            entry["id"],
        )
        for entry in shown
    ]
    emit(output, {"invitations": shown}, lambda: table(columns, rows, empty="no invitations"))


@click.command("resend")
@click.argument("invitation")
@tenant_option
@output_option
def resend(invitation: str, tenant: str | None, output: str) -> None:
    """Send INVITATION (its id, or the address it was sent to) anew; the link before does nothing any more."""

    async def work(client: Client) -> Any:
        entry = await _one(client, invitation, tenant, ("pending", "expired"))
        where = await tenant_or_only(client, tenant)
        return await client.post(f"{_PATH}/{entry['id']}/resend", None, tenant=where)

    sent = asked(work)
    emit(output, sent, lambda: click.echo(f"sent to {printable(sent['email'])} ({sent['id']})"))


@click.command("revoke")
@click.argument("invitation")
@click.option("--yes", is_flag=True, help="Do not ask.")
@tenant_option
@output_option
def revoke(invitation: str, yes: bool, tenant: str | None, output: str) -> None:  # noqa: FBT001 - as above
    """Revoke INVITATION (its id, or the address it was sent to): its link does nothing any more."""
    entry = asked(lambda client: _one(client, invitation, tenant, ("pending",)))
    if not yes:
        confirm(f"Revoke the invitation of {printable(entry['email'])}?", output)

    async def work(client: Client) -> Any:
        return await client.delete(f"{_PATH}/{entry['id']}", tenant=await tenant_or_only(client, tenant))

    asked(work)
    emit(output, {"id": entry["id"], "revoked": True}, lambda: click.echo(f"revoked {printable(entry['email'])}"))


@click.command("reset-password")
@click.argument("user")
@click.option("--reason", required=True, help="Why; kept in the history.")
@tenant_option
@output_option
def reset_password(user: str, reason: str, tenant: str | None, output: str) -> None:
    """Mail a link to the verified address of the account USER: its person chooses a new password."""
    _mail(user, "password-reset", {"reason": reason}, tenant, output)


@click.command("verify")
@click.argument("user")
@tenant_option
@output_option
def verify(user: str, tenant: str | None, output: str) -> None:
    """Mail a link to the address of the account USER that verifies it."""
    _mail(user, "verification", None, tenant, output)


def _mail(user: str, what: str, body: Any, tenant: str | None, output: str) -> None:
    async def work(client: Client) -> Any:
        where = await tenant_or_only(client, tenant)
        return await client.post(path_of("users", await id_of(client, user, where), what), body, tenant=where)

    said = asked(work)
    emit(output, said, lambda: click.echo("a link is on its way to the account's own address"))


async def _all(client: Client, tenant: str | None) -> list[Any]:
    where = await tenant_or_only(client, tenant)
    return [entry async for entry in client.pages(_PATH, "invitations", limit=1000, tenant=where)]


async def _one(client: Client, named: str, tenant: str | None, states: tuple[str, ...]) -> Any:
    """Return the one invitation of an id or address; another number of them ends the command."""
    found = [
        entry
        for entry in await _all(client, tenant)
        if entry["status"] in states and named.lower() in {entry["id"], (entry["email"] or "").lower()}
    ]
    if len(found) != 1:
        fail(f"{len(found) or 'no'} open invitations are for `{printable(named)}`", ExitCode.REFUSED)
    return found[0]
