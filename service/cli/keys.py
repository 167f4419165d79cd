"""`kasbah key create|list|update|rotate|revoke`: keys of a tenant, the platform, a service account, or one's own."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from service.cli.asking import asked, confirm, shown_time
from service.cli.key_home import Home, Keys, home_options
from service.cli.output import ExitCode, emit, fail, output_option, printable, table
from service.client import Client

_TTL_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}


def _limit_option(command: Callable[..., Any]) -> Callable[..., Any]:
    text = "Requests a second on each node, and at most so many at once: `50` or `50/100`."
    return click.option("--limit", metavar="RATE[/BURST]", help=text)(command)


def _limits(text: str) -> dict[str, int]:
    """Return limits from `50` or `50/100`."""
    rate, slash, burst = text.partition("/")
    if not all(part.isascii() and part.isdigit() and len(part) < 9 for part in (rate, *([burst] if slash else []))):  # noqa: PLR2004
        raise click.BadParameter("write `50` or `50/100`", param_hint="--limit")
    return {"requests_per_second": int(rate)} | ({"burst": int(burst)} if slash else {})


def _span(text: str, hint: str) -> timedelta:
    """Return a time from `90d`, `12h` or `30m`."""
    number, unit = text[:-1], text[-1:]
    if unit not in _TTL_UNITS or not (number.isascii() and number.isdigit() and int(number) < 100_000):  # noqa: PLR2004
        raise click.BadParameter("write `90d`, `12h` or `30m`", param_hint=hint)
    return int(number) * _TTL_UNITS[unit]


def _life(text: str | None) -> str | None:
    """Return when a key ends that lives for `90d`, `12h` or `30m`."""
    if text is None:
        return None
    life = _span(text, "--expires-in")
    if not life:
        raise click.BadParameter("write `90d`, `12h` or `30m`", param_hint="--expires-in")
    return (datetime.now(UTC) + life).isoformat()


def _show_made(made: Any, output: str) -> None:
    def render() -> None:
        click.echo(made["token"])
        click.echo(f"key {made['id']} ({', '.join(made['scopes'])}): keep the token, it is not shown again", err=True)
        if "previous" in made:
            click.echo(f"key {made['previous']['id']} ends {shown_time(made['previous']['ends_at'])}", err=True)

    emit(output, made, render)


@click.command("create")
@click.argument("name")
@home_options
@click.option("--scope", "scopes", multiple=True, metavar="SCOPE", help="May be repeated; decision:check is always in.")
@click.option("--expires-in", metavar="TIME", help="`90d`, `12h` or `30m`; left out, until revoked.")
@_limit_option
@click.option("--reason", help="Why; kept in the history. Service accounts need one.")
@output_option
def create(
    name: str,
    *,
    home: Home,
    scopes: tuple[str, ...],
    expires_in: str | None,
    limit: str | None,
    reason: str | None,
    output: str,
) -> None:
    """Create an API key called NAME. Its token is shown once, now."""
    body: dict[str, Any] = {"name": name, "scopes": sorted(set(scopes))}
    expires_at = _life(expires_in)
    if expires_at is not None:
        body["expires_at"] = expires_at
    if limit is not None:
        body["limits"] = _limits(limit)
    if reason:
        body["reason"] = reason

    async def work(client: Client) -> Any:
        keys = await home.find(client)
        return await client.create(keys.path, body, tenant=keys.tenant)

    _show_made(asked(work), output)


@click.command("list")
@home_options
@output_option
def list_(*, home: Home, output: str) -> None:
    """List API keys, without their tokens."""

    async def work(client: Client) -> list[Any]:
        return await (await home.find(client)).all()

    found = asked(work)
    rows = [
        (
            entry["id"],
            entry["prefix"],
            entry["name"],
            " ".join(entry["scopes"]),
            shown_time(entry["created_at"]),
            entry["created_by"],
            shown_time(entry["last_used_at"]),
            _shown_limits(entry["limits"]),
            f"revoked {shown_time(entry['revoked_at'])}" if entry["revoked_at"] else shown_time(entry["expires_at"]),
        )
        for entry in found
    ]
    columns = ["id", "prefix", "name", "scopes", "created", "created by", "last used", "limit", "ends"]
    emit(output, {"keys": found}, lambda: table(columns, rows, empty="no keys"))


def _shown_limits(limits: Any) -> str:
    return "" if limits is None else f"{limits['requests_per_second']}/{limits['burst']}"


@click.command("update")
@click.argument("key")
@home_options
@click.option("--name", help="Another name.")
@_limit_option
@click.option("--no-limit", is_flag=True, help="Let it be used as often as it will.")
@click.option("--reason", help="Why; kept in the history. Service accounts need one.")
@output_option
def update(
    key: str, *, home: Home, name: str | None, limit: str | None, no_limit: bool, reason: str | None, output: str
) -> None:
    """Change the name or the limit of the key KEY (its id or its prefix)."""
    if no_limit and limit is not None:
        raise click.UsageError("--limit and --no-limit exclude each other")
    body: dict[str, Any] = {} if name is None else {"name": name}
    if no_limit or limit is not None:
        body["limits"] = None if limit is None else _limits(limit)
    if not body:
        raise click.UsageError("say what is to change")
    body |= {"reason": reason} if reason else {}

    async def work(client: Client) -> Any:
        keys = await home.find(client)
        return await client.patch(f"{keys.path}/{(await keys.one(key))['id']}", body, tenant=keys.tenant)

    changed = asked(work)
    text = f"changed {printable(changed['name'])} ({changed['prefix']})"
    limits = _shown_limits(changed["limits"])
    emit(output, changed, lambda: click.echo(f"{text}: limit {limits}" if limits else text))


@click.command("rotate")
@click.argument("key")
@home_options
@click.option("--overlap", default="1d", show_default=True, metavar="TIME", help="For which the old key goes on.")
@click.option("--expires-in", metavar="TIME", help="`90d`, `12h` or `30m`; left out, as long as the old one.")
@click.option("--reason", help="Why; kept in the history. Service accounts need one.")
@output_option
def rotate(key: str, *, home: Home, overlap: str, expires_in: str | None, reason: str | None, output: str) -> None:
    """Put a new key in the place of KEY (its id or its prefix). Its token is shown once, now.

    The new key has the same name, scopes and limits. Both work until the overlap is over; `--overlap 0m` ends the old
    one at once.
    """
    body: dict[str, Any] = {"overlap_seconds": int(_span(overlap, "--overlap").total_seconds())}
    expires_at = _life(expires_in)
    body |= {name: value for name, value in (("expires_at", expires_at), ("reason", reason)) if value}

    async def work(client: Client) -> Any:
        keys = await home.find(client)
        return await client.create(f"{keys.path}/{(await keys.one(key))['id']}/rotate", body, tenant=keys.tenant)

    _show_made(asked(work), output)


@click.command("revoke")
@click.argument("key")
@home_options
@click.option("--with-created", is_flag=True, help="Also the keys that it made, and those that these made.")
@click.option("--reason", help="Why; kept in the history. Service accounts need one.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@output_option
def revoke(key: str, *, home: Home, with_created: bool, reason: str | None, yes: bool, output: str) -> None:
    """Revoke the key KEY (its id or its prefix), at once and on every node.

    Keys that it made live on, unless --with-created is given.
    """

    async def find(client: Client) -> Any:
        entry = await (await home.find(client)).one(key)
        if with_created and (await client.get("/v1/keys/self"))["id"] == entry["id"]:
            fail("this is the key that you use: revoke it and what it made with another one", ExitCode.REFUSED)
        return entry

    entry = asked(find)
    if not yes:
        what = f"`{entry['name']}` ({entry['prefix']})" + (" and the keys that it made" if with_created else "")
        confirm(f"revoke {what}?", output)

    async def work(client: Client) -> list[Any]:
        keys = await home.find(client)
        await keys.revoke(entry["id"], reason)
        return await _revoke_created(keys, entry, reason) if with_created else []

    created = asked(work)
    said = {"id": entry["id"], "prefix": entry["prefix"], "revoked": True}
    if with_created:
        said["created"] = [{"id": made["id"], "prefix": made["prefix"]} for made in created]
    shown = "\n".join(f"revoked {made['name']} ({made['prefix']})" for made in (entry, *created))
    emit(output, said, lambda: click.echo(shown))


async def _revoke_created(keys: Keys, entry: Any, reason: str | None) -> list[Any]:
    """Revoke every live key of this list that comes from `entry`, whoever made it in between; return them.

    What is revoked makes no more keys, so that it is done when a look finds none alive.
    """
    revoked: list[Any] = []
    while True:
        found = await keys.all()
        makers: set[str] = set()
        more = {f"key:{entry['prefix']}"}
        while more:
            makers |= more
            more = {f"key:{key['prefix']}" for key in found if key["created_by"] in makers} - makers
        alive = [key for key in found if key["created_by"] in makers and key["revoked_at"] is None]
        if not alive:
            return revoked
        for key in alive:
            await keys.revoke(key["id"], reason)
        revoked += alive
