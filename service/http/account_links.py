"""`/v1/account/…`: what the holder of a link may do, as JSON. The pages of `service/http/pages.py` do the same."""

from collections.abc import AsyncIterator
from typing import Any, Protocol

import msgspec
from aiohttp import web

from authn.accept_invitation import RoleGrants
from authn.account_flows import AccountFlows, Done, LinkRefused
from authn.change_address import confirm_address, undo_address
from authn.user_reads import UserReader
from authn.verify_address import verify_address
from authz.policy_limits import PolicyLimits
from service.client_address import address_of
from service.edge_errors import LinkRefusedError
from service.errands import Errands
from service.http.admin import written
from service.http.policy_wire import read_struct
from service.http_settings import HttpSettings
from service.keys import HTTP_SETTINGS, KEY_RING, NODE, POLICY_LIMITS, REQUEST_ID, SESSIONS, TENANT_LIMITS
from service.request_body import read_json_body
from service.role_grants import PolicyRoleGrants
from service.routes import Public, Route
from service.tenant_of_request import TENANT_HEADER, TENANT_PARAMETER, named_tenant
from service.throttling import LINK_LIMIT, TURNS, Turns, admitted
from tenancy.tenant import ChangeMeta

ACCOUNT_FLOWS: web.AppKey[AccountFlows] = web.AppKey("ACCOUNT_FLOWS")
USER_READER: web.AppKey[UserReader] = web.AppKey("USER_READER")
ROLE_GRANTS: web.AppKey[RoleGrants] = web.AppKey("ROLE_GRANTS")
ERRANDS: web.AppKey[Errands] = web.AppKey("ERRANDS")

BY_LINK = Public("a link's token is the credential")


class Flow(Protocol):
    """A use case that spends a link."""

    async def __call__(
        self, flows: AccountFlows, token: str, *, meta: ChangeMeta, named: str | None
    ) -> Done | LinkRefused:
        """Spend it, or say that it does nothing."""


class Spent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A link to spend."""

    token: str

    def __repr__(self) -> str:
        """SECURITY: no log and no traceback shows a token."""
        return "Spent(...)"


_spent = msgspec.json.Decoder(Spent)


async def accounts_by_link(app: web.Application) -> AsyncIterator[None]:
    """Part of the application: opens after the key ring, closes when what was begun is done."""
    app[ACCOUNT_FLOWS] = AccountFlows(app[SESSIONS], app[KEY_RING], app.get(TENANT_LIMITS))
    app[USER_READER] = UserReader(app[SESSIONS])
    app[ROLE_GRANTS] = PolicyRoleGrants(app[SESSIONS], app[NODE], app.get(POLICY_LIMITS) or PolicyLimits())
    app[ERRANDS] = Errands()
    app[TURNS] = Turns()
    yield
    await app[ERRANDS].settled()


async def verify(request: web.Request) -> web.Response:
    """POST a token: its account's address is verified."""
    return await _spend(request, verify_address)


async def confirm(request: web.Request) -> web.Response:
    """POST a token of the new address: it becomes the account's."""
    return await _spend(request, confirm_address)


async def undo(request: web.Request) -> web.Response:
    """POST a token of the old address: it becomes the account's again."""
    return await _spend(request, undo_address)


async def _spend(request: web.Request, flow: Flow) -> web.Response:
    body = await read_json_body(request)
    async with admitted(request, LINK_LIMIT):
        token = read_struct(body, _spent).token
        outcome = await flow(request.app[ACCOUNT_FLOWS], token, meta=meta_by_link(request), named=named(request))
        return await done(request, outcome)


async def done(request: web.Request, outcome: Done | LinkRefused) -> web.Response:
    """Return 204 when something was done; raise what else came of it."""
    match outcome:
        case Done(head=head):
            await written(request, head)
            return web.Response(status=204)
        case LinkRefused():
            raise LinkRefusedError


def named(request: web.Request) -> str | None:
    """Return the tenant that a request without a key names, or None; raises `InvalidRequestError`."""
    settings: HttpSettings = request.app[HTTP_SETTINGS]
    return named_tenant(
        headers=request.headers.getall(TENANT_HEADER, []),
        parameters=request.query.getall(TENANT_PARAMETER, []),
        host=request.headers.getall("Host", []),
        base_domain=settings.base_domain,
        path=None,
    )


def meta_by_link(request: web.Request, **more: Any) -> ChangeMeta:
    """Return who acts before it is known who holds the link."""
    return ChangeMeta("anonymous", request_id=request[REQUEST_ID], address=address_of(request), **more)


ROUTES: tuple[Route, ...] = (
    Route("POST", "/v1/account/verification", verify, BY_LINK, body_limit=4096, seconds=None),
    Route("POST", "/v1/account/address-confirmation", confirm, BY_LINK, body_limit=4096, seconds=None),
    Route("POST", "/v1/account/address-undo", undo, BY_LINK, body_limit=4096, seconds=None),
)
