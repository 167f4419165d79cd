"""Tenants renamed, suspended, deleted and restored over HTTP, and what everybody is answered meanwhile."""

import asyncio
import re
from uuid import UUID

import psycopg
import pytest

from service.all_routes import all_routes
from service.keys import NODE
from service.rights import DECISIONS
from service.routes import ANY_METHOD, Needs
from tenancy.audit import AuditChain
from tenancy.audit_reader import AuditReader
from tenancy.audit_verification import verify_chain
from tenancy.database import open_sessions
from tenancy.ids import TenantId
from tenancy.purge import Purge
from tests.support.administration import Service, rule

pytestmark = pytest.mark.integration

ACME = "/v1/tenants/acme"
QUESTION = {
    "subject": {"type": "user", "id": "alice"},
    "action": {"name": "read"},
    "resource": {"type": "doc", "id": "1"},
}
WHO = {"subject": {"type": "user"}, "action": {"name": "read"}, "resource": {"type": "doc", "id": "1"}}


async def seen(ask, wanted, tries=1000):
    """Ask until it is so: the change was made on another node."""
    for _ in range(tries):
        if await ask() == wanted:
            return
        await asyncio.sleep(0.05)
    assert await ask() == wanted


async def test_a_tenant_is_renamed(admin: Service) -> None:
    """Its slug stays; the revision is asked for; other members are unknown."""
    await admin.tenant("acme")
    first = await admin.get(ACME)
    tag = {"If-Match": first.headers["ETag"]}
    named = await admin.ask("PATCH", ACME, {"display_name": " Acme Limited ", "reason": "merger"}, headers=tag)
    assert (named.status, named.json["display_name"], named.json["slug"]) == (200, "Acme Limited", "acme")
    assert (await admin.ask("PATCH", ACME, {"display_name": "x"}, headers=tag)).problem == "revision-conflict"
    for wrong in ({"display_name": ""}, {"display_name": "a\nb"}, {"display_name": "x" * 201}):
        assert (await admin.ask("PATCH", ACME, wrong)).problem == "invalid-display-name"
    for wrong in ({}, {"display_name": "x", "status": "active"}, {"display_name": "x", "slug": "y"}):
        assert (await admin.ask("PATCH", ACME, wrong)).status == 400


async def test_only_the_platform_rules_over_the_life_of_a_tenant(admin: Service) -> None:
    """A tenant's own key neither suspends nor opens nor deletes it, whatever its scopes."""
    own = await admin.tenant("acme")
    weak = (await admin.post("/v1/keys", {"name": "weak", "scopes": ["tenant:read"]})).json["token"]
    for method, path, body in (
        ("PATCH", ACME, {"display_name": "x"}),
        ("DELETE", ACME, None),
        ("POST", f"{ACME}/suspend", {}),
        ("POST", f"{ACME}/reactivate", {}),
        ("POST", f"{ACME}/restore", {}),
    ):
        assert (await admin.ask(method, path, body, key=own)).problem == "other-tenant"
        assert (await admin.ask(method, path, body, key=weak)).problem == "missing-scope"
        assert (await admin.ask(method, path, body, key="")).status == 401
        assert (await admin.ask(method, path.replace("acme", "nobody"), body)).status == 404
        for reserved in ("_base", "_platform"):
            assert (await admin.ask(method, path.replace("acme", reserved), body)).status == 404, reserved
    assert (await admin.get(ACME)).json["status"] == "active"


async def test_a_deletion_is_taken_back(admin: Service) -> None:
    """Suspended at once, with the time of its end; restored to what it was."""
    await admin.tenant("acme")
    deleted = await admin.ask("DELETE", f"{ACME}?reason=gone")
    assert (deleted.status, deleted.json["status"]) == (200, "deleting")
    assert deleted.json["purge_after"] > deleted.json["created_at"]
    assert (await admin.post(f"{ACME}/reactivate", {})).problem == "tenant-status"
    restored = await admin.post(f"{ACME}/restore", {"reason": "by mistake"})
    assert (restored.json["status"], restored.json["purge_after"]) == ("active", None)
    history = (await admin.get(f"{ACME}/policy/history?limit=2")).json["changes"]
    assert [change["reason"] for change in history] == ["by mistake", "gone"]


