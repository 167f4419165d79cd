"""Nobody gets more than they hold: what a key may make of itself and of its tenant's policy."""

from datetime import UTC, datetime, timedelta

import pytest

from authz.request import Ref
from authz.rules import RoleLink
from tests.support.administration import Service, link
from tests.support.persons import People

KEYS = "/v1/tenants/acme/keys"


async def test_a_key_makes_none_that_outlives_it(admin: Service) -> None:
    """Otherwise a key of an hour is worth one for ever: it makes its own successor before it ends."""
    await admin.tenant("acme")
    soon = datetime.now(UTC) + timedelta(hours=1)
    made = await admin.post(KEYS, {"name": "short", "scopes": ["key:write"], "expires_at": soon.isoformat()})
    short = made.json["token"]
    for later in (None, "2999-01-01T00:00:00Z", (soon + timedelta(seconds=1)).isoformat()):
        body = {"name": "successor", "scopes": ["key:write"]} | ({} if later is None else {"expires_at": later})
        refused = await admin.post(KEYS, body, key=short)
        assert (refused.status, refused.problem, refused.json["pointer"]) == (403, "scope-not-yours", "/expires_at")
    same = await admin.post(KEYS, {"name": "sibling", "expires_at": soon.isoformat()}, key=short)
    assert same.status == 201


@pytest.mark.parametrize("moment", ["9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59"])
async def test_an_end_of_a_key_beyond_the_calendar_is_refused(admin: Service, moment: str) -> None:
    """A time that has no UTC form is the caller's fault, not the server's."""
    await admin.tenant("acme")
    assert (await admin.post(KEYS, {"name": "x", "expires_at": moment})).status == 400


@pytest.mark.parametrize("name", ["%00", "a%00", "%C3%A9", "a" * 300, "_other", "ACME", "%ed%a0%80"])
async def test_a_name_that_no_tenant_can_have_is_unknown(admin: Service, name: str) -> None:
    """Also one that PostgreSQL cannot take as text: that is no outage."""
    await admin.tenant("acme")
    for path in (f"/v1/tenants/{name}", f"/v1/tenants/{name}/rules"):
        answer = await admin.get(path)
        assert (answer.status, answer.problem) == (404, "tenant-not-found"), path


async def test_a_tenants_key_reaches_nothing_of_the_platform_whatever_its_scopes(admin: Service) -> None:
    """Scopes of platform routes on a tenant's key open none of them."""
    own = await admin.tenant("acme", "key:write", "tenant:read", "tenant:write", "policy:write", "metrics:read")
    more = await admin.post(KEYS, {"name": "all", "scopes": ["tenant:write", "metrics:read", "key:write"]}, key=own)
    for token in (own, more.json["token"]):
        for method, path, body in (
            ("POST", "/v1/tenants", {"slug": "mine"}),
            ("GET", "/v1/tenants", None),
            ("POST", "/v1/keys", {"name": "platform", "scopes": []}),
            ("PUT", "/v1/model", {"text": "x"}),
            ("GET", "/metrics", None),
            ("POST", "/v1/tenants/_base/rules", {"add": []}),
            ("POST", "/v1/tenants/_platform/keys", {"name": "x"}),
        ):
            assert (await admin.ask(method, path, body, key=token)).status == 403, (method, path)


async def test_the_audit_tells_of_who_wanted_more_than_theirs(admin: Service) -> None:
    """Once a minute for each key, since a refusal costs its caller nothing; what was wanted did not happen."""
    people = People(admin)
    await people.base()
    ann = await people.person("acme", "ann", "role:user-admin")
    body = {"add": [link(ann.ref, "role:tenant-admin")]}
    for _ in range(3):
        assert (await admin.post("/v1/tenants/acme/memberships", body, key=ann.key)).status == 403
    await admin.post(KEYS, {"name": "x", "scopes": ["metrics:read"]}, key=await admin.tenant("acme", "key:write"))
    found = (await admin.get("/v1/audit?tenant=acme&action=rights.refuse")).json["events"]
    said = [(event["outcome"], event["actor"].partition(":")[0], event["detail"]["refusal"]) for event in found]
    assert sorted(said) == [("refused", "key", "KeyScope"), ("refused", "user", "GrantRefused")]


async def test_a_right_that_was_taken_gives_nothing_any_more(admin: Service) -> None:
    """The gate looks at the revision that it writes to, however old what the node remembers is."""
    people = People(admin)
    await people.base()
    role = "role:user-admin"
    ann, bob = await people.person("acme", "ann", role), await people.person("acme", "bob")
    body = {"add": [link(bob.ref, "role:member")]}
    given = [RoleLink(ann.ref, Ref(role))]
    for _ in range(5):
        least = {"Kasbah-Min-Revision": str((await admin.get("/v1/tenants/acme")).json["revision"])}
        warm = await admin.post("/v1/tenants/acme/memberships", {"add": []}, key=ann.key, headers=least)
        assert warm.status == 200, warm.body
        await people.take(ann.tenant_id, given)  # behind the node's back
        refused = await admin.post("/v1/tenants/acme/memberships", body, key=ann.key)
        assert refused.status == 403, refused.body
        await people.write(ann.tenant_id, given)
