"""What the places where keys live share: how a key is made, changed and replaced, and by whom it may be."""

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

import msgspec
from aiohttp import web

from authn.api_keys import SCOPES, ApiKey, ApiKeyId, KeyLimit, checked_key_name, new_api_key
from authn.key_edits import MAX_OVERLAP, KeyEdit, KeyOwner, RotatedKey
from authn.key_rows import shown_limit
from authn.ports import ApiKeys
from authn.sessions import Acr, Session
from authn.user_edits import UNCHANGED
from service.edge_errors import InvalidRequestError
from service.http.admin import ADMINISTRATION, json_answer, meta_of, written
from service.http.admin_errors import KeyScopeError
from service.http.idempotency import OnceFor
from service.http.ids import path_id
from service.keys import CALLER
from service.subject_sign_ins import level_of
from tenancy.ids import TenantId
from tenancy.tenant import TenantHead
from tenancy.uuid7 import make_uuid7

API_KEYS: web.AppKey[ApiKeys] = web.AppKey("API_KEYS")

DEFAULT_OVERLAP_SECONDS = 86_400


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How often a key may be used; without `burst`, as many at once as in a second."""

    requests_per_second: int
    burst: int | None = None


class Rotation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long the key that is replaced goes on, in seconds, and when its successor ends."""

    overlap_seconds: int = DEFAULT_OVERLAP_SECONDS
    expires_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    reason: str | None = None


class KeyPatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is to change; null takes the limits away."""

    name: str | msgspec.UnsetType = msgspec.UNSET
    limits: Limits | msgspec.UnsetType | None = msgspec.UNSET
    reason: str | None = None


rotation_decoder = msgspec.json.Decoder(Rotation)
patch_decoder = msgspec.json.Decoder(KeyPatch)


@dataclass(frozen=True, slots=True)
class WantedKey:
    """A key to make, and for whom. It lives for `ttl` from `now`, the time by which its end was judged."""

    tenant_id: TenantId
    name: str
    scopes: frozenset[str]
    now: datetime
    ttl: timedelta | None
    limit: KeyLimit | None
    owner: KeyOwner


def key_id_of(request: web.Request) -> ApiKeyId:
    """Return the key that the path names."""
    return ApiKeyId(path_id(request, "key_id"))


def limit_of(request: web.Request, limits: Limits | None) -> KeyLimit | None:
    """Return the limit that is asked for; without one, that of the caller's own key.

    Raises:
        InvalidKeyLimitError: one that cannot be.
        KeyScopeError: one beyond the caller's own.
    """
    if limits is None:
        return request[CALLER].limit
    burst = limits.requests_per_second if limits.burst is None else limits.burst
    limit = KeyLimit(limits.requests_per_second, burst)
    check_limit(request, limit)
    return limit


def check_limit(request: web.Request, limit: KeyLimit | None) -> None:
    """Refuse a key that may be used more often than the caller's."""
    own = request[CALLER].limit
    if own is not None and (limit is None or not limit.within(own)):
        raise KeyScopeError("your key may not be used as often as that, so it cannot give it", "/limits")


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


def maker_of(request: web.Request, tenant_id: TenantId) -> UUID | Session | None:
    """Return what makes a key and must still hold, if its end can be seen under the lock of `tenant_id`."""
    caller = request[CALLER]
    return caller.maker if caller.home == tenant_id else None


async def make_key(request: web.Request, wanted: WantedKey, reason: str | None, once_for: OnceFor) -> web.Response:
    """Make a key; its token is in this answer, and in what a repeated request is answered, nowhere else."""
    meta = meta_of(request, reason)
    token, key, key_hash = _new_key(wanted, created_by=meta.actor, acr=level_of(request[CALLER]))

    def answer(head: TenantHead) -> web.Response:
        return json_answer(shown_key(key) | {"token": token}, status=201, head=head)

    maker, once = maker_of(request, wanted.tenant_id), once_for(answer)
    head = await request.app[API_KEYS].create(key, key_hash, meta=meta, once=once, maker=maker)
    await written(request, head)
    return answer(head)