async def test_the_list_is_filtered_by_status_and_text(admin: Service) -> None:
    """`%` and `_` mean themselves; a cursor belongs to its filter."""
    for slug in ("acme", "beta", "gamma"):
        await admin.tenant(slug)
    await admin.ask("PATCH", "/v1/tenants/gamma", {"display_name": "Beta 100%"})
    await admin.post("/v1/tenants/beta/suspend", {})

    async def listed(query):
        return [tenant["slug"] for tenant in (await admin.get(f"/v1/tenants?{query}")).json["tenants"]]

    assert await listed("status=suspended") == ["beta"]
    assert await listed("status=active&search=BETA") == ["gamma"]
    assert await listed("search=beta") == ["beta", "gamma"]
    assert await listed("search=%25") == ["gamma"]
    assert await listed("search=_") == []
    first = (await admin.get("/v1/tenants?search=beta&limit=1")).json
    assert await listed(f"search=beta&limit=1&cursor={first['next_cursor']}") == ["gamma"]
    assert (await admin.get(f"/v1/tenants?cursor={first['next_cursor']}")).status == 400
    assert (await admin.get("/v1/tenants?status=gone")).status == 400


def tenant_routes() -> list[tuple[str, str, str]]:
    """Return (method, path, resource) of every route that takes a key of a tenant."""
    return [
        ("POST" if route.method == ANY_METHOD else route.method, route.label, route.access.resource)
        for route in all_routes()
        if isinstance(route.access, Needs)
    ]


@pytest.mark.parametrize("act", ["suspend", "delete"])
async def test_the_keys_of_a_suspended_tenant_are_answered_alike_on_every_route(admin: Service, act: str) -> None:
    """Decisions and searches say no with the reason; all else is 403; the platform still administers it."""
    own = await admin.tenant("acme")
    await admin.post(f"{ACME}/rules", {"add": [rule("user:alice", "doc:*")]}, key=own)
    assert await admin.allowed(own, "user:alice", "read", "doc:1")
    assert (await admin.post("/access/v1/search/subject", WHO, key=own)).json["results"]
    if act == "suspend":
        await admin.post(f"{ACME}/suspend", {})
    else:
        await admin.ask("DELETE", ACME)
    for key, headers in ((own, {}), (admin.platform, {"X-Tenant-ID": "acme"})):
        answer = await admin.post("/access/v1/evaluation", QUESTION, key=key, headers=headers)
        assert (answer.status, answer.json["decision"]) == (200, False)
        assert answer.json["context"]["kasbah"]["reason"] == "tenant_suspended"
        batch = await admin.post(
            "/access/v1/evaluations", QUESTION | {"evaluations": [{}, {}]}, key=key, headers=headers
        )
        assert [item["decision"] for item in batch.json["evaluations"]] == [False, False]
        for kind, body in (
            ("subject", WHO),
            ("resource", WHO | {"subject": QUESTION["subject"], "resource": {"type": "doc"}}),
            ("action", {name: QUESTION[name] for name in ("subject", "resource")}),
        ):
            found = await admin.post(f"/access/v1/search/{kind}", body, key=key, headers=headers)
            assert found.json["results"] == [], kind
            assert not (found.json.get("page") or {}).get("next_token"), kind
    bodies = set()
    for method, path, resource in tenant_routes():
        if resource != DECISIONS:
            where = re.sub(r"\{\w+\}", "1", path.replace("{tenant}", "acme"))
            async with admin.client.request(method, where, headers={"Authorization": f"Bearer {own}"}) as refused:
                assert refused.status == 403, path
                bodies.add(await refused.read())
    assert len(bodies) == 1
    assert b"tenant-suspended" in bodies.pop()
    assert (await admin.get(f"{ACME}/rules")).status == 200
    await admin.post(f"{ACME}/{'reactivate' if act == 'suspend' else 'restore'}", {})
    assert await admin.allowed(own, "user:alice", "read", "doc:1")
    assert (await admin.get(f"{ACME}/rules", key=own)).status == 200


