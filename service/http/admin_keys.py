"""`/v1/keys` (of the platform) and `/v1/tenants/{tenant}/keys`: make, list and revoke API keys."""

import secrets
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

import msgspec
from aiohttp import web

from authn.api_keys import DECISION_CHECK, SCOPES, ApiKey, ApiKeyId, new_api_key
from authn.errors import ApiKeyNotFoundError
from authn.ports import ApiKeys
from service.edge_errors import InvalidRequestError, NoSuchResourceError
from service.http.admin import ADMINISTRATION, Cursor, json_answer, meta_of, page_limit, written
from service.http.admin_errors import KeyScopeError
from service.http.idempotency import OnceFor, idempotent
from service.http.policy_wire import read_struct
from service.keys import CALLER, TENANT
from service.rights import require_power_over, require_scopes
from tenancy.ids import PLATFORM_TENANT_ID, TenantId
from tenancy.tenant import TenantHead
from tenancy.uuid7 import make_uuid7

API_KEYS: web.AppKey[ApiKeys] = web.AppKey("API_KEYS")


class NewKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key to make. Every key has the scope `decision:check`."""

    name: str
    scopes: list[str] = []
    expires_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
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
    meta = meta_of(request, wanted.reason)
    key_id = make_uuid7(now, secrets.token_bytes(10))
    token, key, key_hash = new_api_key(
        _home(request),
        wanted.name,
        scopes,
        key_id=key_id,
        entropy=secrets.token_bytes(36),
        now=now,
        ttl=ttl,
        created_by=meta.actor,
    )

    def answer(head: TenantHead) -> web.Response:
        return json_answer(shown_key(key) | {"token": token}, status=201, head=head)

    caller, once = request[CALLER], once_for(answer)
    # A platform's key is not of the tenant that it makes a key for, where its end could be seen under the lock.
    maker = caller.maker if caller.home == _home(request) else None
    head = await request.app[API_KEYS].create(key, key_hash, meta=meta, once=once, maker=maker)
    await written(request, head)
    return answer(head)


def check_scopes(request: web.Request, scopes: frozenset[str]) -> None:
    """Refuse scopes that the caller's key lacks: a key never makes one that may do more than itself."""
    beyond = sorted((scopes & SCOPES) - request[CALLER].scopes)  # what is no scope at all is refused as such later
    if beyond:
        raise KeyScopeError(f"your key lacks `{beyond[0]}`, so it cannot give it", "/scopes")


def check_end(request: web.Request, ttl: timedelta | None, now: datetime) -> None:
    """Refuse a key that would outlive the caller's, or a key of an hour would be one for ever."""
    own_end = request[CALLER].expires_at
    if own_end is not None and (ttl is None or now + ttl > own_end):
        raise KeyScopeError(
            f"your key ends at {own_end.isoformat()}, so it cannot make one that ends later", "/expires_at"
        )


async def list_keys(request: web.Request) -> web.Response:
    """GET keys, the ended ones too, without their tokens."""
    cursor = Cursor("keys", _home(request))
    page = await request.app[API_KEYS].list(_home(request), id_of_cursor(cursor.read(request)), page_limit(request))
    return json_answer({"keys": [shown_key(key) for key in page.keys], "next_cursor": cursor.show(page.cursor)})


async def revoke(request: web.Request) -> web.Response:
    """DELETE a key: it ends now, on every node."""
    try:
        key_id = ApiKeyId(UUID(request.match_info["key_id"]))
        await _require_power(request, key_id)
        head = await request.app[API_KEYS].revoke(_home(request), key_id, meta=meta_of(request))
    except (ValueError, ApiKeyNotFoundError):
        raise NoSuchResourceError from None
    await written(request, head)
    return revoked(head)


def revoked(head: TenantHead) -> web.Response:
    """Return the answer to the end of a key."""
    response = web.Response(status=204)
    response.headers["Kasbah-Revision"] = str(head.revision)
    return response


async def _require_power(request: web.Request, key_id: ApiKeyId) -> None:
    """Refuse a person who could not have made the key: whose service it is may more than they."""
    if request[CALLER].user_id is None:
        return
    key = await request.app[API_KEYS].find(_home(request), key_id)
    if key is None:
        raise NoSuchResourceError
    if key.owner_id is None:
        await require_scopes(request, key.scopes)
    elif key.owner_id != request[CALLER].user_id:
        await require_power_over(request, key.owner_id, tenant_id=_home(request))


def ttl_of(expires_at: datetime | None, now: datetime) -> timedelta | None:
    """Return how long a key lives that ends then; raises `InvalidRequestError`."""
    if expires_at is None:
        return None
    if expires_at <= now:
        raise InvalidRequestError("`expires_at` is in the past", "/expires_at")
    try:
        return expires_at.astimezone(UTC) - now
    except OverflowError:
        raise InvalidRequestError("`expires_at` is out of range", "/expires_at") from None


def id_of_cursor(cursor: str | None) -> str | None:
    try:
        return None if cursor is None else str(UUID(cursor))
    except ValueError:
        raise InvalidRequestError("not a cursor of this list") from None


def shown_key(key: ApiKey) -> dict[str, Any]:
    """Return a key as lists show it."""
    return {
        "id": key.id,
        "name": key.name,
        "prefix": key.prefix,
        "scopes": sorted(key.scopes),
        "created_at": key.created_at,
        "created_by": key.created_by,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "owner": None if key.owner_id is None else f"user:{key.owner_id}",
    }


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
