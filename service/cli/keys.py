"""`kasbah key create|list|revoke`."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from service.cli.asking import asked, confirm, shown_time
from service.cli.output import ExitCode, emit, fail, output_option, table
from service.client import Client, path_of

_TTL_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}


def _home_options(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option("--platform", is_flag=True, help="A key of the platform, bound to no tenant.")(command)
    return click.option("--tenant", metavar="SLUG", help="Tenant the key is bound to; left out, your key's own.")(
        command
    )


async def _keys_path(client: Client, tenant: str | None, *, platform: bool) -> str:
    if platform and tenant is not None:
        raise click.UsageError("--tenant and --platform exclude each other")
    if platform:
        return path_of("keys")
    if tenant is None:
        tenant = (await client.get("/v1/keys/self"))["tenant"]
    if tenant is None:
        raise click.UsageError("say whose keys: --tenant SLUG or --platform")
    return path_of("tenants", tenant, "keys")


def _life(text: str | None) -> str | None:
    """Return when a key ends, from `90d`, `12h` or `30m`."""
    if text is None:
        return None
    number, unit = text[:-1], text[-1:]
    if unit not in _TTL_UNITS or not (number.isascii() and number.isdigit() and 0 < int(number) < 100_000):  # noqa: PLR2004
        raise click.BadParameter("write `90d`, `12h` or `30m`", param_hint="--expires-in")
    return (datetime.now(UTC) + int(number) * _TTL_UNITS[unit]).isoformat()


@click.command("create")
@click.argument("name")
@_home_options
@click.option("--scope", "scopes", multiple=True, metavar="SCOPE", help="May be repeated; decision:check is always in.")
@click.option("--expires-in", metavar="TIME", help="`90d`, `12h` or `30m`; left out, until revoked.")
@click.option("--reason", help="Why; kept in the history.")
@output_option
def create(  # noqa: PLR0917 - click passes options by name
    name: str,
    tenant: str | None,
    platform: bool,  # noqa: FBT001 - click passes options by name
    scopes: tuple[str, ...],
    expires_in: str | None,
    reason: str | None,
    output: str,
) -> None:
    """Create an API key called NAME. Its token is shown once, now."""
    body: dict[str, Any] = {"name": name, "scopes": sorted(set(scopes))}
    expires_at = _life(expires_in)
    if expires_at is not None:
        body["expires_at"] = expires_at
    if reason:
        body["reason"] = reason

    async def work(client: Client) -> Any:
        return await client.create(await _keys_path(client, tenant, platform=platform), body)

    made = asked(work)

    def render() -> None:
        click.echo(made["token"])
        click.echo(f"key {made['id']} ({', '.join(made['scopes'])}): keep the token, it is not shown again", err=True)

    emit(output, made, render)


@click.command("list")
@_home_options
@output_option
def list_(tenant: str | None, platform: bool, output: str) -> None:  # noqa: FBT001 - click passes options by name
    """List API keys, without their tokens."""

    async def work(client: Client) -> list[Any]:
        path = await _keys_path(client, tenant, platform=platform)
        return [key async for key in client.pages(path, "keys", limit=1000)]

    found = asked(work)
    rows = [
        (
            entry["id"],
            entry["prefix"],
            entry["name"],
            " ".join(entry["scopes"]),
            shown_time(entry["created_at"]),
            entry["created_by"],
            f"revoked {shown_time(entry['revoked_at'])}" if entry["revoked_at"] else shown_time(entry["expires_at"]),
        )
        for entry in found
    ]
    columns = ["id", "prefix", "name", "scopes", "created", "created by", "ends"]
    emit(output, {"keys": found}, lambda: table(columns, rows, empty="no keys"))


@click.command("revoke")
@click.argument("key")
@_home_options
@click.option("--with-created", is_flag=True, help="Also the keys that it made, and those that these made.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@output_option
def revoke(  # noqa: PLR0917 - click passes options by name
    key: str,
    tenant: str | None,
    platform: bool,  # noqa: FBT001 - click passes options by name
    with_created: bool,  # noqa: FBT001 - as above
    yes: bool,  # noqa: FBT001 - as above
    output: str,
) -> None:
    """Revoke the key KEY (its id or its prefix), at once and on every node.

    Keys that it made live on, unless --with-created is given.
    """

    async def find(client: Client) -> tuple[str, Any]:
        path = await _keys_path(client, tenant, platform=platform)
        found = [
            entry
            async for entry in client.pages(path, "keys", limit=1000)
            if entry["id"] == key or entry["prefix"] == key.removeprefix("kasbah_")
        ]
        if len(found) != 1:
            fail(f"{len(found) or 'no'} keys are called `{key}`: give the id from `kasbah key list`", ExitCode.REFUSED)
        if with_created and (await client.get("/v1/keys/self"))["id"] == found[0]["id"]:
            fail("this is the key that you use: revoke it and what it made with another one", ExitCode.REFUSED)
        return path, found[0]

    path, entry = asked(find)
    if not yes:
        what = f"`{entry['name']}` ({entry['prefix']})" + (" and the keys that it made" if with_created else "")
        confirm(f"revoke {what}?", output)

    async def work(client: Client) -> list[Any]:
        await client.delete(f"{path}/{entry['id']}")
        return await _revoke_created(client, path, entry) if with_created else []

    created = asked(work)
    said = {"id": entry["id"], "prefix": entry["prefix"], "revoked": True}
    if with_created:
        said["created"] = [{"id": made["id"], "prefix": made["prefix"]} for made in created]
    shown = "\n".join(f"revoked {made['name']} ({made['prefix']})" for made in (entry, *created))
    emit(output, said, lambda: click.echo(shown))


async def _revoke_created(client: Client, path: str, entry: Any) -> list[Any]:
    """Revoke every live key of this list that comes from `entry`, whoever made it in between; return them.

    What is revoked makes no more keys, so that it is done when a look finds none alive.
    """
    revoked: list[Any] = []
    while True:
        found = [key async for key in client.pages(path, "keys", limit=1000)]
        makers: set[str] = set()
        more = {f"key:{entry['prefix']}"}
        while more:
            makers |= more
            more = {f"key:{key['prefix']}" for key in found if key["created_by"] in makers} - makers
        alive = [key for key in found if key["created_by"] in makers and key["revoked_at"] is None]
        if not alive:
            return revoked
        for key in alive:
            await client.delete(f"{path}/{key['id']}")
        revoked += alive
