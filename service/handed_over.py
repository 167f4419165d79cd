"""What of a request is handed to another process of ours: its headers, and its body as it arrives."""

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web
from multidict import CIMultiDict

from service.client_address import BULK_ADDRESS, address_of
from service.edge_errors import BodyTimeoutError, BodyTooLargeError, InvalidRequestError
from service.keys import HTTP_SETTINGS, REQUEST_ID, ROUTE

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


class ArrivingBody:
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


def forwarded_headers(request: web.Request) -> CIMultiDict[str]:
    """Return the headers that are handed over; raises `InvalidRequestError` for one that cannot be."""
    headers = end_to_end(request.raw_headers)
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


def end_to_end(headers: RawHeaders) -> CIMultiDict[str]:
    """Return the headers that are not about one connection, repeated ones repeated.

    SECURITY: what `Connection` names besides is kept: a client could have its own precondition or tenant left out.
    """
    named = ((name.decode(), value.decode("utf-8", "surrogateescape")) for name, value in headers)
    return CIMultiDict((name, value) for name, value in named if name.lower() not in HOP_BY_HOP)
