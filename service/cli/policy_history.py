"""`kasbah policy history`: the changes of a tenant, and the rows of one change."""

from collections.abc import AsyncIterator
from typing import Any, Literal

import click

from service.cli.asking import asked, shown_time, tenant_option, tenant_or_only
from service.cli.output import emit, output_option, table
from service.cli.plan_text import shown_row
from service.client import Client, path_of

DEFAULT_CHANGES = 20
_COLUMNS = ["revision", "at", "kind", "actor", "rows", "commit", "reason"]
_SIGNS: dict[Literal["added", "removed"], tuple[str, str]] = {"added": ("+", "green"), "removed": ("-", "red")}


@click.command("history")
@tenant_option
@click.option("--revision", type=click.IntRange(1), help="Show the rows that this change removed and added instead.")
@click.option(
    "--limit",
    type=click.IntRange(1, 100_000),
    help=f"At most this many: {DEFAULT_CHANGES} changes by default, all rows.",
)
@output_option
def history(tenant: str | None, revision: int | None, limit: int | None, output: str) -> None:
    """List the changes of a tenant, the newest first: who, when, why, from which commit, how many rows."""
    if revision is None:
        _list_changes(tenant, limit or DEFAULT_CHANGES, output)
    else:
        _list_rows(tenant, revision, limit, output)


def _list_changes(tenant: str | None, limit: int, output: str) -> None:
    async def work(client: Client) -> tuple[str, list[Any]]:
        slug = await tenant_or_only(client, tenant)
        pages = client.pages(path_of("tenants", slug, "policy", "history"), "changes", limit=min(limit, 1000))
        return slug, await _at_most(pages, limit)

    slug, changes = asked(work)
    rows = [
        (
            change["revision"],
            shown_time(change["at"]),
            change["kind"] + (f" to {change['rolled_back_to']}" if change["rolled_back_to"] is not None else ""),
            change["actor"],
            f"+{change['added']} -{change['removed']}",
            (change["git_commit"] or "")[:12],
            change["reason"],
        )
        for change in changes
    ]
    emit(output, {"tenant": slug, "changes": changes}, lambda: table(_COLUMNS, rows, empty="no changes"))


def _list_rows(tenant: str | None, revision: int, limit: int | None, output: str) -> None:
    async def work(client: Client) -> tuple[str, list[Any]]:
        slug = await tenant_or_only(client, tenant)
        path = path_of("tenants", slug, "changes", str(revision), "items")
        return slug, await _at_most(client.pages(path, "items", limit=min(limit or 1000, 1000)), limit)

    slug, items = asked(work)

    def render() -> None:
        for item in items:
            sign, colour = _SIGNS[item["change"]]
            click.secho(f"{sign} {shown_row(slug, item['row'])}", fg=colour)
        if not items:
            click.echo("this change added and removed no rows of this tenant")

    emit(output, {"tenant": slug, "revision": revision, "items": items}, render)


async def _at_most(entries: AsyncIterator[Any], limit: int | None) -> list[Any]:
    found: list[Any] = []
    async for entry in entries:
        found.append(entry)
        if len(found) == limit:
            break
    return found
