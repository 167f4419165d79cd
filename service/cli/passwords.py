"""`kasbah passwords build-list`."""

import contextlib
import gzip
import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from authn.breached_list import write_breached_list
from service.cli.output import ExitCode, fail, progress

_HASHED = re.compile(rb"([0-9A-Fa-f]{40})(?::([0-9]{1,12}))?\s*\Z")
_STEP = 20_000
"""Lines between two moves of the bar."""


@click.command("build-list")
@click.argument("inputs", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--output", "-o", required=True, type=click.Path(dir_okay=False, path_type=Path), help="File to write.")
@click.option("--hashed", is_flag=True, help="Lines are `SHA-1` or `SHA-1:COUNT` in hex, as from Have I Been Pwned.")
@click.option("--min-count", type=click.IntRange(min=1), default=1, help="With --hashed: leave rarer ones out.")
def build_list(
    inputs: tuple[Path, ...],
    output: Path,
    hashed: bool,  # noqa: FBT001 - click passes options by name
    min_count: int,
) -> None:
    """Make a list of breached passwords from INPUTS: text files (`.gz` too), one password or hash a line.

    Name the file in KASBAH_PASSWORDS__BREACHED_LIST. Memory is bounded; the folder of the output needs room for twice
    the list, 20 bytes for each password.
    """
    if min_count > 1 and not hashed:
        raise click.UsageError("--min-count counts what --hashed lines say")
    lines = _counted(_lines(inputs))
    digests = _hashed(lines, min_count) if hashed else (_of_password(line) for _, _, line in lines)
    try:
        count = write_breached_list(digests, output)
    except OSError as error:
        fail(f"cannot write `{output}`: {error.strerror or error}", ExitCode.USAGE)
    click.echo(f"{count} passwords in {output}", err=True)


Line = tuple[Path, int, bytes]


def _lines(paths: Iterable[Path]) -> Iterator[Line]:
    for path in paths:
        try:
            with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    bare = line.rstrip(b"\r\n")
                    if bare:
                        yield path, number, bare
        except (OSError, EOFError) as error:
            fail(f"cannot read `{path}`: {error}", ExitCode.USAGE)


def _counted(lines: Iterator[Line]) -> Iterator[Line]:
    """Show how many lines were read, on a terminal."""
    with progress("reading lines") as moved:
        for number, line in enumerate(lines, 1):
            if number % _STEP == 0:
                moved(_STEP)
            yield line


def _hashed(lines: Iterable[Line], min_count: int) -> Iterator[bytes]:
    for path, number, line in lines:
        found = _HASHED.match(line)
        if found is None:
            fail(f"{path}:{number}: no `SHA-1` or `SHA-1:COUNT` in hex", ExitCode.USAGE)
        if int(found[2] or min_count) >= min_count:
            yield bytes.fromhex(found[1].decode())


def _of_password(line: bytes) -> bytes:
    """Return the hash of a password in NFC, as one that is chosen will be; what is no UTF-8 is taken as it is."""
    with contextlib.suppress(UnicodeDecodeError):
        line = unicodedata.normalize("NFC", line.decode()).encode()
    return hashlib.sha1(line, usedforsecurity=False).digest()
