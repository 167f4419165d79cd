"""How commands ask a server: failures become exit codes, and a tenant that goes without saying is found."""

import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar
from uuid import UUID

import click

from service.cli.output import ExitCode, OutputFormat, fail, on_terminal, printable
from service.client import Client, RefusedError, UnreachableError, ask, path_of
from service.which_server import NoServerError, Server

_T = TypeVar("_T")

_HINTS = {
    "other-tenant": "this API key is bound to another tenant, or needs a platform key",
    "tenant-not-found": "no such tenant: create it with `kasbah tenant create SLUG`",
}


def asked(work: Callable[[Client], Coroutine[Any, Any, _T]]) -> _T:
    """Run `work` against the server; a failure ends the command with its exit code."""
    return asked_of(None, work)


def asked_of(
    server: Server | None, work: Callable[[Client], Coroutine[Any, Any, _T]], *, hint: str | None = None
) -> _T:
    """As `asked`, of a server that was found already; `hint` says what to do about a 401."""
    try:
        return ask(work, server)
    except NoServerError as error:
        fail(str(error), ExitCode.UNREACHABLE)
    except UnreachableError as error:
        fail(str(error), ExitCode.UNREACHABLE)
    except RefusedError as error:
        said = refusal(error)
        fail(said if hint is None or error.slug != "invalid-credentials" else f"{said}\n{hint}", ExitCode.REFUSED)


def refusal(error: RefusedError) -> str:
    """Return what the server said, with what to do about it."""
    hint = _HINTS.get(error.slug)
    return str(error) if hint is None else f"{error}\n{hint}"


async def tenant_or_only(client: Client, tenant: str | None) -> str:
    """Return the tenant that was named, else the key's own, else the only one there is.

    Raises:
        click.UsageError: a platform key, several tenants, none named.
    """
    if tenant is not None:
        return tenant
    own = (await client.get("/v1/keys/self"))["tenant"]
    if own is not None:
        return str(own)
    slugs = [entry["slug"] for entry in (await client.get("/v1/tenants", limit=2))["tenants"]]
    if len(slugs) == 1:
        return str(slugs[0])
    raise click.UsageError("name a tenant: --tenant SLUG")


async def id_of(client: Client, user: str, tenant: str) -> str:
    """Return the id of an account that is named by id, username or address; an unknown one ends the command."""
    try:
        UUID(user)
    except ValueError:
        found = (await client.get(path_of("users"), identifier=user, tenant=tenant))["users"]
        if not found:
            fail(f"no user is named `{printable(user)}`", ExitCode.REFUSED)
        return str(found[0]["id"])
    return user


async def account_id_of(client: Client, account: str, tenant: str) -> str:
    """Return the id of a service account that is named by id or name; an unknown one ends the command."""
    try:
        UUID(account)
    except ValueError:
        pages = client.pages(path_of("service-accounts"), "service_accounts", limit=1000, q=account, tenant=tenant)
        async for found in pages:
            if found["name"] == account:
                return str(found["id"])
        fail(f"no service account is named `{printable(account)}`", ExitCode.REFUSED)
    return account


def confirm(question: str, output: str) -> None:
    """Go on only when a person at a terminal says yes; a script says `--yes` instead."""
    if output == OutputFormat.JSON or not (on_terminal() and sys.stdin.isatty()):
        fail("nobody is there to ask: use --yes", ExitCode.USAGE)
    if not click.confirm(question):
        fail("nothing was changed", ExitCode.FINDINGS)


def tenant_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--tenant SLUG`."""
    return click.option("--tenant", metavar="SLUG", help="Tenant; left out, the key's own or the only one.")(command)


def shown_time(text: str | None) -> str:
    """Return an RFC 3339 time without fractions, for a table."""
    if text is None:
        return ""
    return text.partition(".")[0].removesuffix("Z").replace("T", " ") + "Z" if "." in text else text.replace("T", " ")
