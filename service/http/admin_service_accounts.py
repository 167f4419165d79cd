"""`/v1/service-accounts`: the programs of one tenant, or of `_platform` for platform keys."""

from typing import Any

import msgspec
from aiohttp import web

from authn.errors import ServiceAccountNotFoundError
from authn.service_account_reads import ServiceAccountResult
from authn.service_account_storage import ServiceAccountStore
from authn.service_accounts import (
    ServiceAccount,
    ServiceAccountId,
    ServiceAccountStatus,
    checked_description,
    checked_name,
    service_ref,
)
from authn.user_edits import UNCHANGED
from authz.request import Ref
from service.http.admin import expected_revision, json_answer, meta_of, no_content, written
from service.http.direct_roles import direct_roles
from service.http.idempotency import OnceFor, idempotent
from service.http.ids import path_id
from service.http.lists import Cursor, choice, page_limit, search_text
from service.http.policy_wire import read_struct
from service.http.reasons import reason_in_body, reason_in_query
from service.keys import TENANT
from service.request_body import MERGE_PATCH, read_json_body
from service.rights import require_power_over_subject
from service.routes import Needs, Route

SERVICE_ACCOUNTS: web.AppKey[ServiceAccountStore] = web.AppKey("SERVICE_ACCOUNTS")
MAX_BODY = 16 << 10
MAX_SEARCH = 64


class NewServiceAccount(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A service account to make. It has no rights until it is given a role, and no key until one is made."""

    name: str
    description: str | None = None
    reason: str | None = None


class ServiceAccountPatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is to change; null takes the description away."""

    name: str | msgspec.UnsetType = msgspec.UNSET
    description: str | msgspec.UnsetType | None = msgspec.UNSET
    reason: str | None = None


_new_decoder = msgspec.json.Decoder(NewServiceAccount)
_patch_decoder = msgspec.json.Decoder(ServiceAccountPatch)


async def list_accounts(request: web.Request) -> web.Response:
    """GET service accounts: all, those whose names begin with `q`, those of one status."""
    search, status = search_text(request, MAX_SEARCH), choice(request, "status", ServiceAccountStatus)
    cursor = Cursor("service-accounts", request[TENANT], search, status)
    page = await request.app[SERVICE_ACCOUNTS].list(
        request[TENANT], search=search, status=status, after=cursor.read_id(request), limit=page_limit(request)
    )
    shown_accounts = [shown(account) for account in page.accounts]
    return json_answer({"service_accounts": shown_accounts, "next_cursor": cursor.show(page.cursor)})


@idempotent
async def create(request: web.Request, body: bytes, once_for: OnceFor) -> web.Response:
    """POST a service account."""
    wanted = read_struct(body, _new_decoder)
    made = await request.app[SERVICE_ACCOUNTS].create(
        request[TENANT],
        checked_name(wanted.name),
        checked_description(wanted.description),
        meta=meta_of(request, wanted.reason),
        expected_revision=expected_revision(request),
        once=once_for(_created),
    )
    await written(request, made.head)
    return _created(made)


async def read(request: web.Request) -> web.Response:
    """GET one service account with its direct roles and groups; of a deleted one, what is left."""
    found = await request.app[SERVICE_ACCOUNTS].read(request[TENANT], account_id_of(request))
    roles = await direct_roles(request, found.account.ref)
    return json_answer(shown(found.account) | {"roles": roles}, head=found.head)


async def change(request: web.Request) -> web.Response:
    """PATCH the name and the description (RFC 7396)."""
    patch = read_struct(await read_json_body(request, MERGE_PATCH), _patch_decoder)
    account_id = account_id_of(request)
    # SECURITY: names count, too: policy files may name an account by it.
    await _require_power(request, account_id)
    changed = await request.app[SERVICE_ACCOUNTS].update(
        request[TENANT],
        account_id,
        name=UNCHANGED if patch.name is msgspec.UNSET else checked_name(patch.name),
        description=UNCHANGED if patch.description is msgspec.UNSET else checked_description(patch.description),
        meta=meta_of(request, patch.reason),
        expected_revision=expected_revision(request),
    )
    await written(request, changed.head)
    return json_answer(shown(changed.account), head=changed.head)


async def disable(request: web.Request) -> web.Response:
    """POST: nothing is allowed to the account from now on, and its keys do nothing."""
    return await _put(request, ServiceAccountStatus.DISABLED)


async def enable(request: web.Request) -> web.Response:
    """POST: its roles count again, and its keys go on."""
    return await _put(request, ServiceAccountStatus.ACTIVE)


async def delete(request: web.Request) -> web.Response:
    """DELETE: its keys end, and with it goes what the API granted; a tombstone keeps the id."""
    reason = reason_in_query(request)
    account_id = account_id_of(request)
    await _require_power(request, account_id)
    head = await request.app[SERVICE_ACCOUNTS].delete(
        request[TENANT], account_id, meta=meta_of(request, reason), expected_revision=expected_revision(request)
    )
    await written(request, head)
    return no_content(head)


async def _put(request: web.Request, status: ServiceAccountStatus) -> web.Response:
    reason = await reason_in_body(request)
    account_id = account_id_of(request)
    await _require_power(request, account_id)
    changed = await request.app[SERVICE_ACCOUNTS].set_status(
        request[TENANT],
        account_id,
        status,
        meta=meta_of(request, reason),
        expected_revision=expected_revision(request),
    )
    await written(request, changed.head)
    return json_answer(shown(changed.account), head=changed.head)


async def _require_power(request: web.Request, account_id: ServiceAccountId) -> None:
    await require_power_over_subject(request, Ref(service_ref(account_id)))


def _created(made: ServiceAccountResult) -> web.Response:
    response = json_answer(shown(made.account), status=201, head=made.head)
    response.headers["Location"] = f"/v1/service-accounts/{made.account.id}"
    return response


def account_id_of(request: web.Request) -> ServiceAccountId:
    """Return the account that the path names; raises `ServiceAccountNotFoundError` for what can be none."""
    return ServiceAccountId(path_id(request, "service_account_id", ServiceAccountNotFoundError))


def shown(account: ServiceAccount) -> dict[str, Any]:
    """Return an account as answers have it."""
    return {
        "id": account.id,
        "subject": account.ref,
        "client_id": account.id,
        "name": account.name,
        "description": account.description,
        "status": account.status,
        "status_reason": account.status_reason,
        "created_at": account.created_at,
        "updated_at": account.updated_at,
        "created_by": account.created_by,
    }


_ALL = "/v1/service-accounts"
_ONE = f"{_ALL}/{{service_account_id}}"
_READ = Needs("service-account:read", "kasbah:service-account", "read", home=True)


def _write(action: str) -> Needs:
    return Needs("service-account:write", "kasbah:service-account", action, home=True)


ROUTES: tuple[Route, ...] = (
    Route("GET", _ALL, list_accounts, _READ),
    Route("POST", _ALL, create, _write("create"), MAX_BODY, seconds=None),
    Route("GET", _ONE, read, _READ),
    Route("PATCH", _ONE, change, _write("write"), MAX_BODY, seconds=None),
    Route("DELETE", _ONE, delete, _write("delete"), seconds=None),
    Route("POST", f"{_ONE}/disable", disable, _write("disable"), MAX_BODY, seconds=None),
    Route("POST", f"{_ONE}/enable", enable, _write("enable"), MAX_BODY, seconds=None),
)
