"""`/v1/users`: accounts of the people of one tenant. Platform keys may name `_platform`, whose people these are too."""

from collections.abc import Sequence
from typing import Any

import msgspec
from aiohttp import web

from authn.create_user import create_user
from authn.edit_user import edit_user
from authn.user_edits import UNCHANGED
from authn.user_storage import UserResult, UserStore
from authn.users import User, UserStatus
from service.edge_errors import InvalidRequestError, NoSuchResourceError, NotAuthenticatedError
from service.http.admin import expected_revision, json_answer, meta_of, no_content, written
from service.http.direct_roles import direct_roles
from service.http.idempotency import OnceFor, idempotent
from service.http.ids import user_id_in
from service.http.lists import Cursor, choice, page_limit, parameter, search_text
from service.http.policy_wire import read_struct
from service.http.reasons import reason_in_body, reason_in_query, require_reason
from service.keys import CALLER, TENANT
from service.live_sessions import forget_sessions
from service.request_body import MERGE_PATCH, read_json_body
from service.rights import require_power_over
from service.routes import Needs, Route

USERS: web.AppKey[UserStore] = web.AppKey("USERS")
MAX_BODY = 16 << 10
MAX_SEARCH = 254


class NewUserBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An account to make. It has no password: its person chooses one."""

    username: str
    email: str | None = None
    display_name: str | None = None
    mfa_required: bool = False
    reason: str | None = None


class UserPatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is to change; null takes a name away."""

    username: str | msgspec.UnsetType = msgspec.UNSET
    email: str | msgspec.UnsetType | None = msgspec.UNSET
    display_name: str | msgspec.UnsetType | None = msgspec.UNSET
    mfa_required: bool | msgspec.UnsetType = msgspec.UNSET
    reason: str | None = None


_new_decoder = msgspec.json.Decoder(NewUserBody)
_patch_decoder = msgspec.json.Decoder(UserPatch)


async def list_users(request: web.Request) -> web.Response:
    """GET accounts: all, those whose names begin with `q`, those of one status, or the one that `identifier` names."""
    identifier = parameter(request, "identifier")
    if identifier is not None:
        return await _identified(request, identifier)
    search, status = search_text(request, MAX_SEARCH), choice(request, "status", UserStatus)
    cursor = Cursor("users", request[TENANT], search, status)
    page = await request.app[USERS].list(
        request[TENANT], search=search, status=status, after=cursor.read_id(request), limit=page_limit(request)
    )
    return _page(page.users, cursor.show(page.cursor))


@idempotent
async def create(request: web.Request, body: bytes, once_for: OnceFor) -> web.Response:
    """POST an account."""
    wanted = read_struct(body, _new_decoder)
    made = await create_user(
        request[TENANT],
        wanted.username,
        email=wanted.email,
        display_name=wanted.display_name,
        mfa_required=wanted.mfa_required,
        meta=meta_of(request, wanted.reason),
        users=request.app[USERS],
        expected_revision=expected_revision(request),
        once=once_for(_created),
    )
    await written(request, made.head)
    return _created(made)


async def read(request: web.Request) -> web.Response:
    """GET one account with its direct roles and groups; of a deleted one, what is left."""
    head, user = await request.app[USERS].read(request[TENANT], user_id_in(request))
    return json_answer(shown(user) | {"roles": await direct_roles(request, user.ref)}, head=head)


async def read_own(request: web.Request) -> web.Response:
    """GET the account of the person whose key this is."""
    caller = request[CALLER]
    if caller.user_id is None:
        raise NoSuchResourceError
    head, user = await request.app[USERS].read(caller.home, caller.user_id)
    if user.status is not UserStatus.ACTIVE:
        raise NotAuthenticatedError
    return json_answer(shown(user), head=head)


async def change(request: web.Request) -> web.Response:
    """PATCH names, address and demands (RFC 7396)."""
    patch = read_struct(await read_json_body(request, MERGE_PATCH), _patch_decoder)
    names = ("username", "email", "display_name", "mfa_required")
    wanted: dict[str, Any] = {name: _or_unchanged(getattr(patch, name)) for name in names}
    if wanted["email"] is not UNCHANGED:
        require_reason(patch.reason)
    user_id = user_id_in(request)
    # SECURITY: names count, too: policy files may name an account by its username.
    await require_power_over(request, user_id)
    changed = await edit_user(
        request[TENANT],
        user_id,
        **wanted,
        meta=meta_of(request, patch.reason),
        users=request.app[USERS],
        expected_revision=expected_revision(request),
    )
    await written(request, changed.head)
    return json_answer(shown(changed.user), head=changed.head)


