"""`kasbah audit list|export`: what happened, and whole chains taken out."""

import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, BinaryIO

import click

from service.cli.asking import asked, shown_time, tenant_option
from service.cli.output import ExitCode, emit, fail, output_option, table
from service.client import Client
from tenancy.audit import AUDIT_ACTIONS, AuditChain, AuditOutcome

AUDIT_PATH = "/v1/audit"
EXPORT_PATH = "/v1/audit/export"
DEFAULT_EVENTS = 20
_COLUMNS = ["seq", "at", "action", "actor", "target", "outcome", "detail", "reason"]
_TOLD = ("method", "acr", "reason")
"""Members of an event's detail that a line has room for; `--output json` has all."""


def chain_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--chain`."""
    help_text = "Which of the tenant's chains; `tenant` by default."
    return click.option("--chain", type=click.Choice([chain.value for chain in AuditChain]), help=help_text)(command)


@click.command("list")
@tenant_option
@chain_option
@click.option("--action", type=click.Choice(sorted(AUDIT_ACTIONS)), metavar="ACTION", help="Only this action.")
@click.option("--actor", help="Only what this one did: `user:<id>`, `key:<prefix>`.")
@click.option("--target", help="Only what happened to this one: `user:<id>`, `key:<id>`.")
@click.option("--outcome", type=click.Choice([outcome.value for outcome in AuditOutcome]), help="How it ended.")
@click.option("--request-id", help="Only what this request did.")
@click.option("--since", metavar="TIME", help="Not before this time, such as 2026-03-01T12:00:00Z.")
@click.option("--until", metavar="TIME", help="Before this time.")
@click.option("--oldest-first", is_flag=True, help="In the order in which it happened.")
@click.option("--personal", is_flag=True, help="Also what events hold of people, if you may read accounts.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=DEFAULT_EVENTS, help="At most so many events.")
@output_option
def list_(tenant: str | None, oldest_first: bool, personal: bool, limit: int, output: str, **filters: Any) -> None:  # noqa: FBT001 - click passes options by name
    """List what happened in a tenant, the newest first: who, what, on whom, why."""
    order = "oldest" if oldest_first else None

    async def work(client: Client) -> list[Any]:
        opening = "true" if personal else None
        pages = client.pages(
            AUDIT_PATH, "events", tenant=tenant, order=order, personal=opening, limit=min(limit, 1000), **filters
        )
        found: list[Any] = []
        async for entry in pages:
            found.append(entry)
            if len(found) == limit:
                break
        return found

    events = asked(work)
    rows = [
        (
            event["seq"],
            shown_time(event["at"]),
            event["action"],
            event["actor"],
            event.get("target"),
            "" if event["outcome"] == AuditOutcome.SUCCESS else event["outcome"],
            " ".join(str(event["detail"][name]) for name in _TOLD if name in (event.get("detail") or {})),
            event.get("reason"),
        )
        for event in events
    ]
    emit(output, {"events": events}, lambda: table(_COLUMNS, rows, empty="no events"))


@click.command("export")
@tenant_option
@chain_option
@click.option("--personal", is_flag=True, help="Also what events hold of people; the audit records that you took it.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="File to write; left out, standard output.")
def export(tenant: str | None, chain: str | None, personal: bool, out: Path | None) -> None:  # noqa: FBT001 - as above
    """Write a whole chain as JSON lines that anybody can verify (`kasbah audit verify FILE`)."""

    async def work(client: Client) -> int:
        lines = client.lines(EXPORT_PATH, tenant=tenant, chain=chain, personal="true" if personal else None)
        if out is None:
            return await _write(lines, sys.stdout.buffer)
        # Beside it, then in its place: a transfer that broke off leaves what was there.
        beside = out.with_name(out.name + ".part")
        try:
            with beside.open("wb") as file:
                count = await _write(lines, file)
            beside.replace(out)
        except OSError as error:
            fail(f"`{out}` cannot be written: {error.strerror}", ExitCode.USAGE)
        finally:
            beside.unlink(missing_ok=True)
        return count

    count = asked(work)
    if out is not None:
        click.echo(f"{count} events in {out}")


async def _write(lines: AsyncIterator[bytes], file: BinaryIO) -> int:
    """Write lines, and return how many events they hold."""
    count = 0
    async for line in lines:
        file.write(line)
        count += line.startswith(b'{"type":"event"')
    return count
