"""`/v1/users/me/keys`: people make, list and end keys of their own, which never do more than they may themselves."""

import secrets
from datetime import datetime
from typing import Annotated
from uuid import UUID

import msgspec
from aiohttp import web

from authn.api_keys import PERSONAL_LIFE, ApiKeyId, new_api_key
from authn.errors import ApiKeyNotFoundError
from authn.users import UserId
from service.edge_errors import NoSuchResourceError
from service.http.admin import ADMINISTRATION, Cursor, json_answer, meta_of, page_limit, written
from service.http.admin_keys import API_KEYS, check_end, check_scopes, id_of_cursor, revoked, shown_key, ttl_of
from service.http.idempotency import OnceFor, idempotent
from service.http.policy_wire import read_struct
from service.keys import CALLER, TENANT
from service.rights import require_person
from service.routes import FRESH, Needs, Route
from tenancy.tenant import TenantHead
from tenancy.uuid7 import make_uuid7

_PATH = "/v1/users/me/keys"
_OWN = "it is about the caller's own keys, and a personal key never does more than its owner may"


class NewPersonalKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key to make. Without scopes it carries those of the key that makes it; it ends in thirty days, or as said."""

    name: str
    scopes: Annotated[list[str], msgspec.Meta(max_length=100)] | None = None
    expires_at: datetime | None = None
    reason: str | None = None


_decoder = msgspec.json.Decoder(NewPersonalKey)


@idempotent
async def create(request: web.Request, body: bytes, once_for: OnceFor) -> web.Response:
    """POST a key of one's own; its token is in this answer, and in what a repeated request is answered."""
    owner_id = UserId(require_person(request[CALLER]))
    wanted = read_struct(body, _decoder)
    caller, now = request[CALLER], request.app[ADMINISTRATION].node.now()
    scopes = caller.scopes if wanted.scopes is None else frozenset(wanted.scopes)
    check_scopes(request, scopes)
    ttl = ttl_of(wanted.expires_at, now)
    if ttl is None:
        ttl = PERSONAL_LIFE if caller.expires_at is None else min(PERSONAL_LIFE, caller.expires_at - now)
    check_end(request, ttl, now)
    meta = meta_of(request, wanted.reason)
    token, key, key_hash = new_api_key(
        request[TENANT],
        wanted.name,
        scopes,
        key_id=make_uuid7(now, secrets.token_bytes(10)),
        entropy=secrets.token_bytes(36),
        now=now,
        ttl=ttl,
        created_by=meta.actor,
        owner_id=owner_id,
    )

    def answer(head: TenantHead) -> web.Response:
        return json_answer(shown_key(key) | {"token": token}, status=201, head=head)

    once = once_for(answer)
    head = await request.app[API_KEYS].create(key, key_hash, meta=meta, once=once, maker=caller.maker)
    await written(request, head)
    return answer(head)


async def list_keys(request: web.Request) -> web.Response:
    """GET one's own keys, the ended ones too, without their tokens."""
    caller = request[CALLER]
    owner_id = UserId(require_person(caller))
    cursor = Cursor("own-keys", request[TENANT], str(owner_id))
    after = id_of_cursor(cursor.read(request))
    page = await request.app[API_KEYS].list(request[TENANT], after, page_limit(request), owner_id=owner_id)
    return json_answer({"keys": [shown_key(key) for key in page.keys], "next_cursor": cursor.show(page.cursor)})


async def revoke(request: web.Request) -> web.Response:
    """DELETE a key of one's own: it ends now, on every node."""
    caller = request[CALLER]
    owner_id = UserId(require_person(caller))
    try:
        key_id = ApiKeyId(UUID(request.match_info["key_id"]))
        head = await request.app[API_KEYS].revoke(request[TENANT], key_id, meta=meta_of(request), owner_id=owner_id)
    except (ValueError, ApiKeyNotFoundError):
        raise NoSuchResourceError from None
    await written(request, head)
    return revoked(head)


ROUTES: tuple[Route, ...] = (
    Route("GET", _PATH, list_keys, Needs("key:read", tenant=False, own=True, by_scope=_OWN)),
    Route("POST", _PATH, create, Needs("key:write", tenant=False, own=True, by_scope=_OWN, fresh=FRESH), seconds=None),
    Route(
        "DELETE",
        f"{_PATH}/{{key_id}}",
        revoke,
        Needs("key:write", tenant=False, own=True, by_scope=_OWN),
        seconds=None,
    ),
)
