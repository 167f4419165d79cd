"""`kasbah tenant settings show|set`."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from service.cli.asking import asked, tenant_or_only
from service.cli.output import ExitCode, emit, fail, output_option, printable
from service.client import Client, path_of


@click.group("settings")
def settings() -> None:
    """Show or change what a tenant sets for itself."""


@settings.command("show")
@click.argument("tenant", required=False)
@output_option
def show(tenant: str | None, output: str) -> None:
    """Show the settings of TENANT, defaults included; left out, the key's own tenant or the only one."""

    async def work(client: Client) -> Any:
        return await client.get(path_of("tenants", await tenant_or_only(client, tenant), "settings"))

    found = asked(work)
    emit(output, found, lambda: _print(found))


@settings.command("set")
@click.argument("tenant")
@click.argument("assignments", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--file", "path", type=click.Path(allow_dash=True), help="A JSON Merge Patch (RFC 7396); `-` reads it.")
@click.option("--replace", is_flag=True, help="The file is the whole document: what it leaves out has its default.")
@click.option("--reason", help="Why; kept in the history.")
@output_option
def set_(  # noqa: PLR0917 - click passes options by name
    tenant: str,
    assignments: tuple[str, ...],
    path: str | None,
    replace: bool,  # noqa: FBT001 - click passes options by name
    reason: str | None,
    output: str,
) -> None:
    """Change settings of TENANT.

    NAME is a path such as `password.min_length`; VALUE is JSON, or text where it is no JSON; `null` gives the default
    back: `kasbah tenant settings set acme password.min_length=20 mfa.demand=required`.
    """
    if (path is None) == (not assignments) or (replace and path is None):
        raise click.UsageError("give either NAME=VALUE or --file; --replace needs --file")
    document = _read(path) if path is not None else _patch_of(assignments)

    async def work(client: Client) -> Any:
        ask = client.put if replace else client.patch
        return await ask(path_of("tenants", tenant, "settings"), document, reason=reason)

    changed = asked(work)
    emit(output, changed, lambda: _print(changed))


def _read(path: str) -> Any:
    try:
        return json.loads(sys.stdin.read() if path == "-" else Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        fail(f"`{path}` cannot be read as JSON: {error}", ExitCode.USAGE)


def _patch_of(assignments: tuple[str, ...]) -> dict[str, Any]:
    patch: dict[str, Any] = {}
    for text in assignments:
        name, equals, said = text.partition("=")
        parts = name.split(".")
        if not equals or not all(parts):
            raise click.UsageError(f"`{text}` is not NAME=VALUE")
        try:
            value = json.loads(said)
        except ValueError:
            value = said
        inner = patch
        for part in parts[:-1]:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                raise click.UsageError(f"`{name}` contradicts another argument")
        if parts[-1] in inner:
            raise click.UsageError(f"`{name}` contradicts another argument")
        inner[parts[-1]] = value
    return patch


def _print(document: dict[str, Any], prefix: str = "") -> None:
    for name, value in document.items():
        if isinstance(value, dict):
            _print(value, f"{prefix}{name}.")
        else:
            click.echo(printable(f"{prefix}{name}={json.dumps(value, ensure_ascii=False)}"))
