"""Every route that needs a key, tried by nobody, a member, another tenant's administrator, and an administrator."""

import re

from authz.policy_files import read_directory
from service.all_routes import all_routes
from service.routes import Needs, Route
from tests.support.administration import Service
from tests.support.paths import ROOT
from tests.support.persons import People, Person

MEMBERS_MAY = {("kasbah:tenant", "read"), ("kasbah:own-access", "read")}
"""What `role:member` allows; everything else needs another role."""

UNKNOWN = "01890000-0000-7000-8000-0000000000ff"


def routes() -> list[tuple[Route, Needs]]:
    """Return every route that is decided for its caller."""
    return [(route, route.access) for route in all_routes() if isinstance(route.access, Needs)]


async def status(admin: Service, route: Route, needs: Needs, key: str) -> int:
    """Ask with nothing in particular: who may is told by the status."""
    path = re.sub(r"\{(\w+)\}", lambda found: "acme" if found[1] == "tenant" else UNKNOWN, route.label)
    headers = {"Content-Type": "application/json"}
    if needs.tenant:
        headers["X-Tenant-ID"] = "acme"
    if key:
        headers["Authorization"] = f"Bearer {key}"
    body = None if route.method == "GET" else b"{}"
    async with admin.client.request(route.method, path, data=body, headers=headers) as response:
        if response.content_type != "text/event-stream":
            await response.read()
        return response.status


async def test_who_may_use_which_route(admin: Service) -> None:
    """401 for nobody; 403 for those without the right, and for other tenants' people; the right one comes further."""
    people = People(admin)
    await people.base()
    assert {
        (rule.resource, rule.action)
        for rule in read_directory(ROOT / "policies").base.rules
        if rule.subject == "role:member"
    } == MEMBERS_MAY
    member = await people.person("acme", "member", "role:member")
    foreign = await people.person("beta", "foreign", "role:tenant-admin")
    root = await people.person(None, "root", "role:platform-admin")
    assert len(routes()) > 30
    for route, needs in routes():
        await one(admin, route, needs, member=member, foreign=foreign, root=root)


async def one(admin: Service, route: Route, needs: Needs, *, member: Person, foreign: Person, root: Person) -> None:
    """Try one route with everybody."""
    said = (route.method, route.path)
    assert await status(admin, route, needs, "") == 401, said
    assert await status(admin, route, needs, "kasbah_00000000_" + "A" * 43) == 401, said
    if needs.by_scope:
        return
    right = needs.resource, needs.action
    if needs.platform or right not in MEMBERS_MAY:
        assert await status(admin, route, needs, member.key) == 403, said
    if needs.tenant or needs.platform:
        assert await status(admin, route, needs, foreign.key) == 403, said
    assert await status(admin, route, needs, root.key) not in {401, 403}, said
