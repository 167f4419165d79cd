"""`/v1/tenants/{tenant}`: rename, suspend, reactivate, delete, restore; for platform keys."""

import msgspec
from aiohttp import web

from service.http.admin import expected_revision, json_answer, meta_of, written
from service.http.admin_tenants import shown_tenant
from service.http.lists import parameter
from service.http.policy_wire import read_struct
from service.keys import TENANT
from service.request_body import read_json_body
from service.routes import Handler, Needs, Route
from tenancy.change_tenant import Asked, TenantChanges
from tenancy.tenant import Tenant
from tenancy.tenant_life import TenantAct

TENANT_CHANGES: web.AppKey[TenantChanges] = web.AppKey("TENANT_CHANGES")


class NewName(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What may be changed of a tenant's entry; its slug never is."""

    display_name: str
    reason: str | None = None


class Why(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why a tenant is suspended, reactivated or restored."""

    reason: str | None = None


_name_decoder = msgspec.json.Decoder(NewName)
_why_decoder = msgspec.json.Decoder(Why)


async def rename(request: web.Request) -> web.Response:
    """PATCH the name for people."""
    wanted = read_struct(await read_json_body(request), _name_decoder)
    asked = Asked(meta_of(request, wanted.reason), expected_revision(request))
    return await _answer(request, await request.app[TENANT_CHANGES].rename(request[TENANT], wanted.display_name, asked))


async def delete(request: web.Request) -> web.Response:
    """DELETE a tenant: suspended at once, gone after the grace, until then restorable."""
    asked = Asked(meta_of(request, parameter(request, "reason")), expected_revision(request))
    return await _answer(request, await request.app[TENANT_CHANGES].act(request[TENANT], TenantAct.DELETE, asked))


def _posted(act: TenantAct) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        why = read_struct(await read_json_body(request), _why_decoder)
        asked = Asked(meta_of(request, why.reason), expected_revision(request))
        return await _answer(request, await request.app[TENANT_CHANGES].act(request[TENANT], act, asked))

    return handler


async def _answer(request: web.Request, tenant: Tenant) -> web.Response:
    await written(request, tenant.head)
    return json_answer(shown_tenant(tenant), head=tenant.head)


def _needs(action: str) -> Needs:
    return Needs("tenant:write", "kasbah:tenant", action, platform=True)


_PATH = "/v1/tenants/{tenant}"

ROUTES: tuple[Route, ...] = (
    Route("PATCH", _PATH, rename, _needs("write"), seconds=None),
    Route("DELETE", _PATH, delete, _needs("delete"), seconds=None),
    Route("POST", f"{_PATH}/suspend", _posted(TenantAct.SUSPEND), _needs("suspend"), seconds=None),
    Route("POST", f"{_PATH}/reactivate", _posted(TenantAct.REACTIVATE), _needs("suspend"), seconds=None),
    Route("POST", f"{_PATH}/restore", _posted(TenantAct.RESTORE), _needs("delete"), seconds=None),
)
