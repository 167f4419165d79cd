"""What a key may do: its scopes, and for a personal key its owner's rights as they are now."""

from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest

from authz.errors import StaleError, StorageUnavailableError
from service.caller import Caller
from service.fast_path import FastHandler
from service.http import admin_routes, authzen
from service.http.admin import json_answer
from service.keys import CALLER
from service.routes import Needs, Route
from service.server import DeadlineHandler
from tenancy.ids import PLATFORM_TENANT_ID, TenantId
from tests.support.edge import Edge

ANN, BOB = UUID("01890000-0000-7000-8000-00000000000a"), UUID("01890000-0000-7000-8000-00000000000b")
BASE = """
base p role:tenant-admin kasbah:rule write
base p role:tenant-admin kasbah:decision check
base p role:auditor kasbah:* read
base p role:platform-admin kasbah:* *
"""


async def who(request):
    """Answer who the route takes the caller for."""
    caller = request[CALLER]
    return json_answer({"subject": caller.subject, "actor": caller.actor, "scopes": sorted(caller.scopes)})


ROUTES = (
    Route("GET", "/rules", who, Needs("policy:read", "kasbah:rule", "read")),
    Route("POST", "/rules", who, Needs("policy:write", "kasbah:rule", "write")),
    Route("POST", "/tenants", who, Needs("tenant:write", "kasbah:tenant", "create", tenant=False, platform=True)),
    Route("GET", "/self", who, Needs("decision:check", tenant=False, by_scope="a key may always be told what it is")),
    *authzen.ROUTES,
)


@pytest.fixture
async def edge() -> AsyncIterator[Edge]:
    """An edge with a few routes, before anything was added."""
    async with Edge(routes=ROUTES).serving() as serving:
        yield serving


def acme(edge: Edge, more: str = "") -> TenantId:
    """Add a tenant where Ann administers and Bob has no role."""
    return edge.tenant("acme", f"{BASE}\ng user:{ANN} role:tenant-admin\n{more}")


async def test_a_service_key_is_judged_by_its_scopes_alone(edge):
    """It has no owner, and needs no row of any policy."""
    key = edge.key(edge.tenant("acme"), "policy:read")
    assert (await edge.get("/rules", key)).status == 200
    refused = await edge.post("/rules", {}, key)
    assert (refused.status, refused.json["type"]) == (403, "urn:kasbah:problem:missing-scope")
    assert "`policy:write`" in refused.json["detail"]


async def test_a_personal_key_needs_scope_and_right(edge):
    """Either alone is refused, each with its own problem."""
    tenant = acme(edge)
    both = edge.key(tenant, "policy:write", owner=ANN)
    assert (await edge.post("/rules", {}, both)).status == 200
    no_scope = await edge.post("/rules", {}, edge.key(tenant, "policy:read", owner=ANN))
    assert (no_scope.status, no_scope.json["type"]) == (403, "urn:kasbah:problem:missing-scope")
    no_right = await edge.post("/rules", {}, edge.key(tenant, "policy:write", owner=BOB))
    assert (no_right.status, no_right.json["type"]) == (403, "urn:kasbah:problem:missing-right")
    reads = await edge.get("/rules", edge.key(tenant, owner=ANN))
    assert (reads.status, reads.json["type"]) == (403, "urn:kasbah:problem:missing-right")


async def test_who_acts_is_the_owner_of_a_personal_key(edge):
    """Histories name the person, not the key; a service is named by its key's prefix."""
    tenant = acme(edge)
    said = (await edge.get("/self", edge.key(tenant, owner=ANN))).json
    assert (said["subject"], said["actor"]) == (f"user:{ANN}", f"user:{ANN}")
    key = edge.key(tenant)
    said = (await edge.get("/self", key)).json
    assert said["subject"].startswith("key:")
    assert said["actor"] == f"key:{key[7:15]}"


async def test_rights_of_one_tenant_are_none_in_another(edge):
    """The owner's domain is that of the key, whatever the request names."""
    acme(edge)
    beta = edge.tenant("beta", BASE)
    assert (await edge.post("/rules", {}, edge.key(beta, owner=ANN))).status == 403


async def test_a_wildcard_of_a_tenant_gives_no_administrative_right(edge):
    """`*` means no reserved resource, for people's keys as for decisions."""
    tenant = acme(edge, "p user:* * *\np * * *\n")
    key = edge.key(tenant, owner=BOB)
    assert (await edge.post("/rules", {}, key)).status == 403
    assert (await edge.get("/rules", key)).status == 403


async def test_people_of_the_platform_have_their_rights_in_its_own_domain(edge):
    """A role in `_platform` reaches every tenant; the same name in a tenant's domain reaches nothing."""
    acme(edge)
    edge.platform(f"{BASE}\ng user:{BOB} role:platform-admin\n")
    key = edge.key(None, owner=BOB)
    named = {"X-Tenant-ID": "acme"}
    assert (await edge.post("/rules", {}, key, named)).status == 200
    assert (await edge.post("/tenants", {}, key)).status == 200
    other = edge.key(None, owner=ANN)
    assert (await edge.post("/rules", {}, other, named)).status == 403, "her role is one of acme's"
    assert (await edge.post("/tenants", {}, other)).status == 403


