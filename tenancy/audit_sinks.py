"""Where checkpoints go, out of reach of whoever can write the database: a file, or a syslog server.

A sink has taken lines when `send` returns; until then they are sent again, so a line may arrive twice, never too late.
"""

import asyncio
import os
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

_SYSLOG_AUDIT_NOTICE = 13 * 8 + 5
"""RFC 5424: facility 13 (log audit), severity 5 (notice)."""


class AuditSinkError(Exception):
    """The sink did not take the lines, or not surely."""


class AuditSink(Protocol):
    """Takes signed checkpoints in the order of their numbers."""

    async def send(self, lines: Sequence[str]) -> None:
        """Return when all lines were taken; raises `AuditSinkError`."""


class FileSink:
    """Appends lines to a file and waits until the disk has them. It belongs onto another machine's disk."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def send(self, lines: Sequence[str]) -> None:
        """Append and flush; raises `AuditSinkError`, for a full disk too."""
        try:
            await asyncio.to_thread(self._append, "".join(f"{line}\n" for line in lines).encode())
        except OSError as error:
            raise AuditSinkError(f"`{self._path}`: {error.strerror}") from error

    def _append(self, data: bytes) -> None:
        handle = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            size = os.fstat(handle).st_size
            if size and os.pread(handle, 1, size - 1) != b"\n":
                data = b"\n" + data  # half a line of a write that broke off must not swallow the next one
            while data:
                data = data[os.write(handle, data) :]
            os.fsync(handle)
        finally:
            os.close(handle)
        if not size:
            folder = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)  # that the file is there at all
            finally:
                os.close(folder)


class SyslogSink:
    """Sends lines as RFC 5424 messages over UDP, TCP (RFC 6587, octet counting) or TLS (RFC 5425).

    Syslog acknowledges nothing: TCP and TLS tell that the other machine has taken the bytes, UDP not even that.
    """

    def __init__(
        self, host: str, port: int, *, udp: bool = False, tls: ssl.SSLContext | None = None, seconds: float = 5.0
    ) -> None:
        self._host, self._port, self._udp, self._tls, self._seconds = host, port, udp, tls, seconds
        self._name = socket.gethostname() or "-"

    async def send(self, lines: Sequence[str]) -> None:
        """Send every line; raises `AuditSinkError`."""
        messages = [self._message(line) for line in lines]
        try:
            async with asyncio.timeout(self._seconds):
                await (self._datagrams(messages) if self._udp else self._stream(messages))
        except (OSError, TimeoutError) as error:
            raise AuditSinkError(f"syslog at {self._host}:{self._port}: {str(error) or 'no answer in time'}") from error

    def _message(self, line: str) -> bytes:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return f"<{_SYSLOG_AUDIT_NOTICE}>1 {now} {self._name} kasbah {os.getpid()} checkpoint - {line}".encode()

    async def _datagrams(self, messages: Sequence[bytes]) -> None:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=(self._host, self._port)
        )
        for message in messages:
            transport.sendto(message)
        transport.close()

    async def _stream(self, messages: Sequence[bytes]) -> None:
        reader, writer = await asyncio.open_connection(self._host, self._port, ssl=self._tls)
        try:
            for message in messages:
                writer.write(b"%d %s" % (len(message), message))
                await writer.drain()
            if self._tls is None:
                # The other end closes its side once it has read ours, so all has arrived there.
                writer.write_eof()
                await reader.read()
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
