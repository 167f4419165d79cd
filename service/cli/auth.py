"""`kasbah auth login`, `kasbah auth failures show|clear`: sign in from a terminal; counters of failed sign-ins."""

import sys
from typing import Any

import click

from service.cli.asking import asked, asked_of, confirm, id_of, shown_time, tenant_option, tenant_or_only
from service.cli.output import ExitCode, emit, fail, output_option, printable, table
from service.client import Client, path_of
from service.which_server import NoServerError, find_public_server

_LOGIN = path_of("auth", "login")
_VERIFY = path_of("auth", "mfa", "verify")
_TYPED = {"totp": "Code of your authenticator", "recovery_code": "Recovery code"}
"""Methods that a terminal can ask for, the preferred one first."""
_TAKEN_ONCE = "each code is taken once: if this one was used already, wait for the next"


@click.command("login")
@click.argument("identifier")
@click.option("--tenant", required=True, metavar="SLUG", help="Where; `_platform` for the platform's people.")
@click.option("--method", type=click.Choice(list(_TYPED)), help="Second factor; left out, the first that can be typed.")
@click.option("--password-stdin", is_flag=True, help="Read password, then code, as lines of standard input.")
@output_option
def login(
    identifier: str,
    tenant: str,
    method: str | None,
    password_stdin: bool,  # noqa: FBT001 - click passes options by name
    output: str,
) -> None:
    """Sign in as IDENTIFIER (username or address) and print the session. Nothing is stored.

    The session's token is what KASBAH_API_KEY takes, until it ends.
    """
    secret = _line if password_stdin else _prompt
    headers = {"X-Tenant-ID": tenant}

    async def with_password(client: Client) -> Any:
        return await client.post(_LOGIN, {"identifier": identifier, "password": password}, headers=headers)

    async def with_code(client: Client) -> Any:
        proof = {"challenge": half["challenge"], "method": chosen, "code": code}
        return await client.post(_VERIFY, proof)

    try:
        server = find_public_server()
    except NoServerError as error:
        fail(str(error), ExitCode.UNREACHABLE)
    password = secret("Password")
    half = asked_of(server, with_password)
    if half["status"] == "enrollment_required":
        fail(
            "a second factor must be bound to this account first, where its tenant's people sign in (docs/sign-in.md)",
            ExitCode.REFUSED,
        )
    if half["status"] == "mfa_required":
        chosen = _chosen(half["methods"], method)
        code = secret(_TYPED[chosen])
        half = asked_of(server, with_code, hint=_TAKEN_ONCE)
    emit(output, half, lambda: _show(identifier, half["session"]))


@click.command("show")
@click.argument("user", required=False)
@tenant_option
@output_option
def show_failures(user: str | None, tenant: str | None, output: str) -> None:
    """Show failed sign-ins of USER (id, name or address); without one, of networks and of names that are nobody's."""

    async def work(client: Client) -> Any:
        where = await tenant_or_only(client, tenant)
        if user is None:
            return await client.get(path_of("sign-in", "failures"), tenant=where)
        return await client.get(path_of("users", await id_of(client, user, where), "sign-in"), tenant=where)

    found = asked(work)
    emit(output, found, lambda: _show_tenant(found) if user is None else _show_account(found))


@click.command("clear")
@click.argument("user", required=False)
@click.option("--address", help="Without USER: only the network of this address.")
@click.option("--reason", required=True, help="Why; kept in the audit.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@tenant_option
@output_option
def clear_failures(  # noqa: PLR0917 - click passes options by name
    user: str | None,
    address: str | None,
    reason: str,
    yes: bool,  # noqa: FBT001 - as above
    tenant: str | None,
    output: str,
) -> None:
    """Clear failed sign-ins of USER; without one, of networks and of names that are nobody's."""
    if user is not None and address is not None:
        raise click.UsageError("give USER or --address, not both")
    what = printable(user) if user is not None else printable(address) if address is not None else "the whole tenant"
    if not yes:
        confirm(f"Forget failed sign-ins of {what}?", output)

    async def work(client: Client) -> Any:
        where = await tenant_or_only(client, tenant)
        if user is None:
            return await client.delete(path_of("sign-in", "failures"), tenant=where, reason=reason, address=address)
        path = path_of("users", await id_of(client, user, where), "sign-in", "failures")
        return await client.delete(path, tenant=where, reason=reason)

    asked(work)
    emit(output, {"cleared": what}, lambda: click.echo(f"cleared failed sign-ins of {what}"))


def _prompt(what: str) -> str:
    return str(click.prompt(what, hide_input=True, err=True))


def _line(what: str) -> str:
    line = sys.stdin.readline()
    if not line:
        fail(f"standard input ended before: {what.lower()}", ExitCode.USAGE)
    return line.rstrip("\r\n")


def _chosen(offered: list[str], wanted: str | None) -> str:
    if wanted is not None and wanted not in offered:
        fail(f"this account offers: {', '.join(offered)}", ExitCode.REFUSED)
    chosen = wanted or next((method for method in _TYPED if method in offered), None)
    if chosen is None:
        fail("this account's second factor needs a browser", ExitCode.REFUSED)
    return chosen


def _show(identifier: str, session: dict[str, Any]) -> None:
    ends = shown_time(session["expires_at"])
    click.echo(f"signed in as {printable(identifier)} ({session['acr']}: {' '.join(session['amr'])}) until {ends}")
    click.echo(session["token"])
    if session["enrolment_required"]:
        click.echo("until a second factor is bound or confirmed, it is good for factors and sessions alone", err=True)


def _show_account(found: dict[str, Any]) -> None:
    last = shown_time(found["last_sign_in_at"]) or "never"
    click.echo(f"last sign-in: {last}; known devices: {found['known_devices']}")
    rows = [
        (
            entry["authenticator"],
            entry["device_id"] or "unknown devices",
            entry["failures"],
            "locked" if entry["locked"] else shown_time(entry["waits_until"]),
        )
        for entry in found["failures"]
    ]
    table(["authenticator", "from", "failures", "waits until"], rows, empty="no failures")


def _show_tenant(found: dict[str, Any]) -> None:
    rows = [(name, sums["counted"], sums["waiting"]) for name, sums in found.items()]
    table(["of", "with failures", "waiting"], rows, empty="no failures")
