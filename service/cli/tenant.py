"""`kasbah tenant create|list|show|update|suspend|reactivate|delete|restore`."""

from typing import Any

import click

from service.cli.asking import asked, confirm, shown_time, tenant_or_only
from service.cli.output import emit, output_option, table
from service.client import Client, path_of

STATUSES = ("active", "suspended", "deleting", "deleted")


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
@click.option("--status", type=click.Choice([*STATUSES]), help="Only these; left out, all that are not removed.")
@click.option("--search", metavar="TEXT", help="Only those with this text in slug or name.")
@output_option
def list_(status: str | None, search: str | None, output: str) -> None:
    """List tenants."""

    async def work(client: Client) -> list[Any]:
        pages = client.pages(path_of("tenants"), "tenants", limit=1000, status=status, search=search)
        return [tenant async for tenant in pages]

    found = asked(work)
    rows = [
        (entry["slug"], entry["display_name"], entry["status"], entry["revision"], shown_time(entry["created_at"]))
        for entry in found
    ]
    columns = ["tenant", "name", "status", "revision", "created"]
    emit(output, {"tenants": found}, lambda: table(columns, rows, empty="no tenants yet: `kasbah tenant create SLUG`"))


@click.command("show")
@click.argument("tenant", required=False)
@output_option
def show(tenant: str | None, output: str) -> None:
    """Show TENANT; left out, the key's own or the only one."""

    async def work(client: Client) -> Any:
        return await client.get(path_of("tenants", await tenant_or_only(client, tenant)))

    _emit(output, asked(work))


@click.command("update")
@click.argument("tenant")
@click.option("--name", "display_name", required=True, help="Name for people.")
@click.option("--reason", help="Why; kept in the history.")
@output_option
def update(tenant: str, display_name: str, reason: str | None, output: str) -> None:
    """Give TENANT another name for people; its slug never changes."""

    async def work(client: Client) -> Any:
        return await client.patch(path_of("tenants", tenant), {"display_name": display_name, "reason": reason})

    _emit(output, asked(work))


def _act(name: str, doing: str, what: str, *, asks: bool = False) -> click.Command:
    """Return a command that does one thing to a tenant; with `asks`, not without asking."""

    def command(tenant: str, reason: str | None, output: str, *, yes: bool = True) -> None:
        if not yes:
            confirm(f"{name} the tenant `{tenant}`? {doing}", output)

        async def work(client: Client) -> Any:
            if name == "delete":
                return await client.delete(path_of("tenants", tenant), reason=reason)
            return await client.post(path_of("tenants", tenant, name), {"reason": reason})

        _emit(output, asked(work))

    command.__doc__ = f"{what}\n\n{doing}"
    command = click.argument("tenant")(
        click.option("--reason", help="Why; kept in the history.")(output_option(command))
    )
    if asks:
        command = click.option("--yes", is_flag=True, help="Do not ask.")(command)
    return click.command(name)(command)


suspend = _act(
    "suspend",
    "Every decision is a deny from then on, and its keys and people reach nothing.",
    "Suspend TENANT on every node.",
    asks=True,
)
reactivate = _act("reactivate", "Everything is as it was before.", "Open the suspended tenant TENANT again.")
delete = _act(
    "delete",
    "It is suspended at once, and after its grace everything of it is removed but its slug and its audit.",
    "Delete TENANT.",
    asks=True,
)
restore = _act("restore", "It becomes what it was before.", "Take back the deletion of TENANT, within its grace.")


def _emit(output: str, tenant: Any) -> None:
    rows = [
        ("id", tenant["id"]),
        ("slug", tenant["slug"]),
        ("name", tenant["display_name"]),
        ("status", tenant["status"]),
        ("revision", tenant["revision"]),
        ("created", shown_time(tenant["created_at"])),
        ("removed after", shown_time(tenant["purge_after"])),
    ]
    emit(output, tenant, lambda: table(["tenant", ""], [row for row in rows if row[1] != ""]))
