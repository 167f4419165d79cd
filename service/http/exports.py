"""Long answers of JSON lines: how many at once, and when one that is under way breaks off."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager

import structlog
from aiohttp import web

from authn.errors import AuthnError
from authz.errors import AuthzError
from service.answer_headers import add_headers
from service.edge_errors import EdgeError, OverloadedError
from service.keys import READMIT, TENANT
from tenancy.errors import TenancyError
from tenancy.ids import TenantId

EXPORTS: web.AppKey[Counter[TenantId]] = web.AppKey("EXPORTS")
"""How many exports are under way, of each tenant."""

MAX_EXPORTS = 8
"""Of one process: each reads page after page, and others want the database, too. One tenant has half of them."""

SEND_SECONDS = 30.0
"""A reader that takes nothing for so long loses its place."""

_log = structlog.get_logger()


@contextmanager
def export_place(request: web.Request) -> Iterator[None]:
    """Hold one of the places for exports; raises `OverloadedError` when all are taken, or the tenant's share is."""
    exports, tenant_id = request.app[EXPORTS], request[TENANT]
    if exports.total() >= MAX_EXPORTS or exports[tenant_id] >= max(1, MAX_EXPORTS // 2):
        raise OverloadedError
    exports[tenant_id] += 1
    try:
        yield
    finally:
        exports[tenant_id] -= 1
        if not exports[tenant_id]:
            del exports[tenant_id]


async def send_lines(request: web.Request, pages: AsyncGenerator[bytes], *, what: str) -> web.StreamResponse:
    """Answer with pages of lines as they come; what the first one raises is answered as any other failure.

    Half an answer must not look like a whole one: what fails later breaks the connection. Who reads slowly reads no
    longer than they may, so they are asked who they are before each page.

    Args:
        request: Admitted, with a place of `export_place`.
        pages: One at least.
        what: Is exported, for the log.
    """
    async with aclosing(pages):
        first = await anext(pages)
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        add_headers(request, response)
        whole = False
        try:
            await _send(request, response, first)
            async for page in pages:
                await request[READMIT]()
                await _send(request, response, page)
            whole = True
        except (ConnectionError, TimeoutError, TenancyError, AuthnError, EdgeError, AuthzError) as error:
            _log.warning("export.broken_off", of=what, error=str(error) or type(error).__name__)
        finally:
            if not whole and request.transport is not None:
                request.transport.abort()
        return response


async def _send(request: web.Request, response: web.StreamResponse, page: bytes) -> None:
    async with asyncio.timeout(SEND_SECONDS):
        if not response.prepared:
            await response.prepare(request)
        await response.write(page)
