"""The program of a process that computes password hashes: `authn/hashing_processes.py` starts it and asks.

A process of its own, because a hash takes 64 MiB from the system and gives it back, and computes for a fifth of a
second: in the server's process that holds up the event loop by the lock on its memory, and by threads of low priority
that hold the interpreter. Here nothing is shared. Secrets come over the socket alone, never as arguments or in the
environment; keys of peppers do not come at all. The process ends with the socket, so with whoever started it.
"""

import io
import os
import socket
import struct
import sys
from contextlib import suppress
from pathlib import Path

import msgspec

from authn.password_hash_forms import read_password_hash
from authn.password_hashes import Argon2Cost, compute_argon2

AUTOGROUP = Path("/proc/self/autogroup")
MAX_FRAME = 64 << 10
_LENGTH = struct.Struct(">I")


class Compare(msgspec.Struct, frozen=True, tag="compare"):
    """Is this the secret of the hash? Answered with `YES` or `NO`."""

    stored: str
    secret: bytes

    def __repr__(self) -> str:
        """SECURITY: no log and no traceback shows what is hashed."""
        return "Compare(...)"


class Derive(msgspec.Struct, frozen=True, tag="derive"):
    """Compute Argon2id. Answered with the tag."""

    secret: bytes
    salt: bytes
    memory_kib: int
    iterations: int
    parallelism: int
    tag_bytes: int

    def __repr__(self) -> str:
        """SECURITY: no log and no traceback shows what is hashed."""
        return "Derive(...)"


YES, NO = b"yes", b"no"
_decoder = msgspec.msgpack.Decoder(Compare | Derive)


def write_frame(stream: io.BufferedRWPair, data: bytes) -> None:
    """Send one message."""
    stream.write(_LENGTH.pack(len(data)) + data)
    stream.flush()


def read_frame(stream: io.BufferedRWPair) -> bytes | None:
    """Return one message, or None at the end, also when it comes in the middle of one."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    if length > MAX_FRAME:
        return None
    data = stream.read(length)
    return data if len(data) == length else None


def give_way(niceness: int) -> None:
    """Leave the cores to everything else.

    Where Linux weighs sessions rather than processes (autogroups: no control group for us), niceness counts inside a
    session only. So this process has one of its own, which gives way as a whole.
    """
    os.nice(niceness)
    with suppress(OSError):
        AUTOGROUP.write_text(str(niceness), "ascii")


def answer_to(job: Compare | Derive) -> bytes:
    """Do one job."""
    if isinstance(job, Compare):
        return YES if read_password_hash(job.stored).matches(job.secret, {}) else NO
    cost = Argon2Cost(job.memory_kib, job.iterations, job.parallelism)
    made = compute_argon2(job.secret, cost, salt=job.salt, tag_bytes=job.tag_bytes, pepper=None, peppers={})
    return made.tag


def main() -> None:
    """Answer until the other end is closed; the argument is the niceness."""
    give_way(int(sys.argv[1]))  # not before: being loaded is short, and somebody waits for it
    with socket.socket(fileno=sys.stdin.fileno()) as end, end.makefile("rwb") as stream:
        while (data := read_frame(stream)) is not None:
            try:
                answer = answer_to(_decoder.decode(data))
            except Exception as error:  # noqa: BLE001 - the last line of a process; SECURITY: no message, no locals
                sys.exit(f"passwords: {type(error).__name__}")
            write_frame(stream, answer)


if __name__ == "__main__":
    main()
