"""The bulk worker: one side process that plans, applies, exports and signs people in, so that no decision waits for it.

It is the same application on a Unix socket in a directory of its own. The public workers admit a request as every other
(key, scope, tenant), then hand it over with its body as it arrives, and hand the answer back as it comes. The bulk
worker judges all of it again: that a request came over the socket proves nothing.

A route with a small limit for bodies is handed over when the body is there, so that whoever sends slowly takes nothing
of the bulk worker, nor a place of the pool that hashes passwords. Where nobody listens, such a request is answered by
the public worker itself: people sign in while the bulk worker is replaced.
"""

import asyncio
import contextlib
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Protocol

import aiohttp
import structlog
from aiohttp import web

from service.answer_headers import add_headers
from service.edge_errors import BulkUnavailableError, InvalidRequestError
from service.handed_over import ArrivingBody, end_to_end, forwarded_headers
from service.hashing_places import place_of
from service.http.revisions import REVISION_HEADER
from service.keys import BODY, BULK, CALLER, NODE, ROUTE, TENANT
from service.processes import StartError
from service.request_body import read_body
from service.routes import Handler, Needs
from tenancy.ids import BASE_TENANT_ID, TenantId

FORWARD_SECONDS = 120.0
"""Bound of one forwarded request, its body and its answer included; the command line waits no longer either."""

SMALL_BODY = 64 << 10
"""Limit of a route's bodies, in bytes, up to which they are awaited before anything is handed over."""

SMALL_SECONDS = 30.0
"""Bound of one forwarded request with such a body: a new password may take some hashes. Sign-ins have a closer one."""

START_SECONDS = 5.0
"""How long a request waits for a bulk worker that is being started or replaced."""

START_CHECK_SECONDS = 0.1
CLIENT_CHECK_SECONDS = 0.25
CHUNK_BYTES = 64 << 10
MAX_SOCKET_PATH = 100
"""Unix sockets have room for 107 bytes (Linux) or 103 (macOS)."""

_log = structlog.get_logger()


class Follower(Protocol):
    """What of the node takes in a write of another process."""

    async def follow_write(self, tenant_id: TenantId, revision: int) -> None:
        """Bring the tenant up to `revision` if it is in use here; never fails."""


@contextlib.contextmanager
def bulk_socket() -> Iterator[Path]:
    """Yield where the bulk worker listens: in a directory that only this user may enter, removed at the end."""
    parent = tempfile.gettempdir()
    if len(f"{parent}/kasbah-bulk-01234567/socket") > MAX_SOCKET_PATH:
        parent = "/tmp"  # noqa: S108 - what is made in it is private
    try:
        made = tempfile.mkdtemp(prefix="kasbah-bulk-", dir=parent)
    except OSError as error:
        raise StartError(f"no directory for a socket in `{parent}` ({error.strerror}): set TMPDIR") from error
    try:
        yield Path(made) / "socket"
    finally:
        shutil.rmtree(made, ignore_errors=True)


