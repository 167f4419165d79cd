"""`/v1/keys` (of the platform) and `/v1/tenants/{tenant}/keys`: make, list, change, replace and revoke API keys."""

from datetime import datetime
from typing import Annotated

import msgspec
from aiohttp import web

from authn.api_keys import DECISION_CHECK, ApiKey
from authn.errors import ApiKeyNotFoundError, KeyLivesElsewhereError
from authn.key_edits import EVERYBODY
from authz.request import Ref
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
from service.rights import require_power_over_subject, require_scopes
from tenancy.ids import PLATFORM_TENANT_ID, TenantId


class NewKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key to make. Every key has the scope `decision:check`."""

    name: str
    scopes: list[str] = []
    expires_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    limits: Limits | None = None
    reason: str | None = None


_decoder = msgspec.json.Decoder(NewKey)


def _home(request: web.Request) -> TenantId:
    """Return whose keys these are: the path's tenant, or the platform."""
    tenant_id: TenantId = request.get(TENANT, PLATFORM_TENANT_ID)
    return tenant_id


@idempotent
async def create(request: web.Request, body: bytes, once_for: OnceFor) -> web.Response:
    """POST a key; its token is in this answer, and in what a repeated request is answered, nowhere else."""
    wanted = read_struct(body, _decoder)
    now = request.app[ADMINISTRATION].node.now()
    scopes = frozenset(wanted.scopes)
    check_scopes(request, scopes)
    ttl = ttl_of(wanted.expires_at, now)
    if request[CALLER].user_id is None:
        check_end(request, ttl, now)
    await require_scopes(request, scopes | {DECISION_CHECK})
    limit = limit_of(request, wanted.limits)
    key = WantedKey(_home(request), wanted.name, scopes, now, ttl, limit, EVERYBODY)
    return await make_key(request, key, wanted.reason, once_for)


@idempotent
async def rotate(request: web.Request, body: bytes, once_for: OnceFor) -> web.Response:
    """POST: a new key with the same name, scopes and limits; the old one goes on for the overlap."""
    wanted = read_struct(body, rotation_decoder)
    previous = await _key_of_a_service(request)
    return await rotate_key(request, previous, wanted, wanted.reason, once_for)


async def change(request: web.Request) -> web.Response:
    """PATCH a key's name and limits (RFC 7396)."""
    patch = read_struct(await read_json_body(request, MERGE_PATCH), patch_decoder)
    return await update_key(request, await _key_of_a_service(request), patch, patch.reason)


async def list_keys(request: web.Request) -> web.Response:
    """GET keys, the ended ones too, without their tokens."""
    cursor = Cursor("keys", _home(request))
    page = await request.app[API_KEYS].list(_home(request), cursor.read_id(request), page_limit(request))
    return json_answer({"keys": [shown_key(key) for key in page.keys], "next_cursor": cursor.show(page.cursor)})


async def revoke(request: web.Request) -> web.Response:
    """DELETE a key: it ends now, on every node."""
    await _require_power(request)
    try:
        head = await request.app[API_KEYS].revoke(_home(request), key_id_of(request), meta=meta_of(request))
    except ApiKeyNotFoundError:
        raise NoSuchResourceError from None
    await written(request, head)
    return no_content(head)


async def _found(request: web.Request) -> ApiKey:
    key = await request.app[API_KEYS].find(_home(request), key_id_of(request))
    if key is None:
        raise NoSuchResourceError
    return key


async def _key_of_a_service(request: web.Request) -> ApiKey:
    """Return a key that belongs to nobody and that the caller could have made; else refuse.

    SECURITY: whoever is given a successor of a person's key acts as that person, so those are replaced by their owner
    alone, and those of service accounts by who has power over the account.
    """
    key = await _found(request)
    if key.owner is not None:
        raise KeyLivesElsewhereError(f"this key is one of `{key.owner}`, and is changed where that one's keys are")
    await require_scopes(request, key.scopes)
    return key


async def _require_power(request: web.Request) -> None:
    """Refuse an account that could not have made the key: whose service it is may more than they."""
    caller = request[CALLER]
    if caller.owner is None:
        return
    key = await _found(request)
    if key.owner is None:
        await require_scopes(request, key.scopes)
    elif key.owner != caller.owner:
        await require_power_over_subject(request, Ref(key.owner), tenant_id=_home(request))


async def own_key(request: web.Request) -> web.Response:
    """GET what the caller's own credential is."""
    caller = request[CALLER]
    said = {
        "id": caller.key_id,
        "prefix": caller.prefix,
        "tenant": caller.slug,
        "subject": caller.subject,
        "expires_at": caller.expires_at if caller.session is None else caller.session.expires_at,
        "scopes": sorted(caller.scopes),
    }
    return json_answer(said)
