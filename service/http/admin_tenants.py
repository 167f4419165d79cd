"""`/v1/tenants`: the registry, for platform keys; one tenant's own entry for its keys too."""

import msgspec
from aiohttp import web

from service.edge_errors import InvalidRequestError, NoSuchTenantError
from service.http.admin import ADMINISTRATION, json_answer, meta_of, written
from service.http.idempotency import OnceFor, idempotent
from service.http.lists import Cursor, page_limit, parameter
from service.http.policy_wire import read_struct
from service.keys import TENANT
from tenancy.create_tenant import create_tenant
from tenancy.ids import TenantStatus
from tenancy.tenant import Tenant


class NewTenant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tenant to create."""

    slug: str
    display_name: str | None = None
    reason: str | None = None


_decoder = msgspec.json.Decoder(NewTenant)


async def list_tenants(request: web.Request) -> web.Response:
    """GET tenants by slug; without `status`, all but those of which nothing is left."""
    status, search = _status(request), parameter(request, "search")
    cursor = Cursor("tenants", None, status, search)
    tenants = request.app[ADMINISTRATION].tenants
    page = await tenants.list(cursor.read(request), page_limit(request), status=status, search=search)
    said = {"tenants": [shown_tenant(tenant) for tenant in page.tenants], "next_cursor": cursor.show(page.cursor)}
    return json_answer(said)


def _status(request: web.Request) -> TenantStatus | None:
    text = parameter(request, "status")
    if text is None:
        return None
    try:
        return TenantStatus(text)
    except ValueError:
        raise InvalidRequestError(f"`status` is one of {', '.join(TenantStatus)}") from None


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
    response = json_answer(shown_tenant(tenant), status=201, head=tenant.head)
    response.headers["Location"] = f"/v1/tenants/{tenant.head.slug}"
    return response


async def read_tenant(request: web.Request) -> web.Response:
    """GET one tenant."""
    tenant = await request.app[ADMINISTRATION].tenants.find(request[TENANT])
    if tenant is None:
        raise NoSuchTenantError
    return json_answer(shown_tenant(tenant), head=tenant.head)


def shown_tenant(tenant: Tenant) -> dict[str, object]:
    """Return a tenant as the API shows it."""
    head = tenant.head
    return {
        "id": head.tenant_id,
        "slug": head.slug,
        "display_name": tenant.display_name,
        "status": head.status,
        "revision": head.revision,
        "rules_revision": head.rules_revision,
        "created_at": tenant.created_at,
        "purge_after": tenant.purge_after,
    }
