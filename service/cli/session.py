"""`kasbah session list|revoke|revoke-all`: one's own sign-ins, or those of an account."""

from typing import Any

import click

from service.cli.asking import asked, confirm, id_of, shown_time, tenant_option, tenant_or_only
from service.cli.output import emit, output_option, printable, table
from service.client import Client, path_of

_user = click.option("--user", metavar="USER", help="An account (username, address or id); left out, one's own.")
_reason = click.option("--reason", help="Why; needed with --user, and kept in the history.")


@click.command("list")
@_user
@tenant_option
@output_option
def list_(user: str | None, tenant: str | None, output: str) -> None:
    """List where somebody is signed in, the newest first."""

    async def work(client: Client) -> Any:
        path, where = await _place(client, user, tenant)
        return (await client.get(path, tenant=where))["sessions"]

    found = asked(work)
    columns = ["session", "device", "address", "level", "signed in", "last seen", "ends", ""]
    rows = [
        (
            each["id"],
            each["device"],
            each["address"],
            f"{each['acr']} ({' '.join(each['amr'])})",
            shown_time(each["auth_time"]),
            shown_time(each["last_seen_at"]),
            shown_time(each["expires_at"]),
            "this one" if each.get("current") else "",
        )
        for each in found
    ]
    emit(output, {"sessions": found}, lambda: table(columns, rows, empty="no sessions"))


@click.command("revoke")
@click.argument("session")
@_user
@_reason
@tenant_option
@output_option
def revoke(session: str, user: str | None, reason: str | None, tenant: str | None, output: str) -> None:
    """End SESSION (an id of the list; `current` signs out) on every node."""
    _require_reason(user, reason)

    async def work(client: Client) -> Any:
        path, where = await _place(client, user, tenant, session)
        await _refuse_own(client, path)
        return await client.delete(path, reason=reason, tenant=where)

    asked(work)
    emit(output, {"revoked": session}, lambda: click.echo(f"revoked session {printable(session)}"))


@click.command("revoke-all")
@_user
@_reason
@click.option("--yes", is_flag=True, help="Do not ask.")
@tenant_option
@output_option
def revoke_all(
    user: str | None,
    reason: str | None,
    yes: bool,  # noqa: FBT001 - as above
    tenant: str | None,
    output: str,
) -> None:
    """End every sign-in of somebody on every node, and their personal keys."""
    _require_reason(user, reason)
    if not yes:
        confirm(
            f"End every sign-in of {'your own' if user is None else printable(user)}, and personal keys too?", output
        )

    async def work(client: Client) -> Any:
        path, where = await _place(client, user, tenant)
        await _refuse_own(client, path)
        return await client.delete(path, reason=reason, tenant=where)

    asked(work)
    emit(output, {"revoked": "all"}, lambda: click.echo("revoked every sign-in and personal key"))


def _require_reason(user: str | None, reason: str | None) -> None:
    if user is not None and reason is None:
        raise click.UsageError("say why: --reason")
    if user is None and reason is not None:
        raise click.UsageError("--reason goes with --user")


async def _refuse_own(client: Client, path: str) -> None:
    """Say what does it for one's own account, which nobody administers."""
    own = (await client.get("/v1/keys/self"))["subject"]
    if path.startswith(path_of("users", str(own).removeprefix("user:"), "sessions")):
        raise click.UsageError("this is your own account: leave out --user and --reason")


async def _place(client: Client, user: str | None, tenant: str | None, *more: str) -> tuple[str, str | None]:
    """Return the path of the sessions of an account, or of one's own, and the tenant to name."""
    if user is None:
        return path_of("users", "me", "sessions", *more), None
    where = await tenant_or_only(client, tenant)
    return path_of("users", await id_of(client, user, where), "sessions", *more), where
