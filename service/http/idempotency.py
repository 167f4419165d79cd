"""`Idempotency-Key`: the same key with the same request acts once and is answered alike for a day."""

import hashlib
import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol, TypeVar

from aiohttp import web

from service.answer_seal import KeptAnswer, SealedAnswerError
from service.edge_errors import InvalidRequestError
from service.keys import ANSWER_SEAL, CALLER, ROUTE, TENANT
from service.request_body import read_json_body
from tenancy.errors import IdempotencyConflictError
from tenancy.ids import PLATFORM_TENANT_ID
from tenancy.kept_answers import AnsweredBeforeError, KeptAnswers
from tenancy.once import Once, RequestKey

KEPT_ANSWERS: web.AppKey[KeptAnswers] = web.AppKey("KEPT_ANSWERS")

_KEY = re.compile(r"[!-~]{1,200}\Z")
_KEPT_HEADERS = ("Location", "Kasbah-Revision", "ETag")

T = TypeVar("T")


class OnceFor(Protocol):
    """Returns what a write carries along to act once, given how its outcome is answered; None without a key."""

    def __call__(self, answer: Callable[[T], web.Response], /) -> Once[T] | None: ...


Write = Callable[[web.Request, bytes, OnceFor], Awaitable[web.Response]]


def idempotent(write: Write) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Make a handler act once for each `Idempotency-Key`.

    It is given the body's bytes and an `OnceFor`, and hands what that returns to the one transaction that writes.
    Refusals are not kept: the same request may be sent again when it has become acceptable.
    """

    async def handler(request: web.Request) -> web.Response:
        body = await read_json_body(request)
        key = _key_of(request, body)
        if key is None:
            return await write(request, body, _not_kept)
        before = await _answered_before(request, key)
        if before is not None:
            return before
        try:
            return await write(request, body, partial(_once, request, key))
        except AnsweredBeforeError:
            before = await _answered_before(request, key)
            if before is None:
                raise IdempotencyConflictError("the answer to the first request was just forgotten") from None
            return before

    return handler


def _not_kept(_: Callable[[T], web.Response], /) -> Once[T] | None:
    return None


def _once(request: web.Request, key: RequestKey, answer: Callable[[T], web.Response], /) -> Once[T]:
    def sealed(outcome: T) -> bytes:
        response = answer(outcome)
        headers = {name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers}
        body = response.body if isinstance(response.body, bytes) else b""
        return request.app[ANSWER_SEAL].seal(KeptAnswer(response.status, headers, body), key)

    return Once(key, sealed)


async def _answered_before(request: web.Request, key: RequestKey) -> web.Response | None:
    sealed = await request.app[KEPT_ANSWERS].find(key)
    if sealed is None:
        return None
    try:
        answer = request.app[ANSWER_SEAL].open(sealed, key)
    except SealedAnswerError:
        raise IdempotencyConflictError("it was done, but the answer was kept under another secret key") from None
    more: dict[str, Any] = {"headers": answer.headers, "content_type": "application/json"}
    return web.Response(status=answer.status, body=answer.body, **more)


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
        request_hash=hashlib.sha256(repr(request.headers.getall("If-Match", [])).encode() + body).digest(),
    )
