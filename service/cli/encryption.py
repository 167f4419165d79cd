"""`kasbah keys list|rotate|retire`: the keys that encrypt what is stored."""

import asyncio
from collections.abc import Callable
from typing import Any

import click

from service.cli.asking import asked, refusal
from service.cli.output import ExitCode, emit, fail, output_option, printable, table
from service.client import Client, RefusedError, path_of

POLL_SECONDS = 1.0

_PHASES = {
    "rewrap": "wrapping data keys anew",
    "replace": "making new data keys",
    "reencrypt": "sealing values anew",
    "mark": "looking for data keys that nothing uses",
    "settle": "waiting for transactions that may still read with them",
    "remove": "removing them",
    "done": "done",
}


@click.command("list")
@output_option
def list_(output: str) -> None:
    """List the key-encryption keys, and how many data keys each one wraps."""

    async def work(client: Client) -> Any:
        return await client.get(path_of("encryption", "keys"))

    found = asked(work)
    rows = [
        (
            entry["id"],
            _use_of(entry),
            f"{entry['nodes']}/{found['nodes']}",
            entry["data_keys"],
            entry["superseded"],
            entry["tenants"],
        )
        for entry in found["keys"]
    ]
    emit(output, found, lambda: table(["key", "use", "nodes", "data keys", "superseded", "tenants"], rows))


def _use_of(entry: Any) -> str:
    """Return what a key is there for, or what to do about it."""
    if not entry["known"]:
        return "MISSING: this node was not given it, and cannot open what it wraps"
    if entry["active"]:
        return "wraps new data keys"
    if entry["preferred"]:
        return "preferred: kasbah keys rotate goes over to it"
    return "opens older data keys" if entry["data_keys"] else "wraps nothing"


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option("--no-wait", is_flag=True, help="Begin only; it goes on by itself.")(command)
    return click.option("--reason", help="Why; kept in the audit.")(command)


@click.command()
@click.option("--wrapping-only", is_flag=True, help="Keep the data keys, and wrap them by the preferred key.")
@_options
@output_option
def rotate(wrapping_only: bool, reason: str | None, no_wait: bool, output: str) -> None:  # noqa: FBT001 - click's way
    """Give every tenant a new data key, wrapped by the preferred key, and seal what is stored anew under it.

    The service goes on meanwhile. When this command is broken off, the rotation is not: run it again to look on.
    It is refused while a node lacks the key (KASBAH_ENCRYPTION__KEYS).
    """
    _begin("wrapping" if wrapping_only else "all", reason, output, wait=not no_wait)


@click.command()
@_options
@output_option
def retire(reason: str | None, no_wait: bool, output: str) -> None:  # noqa: FBT001 - click passes options so
    """Remove superseded data keys that nothing uses any more.

    A key-encryption key that wraps nothing (`kasbah keys list`) may be taken out of the settings.
    """
    _begin("retirement", reason, output, wait=not no_wait)


def _begin(kind: str, reason: str | None, output: str, *, wait: bool) -> None:
    body = {"kind": kind} | ({"reason": reason} if reason else {})

    async def work(client: Client) -> Any:
        try:
            rotation = (await client.create(path_of("encryption", "rotation"), body))["rotation"]
        except RefusedError as error:
            if error.slug != "rotation-under-way":
                raise
            rotation = (await client.get(path_of("encryption", "rotation")))["rotation"]
            if rotation["kind"] != kind:
                fail(f"{refusal(error)}: {_said(rotation)}", ExitCode.REFUSED)
            click.echo("one is under way already: looking on", err=True)
        said = ""
        while wait and rotation["finished_at"] is None:
            if said != (said := _said(rotation)):
                click.echo(said, err=True)
            await asyncio.sleep(POLL_SECONDS)
            rotation = (await client.get(path_of("encryption", "rotation")))["rotation"]
        return rotation

    rotation = asked(work)
    emit(output, {"rotation": rotation}, lambda: click.echo(_said(rotation)))
    if rotation["failed"]:
        fail(
            f"{rotation['failed']} data keys or values did not open, and were left as they are; the server's log names "
            "them (encryption.key_not_opened, encryption.unreadable)"
        )


def _said(rotation: Any) -> str:
    counted = {
        "keys_wrapped": "data keys wrapped anew",
        "keys_made": "made",
        "sealed_anew": "values sealed anew",
        "keys_removed": "data keys removed",
    }
    numbers = [f"{rotation[name]} {what}" for name, what in counted.items() if rotation[name]]
    phase = rotation["phase"]
    where = "" if rotation["finished_at"] else f" ({rotation['tenants']} tenants so far)"
    return printable(": ".join([_PHASES.get(phase, phase) + where, ", ".join(numbers) or "nothing changed"]))