async def disable(request: web.Request) -> web.Response:
    """POST: nothing is allowed to the account from now on, and its sign-ins are over."""
    return await _put(request, UserStatus.DISABLED)


async def enable(request: web.Request) -> web.Response:
    """POST: its roles count again."""
    return await _put(request, UserStatus.ACTIVE)


async def delete(request: web.Request) -> web.Response:
    """DELETE: what is personal is erased, and with it what the API granted; a tombstone keeps the id."""
    reason = reason_in_query(request)
    user_id = user_id_in(request)
    await require_power_over(request, user_id)
    head = await request.app[USERS].delete(
        request[TENANT],
        user_id,
        meta=meta_of(request, reason),
        expected_revision=expected_revision(request),
    )
    await written(request, head)
    # From where and with what the person signed in is personal, too.
    await forget_sessions(request, request[TENANT], user_id)
    return no_content(head)


async def _put(request: web.Request, status: UserStatus) -> web.Response:
    reason = await reason_in_body(request)
    user_id = user_id_in(request)
    await require_power_over(request, user_id)
    changed = await request.app[USERS].set_status(
        request[TENANT],
        user_id,
        status,
        meta=meta_of(request, reason),
        expected_revision=expected_revision(request),
    )
    await written(request, changed.head)
    return json_answer(shown(changed.user), head=changed.head)


async def _identified(request: web.Request, identifier: str) -> web.Response:
    if any(name in request.query for name in ("q", "status", "cursor")):
        raise InvalidRequestError("`identifier` names one account, and goes with no other filter")
    found = await request.app[USERS].find_by_identifier(request[TENANT], identifier)
    return _page([] if found is None else [found], None)


def _page(users: Sequence[User], cursor: str | None) -> web.Response:
    return json_answer({"users": [shown(user) for user in users], "next_cursor": cursor})


def _created(made: UserResult) -> web.Response:
    response = json_answer(shown(made.user), status=201, head=made.head)
    response.headers["Location"] = f"/v1/users/{made.user.id}"
    return response


def _or_unchanged(value: Any) -> Any:
    return UNCHANGED if value is msgspec.UNSET else value


def shown(user: User) -> dict[str, Any]:
    """Return an account as answers and exports have it."""
    return {
        "id": user.id,
        "subject": user.ref,
        "username": user.username,
        "email": user.email,
        "email_verified_at": user.email_verified_at,
        "display_name": user.display_name,
        "status": user.status,
        "status_reason": user.status_reason,
        "mfa_required": user.mfa_required,
        "password_set": user.password_set,
        "password_changed_at": user.password_changed_at,
        "created_at": user.created_at,
        "updated_at": user.updated_at,
        "created_by": user.created_by,
        "last_sign_in_at": user.last_sign_in_at,
    }


_READ = Needs("user:read", "kasbah:user", "read", home=True)
_OWN = Needs("decision:check", tenant=False, by_scope="everyone may be told who they are")
_ONE = "/v1/users/{user_id}"

ROUTES: tuple[Route, ...] = (
    Route("GET", "/v1/users", list_users, _READ),
    Route(
        "POST",
        "/v1/users",
        create,
        Needs("user:write", "kasbah:user", "create", home=True),
        MAX_BODY,
        seconds=None,
    ),
    Route("GET", "/v1/users/me", read_own, _OWN),
    Route("GET", _ONE, read, _READ),
    Route("PATCH", _ONE, change, Needs("user:write", "kasbah:user", "write", home=True), MAX_BODY, seconds=None),
    Route("DELETE", _ONE, delete, Needs("user:write", "kasbah:user", "delete", home=True), seconds=None),
    Route(
        "POST",
        f"{_ONE}/disable",
        disable,
        Needs("user:write", "kasbah:user", "disable", home=True),
        MAX_BODY,
        seconds=None,
    ),
    Route(
        "POST",
        f"{_ONE}/enable",
        enable,
        Needs("user:write", "kasbah:user", "enable", home=True),
        MAX_BODY,
        seconds=None,
    ),
)