async def test_whether_a_tenant_exists_is_not_told_without_the_right(edge):
    """The right is judged before the name is looked up."""
    acme(edge)
    edge.platform(BASE)
    key = edge.key(None, owner=BOB)
    answers = [await edge.post("/rules", {}, key, {"X-Tenant-ID": name}) for name in ("acme", "nobody")]
    assert [answer.status for answer in answers] == [403, 403]
    assert answers[0].body == answers[1].body


@pytest.mark.parametrize("failure", [StaleError("behind"), StorageUnavailableError("down")])
async def test_what_cannot_be_known_is_not_allowed(edge, failure):
    """503 with a time to come back; service keys need nothing that could be unknown."""
    tenant = acme(edge)
    edge.node.failure = failure
    answer = await edge.post("/rules", {}, edge.key(tenant, owner=ANN))
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    assert (await edge.post("/rules", {}, edge.key(tenant))).status == 200


async def test_a_demanded_revision_holds_for_the_owners_rights_too(edge):
    """Rights of an older revision are not good enough."""
    key = edge.key(acme(edge), owner=ANN)
    assert (await edge.post("/rules", {}, key, {"Kasbah-Min-Revision": "7"})).status == 200
    assert (await edge.post("/rules", {}, key, {"Kasbah-Min-Revision": "8"})).status == 503


QUESTION = {
    "subject": {"type": "user", "id": "x"},
    "action": {"name": "read"},
    "resource": {"type": "record", "id": "1"},
}


async def test_a_personal_key_decides_only_for_who_may_ask(edge):
    """Asking what others may do is a right of its own; explanations are another one."""
    tenant = acme(edge)
    ann, bob = edge.key(tenant, owner=ANN), edge.key(tenant, owner=BOB)
    assert (await edge.post("/access/v1/evaluation", QUESTION, ann)).status == 200
    assert (await edge.post("/access/v1/evaluation", QUESTION, bob)).status == 403
    explained = QUESTION | {"options": {"explain": True}}
    assert (await edge.post("/access/v1/evaluation", explained, ann)).status == 403, "she may check, not explain"
    assert (await edge.post("/access/v1/evaluation", explained, edge.key(tenant))).status == 200


async def test_a_personal_key_asserts_nothing_beyond_its_owner(edge):
    """Asserted attributes could turn a decision: the scope alone is not enough."""
    tenant = acme(edge, 'p user:x record:1 read if subject.properties.level == "top"')
    asserted = QUESTION | {"subject": QUESTION["subject"] | {"properties": {"level": "top"}}}
    assert (await edge.post("/access/v1/evaluation", asserted, edge.key(tenant))).json["decision"] is True
    assert (await edge.post("/access/v1/evaluation", asserted, edge.key(tenant, owner=ANN))).json["decision"] is False


@pytest.mark.parametrize("handler", [DeadlineHandler, FastHandler])
async def test_both_ways_judge_a_personal_key_each_time(handler):
    """On one connection, with the same bytes: what the role allowed a moment ago is refused when it is gone."""
    edge = Edge()
    edge.handler_class = handler
    async with edge.serving():
        tenant = acme(edge)
        key = edge.key(tenant, owner=ANN)
        for _ in range(4):
            assert (await edge.post("/access/v1/evaluation", QUESTION, key)).status == 200
        edge.node.tenants[tenant].records = {}
        edge.node.changes.count += 1
        for _ in range(4):
            assert (await edge.post("/access/v1/evaluation", QUESTION, key)).status == 403


def test_the_fast_way_takes_no_personal_key_on_its_scopes_word():
    """Until its owner was judged it may not even ask."""
    scopes = frozenset({"decision:check", "decision:assert", "decision:explain"})
    service = Caller(uuid4(), "0", PLATFORM_TENANT_ID, None, scopes)
    personal = Caller(uuid4(), "0", PLATFORM_TENANT_ID, None, scopes, user_id=ANN)
    assert (service.may_check, service.may_assert, service.may_explain) == (True, True, True)
    assert (personal.may_check, personal.may_assert, personal.may_explain) == (False, False, False)


async def test_a_gateway_comes_with_the_key_of_a_service():
    """A person's key says nothing about who stands before the gateway."""
    async with Edge().serving() as edge:
        tenant = acme(edge)
        headers = {"X-Forwarded-Method": "GET", "X-Forwarded-Host": "x", "X-Forwarded-Uri": "/"}
        for owner in (ANN, BOB):
            sent = headers | {"X-Kasbah-Key": edge.key(tenant, owner=owner)}
            assert (await edge.get("/v1/forward-auth", headers=sent)).status == 403


async def test_metrics_are_for_those_who_may_read_them():
    """A personal key of the platform needs the right; one of a tenant never gets them."""
    async with Edge().serving() as edge:
        tenant = acme(edge)
        edge.platform(f"{BASE}\ng user:{BOB} role:platform-admin\n")
        assert (await edge.get("/metrics", edge.key(None, owner=BOB))).status == 200
        assert (await edge.get("/metrics", edge.key(None, owner=ANN))).status == 403
        assert (await edge.get("/metrics", edge.key(tenant, owner=BOB))).status == 403


def test_every_administrative_route_is_of_the_table():
    """The few routes of this file stand for those that are served."""
    served = {(route.access.resource, route.access.action) for route in admin_routes.ADMIN_ROUTES}
    asked = {(r.access.resource, r.access.action) for r in ROUTES[:3]}
    assert asked <= served
