"""Whose keys a command of `kasbah key` is about, and where the server has them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import click

from service.cli.asking import account_id_of, tenant_or_only
from service.cli.output import ExitCode, fail
from service.client import Client, path_of


@dataclass(frozen=True, slots=True)
class Home:
    """Whose keys are meant, as the command line says it."""

    tenant: str | None
    platform: bool
    account: str | None
    own: bool

    async def find(self, client: Client) -> "Keys":
        """Return where these keys are."""
        if self.platform + self.own + (self.account is not None) > 1 or (
            self.tenant is not None and (self.platform or self.own)
        ):
            raise click.UsageError("--platform, --own and --service-account exclude each other; the first two --tenant")
        if self.platform:
            return Keys(client, path_of("keys"))
        if self.own:
            return Keys(client, path_of("users", "me", "keys"))
        if self.account is not None:
            tenant = await tenant_or_only(client, self.tenant)
            account_id = await account_id_of(client, self.account, tenant)
            return Keys(client, path_of("service-accounts", account_id, "keys"), tenant, reasoned=True)
        tenant = self.tenant or (await client.get("/v1/keys/self"))["tenant"]
        if tenant is None:
            raise click.UsageError("say whose keys: --tenant SLUG, --platform, --service-account NAME or --own")
        return Keys(client, path_of("tenants", tenant, "keys"))


@dataclass(frozen=True, slots=True)
class Keys:
    """A list of keys on the server. `tenant` is said beside a path that does not; `reasoned`: changes say why."""

    client: Client
    path: str
    tenant: str | None = None
    reasoned: bool = False

    async def all(self) -> list[Any]:
        """Return every key, the ended ones too."""
        return [key async for key in self.client.pages(self.path, "keys", limit=1000, tenant=self.tenant)]

    async def one(self, key: str) -> Any:
        """Return the key with this id or prefix; none or several end the command."""
        found = [
            entry for entry in await self.all() if entry["id"] == key or entry["prefix"] == key.removeprefix("kasbah_")
        ]
        if len(found) != 1:
            fail(f"{len(found) or 'no'} keys are called `{key}`: give the id from `kasbah key list`", ExitCode.REFUSED)
        return found[0]

    async def revoke(self, key_id: str, reason: str | None) -> None:
        """End a key."""
        more = {"reason": reason} if self.reasoned else {}
        await self.client.delete(f"{self.path}/{key_id}", tenant=self.tenant, **more)


def home_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say whose keys are meant, and hand them on as one `home`."""

    @wraps(command)
    def gathered(
        *arguments: Any, tenant: str | None, platform: bool, service_account: str | None, own: bool, **more: Any
    ) -> Any:
        return command(*arguments, home=Home(tenant, platform, service_account, own), **more)

    for option in (
        click.option("--own", is_flag=True, help="Keys of your own."),
        click.option("--service-account", metavar="NAME", help="Keys of a service account, by its name or id."),
        click.option("--platform", is_flag=True, help="Keys of the platform, bound to no tenant."),
        click.option("--tenant", metavar="SLUG", help="Tenant the keys are bound to; left out, your key's own."),
    ):
        gathered = option(gathered)
    return gathered
