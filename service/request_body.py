"""Reads a request's body under the limits of its route."""

import asyncio
import re

from aiohttp import StreamReader, web

from service.edge_errors import BodyTimeoutError, BodyTooLargeError, InvalidRequestError, UnsupportedEncodingError
from service.keys import BODY, HTTP_SETTINGS, READMIT, ROUTE
from service.time_limits import on_the_callers_time

_JSON_TYPE = re.compile(r"application/json[ \t]*(?:;.*)?\Z", re.IGNORECASE)
MERGE_PATCH = re.compile(r"application/(?:json|merge-patch\+json)[ \t]*(?:;.*)?\Z", re.IGNORECASE)
"""Types of a JSON Merge Patch (RFC 7396 section 4); plain JSON is taken as one, too."""


async def read_json_body(request: web.Request, types: re.Pattern[str] = _JSON_TYPE) -> bytes:
    """Return the bytes of a JSON body, not yet parsed.

    Args:
        request: Under its route's limit.
        types: Content types that the route takes.

    Raises:
        InvalidRequestError: another content type than `application/json`, none, or a repeated one.
        UnsupportedEncodingError: a compressed body.
        BodyTooLargeError: above the route's limit; nothing beyond the limit is kept.
        BodyTimeoutError: not complete within `body_seconds`.
    """
    given = request.headers.getall("Content-Type", [])
    if len(given) != 1 or types.match(given[0]) is None:
        raise InvalidRequestError("the content type must be application/json")
    return await read_body(request)


async def read_body(request: web.Request) -> bytes:
    """Return the bytes of a body of any type; raises as `read_json_body` does.

    SECURITY: a body may take its time, and a key be revoked, an account disabled or a right be taken meanwhile. Who
    waited for it is judged again, so that nobody keeps a request open for the day after.
    """
    encodings = request.headers.getall("Content-Encoding", [])
    if encodings and [encoding.strip().lower() for encoding in encodings] != ["identity"]:
        raise UnsupportedEncodingError("send the body uncompressed")
    if BODY in request:
        return request[BODY]
    limit = request[ROUTE].body_limit
    too_large = BodyTooLargeError(f"the body is larger than {limit} bytes")
    is_late = not request.content.is_eof()
    if request.content_length is not None and request.content_length > limit:
        raise too_large
    try:
        with on_the_callers_time(request):
            async with asyncio.timeout(request.app[HTTP_SETTINGS].body_seconds):
                body = await _read(request.content, limit, too_large)
    except TimeoutError:
        raise BodyTimeoutError("the body did not arrive in time") from None
    except (web.RequestPayloadError, asyncio.IncompleteReadError, ConnectionError):
        raise InvalidRequestError("the body is incomplete") from None
    if is_late and READMIT in request:
        await request[READMIT]()
    return body


async def _read(content: StreamReader, limit: int, too_large: BodyTooLargeError) -> bytes:
    body = bytearray()
    while True:
        chunk = await content.readany()
        if not chunk:
            return bytes(body)
        body += chunk
        if len(body) > limit:
            raise too_large
