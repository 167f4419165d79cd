"""Asks a range server about breached passwords over HTTP, and leaves one that does not answer alone for a while."""

import asyncio
import time
from collections.abc import Callable

import aiohttp
import structlog

from authn.breached_passwords import read_range

REST_SECONDS = 30.0
MAX_ANSWER_BYTES = 1 << 20
"""Real answers have some 100 kB."""

_log = structlog.get_logger()


class HttpRangeServer:
    """`RangeServer` on `<url>/range/<prefix>`."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        *,
        timeout_seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session = session
        self._url = url.rstrip("/")
        self._timeout = timeout_seconds
        self._monotonic = monotonic
        self._resting_until = 0.0

    async def find_suffixes(self, prefix: str) -> frozenset[str] | None:
        """Ask; None when there was no good answer in time, or was none a moment ago."""
        if self._monotonic() < self._resting_until:
            return None
        try:
            async with asyncio.timeout(self._timeout):
                found = await self._ask(prefix)
        except (aiohttp.ClientError, OSError, TimeoutError, UnicodeDecodeError) as error:
            self._rest(type(error).__name__)
            return None
        if found is None:
            self._rest("bad answer")
        return found

    async def _ask(self, prefix: str) -> frozenset[str] | None:
        headers = {"Add-Padding": "true", "User-Agent": "kasbah"}
        async with self._session.get(f"{self._url}/range/{prefix}", headers=headers, allow_redirects=False) as answer:
            if answer.status != 200:  # noqa: PLR2004 - OK
                return None
            body = await answer.content.read(MAX_ANSWER_BYTES + 1)
            while len(body) <= MAX_ANSWER_BYTES and (more := await answer.content.read(MAX_ANSWER_BYTES)):
                body += more
            return read_range(body.decode("ascii")) if len(body) <= MAX_ANSWER_BYTES else None

    def _rest(self, reason: str) -> None:
        self._resting_until = self._monotonic() + REST_SECONDS
        _log.warning("passwords.range_server_silent", reason=reason, rest_seconds=REST_SECONDS)
