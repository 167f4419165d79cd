"""`kasbah tenant create|list`."""

from typing import Any

import click

from service.cli.asking import asked, shown_time
from service.cli.output import emit, output_option, table
from service.client import Client, path_of


@click.command("create")
@click.argument("slug")
@click.option("--name", "display_name", help="Name for people; the slug when left out.")
@click.option("--reason", help="Why; kept in the history.")
@output_option
def create(slug: str, display_name: str | None, reason: str | None, output: str) -> None:
    """Create the tenant SLUG (a platform key is needed). Slugs are never used again."""

    async def work(client: Client) -> Any:
        body = {"slug": slug, "display_name": display_name, "reason": reason}
        return await client.create(path_of("tenants"), {name: value for name, value in body.items() if value})

    made = asked(work)
    emit(output, made, lambda: click.echo(f"created tenant {made['slug']} ({made['id']})"))


@click.command("list")
@output_option
def list_(output: str) -> None:
    """List all tenants."""

    async def work(client: Client) -> list[Any]:
        return [tenant async for tenant in client.pages(path_of("tenants"), "tenants", limit=1000)]

    found = asked(work)
    rows = [
        (entry["slug"], entry["display_name"], entry["status"], entry["revision"], shown_time(entry["created_at"]))
        for entry in found
    ]
    columns = ["tenant", "name", "status", "revision", "created"]
    emit(output, {"tenants": found}, lambda: table(columns, rows, empty="no tenants yet: `kasbah tenant create SLUG`"))
