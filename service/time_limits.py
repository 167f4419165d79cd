"""How long one request may wait for PostgreSQL and Valkey altogether, however many steps it takes.

Each step has a bound of its own, but a key, a tenant and its members may be asked for one after the other: what a
caller sees is the sum.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from aiohttp import web

from authz.errors import StorageUnavailableError

ANSWER_SECONDS = 2.8
"""Above the bound of a single step (2.5 s), below the three seconds within which every request ends."""

TIME_LIMIT: web.RequestKey[asyncio.Timeout] = web.RequestKey("TIME_LIMIT")


@asynccontextmanager
async def answered_in_time(request: web.Request, seconds: float | None) -> AsyncIterator[None]:
    """Bound the block; None is no bound.

    Raises:
        StorageUnavailableError: time is up. What was begun is cancelled, so this is not for writes.
    """
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            request[TIME_LIMIT] = limit
            yield
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise StorageUnavailableError("no answer in time") from error


@contextmanager
def on_the_callers_time(request: web.Request) -> Iterator[None]:
    """Do not count the block: a body that is slow to arrive has a bound of its own."""
    limit = request.get(TIME_LIMIT)
    due = None if limit is None else limit.when()
    if limit is None or due is None:
        yield
        return
    loop = asyncio.get_running_loop()
    left = due - loop.time()
    limit.reschedule(None)
    try:
        yield
    finally:
        limit.reschedule(loop.time() + left)
