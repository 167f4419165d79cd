"""Mails as people get them, for tests that talk to processes."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.smtp_server import Received, SmtpServer, smtp_server

MAIL_TIMEOUT_SECONDS = 60


class Post:
    """A mail server in a thread of its own, while a test runs commands."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._ready, self._end = threading.Event(), asyncio.Event()
        self.server: SmtpServer | None = None
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))

    async def _run(self) -> None:
        async with smtp_server() as self.server:
            self._ready.set()
            await self._end.wait()

    @contextmanager
    def open(self) -> Iterator["Post"]:
        """Listen until the end."""
        self._thread.start()
        assert self._ready.wait(MAIL_TIMEOUT_SECONDS)
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join()
            self._loop.close()

    def settings(self) -> dict[str, str]:
        """Return the settings of a service that sends its mails here."""
        assert self.server is not None
        return {
            "KASBAH_MAIL__HOST": "127.0.0.1",
            "KASBAH_MAIL__PORT": str(self.server.port),
            "KASBAH_MAIL__TLS": "none",
            "KASBAH_MAIL__SENDER": "Kasbah <kasbah@platform.example>",
        }

    def to(self, address: str, *, about: str = "") -> Received:
        """Wait for the newest mail to an address whose subject holds `about`."""
        assert self.server is not None
        ends = time.monotonic() + MAIL_TIMEOUT_SECONDS
        while not (found := [mail for mail in self.server.to(address) if about in mail.message["Subject"]]):
            assert time.monotonic() < ends, f"no mail to {address}"
            time.sleep(0.05)
        return found[-1]
