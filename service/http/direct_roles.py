"""The roles and groups that an account was given directly, as administrators see them beside it."""

from typing import Any

from aiohttp import web

from authz.request import Ref
from authz.rules import RoleLink
from service.http.admin import ADMINISTRATION
from service.keys import TENANT

MAX_ROLES = 1000


async def direct_roles(request: web.Request, subject: str) -> list[dict[str, Any]]:
    """Return the direct roles and groups of a subject of the request's tenant, as answers have them."""
    page = await request.app[ADMINISTRATION].writer.list_memberships(
        request[TENANT], after=None, limit=MAX_ROLES, subject=Ref(subject)
    )
    return [
        {"role": row.role, "owner": row.owner, "expires_at": row.expires_at, "source": row.source}
        for row in page.rows
        if isinstance(row, RoleLink)
    ]
