"""`kasbah user import|export`."""

import asyncio
import itertools
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import click

from service.cli.asking import asked, tenant_option, tenant_or_only
from service.cli.output import ExitCode, fail, printable, progress
from service.cli.user_files import (
    Progress,
    Record,
    UserFileError,
    file_digest,
    load_progress,
    read_records,
    save_progress,
)
from service.client import Client, UnreachableError, path_of

BATCH = 2000
"""Records of one request, which is one transaction: other writes of the tenant wait for it."""
BATCH_BYTES = 8 << 20
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 5.0
SHOWN = 20
_JSON_LINES = {"Content-Type": "application/x-ndjson"}


@click.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@tenant_option
@click.option("--format", "form", type=click.Choice(["csv", "jsonl"]), help="By default what the file's name ends in.")
@click.option("--report", type=click.Path(dir_okay=False, path_type=Path), help="File for lines that were refused.")
@click.option("--resume", is_flag=True, help="Go on where an import of this file was broken off.")
@click.option("--batch", type=click.IntRange(1, 5000), default=BATCH, show_default=True, help="Accounts a request.")
@click.option("--wait", type=click.IntRange(0), default=60, show_default=True, help="Seconds to wait for the server.")
@click.option("--reason", help="Why; kept in the history.")
def import_(  # noqa: PLR0917 - click passes options by name
    file: Path,
    tenant: str | None,
    form: str | None,
    report: Path | None,
    resume: bool,  # noqa: FBT001 - as above
    batch: int,
    wait: int,
    reason: str | None,
) -> None:
    """Import the accounts of FILE: those that are new; nothing of an account that is there is changed.

    CSV has its columns' names in the first line; JSON lines have an object each: `username`, and if known `email`,
    `display_name`, `mfa_required`, `password_hash` (Argon2, bcrypt, scrypt or PBKDF2). What is broken off goes on with
    --resume, and the same file twice makes no account twice.
    """
    form = form or ("csv" if file.suffix.lower() == ".csv" else "jsonl")

    async def work(client: Client) -> Progress:
        where = await tenant_or_only(client, tenant)
        job = Job(file, form, where, report, file.with_name(f"{file.name}.{where}.progress"))
        return await _imported(client, job, resume=resume, batch=batch, wait=wait, reason=reason)

    try:
        done = asked(work)
    except UserFileError as error:
        fail(str(error), ExitCode.USAGE)
    except OSError as error:
        fail(f"`{error.filename}`: {error.strerror}", ExitCode.USAGE)
    click.echo(f"{done.created} created, {done.existing} there already, {done.bad} refused", err=True)
    if done.bad:
        where = f": see `{report}`" if report else "; --report FILE keeps them all"
        fail(f"{done.bad} lines were refused{where}", ExitCode.FINDINGS)


@dataclass(frozen=True, slots=True)
class Job:
    """What is imported, and where it is noted how far that has come."""

    file: Path
    form: str
    tenant: str
    report: Path | None
    progress: Path


async def _imported(client: Client, job: Job, *, resume: bool, batch: int, wait: int, reason: str | None) -> Progress:
    state = _begun(job, resume=resume)
    total = sum(1 for _ in read_records(job.file, job.form))
    with Report(job.report, state.report_bytes) as report, progress("importing", total) as advance:
        advance(state.records)
        rest = itertools.islice(read_records(job.file, job.form), state.records, None)
        for records in _batches(rest, batch):
            answer = await _sent(client, job.tenant, records, wait=wait, reason=reason)
            report.add(records, answer["bad"])
            state = state.after(len(records), answer, report.flush())
            save_progress(job.progress, state)
            advance(len(records))
    job.progress.unlink(missing_ok=True)
    return state


def _begun(job: Job, *, resume: bool) -> Progress:
    fresh = Progress(file_digest(job.file), job.form, job.tenant)
    found = load_progress(job.progress)
    if found is None:
        return fresh
    if not resume:
        raise UserFileError(f"an import of this file was broken off: add --resume, or remove `{job.progress}`")
    if (found.digest, found.form, found.tenant) != (fresh.digest, fresh.form, fresh.tenant):
        raise UserFileError(f"`{job.file}` is not the file that was broken off: remove `{job.progress}` to start over")
    return found


def _batches(records: Iterator[Record], most: int) -> Iterator[list[Record]]:
    batch: list[Record] = []
    size = 0
    for record in records:
        if batch and (len(batch) >= most or size + len(record.text) >= BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(record)
        size += len(record.text) + 1
    if batch:
        yield batch


async def _sent(client: Client, tenant: str, records: list[Record], *, wait: int, reason: str | None) -> Any:
    """Send a batch until it is answered: sent twice it makes no account twice."""
    body = b"\n".join(record.text for record in records)
    pause, ends = FIRST_PAUSE, asyncio.get_running_loop().time() + wait
    while True:
        try:
            return await client.post(
                path_of("users", "import"), body, headers=_JSON_LINES, tenant=tenant, reason=reason
            )
        except UnreachableError as error:
            if asyncio.get_running_loop().time() + pause > ends:
                raise UnreachableError(f"{error}\nwhen it answers again, go on with --resume") from error
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


class Report:
    """The lines that were refused, in a file or, the first of them, on standard error."""

    def __init__(self, path: Path | None, known_bytes: int) -> None:
        self._path = path
        self._known = known_bytes
        self._file: BinaryIO | None = None
        self._shown = 0

    def __enter__(self) -> Self:
        if self._path is not None:
            known = min(self._known, self._path.stat().st_size) if self._path.exists() else 0
            self._file = self._path.open("r+b" if known else "wb")
            self._file.truncate(known)  # what was written after the last batch that counts comes again
            self._file.seek(0, os.SEEK_END)
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, records: list[Record], faults: list[dict[str, Any]]) -> None:
        """Take what the server said of a batch, with the lines of the file."""
        for fault in faults:
            said = fault | {"line": records[fault["line"] - 1].line}
            if self._file is not None:
                self._file.write(json.dumps(said, ensure_ascii=False).encode() + b"\n")
            elif self._shown < SHOWN:
                self._shown += 1
                field = f"`{printable(said['field'])}` " if said["field"] else ""
                click.echo(f"line {said['line']}: {field}{printable(said['reason'])}", err=True)

    def flush(self) -> int:
        """Make sure that it is on the disk; return its length."""
        if self._file is None:
            return 0
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()


@click.command("export")
@tenant_option
@click.option("-o", "--out", type=click.Path(dir_okay=False, path_type=Path), help="File; by default standard output.")
@click.option("--reason", help="Why; kept in the audit.")
def export(tenant: str | None, out: Path | None, reason: str | None) -> None:
    """Write every account of a tenant as JSON lines, without secrets; deleted ones are left out."""

    async def work(client: Client) -> int:
        where = await tenant_or_only(client, tenant)
        lines = client.lines(path_of("users", "export"), tenant=where, reason=reason)
        if out is None:
            return await _copied(lines, sys.stdout.buffer.write)
        unfinished = out.with_name(f"{out.name}.unfinished")
        with unfinished.open("wb") as file:
            number = await _copied(lines, file.write)
        unfinished.replace(out)
        return number

    try:
        number = asked(work)
    except OSError as error:
        fail(f"cannot write `{error.filename}`: {error.strerror}", ExitCode.USAGE)
    click.echo(f"{number} accounts", err=True)


async def _copied(lines: AsyncIterator[bytes], write: Callable[[bytes], object]) -> int:
    number = 0
    with progress("accounts") as advance:
        async for line in lines:
            write(line)
            number += 1
            advance(1)
    return number
