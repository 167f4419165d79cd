"""`/v1/service-accounts/{service_account_id}/keys`: keys that do what both their scopes and their account may.

SECURITY: who holds the key of a service account acts as that account, so it is made, changed and ended only by who
could give the account all that it has. Besides, no key makes one with more scopes, a longer life or wider limits.
"""

from datetime import datetime
from typing import Annotated

import msgspec
from aiohttp import web

from authn.api_keys import ApiKey
from authn.errors import ApiKeyNotFoundError
from authn.key_edits import KeyOwner
from authn.service_accounts import ServiceAccountId, service_ref
from authz.request import Ref
from service.edge_errors import NoSuchResourceError
from service.http.admin import ADMINISTRATION, json_answer, meta_of, no_content, written
from service.http.admin_service_accounts import SERVICE_ACCOUNTS, account_id_of
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
from service.http.reasons import reason_in_query, require_reason
from service.keys import CALLER, TENANT
from service.request_body import MERGE_PATCH, read_json_body
from service.rights import require_power_over_subject
from service.routes import Needs, Route


class NewAccountKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key to make. Every key has the scope `decision:check`; without an end it lives until it is revoked."""

    name: str
    reason: str
    scopes: Annotated[list[str], msgspec.Meta(max_length=100)] = []
    expires_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    limits: Limits | None = None


_decoder = msgspec.json.Decoder(NewAccountKey)


@idempotent
async def create(request: web.Request, body: bytes, once_for: OnceFor) -> web.Response:
    """POST a key; its token is in this answer, and in what a repeated request is answered, nowhere else."""
    wanted = read_struct(body, _decoder)
    account_id = await _account(request)
    now = request.app[ADMINISTRATION].node.now()
    scopes = frozenset(wanted.scopes)
    check_scopes(request, scopes)
    ttl = ttl_of(wanted.expires_at, now)
    if request[CALLER].user_id is None:
        check_end(request, ttl, now)
    limit = limit_of(request, wanted.limits)
    await _require_power(request, account_id)
    owner = KeyOwner(service_account_id=account_id)
    key = WantedKey(request[TENANT], wanted.name, scopes, now, ttl, limit, owner)
    return await make_key(request, key, require_reason(wanted.reason), once_for)


async def list_keys(request: web.Request) -> web.Response:
    """GET the account's keys, the ended ones too, without their tokens."""
    account_id = await _account(request)
    cursor = Cursor("service-account-keys", request[TENANT], str(account_id))
    owner = KeyOwner(service_account_id=account_id)
    page = await request.app[API_KEYS].list(request[TENANT], cursor.read_id(request), page_limit(request), owner=owner)
    return json_answer({"keys": [shown_key(key) for key in page.keys], "next_cursor": cursor.show(page.cursor)})


@idempotent
async def rotate(request: web.Request, body: bytes, once_for: OnceFor) -> web.Response:
    """POST: a new key with the same name, scopes and limits; the old one goes on for the overlap."""
    wanted = read_struct(body, rotation_decoder)
    key = await _found(request)
    await _require_power(request, account_id_of(request))
    return await rotate_key(request, key, wanted, require_reason(wanted.reason), once_for)


async def change(request: web.Request) -> web.Response:
    """PATCH a key's name and limits (RFC 7396)."""
    patch = read_struct(await read_json_body(request, MERGE_PATCH), patch_decoder)
    key = await _found(request)
    await _require_power(request, account_id_of(request))
    return await update_key(request, key, patch, require_reason(patch.reason))


async def revoke(request: web.Request) -> web.Response:
    """DELETE a key: it ends now, on every node."""
    meta = meta_of(request, reason_in_query(request))
    key = await _found(request)
    await _require_power(request, account_id_of(request))
    owner = KeyOwner(service_account_id=key.service_account_id)
    try:
        head = await request.app[API_KEYS].revoke(request[TENANT], key.id, meta=meta, owner=owner)
    except ApiKeyNotFoundError:
        raise NoSuchResourceError from None
    await written(request, head)
    return no_content(head)


async def _account(request: web.Request) -> ServiceAccountId:
    """Return the account that the path names, if there is or was one."""
    found = await request.app[SERVICE_ACCOUNTS].read(request[TENANT], account_id_of(request))
    return found.account.id


async def _found(request: web.Request) -> ApiKey:
    key = await request.app[API_KEYS].find(request[TENANT], key_id_of(request))
    if key is None or key.service_account_id != account_id_of(request):
        raise NoSuchResourceError
    return key


async def _require_power(request: web.Request, account_id: ServiceAccountId) -> None:
    """Refuse who could not give the account all that it has; the account itself looks after its own keys."""
    target = Ref(service_ref(account_id))
    if request[CALLER].owner != target:
        await require_power_over_subject(request, target)


_ALL = "/v1/service-accounts/{service_account_id}/keys"
_ONE = f"{_ALL}/{{key_id}}"
_READ = Needs("service-account:read", "kasbah:service-account", "read", home=True)
_WRITE = Needs("service-account:write", "kasbah:service-account", "keys", home=True)

ROUTES: tuple[Route, ...] = (
    Route("GET", _ALL, list_keys, _READ),
    Route("POST", _ALL, create, _WRITE, seconds=None),
    Route("POST", f"{_ONE}/rotate", rotate, _WRITE, seconds=None),
    Route("PATCH", _ONE, change, _WRITE, seconds=None),
    Route("DELETE", _ONE, revoke, _WRITE, seconds=None),
)
