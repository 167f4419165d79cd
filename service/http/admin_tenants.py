"""`/v1/tenants`: the registry, for platform keys; one tenant's own entry for its keys too."""

import msgspec
from aiohttp import web

from service.edge_errors import NoSuchTenantError
from service.http.admin import ADMINISTRATION, Cursor, json_answer, meta_of, page_limit, written
from service.http.idempotency import OnceFor, idempotent
from service.http.policy_wire import read_struct
from service.keys import TENANT
from tenancy.create_tenant import create_tenant
from tenancy.tenant import Tenant


class NewTenant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tenant to create."""

    slug: str
    display_name: str | None = None
    reason: str | None = None


_decoder = msgspec.json.Decoder(NewTenant)


async def list_tenants(request: web.Request) -> web.Response:
    """GET all tenants, by slug."""
    cursor = Cursor("tenants", None)
    page = await request.app[ADMINISTRATION].tenants.list(cursor.read(request), page_limit(request))
    said = {"tenants": [_shown(tenant) for tenant in page.tenants], "next_cursor": cursor.show(page.cursor)}
    return json_answer(said)


@idempotent
async def create(request: web.Request, body: bytes, once_for: OnceFor) -> web.Response:
    """POST a new tenant; it starts with the base rules."""
    wanted = read_struct(body, _decoder)
    tenants = request.app[ADMINISTRATION].tenants
    meta = meta_of(request, wanted.reason)
    once = once_for(_created)
    head = await create_tenant(wanted.slug, wanted.display_name, meta=meta, tenants=tenants, once=once)
    await written(request, head)
    tenant = await tenants.find(head.tenant_id)
    if tenant is None:
        raise NoSuchTenantError
    return _created(tenant)


def _created(tenant: Tenant) -> web.Response:
    response = json_answer(_shown(tenant), status=201, head=tenant.head)
    response.headers["Location"] = f"/v1/tenants/{tenant.head.slug}"
    return response


async def read_tenant(request: web.Request) -> web.Response:
    """GET one tenant."""
    tenant = await request.app[ADMINISTRATION].tenants.find(request[TENANT])
    if tenant is None:
        raise NoSuchTenantError
    return json_answer(_shown(tenant), head=tenant.head)


def _shown(tenant: Tenant) -> dict[str, object]:
    head = tenant.head
    return {
        "id": head.tenant_id,
        "slug": head.slug,
        "display_name": tenant.display_name,
        "status": head.status,
        "revision": head.revision,
        "rules_revision": head.rules_revision,
        "created_at": tenant.created_at,
    }
