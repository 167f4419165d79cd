"""`/v1/tenants/{tenant}/changes`: the change feed, as pages and as server-sent events.

An event's id is its revision, and revisions have no gaps, so a reader that says the last one it saw loses nothing
across disconnections, restarts of the service and other nodes. The stream reads what PostgreSQL has committed; notices
only wake it.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress

import msgspec
from aiohttp import web

from authn.errors import AuthnError
from authz.errors import AuthzError
from authz.ports import TenantHead
from service.answer_headers import add_headers
from service.caller import bearer_token
from service.edge_errors import EdgeError, InvalidRequestError, OverloadedError
from service.http.admin import ADMINISTRATION, Notices, json_answer
from service.http.admin_history import shown_change
from service.http.lists import Cursor, page_limit
from service.keys import CALLERS, DRAINING, ROUTE, TENANT
from service.rights import judged
from service.routes import Needs
from tenancy.errors import DatabaseUnavailableError
from tenancy.ids import TenantId

HEARTBEAT_SECONDS = 15.0
CHECK_SECONDS = 1.0
SEND_SECONDS = 30.0
PAGE = 200
MAX_STREAMS = 500
MAX_TENANT_STREAMS = 50
"""Of one process, so that no tenant takes the streams of the others."""

STREAMS: web.AppKey[Counter[TenantId]] = web.AppKey("STREAMS")
"""How many streams each tenant holds."""

_encode = msgspec.json.Encoder().encode


async def changes(request: web.Request) -> web.StreamResponse:
    """GET changes after a cursor, oldest first; a stream of events for `Accept: text/event-stream`."""
    if "text/event-stream" in request.headers.get("Accept", ""):
        return await _stream(request)
    limit = page_limit(request)
    cursor = Cursor("changes", request[TENANT])
    after = cursor.read_number(request) or 0
    found = await request.app[ADMINISTRATION].writer.list_changes(request[TENANT], after_revision=after, limit=limit)
    last = str(found[-1].revision) if found else str(after)
    # The cursor of a feed never ends: the same one, asked again later, shows what came since.
    said = {"changes": [shown_change(change) for change in found], "next_cursor": cursor.show(last)}
    return json_answer(said)


def _start_revision(request: web.Request) -> int:
    """Return the revision after which the stream starts: `Last-Event-ID`, else a cursor, else the beginning."""
    values = request.headers.getall("Last-Event-ID", [])
    if not values:
        return Cursor("changes", request[TENANT]).read_number(request) or 0
    text = values[0]
    if len(values) > 1 or not (text.isascii() and text.isdigit() and len(text) < 19):  # noqa: PLR2004 - 64 bits
        raise InvalidRequestError("`Last-Event-ID` is the revision of the last event")
    return int(text)


async def _stream(request: web.Request) -> web.StreamResponse:
    revision = _start_revision(request)
    node = request.app[ADMINISTRATION].node
    with _counted(request.app[STREAMS], request[TENANT]):
        await node.watch(request[TENANT])
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
        add_headers(request, response)
        await response.prepare(request)
        # From here on a failure can only end the stream: a problem would be a second answer inside the first.
        with (
            _woken(node, request[TENANT]) as news,
            suppress(ConnectionError, TimeoutError, StreamEndedError, DatabaseUnavailableError),
        ):
            async for text in _events(request, revision, news):
                async with asyncio.timeout(SEND_SECONDS):  # a reader that does not read must not hold its connection
                    await response.write(text)
    return response


class StreamEndedError(Exception):
    """The caller may no longer read; the stream ends without a word."""


async def _events(request: web.Request, revision: int, news: asyncio.Event) -> AsyncIterator[bytes]:
    writer = request.app[ADMINISTRATION].writer
    said = time.monotonic()
    yield b": connected\n\n"
    while True:
        news.clear()
        await _still_admitted(request)
        found = await writer.list_changes(request[TENANT], after_revision=revision, limit=PAGE)
        for change in found:
            revision = change.revision
            yield b"id: %d\nevent: change\ndata: %s\n\n" % (revision, _encode(shown_change(change)))
            said = time.monotonic()
        if len(found) == PAGE:
            continue
        while not news.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(CHECK_SECONDS):
                    await news.wait()
            await _still_admitted(request)
            if time.monotonic() - said >= HEARTBEAT_SECONDS:
                said = time.monotonic()
                yield b": heartbeat\n\n"
                break


async def _still_admitted(request: web.Request) -> None:
    """End the stream once its key or its owner's right no longer holds (what cannot be checked does not).

    Also when the service stops.
    """
    if request.app[DRAINING].is_set():
        raise StreamEndedError
    try:
        token = bearer_token(request.headers.getall("Authorization", []))
        caller = await request.app[CALLERS].authenticate(token)
        if request.app[CALLERS].is_suspended(caller):
            raise StreamEndedError
        access = request[ROUTE].access
        if isinstance(access, Needs):
            await judged(request, caller, access)
    except (EdgeError, AuthnError, AuthzError):
        raise StreamEndedError from None


@contextmanager
def _woken(node: Notices, tenant_id: TenantId) -> Iterator[asyncio.Event]:
    """Yield an event that is set whenever the node learns that the tenant moved on."""
    news = asyncio.Event()

    def advanced(head: TenantHead) -> None:
        if head.tenant_id == tenant_id:
            news.set()

    hooks: list[Callable[[TenantHead], None]] = node.on_advance
    hooks.append(advanced)
    try:
        yield news
    finally:
        hooks.remove(advanced)


@contextmanager
def _counted(streams: Counter[TenantId], tenant_id: TenantId) -> Iterator[None]:
    """Hold one place; raises `OverloadedError` when there is none left, of all or for this tenant."""
    if streams.total() >= MAX_STREAMS or streams[tenant_id] >= MAX_TENANT_STREAMS:
        raise OverloadedError
    streams[tenant_id] += 1
    try:
        yield
    finally:
        streams[tenant_id] -= 1
        if not streams[tenant_id]:
            del streams[tenant_id]
