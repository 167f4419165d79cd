"""What commands about people and about service accounts share: found by any name, changed, deleted, shown."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import click

from service.cli.asking import asked, confirm, shown_time, tenant_or_only
from service.cli.output import emit, printable
from service.client import Client, path_of

reason_option = click.option("--reason", required=True, help="Why; kept in the history.")


@dataclass(frozen=True, slots=True)
class Accounts:
    """One kind of accounts.

    `collection` is where they are, `name` the member that people know one by; `find_id` returns the id of one that is
    named in any way.
    """

    collection: str
    name: str
    find_id: Callable[[Client, str, str], Awaitable[str]]

    async def path(self, client: Client, account: str, tenant: str, *more: str) -> str:
        """Return the path of an account, or of something below it."""
        return path_of(self.collection, await self.find_id(client, account, tenant), *more)

    def get(self, account: str, tenant: str | None) -> Any:
        """Return an account as the server shows it."""

        async def work(client: Client) -> Any:
            where = await tenant_or_only(client, tenant)
            return await client.get(await self.path(client, account, where), tenant=where)

        return asked(work)

    def patch(self, account: str, patch: Mapping[str, Any], tenant: str | None) -> Any:
        """Change an account, and return it."""

        async def work(client: Client) -> Any:
            where = await tenant_or_only(client, tenant)
            return await client.patch(await self.path(client, account, where), patch, tenant=where)

        return asked(work)

    def put(self, account: str, state: str, reason: str, tenant: str | None) -> Any:
        """`enable` or `disable` an account, and return it."""

        async def work(client: Client) -> Any:
            where = await tenant_or_only(client, tenant)
            return await client.post(await self.path(client, account, where, state), {"reason": reason}, tenant=where)

        return asked(work)

    def delete(self, account: str, reason: str, tenant: str | None, *, yes: bool, output: str) -> None:
        """Delete an account once somebody said yes, and say so."""
        found = self.get(account, tenant)
        if not yes:
            name = printable(found[self.name] or found["id"])
            confirm(f"Delete {name} ({found['subject']})? This cannot be taken back.", output)

        async def work(client: Client) -> Any:
            where = await tenant_or_only(client, tenant)
            return await client.delete(path_of(self.collection, found["id"]), reason=reason, tenant=where)

        asked(work)
        emit(output, {"deleted": found["id"]}, lambda: click.echo(f"deleted {found['subject']}"))


def print_account(account: Mapping[str, Any], names: Iterable[str]) -> None:
    """Print members of an account, and its roles as far as they are there."""
    for name in names:
        value = account[name]
        click.echo(
            printable(f"{name}: {'' if value is None else str(value).lower() if isinstance(value, bool) else value}")
        )
    for role in account.get("roles", ()):
        until = f" until {shown_time(role['expires_at'])}" if role["expires_at"] else ""
        place = f" ({role['source']['file']}:{role['source']['line']})" if role["source"] else ""
        click.echo(printable(f"role: {role['role']}{until}{place}"))
