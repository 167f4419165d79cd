"""Processes that compute password hashes: started when they are needed, replaced when they end, gone with this one.

Whoever asks waits in a thread. No answer is never "right" nor "wrong": it is `PasswordHashingBusyError`, which the
edge answers with 503.
"""

import os
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import msgspec
import structlog

from authn.errors import PasswordHashingBusyError
from authn.hashing_program import NO, YES, Compare, Derive, read_frame, write_frame
from authn.password_hashes import Argon2Cost

HUNG_SECONDS = 30.0
"""A process that has not answered by then is ended; the dearest hash takes a second or two on a core of its own."""
END_SECONDS = 5.0
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")
"""SECURITY: all that these processes get of our environment, which holds the service's secrets."""

_ANOTHER = "the process that hashes passwords answered something else"

_log = structlog.get_logger()
_encode = msgspec.msgpack.Encoder().encode


class HashingProcesses:
    """As many processes as calls were ever made at the same time; the caller bounds that."""

    def __init__(self, niceness: int) -> None:
        """Start none yet."""
        self._niceness = niceness
        self._lock = threading.Lock()
        self._busy: set[_Process] = set()
        self._resting: list[_Process] = []
        self._closed = False

    def compare(self, stored: str, secret: bytes) -> bool:
        """Whether a stored hash without pepper is of this secret; raises `PasswordHashingBusyError`."""
        answer = self._ask(Compare(stored, secret))
        if answer not in {YES, NO}:
            raise PasswordHashingBusyError(_ANOTHER)
        return answer == YES

    def derive(self, secret: bytes, cost: Argon2Cost, *, salt: bytes, tag_bytes: int) -> bytes:
        """Return the tag of a new Argon2id hash; raises `PasswordHashingBusyError`."""
        job = Derive(secret, salt, cost.memory_kib, cost.iterations, cost.parallelism, tag_bytes)
        tag = self._ask(job)
        if len(tag) != tag_bytes:
            raise PasswordHashingBusyError(_ANOTHER)
        return tag

    def close(self) -> None:
        """End those that rest; let the others end when they have answered; start no more."""
        with self._lock:
            self._closed = True
            resting, self._resting = self._resting, []
            busy = list(self._busy)
        for process in (*resting, *busy):
            process.finish()
        for process in resting:
            process.end(END_SECONDS)

    def _ask(self, job: Compare | Derive) -> bytes:
        try:
            process = self._taken()
            try:
                answer = process.ask(_encode(job))
            except OSError:
                self._done(process, ended=True)
                raise
        except OSError as error:
            _log.warning("passwords.process_ended", error=str(error))
            raise PasswordHashingBusyError("the process that hashes passwords ended") from None
        self._done(process)
        return answer

    def _taken(self) -> "_Process":
        while True:
            with self._lock:
                if self._closed:
                    raise PasswordHashingBusyError("the service is ending")
                process = self._resting.pop() if self._resting else None
            if process is None:
                process = _Process(self._niceness)
            elif not process.lives:
                process.end(0)
                continue
            with self._lock:
                self._busy.add(process)
                if self._closed:
                    process.finish()
            return process

    def _done(self, process: "_Process", *, ended: bool = False) -> None:
        with self._lock:
            self._busy.discard(process)
            if not (ended or self._closed):
                self._resting.append(process)
                return
        process.end(0 if ended else END_SECONDS)


class _Process:
    """One process, asked one thing at a time."""

    def __init__(self, niceness: int) -> None:
        """Start it; raises OSError."""
        self._end, other = socket.socketpair()
        self._end.settimeout(HUNG_SECONDS)
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        with other:
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-m", "authn.hashing_program", str(niceness)],
                stdin=other.fileno(),
                stdout=subprocess.DEVNULL,
                env=environment | {"PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)},
                start_new_session=True,  # see `hashing_program.give_way`
            )
        self._stream = self._end.makefile("rwb")

    @property
    def lives(self) -> bool:
        """Whether it has not ended."""
        return self._child.poll() is None

    def ask(self, job: bytes) -> bytes:
        """Return its answer; raises OSError when there is none."""
        write_frame(self._stream, job)
        answer = read_frame(self._stream)
        if answer is None:
            raise ConnectionResetError("no answer")
        return answer

    def finish(self) -> None:
        """Tell it that nothing more comes."""
        try:
            self._end.shutdown(socket.SHUT_WR)
        except OSError:
            self._child.kill()  # it is gone already, or cannot be told

    def end(self, seconds: float) -> None:
        """Wait so long for its end, then make it."""
        try:
            self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        with suppress(OSError):  # what was not sent
            self._stream.close()
        self._end.close()
