"""A file of SHA-1 hashes of breached passwords: sorted, 20 bytes each, looked up in place through a memory map.

SHA-1 because that is how such lists are published ("Have I Been Pwned"); nothing is protected by it here. The file
begins with 32 bytes: what it is, and how many hashes follow.
"""

import heapq
import mmap
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, cast

MAGIC = b"kasbah breached v1\n"
HEADER_BYTES = 32
DIGEST_BYTES = 20
CHUNK = 1_000_000
"""Hashes that are sorted in memory at once while a file is made: some 60 MB."""
_GUESSES = 8
"""Places guessed from the hash's own value, which finds it soon among evenly spread ones; then halves."""


class BreachedListError(Exception):
    """A file that is no such list, or not a whole one."""


class BreachedList:
    """An open list. Looking up touches a few pages of the file, which may have to come from the disk."""

    def __init__(self, path: Path) -> None:
        """Open and check the file's form and length; raises `BreachedListError` or OSError."""
        with path.open("rb") as file:
            self.count = _read_count(file, path)
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __contains__(self, digest: bytes) -> bool:
        """Whether the list has a hash of 20 bytes."""
        low, high = 0, self.count
        guesses = _GUESSES
        while low < high:
            middle = (low + high) // 2
            if guesses and high - low > 1:
                guesses -= 1
                middle = self._guess(digest, low, high)
            found = self._at(middle)
            if found == digest:
                return True
            if found < digest:
                low = middle + 1
            else:
                high = middle
        return False

    def close(self) -> None:
        """Let go of the file."""
        self._map.close()

    def _at(self, position: int) -> bytes:
        start = HEADER_BYTES + position * DIGEST_BYTES
        return self._map[start : start + DIGEST_BYTES]

    def _guess(self, digest: bytes, low: int, high: int) -> int:
        first, last = int.from_bytes(self._at(low)), int.from_bytes(self._at(high - 1))
        wanted = int.from_bytes(digest)
        if last <= first:
            return low
        share = (wanted - first) * (high - 1 - low) // (last - first)
        return min(max(low + share, low), high - 1)


def _read_count(file: BinaryIO, path: Path) -> int:
    header = file.read(HEADER_BYTES)
    if len(header) != HEADER_BYTES or not header.startswith(MAGIC):
        raise BreachedListError(
            f"`{path}` is no list of breached passwords: make one with `kasbah passwords build-list`"
        )
    count = int.from_bytes(header[-8:])
    if os.fstat(file.fileno()).st_size != HEADER_BYTES + count * DIGEST_BYTES:
        raise BreachedListError(f"`{path}` is not whole: make it again")
    return count


def write_breached_list(
    digests: Iterable[bytes], path: Path, *, chunk: int = CHUNK, progress: Callable[[int], None] | None = None
) -> int:
    """Write a list of hashes in any order, each once; return how many there are.

    The file takes its place when it is whole. Memory is bounded by `chunk`; what is sorted so far lies beside the file.

    Args:
        digests: 20 bytes each.
        path: Where; what stood there stays until then.
        chunk: How many are sorted at once.
        progress: Called now and then with how many hashes were written.
    """
    with ExitStack() as stack:
        sorted_runs = [_spilled(run, path.parent, stack) for run in _chunks(digests, chunk)]
        target = stack.enter_context(
            tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False)
        )
        unfinished = Path(target.name)
        try:
            count = _write(target, _unique(heapq.merge(*(map(_read_run, sorted_runs)))), progress)
            unfinished.chmod(0o644)
            unfinished.replace(path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
    return count


def _chunks(digests: Iterable[bytes], size: int) -> Iterator[list[bytes]]:
    chunk: list[bytes] = []
    for digest in digests:
        chunk.append(digest)
        if len(chunk) >= size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _spilled(run: list[bytes], folder: Path, stack: ExitStack) -> BinaryIO:
    run.sort()
    file = cast("BinaryIO", stack.enter_context(tempfile.TemporaryFile(dir=folder)))  # noqa: SIM115 - the stack closes it
    file.write(b"".join(run))
    return file


def _read_run(file: BinaryIO) -> Iterator[bytes]:
    file.seek(0)
    while block := file.read(DIGEST_BYTES * 50_000):
        for start in range(0, len(block), DIGEST_BYTES):
            yield block[start : start + DIGEST_BYTES]


def _unique(ordered: Iterable[bytes]) -> Iterator[bytes]:
    last = b""
    for digest in ordered:
        if digest != last:
            yield digest
            last = digest


def _write(
    file: "tempfile._TemporaryFileWrapper[bytes]", digests: Iterator[bytes], progress: Callable[[int], None] | None
) -> int:
    file.write(bytes(HEADER_BYTES))
    count = 0
    for run in _chunks(digests, 50_000):
        file.write(b"".join(run))
        count += len(run)
        if progress is not None:
            progress(count)
    file.seek(0)
    file.write(MAGIC.ljust(HEADER_BYTES - 8, b"\0") + count.to_bytes(8))
    file.flush()
    os.fsync(file.fileno())
    return count
