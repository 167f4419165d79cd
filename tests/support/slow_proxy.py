"""A TCP proxy that hands on every byte, late: a server that is there and answers, but slowly."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator


class SlowProxy:
    """Hands what the server says to its clients after `delay_seconds`, `piece` bytes at a time (0: all at once)."""

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.delay_seconds = 0.0
        self.piece = 0
        self.delayed = 0

    @property
    def port(self) -> int:
        """Where clients connect."""
        return int(self._listener.getsockname()[1])

    def run(self) -> None:
        """Take connections until the listener is closed."""
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                self._open += [client, server]
                for source, target, slow in ((client, server, False), (server, client, True)):
                    threading.Thread(target=self._hand_on, args=(source, target, slow), daemon=True).start()

    def _hand_on(self, source: socket.socket, target: socket.socket, slow: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                for part in self._parts(data) if slow else (data,):
                    target.sendall(part)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _parts(self, data: bytes) -> Iterator[bytes]:
        size = self.piece or len(data)
        for start in range(0, len(data), size):
            if self.delay_seconds:
                self.delayed += 1
                time.sleep(self.delay_seconds)
            yield data[start : start + size]

    def close(self) -> None:
        """End it and every connection."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for one in (self._listener, *self._open):
            one.close()


@contextlib.contextmanager
def slow_proxy(host: str, port: int) -> Iterator[SlowProxy]:
    """Run a proxy before a server; it is quick until it is told otherwise."""
    proxy = SlowProxy(host, port)
    threading.Thread(target=proxy.run, daemon=True).start()
    try:
        yield proxy
    finally:
        proxy.close()