async def rotate_key(
    request: web.Request, previous: ApiKey, wanted: Rotation, reason: str | None, once_for: OnceFor
) -> web.Response:
    """Put a new key in the place of `previous`, which the caller may make; that one goes on for the overlap.

    Raises:
        KeyScopeError: the new key would do more than the caller's, or live longer.
        KeyEndedError: there is nothing to take the place of.
    """
    check_scopes(request, previous.scopes)
    check_limit(request, previous.limit)
    now = request.app[ADMINISTRATION].node.now()
    overlap = timedelta(seconds=_overlap_seconds(wanted))
    owner = KeyOwner(previous.owner_id, previous.service_account_id)
    life = _life(request, previous, wanted.expires_at, now)
    new = WantedKey(previous.tenant_id, previous.name, previous.scopes, now, life, previous.limit, owner)
    meta = meta_of(request, reason)
    token, key, key_hash = _new_key(new, created_by=meta.actor, acr=level_of(request[CALLER]), replaces=previous.id)

    def answer(rotated: RotatedKey) -> web.Response:
        told = {"token": token, "previous": {"id": previous.id, "ends_at": rotated.previous_ends_at}}
        return json_answer(shown_key(rotated.key) | told, status=201, head=rotated.head)

    rotated = await request.app[API_KEYS].rotate(
        previous.id,
        key,
        key_hash,
        overlap=overlap,
        meta=meta,
        once=once_for(answer),
        maker=maker_of(request, previous.tenant_id),
    )
    await written(request, rotated.head)
    return answer(rotated)


async def update_key(request: web.Request, key: ApiKey, patch: KeyPatch, reason: str | None) -> web.Response:
    """Change the name and limits of a key that the caller may make."""
    limits = patch.limits
    if limits is None:
        check_limit(request, None)
    wanted = UNCHANGED if limits is msgspec.UNSET else None if limits is None else limit_of(request, limits)
    edit = KeyEdit(UNCHANGED if patch.name is msgspec.UNSET else checked_key_name(patch.name), wanted)
    owner = KeyOwner(key.owner_id, key.service_account_id)
    changed = await request.app[API_KEYS].update(
        key.tenant_id, key.id, edit, meta=meta_of(request, reason), owner=owner
    )
    await written(request, changed.head)
    return json_answer(shown_key(changed.key), head=changed.head)


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
        "owner": key.owner,
        "limits": shown_limit(key.limit),
        "last_used_at": key.last_used_at,
        "replaces": key.replaces,
    }


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


def _life(request: web.Request, previous: ApiKey, expires_at: datetime | None, now: datetime) -> timedelta | None:
    """Return how long a successor lives: as is said, or as long as the key before it was made for."""
    caller = request[CALLER]
    # A person's key for a service may outlive the person's own key; what is theirs, and what programs make, may not.
    bounded = caller.user_id is None or previous.owner_id is not None
    if expires_at is not None:
        life = ttl_of(expires_at, now)
        if bounded:
            check_end(request, life, now)
        return life
    life = None if previous.expires_at is None else previous.expires_at - previous.created_at
    if not bounded or caller.expires_at is None:
        return life
    rest = caller.expires_at - now
    return rest if life is None else min(life, rest)


def _overlap_seconds(wanted: Rotation) -> int:
    longest = int(MAX_OVERLAP.total_seconds())
    if not 0 <= wanted.overlap_seconds <= longest:
        raise InvalidRequestError(f"`overlap_seconds` is from 0 to {longest}", "/overlap_seconds")
    return wanted.overlap_seconds


def _new_key(
    wanted: WantedKey, *, created_by: str, acr: Acr, replaces: ApiKeyId | None = None
) -> tuple[str, ApiKey, bytes]:
    return new_api_key(
        wanted.tenant_id,
        wanted.name,
        wanted.scopes,
        key_id=make_uuid7(wanted.now, secrets.token_bytes(10)),
        entropy=secrets.token_bytes(36),
        now=wanted.now,
        ttl=wanted.ttl,
        created_by=created_by,
        owner_id=wanted.owner.owner_id,
        service_account_id=wanted.owner.service_account_id,
        limit=wanted.limit,
        replaces=replaces,
        acr=acr,
    )
