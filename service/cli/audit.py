"""`kasbah audit list|export|verify`: what happened, taken out whole, and held against its hashes."""

import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import click

from service.cli.asking import asked, shown_time, tenant_option
from service.cli.output import ExitCode, emit, fail, output_option, printable, table
from service.client import Client
from tenancy.audit import AUDIT_ACTIONS, AuditChain, AuditOutcome
from tenancy.audit_files import ChainReport, ExportVerifier
from tenancy.audit_lines import BadLineError
from tenancy.audit_verification import shown

AUDIT_PATH = "/v1/audit"
EXPORT_PATH = "/v1/audit/export"
DEFAULT_EVENTS = 20
_COLUMNS = ["seq", "at", "action", "actor", "target", "outcome", "reason"]


def _chain_option(command: Callable[..., Any]) -> Callable[..., Any]:
    help_text = "Which of the tenant's chains; `tenant` by default."
    return click.option("--chain", type=click.Choice([chain.value for chain in AuditChain]), help=help_text)(command)


@click.command("list")
@tenant_option
@_chain_option
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
            event.get("reason"),
        )
        for event in events
    ]
    emit(output, {"events": events}, lambda: table(_COLUMNS, rows, empty="no events"))


@click.command("export")
@tenant_option
@_chain_option
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


@click.command("verify")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=False)
@tenant_option
@_chain_option
@click.option("--all", "everything", is_flag=True, help="Every tenant, the platform and the base, both chains of each.")
@output_option
def verify(file: Path | None, tenant: str | None, chain: str | None, everything: bool, output: str) -> None:  # noqa: FBT001 - as above
    """Hold the audit against its hashes, and name every row that does not fit.

    Both chains of a tenant are read from the server, or from FILE, which `kasbah audit export` wrote. Exit 0: all hold;
    1: some row was edited, removed, inserted, moved or cut off.
    """
    if file is not None:
        if tenant or chain or everything:
            raise click.UsageError("a FILE says by itself which chains it holds")
        reports = _verify_file(file)
    else:
        reports = asked(lambda client: _verify_on_server(client, tenant, chain, everything=everything))
    emit(output, {"chains": [_said(report) for report in reports]}, lambda: _render(reports))
    if any(report.faults for report in reports):
        raise SystemExit(int(ExitCode.FINDINGS))


def _verify_file(file: Path) -> list[ChainReport]:
    verifier = ExportVerifier()
    try:
        with file.open("rb") as lines:
            for line in lines:
                verifier.take(line)
    except (OSError, BadLineError) as error:
        fail(f"`{file}` is no export of an audit: {error}", ExitCode.USAGE)
    reports = verifier.end()
    if not reports:
        fail(f"`{file}` is empty", ExitCode.USAGE)
    return reports


async def _verify_on_server(
    client: Client, tenant: str | None, chain: str | None, *, everything: bool
) -> list[ChainReport]:
    slugs: list[str | None] = [tenant]
    if everything:
        if tenant is not None:
            raise click.UsageError("--all and --tenant exclude each other")
        slugs = ["_platform", "_base", *[entry["slug"] async for entry in client.pages("/v1/tenants", "tenants")]]
    chains = [chain] if chain is not None else [kind.value for kind in AuditChain]
    reports: list[ChainReport] = []
    for slug in slugs:
        for kind in chains:
            verifier = ExportVerifier(name=slug)
            async for line in client.lines(EXPORT_PATH, tenant=slug, chain=kind):
                verifier.take(line)
            reports += verifier.end()
    return reports


def _said(report: ChainReport) -> dict[str, Any]:
    return {
        "tenant": str(report.tenant_id),
        "name": report.name,
        "chain": report.chain.value,
        "rows": report.rows,
        "first_seq": report.first_seq,
        "last_seq": report.last_seq,
        "hash": report.last_hash.hex(),
        "faults": [
            {"kind": fault.kind.value, "first": fault.first, "last": fault.last, "text": fault.text}
            for fault in report.faults
        ],
    }


def _render(reports: Iterable[ChainReport]) -> None:
    for line in _lines(reports):
        click.echo(line)


def _lines(reports: Iterable[ChainReport]) -> Iterator[str]:
    for report in reports:
        name = f"{printable(report.name or str(report.tenant_id))}/{report.chain.value}"
        if not report.rows and not report.faults:
            yield f"{name}: no events"
        elif not report.faults:
            yield f"{name}: {report.rows} events hold, {report.first_seq} to {report.last_seq}"
        else:
            yield f"{name}: {len(report.faults)} faults in {report.rows} events"
            yield from (f"  {printable(sentence)}" for sentence in shown(report.faults))
