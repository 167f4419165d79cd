"""How often one address may use what needs no key. Counted in PostgreSQL, over all nodes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from ipaddress import IPv6Address, ip_address, ip_network
from math import ceil

from aiohttp import web

from authn.throttles import Limit, count_attempt
from service.client_address import address_of
from service.edge_errors import OverloadedError, TooManyRequestsError
from service.keys import SESSIONS
from tenancy.ids import PLATFORM_TENANT_ID
from tenancy.unit_of_work import tenant_unit_of_work

LINK_LIMIT = Limit("link-address", 60, timedelta(minutes=10))
"""Looks at and uses of links. Nobody guesses 256 bits; this bounds what guessing costs us."""

RESET_LIMIT = Limit("password-reset-address", 20, timedelta(hours=1))
"""Requests for a reset: each may send a mail."""


class Turns:
    """How much of a process the holders of links, and who says so, may take: decisions must not wait for them."""

    def __init__(self, at_once: int = 4, waiting: int = 128) -> None:
        self._turns = asyncio.Semaphore(at_once)
        self._room = at_once + waiting

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn, and hold it; raises `OverloadedError` when too many wait."""
        if self._room <= 0:
            raise OverloadedError
        self._room -= 1
        try:
            async with self._turns:
                yield
        finally:
            self._room += 1


TURNS: web.AppKey[Turns] = web.AppKey("TURNS")


@asynccontextmanager
async def admitted(request: web.Request, limit: Limit) -> AsyncIterator[None]:
    """Take a turn, and count an attempt of the address that calls. The body was read before: it may come slowly.

    SECURITY: before anything else, and alike for whatever is asked: the answer tells about the address only.

    Raises:
        TooManyRequestsError: it made too many.
        OverloadedError: too many wait already.
        DatabaseUnavailableError: not known, so refused.
    """
    async with request.app[TURNS].turn():
        async with tenant_unit_of_work(request.app[SESSIONS], PLATFORM_TENANT_ID) as work:
            wait = await count_attempt(work, limit, network_of(address_of(request)))
        if wait is not None:
            raise TooManyRequestsError(ceil(wait.total_seconds()))
        yield


def network_of(address: str | None) -> str:
    """Return what one caller has: an IPv4 address, or an IPv6 network of 64 bits."""
    try:
        parsed = ip_address(address or "")
    except ValueError:
        return "unknown"
    if isinstance(parsed, IPv6Address):
        return str(ip_network((parsed, 64), strict=False))
    return str(parsed)