class BulkForwarder:
    """Hands requests to the bulk worker."""

    def __init__(self, path: Path, *, seconds: float = FORWARD_SECONDS, start_seconds: float = START_SECONDS) -> None:
        self._path = path
        self._seconds = seconds
        self._start_seconds = start_seconds
        self._session: aiohttp.ClientSession | None = None

    async def part(self, app: web.Application) -> AsyncIterator[None]:
        """Part of the application."""
        self._session = aiohttp.ClientSession(
            "http://bulk",
            # A connection for each request: none is ever half dead, so nothing is ever sent twice.
            connector=aiohttp.UnixConnector(str(self._path), force_close=True, limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
        )
        self._session._retry_connection = False  # noqa: SLF001 - half of a body would be sent; aiohttp is pinned
        app[BULK] = self
        yield
        await self._session.close()

    async def forward(self, request: web.Request, here: Handler, *, hashes: bool = False) -> web.StreamResponse:
        """Answer `request`, which was admitted, with what the bulk worker answers.

        Args:
            request: Nothing of its body was read.
            here: Answers it where the bulk worker is not there and the body is small.
            hashes: Whether it takes a place of the pool that hashes passwords; its bodies are small.

        Raises:
            BulkUnavailableError: no answer; whether it acted on the request is then unknown.
            PasswordHashingBusyError: no place.
            BodyTooLargeError, BodyTimeoutError, InvalidRequestError: as `read_body`.
        """
        if request[ROUTE].body_limit <= SMALL_BODY:
            body = await read_body(request)
            with place_of(request) if hashes else contextlib.nullcontext():
                answer = await self._answer_whole(request, body)
            if answer is not None:
                return answer
            request[BODY] = body
            return await here(request)
        answering = asyncio.create_task(self._answer(request))
        leaving = asyncio.create_task(_client_left(request))
        try:
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                raise InvalidRequestError("the client left")
            return answering.result()
        finally:
            for task in (answering, leaving):
                task.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)

    async def _answer_whole(self, request: web.Request, body: bytes) -> web.Response | None:
        """Return the answer to a request that is all here, or None when nobody listens, so that nothing was sent.

        It goes on when the client has left: its place is taken for as long as the bulk worker is at work.
        """
        try:
            async with asyncio.timeout(min(SMALL_SECONDS, self._seconds)), await self._send(request, body) as answer:
                content = await answer.read()
        except aiohttp.ClientConnectorError:
            return None
        except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
            _log.warning("bulk.no_answer", error=str(error) or type(error).__name__)
            raise BulkUnavailableError from error
        await _follow(request, answer)
        headers = end_to_end(answer.raw_headers)
        return web.Response(status=answer.status, reason=answer.reason, headers=headers, body=content)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = ArrivingBody(request)
        response: web.StreamResponse | None = None
        try:
            async with asyncio.timeout(self._seconds), await self._send_when_started(request, body) as answer:
                await _follow(request, answer)
                response = web.StreamResponse(status=answer.status, reason=answer.reason)
                response.headers.extend(end_to_end(answer.raw_headers))
                add_headers(request, response)
                await response.prepare(request)
                async for chunk in answer.content.iter_chunked(CHUNK_BYTES):
                    await response.write(chunk)
                return response
        except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
            if response is not None and response.prepared:
                # Half an answer must not look like a whole one, nor be followed by another on its connection.
                if request.transport is not None:
                    request.transport.abort()
                return response
            if body.fault is not None:
                raise body.fault from None
            _log.warning("bulk.no_answer", error=str(error) or type(error).__name__)
            raise BulkUnavailableError from error

    async def _send(self, request: web.Request, body: bytes | AsyncIterator[bytes] | None) -> aiohttp.ClientResponse:
        """Send the request and return the head of its answer."""
        if self._session is None:
            raise BulkUnavailableError
        headers = forwarded_headers(request)
        return await self._session.request(
            request.method, request.rel_url, headers=headers, data=body or None, allow_redirects=False
        )

    async def _send_when_started(self, request: web.Request, body: "ArrivingBody") -> aiohttp.ClientResponse:
        """As `_send`; waits for a worker that is being started."""
        give_up_at = asyncio.get_running_loop().time() + self._start_seconds
        while True:
            try:
                return await self._send(request, body.chunks() if request.can_read_body else None)
            except aiohttp.ClientConnectorError:
                # Nobody listens, so nothing was sent and nothing of the body was read.
                if asyncio.get_running_loop().time() >= give_up_at:
                    raise
                await asyncio.sleep(START_CHECK_SECONDS)


async def _follow(request: web.Request, answer: aiohttp.ClientResponse) -> None:
    """Take in what was written before it is answered, so that this node never answers older than it said.

    What an open route says no revision of is left to the bulk worker's notice: nothing that is decided here changed.
    """
    revision = answer.headers.get(REVISION_HEADER, "")
    follower: Follower = request.app[NODE]
    tenant_id = _written_tenant(request)
    if tenant_id is not None and revision.isdigit():
        await follower.follow_write(tenant_id, int(revision))
    elif request.method != "GET" and answer.ok and (revision or CALLER in request):
        await follower.follow_write(BASE_TENANT_ID, 0)


def _written_tenant(request: web.Request) -> TenantId | None:
    """Return the tenant whose revision an answer says, if that is known."""
    if TENANT in request:
        return request[TENANT]
    access = request[ROUTE].access
    # What people do with their own accounts is of their own tenant.
    return request[CALLER].home if isinstance(access, Needs) and access.interactive else None


async def _client_left(request: web.Request) -> None:
    """Return when nobody waits for the answer any more."""
    while request.transport is not None and not request.transport.is_closing():  # noqa: ASYNC110 - nobody else tells
        await asyncio.sleep(CLIENT_CHECK_SECONDS)


def unused_socket() -> socket.socket:
    """Return what the supervisor keeps for the bulk worker.

    The worker listens by itself: a request that comes while it is being replaced is refused there at once, and never
    left waiting in the queue of a socket that nobody reads.
    """
    return socket.socket(socket.AF_UNIX)