async def test_a_stream_of_changes_ends_with_the_suspension(admin: Service) -> None:
    """A reader that was admitted before is none any more."""
    own = await admin.tenant("acme")
    headers = {"Authorization": f"Bearer {own}", "Accept": "text/event-stream"}
    async with admin.client.get(f"{ACME}/changes", headers=headers) as stream:
        assert await stream.content.readline() == b": connected\n"
        await admin.post(f"{ACME}/suspend", {})
        async with asyncio.timeout(60):
            while await stream.content.readline():
                pass


async def test_the_other_node_follows(admin: Service, own_database_url: str) -> None:
    """Suspended, opened and deleted on one node: the other answers so by its next poll, for decisions and routes."""
    own = await admin.tenant("acme")
    await admin.post(f"{ACME}/rules", {"add": [rule("user:alice", "doc:*")]}, key=own)
    async with Service(own_database_url).serving() as other:

        async def answers():
            route = await other.get(f"{ACME}/rules", key=own)
            return await other.allowed(own, "user:alice", "read", "doc:1"), route.status

        assert await answers() == (True, 200)
        await admin.post(f"{ACME}/suspend", {})
        await seen(answers, (False, 403))
        await admin.post(f"{ACME}/reactivate", {})
        await seen(answers, (True, 200))
        await admin.ask("DELETE", ACME)
        await seen(answers, (False, 403))


async def test_of_a_removed_tenant_only_its_audit_is_left(admin: Service, own_database_url: str) -> None:
    """Its keys lead nowhere, its name is unknown on every other route, its slug is taken; the chain still verifies."""
    own = await admin.tenant("acme")
    secret = "carol.danvers@example.com"
    made = await admin.post("/v1/users", {"username": "carol", "email": secret}, key=own)
    await admin.post(f"{ACME}/rules", {"add": [rule("user:alice", "doc:*")]}, key=own)
    await admin.ask("DELETE", ACME)
    with psycopg.connect(own_database_url, autocommit=True) as owner:
        owner.execute("UPDATE tenants SET purge_after = clock_timestamp() WHERE slug = 'acme'")

    class Forgets:
        async def forget_tenant(self, _):
            return True

    await Purge(open_sessions(admin._engine), Forgets(), admin.app[NODE]).run()
    assert (await admin.get(f"{ACME}/rules", key=own)).status == 401
    assert (await admin.post("/v1/tenants", {"slug": "acme"})).problem == "slug-taken"
    assert (await admin.get(ACME)).json["status"] == "deleted"
    listed = (await admin.get("/v1/tenants")).json["tenants"]
    assert [tenant["slug"] for tenant in listed] == []
    assert [tenant["slug"] for tenant in (await admin.get("/v1/tenants?status=deleted")).json["tenants"]] == ["acme"]
    for path in (f"{ACME}/rules", f"{ACME}/settings", f"{ACME}/keys", "/v1/users?tenant=acme"):
        assert (await admin.get(path)).status == 404, path
    for act in ("suspend", "reactivate", "restore"):
        assert (await admin.post(f"{ACME}/{act}", {})).status == 404
    events = (await admin.get("/v1/audit?tenant=acme&order=oldest&personal=true")).json["events"]
    actions = [event["action"] for event in events]
    assert actions[0] == "tenant.create"
    assert actions[-3:] == ["tenant.delete", "tenant.end", "tenant.purge"]
    assert f"user:{made.json['id']}" in {event.get("target") for event in events}
    # What was personal was sealed, and its keys are gone: not in the answer, and not in the database at all.
    exported = (await admin.get("/v1/audit/export?tenant=acme&personal=true")).body
    assert secret.encode() not in exported
    tenant_id = UUID((await admin.get(ACME)).json["id"])
    reader = AuditReader(open_sessions(admin._engine))
    head, chain = await reader.read(TenantId(tenant_id), AuditChain.TENANT, after=None, limit=1000)
    assert len(chain) == len(events) + 1, "the export is told of"
    assert verify_chain(head, chain) == []
