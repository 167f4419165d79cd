"""The bulk worker: one side process that plans, applies, rolls back and exports, so that no decision waits for it.

It is the same application on a Unix socket in a directory of its own. The public workers admit a request as every other
(key, scope, tenant), then hand it over with its body as it arrives, and hand the answer back as it comes. The bulk
worker judges all of it again: that a request came over the socket proves nothing.
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
from multidict import CIMultiDict

from service.answer_headers import add_headers
from service.client_address import BULK_ADDRESS, address_of
from service.edge_errors import BodyTimeoutError, BodyTooLargeError, BulkUnavailableError, InvalidRequestError
from service.http.revisions import REVISION_HEADER
from service.keys import BULK, HTTP_SETTINGS, NODE, REQUEST_ID, ROUTE, TENANT
from service.processes import StartError
from tenancy.ids import BASE_TENANT_ID, TenantId

FORWARD_SECONDS = 120.0
"""Bound of one forwarded request, its body and its answer included; the command line waits no longer either."""

START_SECONDS = 5.0
"""How long a request waits for a bulk worker that is being started or replaced."""

START_CHECK_SECONDS = 0.1
CLIENT_CHECK_SECONDS = 0.25
CHUNK_BYTES = 64 << 10
MAX_SOCKET_PATH = 100
"""Unix sockets have room for 107 bytes (Linux) or 103 (macOS)."""

HOP_BY_HOP = frozenset(
    {
        "connection",
        "expect",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers about one connection (RFC 9110 section 7.6.1), and `Expect`, which was answered where it arrived."""

RawHeaders = tuple[tuple[bytes, bytes], ...]
"""As they came; aiohttp's other form spells some names anew."""

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

    async def forward(self, request: web.Request) -> web.StreamResponse:
        """Answer `request`, which was admitted, with what the bulk worker answers.

        Raises:
            BulkUnavailableError: no answer; whether it acted on the request is then unknown.
            BodyTooLargeError, BodyTimeoutError, InvalidRequestError: as `read_body`.
        """
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

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = _Body(request)
        response: web.StreamResponse | None = None
        try:
            async with asyncio.timeout(self._seconds), await self._send(request, body) as answer:
                await _follow(request, answer)
                response = web.StreamResponse(status=answer.status, reason=answer.reason)
                response.headers.extend(_end_to_end(answer.raw_headers))
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

    async def _send(self, request: web.Request, body: "_Body") -> aiohttp.ClientResponse:
        """Send the request and return the head of its answer; waits for a worker that is being started."""
        if self._session is None:
            raise BulkUnavailableError
        headers = _forwarded_headers(request)
        give_up_at = asyncio.get_running_loop().time() + self._start_seconds
        while True:
            data = body.chunks() if request.can_read_body else None
            try:
                return await self._session.request(
                    request.method, request.rel_url, headers=headers, data=data, allow_redirects=False
                )
            except aiohttp.ClientConnectorError:
                # Nobody listens, so nothing was sent and nothing of the body was read.
                if asyncio.get_running_loop().time() >= give_up_at:
                    raise
                await asyncio.sleep(START_CHECK_SECONDS)


class _Body:
    """A request's body as it arrives, under its route's limit and the deadline for bodies.

    `fault` says why it broke off; what reads it sees a broken connection only.
    """

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self.fault: Exception | None = None
        limit = request[ROUTE].body_limit
        self._too_large = BodyTooLargeError(f"the body is larger than {limit} bytes")
        self._limit = limit
        if request.content_length is not None and request.content_length > limit:
            raise self._too_large

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body; raises what it also leaves in `fault`."""
        size = 0
        deadline = asyncio.get_running_loop().time() + self._request.app[HTTP_SETTINGS].body_seconds
        while chunk := await self._next(deadline):
            size += len(chunk)
            if size > self._limit:
                self.fault = self._too_large
                raise self.fault
            yield chunk

    async def _next(self, deadline: float) -> bytes:
        try:
            async with asyncio.timeout_at(deadline):
                return await self._request.content.readany()
        except TimeoutError:
            self.fault = BodyTimeoutError("the body did not arrive in time")
        except (web.RequestPayloadError, asyncio.IncompleteReadError, ConnectionError):
            self.fault = InvalidRequestError("the body is incomplete")
        raise self.fault


def _forwarded_headers(request: web.Request) -> CIMultiDict[str]:
    headers = _end_to_end(request.raw_headers)
    headers["X-Request-ID"] = request[REQUEST_ID]
    # SECURITY: what the client sent under this name is overwritten, or dropped.
    headers.popall(BULK_ADDRESS, None)
    address = address_of(request)
    if address is not None:
        headers[BULK_ADDRESS] = address
    try:
        "".join(headers.values()).encode()
    except UnicodeEncodeError:
        # SECURITY: leaving it out could drop a precondition.
        raise InvalidRequestError("a header is not UTF-8") from None
    return headers


def _end_to_end(headers: RawHeaders) -> CIMultiDict[str]:
    """Return the headers that are not about one connection, repeated ones repeated.

    SECURITY: what `Connection` names besides is kept: a client could have its own precondition or tenant left out.
    """
    named = ((name.decode(), value.decode("utf-8", "surrogateescape")) for name, value in headers)
    return CIMultiDict((name, value) for name, value in named if name.lower() not in HOP_BY_HOP)


async def _follow(request: web.Request, answer: aiohttp.ClientResponse) -> None:
    """Take in what was written before it is answered, so that this node never answers older than it said."""
    revision = answer.headers.get(REVISION_HEADER, "")
    follower: Follower = request.app[NODE]
    if TENANT in request and revision.isdigit():
        await follower.follow_write(request[TENANT], int(revision))
    elif request.method != "GET" and answer.ok:
        await follower.follow_write(BASE_TENANT_ID, 0)


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
