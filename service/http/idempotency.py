"""`Idempotency-Key` on creations: the same key with the same request acts once and is answered alike for a day."""

import hashlib
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress

import msgspec
from aiohttp import web

from service.edge_errors import InvalidRequestError
from service.keys import CALLER, ROUTE, TENANT
from service.request_body import read_json_body
from tenancy.errors import DatabaseUnavailableError
from tenancy.idempotency import IdempotencyStore, KeptAnswer, RequestKey
from tenancy.ids import PLATFORM_TENANT_ID

IDEMPOTENCY: web.AppKey[IdempotencyStore] = web.AppKey("IDEMPOTENCY")

_KEY = re.compile(r"[!-~]{1,200}\Z")
_KEPT_HEADERS = ("Location", "Kasbah-Revision", "ETag")

Creation = Callable[[web.Request, bytes], Awaitable[web.Response]]
Kept = Callable[[bytes], bytes]


def as_it_is(body: bytes) -> bytes:
    """Keep the whole answer."""
    return body


def idempotent(
    kept: Kept = as_it_is,
) -> Callable[[Creation], Callable[[web.Request], Awaitable[web.Response]]]:
    """Make a handler of a creation act once per `Idempotency-Key`; it is given the body's bytes.

    Args:
        kept: Returns what may be kept of an answer's body; secrets are shown once only.
    """

    def wrap(create: Creation) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handler(request: web.Request) -> web.Response:
            body = await read_json_body(request)
            key = _key_of(request, body)
            if key is None:
                return await create(request, body)
            store = request.app[IDEMPOTENCY]
            before = await store.begin(key)
            if before is not None:
                return web.Response(
                    status=before.status, headers=before.headers, body=before.body, content_type="application/json"
                )
            try:
                answer = await create(request, body)
            except BaseException:
                with suppress(DatabaseUnavailableError):
                    await store.forget(key)
                raise
            headers = {name: answer.headers[name] for name in _KEPT_HEADERS if name in answer.headers}
            said = answer.body if isinstance(answer.body, bytes) else b""
            with suppress(DatabaseUnavailableError):  # it is done; only its repetition is no longer known
                encoded = msgspec.json.encode(headers).decode()
                await store.finish(key, KeptAnswer(answer.status, headers, kept(said)), encoded)
            return answer

        return handler

    return wrap


def _key_of(request: web.Request, body: bytes) -> RequestKey | None:
    values = request.headers.getall("Idempotency-Key", [])
    if not values:
        return None
    if len(values) > 1 or _KEY.match(values[0]) is None:
        raise InvalidRequestError("`Idempotency-Key` is one value of 1 to 200 visible ASCII characters")
    route = request[ROUTE]
    # SECURITY: the caller takes part, so that no caller can read what another one created by guessing its key.
    said = f"{request[CALLER].key_id}\0{values[0]}".encode()
    return RequestKey(
        tenant_id=request.get(TENANT, PLATFORM_TENANT_ID),
        route=f"{route.method} {route.path}",
        key_hash=hashlib.sha256(said).digest(),
        request_hash=hashlib.sha256(body).digest(),
    )
