"""`/v1/users/me/keys`: people make, list and end keys of their own, which never do more than they may themselves."""

from datetime import datetime
from typing import Annotated

import msgspec
from aiohttp import web

from authn.api_keys import PERSONAL_LIFE, ApiKey
from authn.errors import ApiKeyNotFoundError
from authn.key_edits import KeyOwner
from authn.users import UserId
from service.edge_errors import NoSuchResourceError
from service.http.admin import ADMINISTRATION, json_answer, meta_of, no_content, written
from service.http.idempotency import OnceFor, idempotent
from service.http.key_writes import (
    API_KEYS,
    Limits,
    WantedKey,
    check_end,
    check_scopes,
    key_id_of,
    limit_of,
    make_key,
    patch_decoder,
    rotate_key,
    rotation_decoder,
    shown_key,
    ttl_of,
    update_key,
)
from service.http.lists import Cursor, page_limit
from service.http.policy_wire import read_struct
from service.keys import CALLER, TENANT
from service.request_body import MERGE_PATCH, read_json_body
from service.rights import require_person
from service.routes import FRESH, Needs, Route

_PATH = "/v1/users/me/keys"
_OWN = "it is about the caller's own keys, and a personal key never does more than its owner may"


class NewPersonalKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key to make. Without scopes it carries those of the key that makes it; it ends in thirty days, or as said."""

    name: str
    scopes: Annotated[list[str], msgspec.Meta(max_length=100)] | None = None
    expires_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    limits: Limits | None = None
    reason: str | None = None


_decoder = msgspec.json.Decoder(NewPersonalKey)


@idempotent
async def create(request: web.Request, body: bytes, once_for: OnceFor) -> web.Response:
    """POST a key of one's own; its token is in this answer, and in what a repeated request is answered."""
    owner = _own(request)
    wanted = read_struct(body, _decoder)
    caller, now = request[CALLER], request.app[ADMINISTRATION].node.now()
    scopes = caller.scopes if wanted.scopes is None else frozenset(wanted.scopes)
    check_scopes(request, scopes)
    ttl = ttl_of(wanted.expires_at, now)
    if ttl is None:
        ttl = PERSONAL_LIFE if caller.expires_at is None else min(PERSONAL_LIFE, caller.expires_at - now)
    check_end(request, ttl, now)
    key = WantedKey(request[TENANT], wanted.name, scopes, now, ttl, limit_of(request, wanted.limits), owner)
    return await make_key(request, key, wanted.reason, once_for)


@idempotent
async def rotate(request: web.Request, body: bytes, once_for: OnceFor) -> web.Response:
    """POST: a new key with the same name, scopes and limits; the old one goes on for the overlap."""
    wanted = read_struct(body, rotation_decoder)
    return await rotate_key(request, await _found(request), wanted, wanted.reason, once_for)


async def change(request: web.Request) -> web.Response:
    """PATCH a key's name and limits (RFC 7396)."""
    patch = read_struct(await read_json_body(request, MERGE_PATCH), patch_decoder)
    return await update_key(request, await _found(request), patch, patch.reason)


async def list_keys(request: web.Request) -> web.Response:
    """GET one's own keys, the ended ones too, without their tokens."""
    owner = _own(request)
    cursor = Cursor("own-keys", request[TENANT], str(owner.owner_id))
    after = cursor.read_id(request)
    page = await request.app[API_KEYS].list(request[TENANT], after, page_limit(request), owner=owner)
    return json_answer({"keys": [shown_key(key) for key in page.keys], "next_cursor": cursor.show(page.cursor)})


async def revoke(request: web.Request) -> web.Response:
    """DELETE a key of one's own: it ends now, on every node."""
    owner, key_id = _own(request), key_id_of(request)
    try:
        head = await request.app[API_KEYS].revoke(request[TENANT], key_id, meta=meta_of(request), owner=owner)
    except ApiKeyNotFoundError:
        raise NoSuchResourceError from None
    await written(request, head)
    return no_content(head)


def _own(request: web.Request) -> KeyOwner:
    return KeyOwner(UserId(require_person(request[CALLER])))


async def _found(request: web.Request) -> ApiKey:
    owner = _own(request)
    key = await request.app[API_KEYS].find(request[TENANT], key_id_of(request))
    if key is None or key.owner_id != owner.owner_id:
        raise NoSuchResourceError
    return key


ROUTES: tuple[Route, ...] = (
    Route("GET", _PATH, list_keys, Needs("key:read", tenant=False, own=True, by_scope=_OWN)),
    Route("POST", _PATH, create, Needs("key:write", tenant=False, own=True, by_scope=_OWN, fresh=FRESH), seconds=None),
    Route(
        "POST",
        f"{_PATH}/{{key_id}}/rotate",
        rotate,
        Needs("key:write", tenant=False, own=True, by_scope=_OWN, fresh=FRESH),
        seconds=None,
    ),
    Route(
        "PATCH",
        f"{_PATH}/{{key_id}}",
        change,
        Needs("key:write", tenant=False, own=True, by_scope=_OWN, fresh=FRESH),
        seconds=None,
    ),
    Route(
        "DELETE",
        f"{_PATH}/{{key_id}}",
        revoke,
        Needs("key:write", tenant=False, own=True, by_scope=_OWN),
        seconds=None,
    ),
)
