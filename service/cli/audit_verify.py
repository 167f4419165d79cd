"""`kasbah audit verify|key`: the audit held against its hashes and against what was told to somebody else."""

import base64
import binascii
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from service.cli.asking import asked, shown_time, tenant_option
from service.cli.audit import EXPORT_PATH, chain_option
from service.cli.output import ExitCode, emit, fail, output_option, printable, table
from service.client import Client
from tenancy.audit import AuditChain
from tenancy.audit_files import ChainReport, ExportVerifier, missing_chain
from tenancy.audit_lines import BadLineError
from tenancy.audit_signatures import key_id_of
from tenancy.audit_verification import shown
from tenancy.checkpoint_book import CheckpointBook

KEYS_PATH = "/v1/audit/keys"
CHECKPOINTS_PATH = "/v1/audit/checkpoints"
LATEST = "latest"
NEWEST_CHECKPOINTS = 1000
_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Which chains of a server are verified, and against what."""

    tenant: str | None
    chain: str | None
    everything: bool
    checkpoint: str | None
    keys: tuple[str, ...]


@click.command("key")
@output_option
def key(output: str) -> None:
    """Show the public keys that signed checkpoints; the last one signs now.

    Keep them where nobody can change them together with the database: `verify --key` takes them.
    """
    found = asked(lambda client: client.get(KEYS_PATH))
    rows = [(entry["id"], entry["public_key"], shown_time(entry["created_at"])) for entry in found["keys"]]
    emit(output, found, lambda: table(["id", "public key", "since"], rows, empty="nothing was signed yet"))


@click.command("verify")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=False)
@tenant_option
@chain_option
@click.option("--all", "everything", is_flag=True, help="Every tenant, the platform and the base, both chains of each.")
@click.option(
    "--checkpoint",
    metavar="FILE|latest",
    help="Also against signed checkpoints: those a sink kept in FILE, or the server's newest.",
)
@click.option("--key", "keys", multiple=True, metavar="KEY", help="Public key that may have signed; else the server's.")
@output_option
def verify(  # noqa: PLR0917 - click passes options by name
    file: Path | None,
    tenant: str | None,
    chain: str | None,
    everything: bool,  # noqa: FBT001 - as above
    checkpoint: str | None,
    keys: tuple[str, ...],
    output: str,
) -> None:
    """Hold the audit against its hashes, and name every row that does not fit.

    Both chains of a tenant are read from the server, or from FILE, which `kasbah audit export` wrote. Hashes find what
    was edited, removed, inserted or moved. A tail that was cut off together with the chain's head, and a chain that was
    made anew with all its hashes, are found by a checkpoint. Exit 0: all hold; 1: something does not.
    """
    wanted = _Wanted(tenant, chain, everything, checkpoint, keys)
    if file is not None:
        if tenant or chain or everything or checkpoint == LATEST:
            raise click.UsageError("a FILE says by itself which chains it holds, and is verified without a server")
        faults, reports = _verify_file(file, wanted)
    else:
        faults, reports = asked(lambda client: _verify_on_server(client, wanted))
    said = {"checkpoints": {"faults": faults}, "chains": [_said(report) for report in reports]}
    emit(output, said, lambda: _render(faults, reports))
    if faults or any(report.faults for report in reports):
        raise SystemExit(int(ExitCode.FINDINGS))


def _verify_file(file: Path, wanted: _Wanted) -> tuple[list[str], list[ChainReport]]:
    book = CheckpointBook(_given_keys(wanted.keys))
    if wanted.checkpoint is not None:
        if not wanted.keys:
            raise click.UsageError("without a server, say who may have signed: --key KEY (`kasbah audit key`)")
        _read_book(book, Path(wanted.checkpoint))
    verifier = ExportVerifier(checkpoints=book.of)
    try:
        with file.open("rb") as lines:
            for line in lines:
                verifier.take(line)
    except (OSError, BadLineError) as error:
        fail(f"`{file}` is no export of an audit: {error}", ExitCode.USAGE)
    reports = verifier.end()
    if not reports:
        fail(f"`{file}` is empty", ExitCode.USAGE)
    return _book_faults(book), reports


async def _verify_on_server(client: Client, wanted: _Wanted) -> tuple[list[str], list[ChainReport]]:
    own: str | None = None if wanted.tenant or wanted.everything else (await client.get("/v1/keys/self"))["tenant"]
    slugs: list[str | None] = [wanted.tenant or own]
    if wanted.everything:
        if wanted.tenant is not None:
            raise click.UsageError("--all and --tenant exclude each other")
        slugs = ["_platform", "_base"]
        for status in (None, "deleted"):
            slugs += [entry["slug"] async for entry in client.pages("/v1/tenants", "tenants", status=status)]
    chains = [wanted.chain] if wanted.chain is not None else [kind.value for kind in AuditChain]
    book = CheckpointBook({})
    if wanted.checkpoint is not None:
        book = CheckpointBook(_given_keys(wanted.keys) or await _server_keys(client))
        if wanted.checkpoint != LATEST:
            _read_book(book, Path(wanted.checkpoint))
    reports: list[ChainReport] = []
    for slug in slugs:
        for kind in chains:
            if wanted.checkpoint == LATEST:
                await _ask_for_checkpoints(client, book, slug, kind)
            verifier = ExportVerifier(name=slug, checkpoints=book.of)
            async for line in client.lines(EXPORT_PATH, tenant=slug, chain=kind):
                verifier.take(line)
            reports += verifier.end()
    if wanted.everything and wanted.chain is None:
        there = {(report.tenant_id, report.chain) for report in reports}
        reports += [missing_chain(*name, point.seq) for name, point in book.newest() if name not in there]
    return _book_faults(book) if wanted.checkpoint != LATEST else book.faults, reports


async def _ask_for_checkpoints(client: Client, book: CheckpointBook, slug: str | None, chain: str) -> None:
    page = await client.get(CHECKPOINTS_PATH, tenant=slug, chain=chain, limit=NEWEST_CHECKPOINTS)
    for line in page["checkpoints"]:
        book.take(line)


async def _server_keys(client: Client) -> dict[str, bytes]:
    return _given_keys([entry["public_key"] for entry in (await client.get(KEYS_PATH))["keys"]])


def _given_keys(texts: Sequence[str]) -> dict[str, bytes]:
    """Return public keys by their ids."""
    found: dict[str, bytes] = {}
    for text in texts:
        try:
            data = base64.urlsafe_b64decode(text)
        except (binascii.Error, ValueError):
            data = b""
        if len(data) != _KEY_BYTES:
            raise click.UsageError(f"`{printable(text)}` is no public key: `kasbah audit key` shows them")
        found[key_id_of(data)] = data
    return found


def _read_book(book: CheckpointBook, file: Path) -> None:
    try:
        with file.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                book.take(line)
    except OSError as error:
        fail(f"`{file}` cannot be read: {error.strerror}", ExitCode.USAGE)


def _book_faults(book: CheckpointBook) -> list[str]:
    gaps = [f"checkpoints {first} to {last} are missing" for first, last in book.missing()]
    return [*book.faults, *gaps]


def _said(report: ChainReport) -> dict[str, Any]:
    return {
        "tenant": str(report.tenant_id),
        "name": report.name,
        "chain": report.chain.value,
        "rows": report.rows,
        "first_seq": report.first_seq,
        "last_seq": report.last_seq,
        "hash": report.last_hash.hex(),
        "checkpoint_seq": report.checkpoint_seq,
        "faults": [
            {"kind": fault.kind.value, "first": fault.first, "last": fault.last, "text": fault.text}
            for fault in report.faults
        ],
    }


def _render(faults: Iterable[str], reports: Iterable[ChainReport]) -> None:
    for line in _lines(reports):
        click.echo(line)
    for fault in faults:
        click.echo(printable(fault))


def _lines(reports: Iterable[ChainReport]) -> Iterator[str]:
    for report in reports:
        name = f"{printable(report.name or str(report.tenant_id))}/{report.chain.value}"
        against = "" if report.checkpoint_seq is None else f", and to the checkpoint at {report.checkpoint_seq}"
        if not report.rows and not report.faults:
            yield f"{name}: no events"
        elif not report.faults:
            yield f"{name}: {report.rows} events hold, {report.first_seq} to {report.last_seq}{against}"
        else:
            many = len(report.faults)
            yield f"{name}: {many} {'fault' if many == 1 else 'faults'} in {report.rows} events"
            yield from (f"  {printable(sentence)}" for sentence in shown(report.faults))
