"""Policy files that name accounts: looked up by the server, stored as ids, exported either way."""

import json

import pytest

from tests.support.administration import Service, at, link, rule

pytestmark = pytest.mark.integration

DEFAULT = "/v1/tenants/acme/policy"


async def user(admin: Service, key: str, name: str) -> dict:
    answer = await admin.post("/v1/users", {"username": name}, key=key)
    assert answer.status == 201, answer.body
    return dict(answer.json)


def named(*names: str) -> list:
    rows = [rule("role:editor", "doc:*", **at(1)), rule(f"user:name={names[0]}", "page:1", **at(2))]
    return rows + [link(f"user:name={name}", "role:editor", **at(3 + place)) for place, name in enumerate(names)]


async def test_names_are_looked_up_and_ids_are_stored(admin: Service) -> None:
    """In any spelling; a rename changes no rule; the plan of the same files is empty until then."""
    key = await admin.tenant("acme")
    carol, dave = await user(admin, key, "Carol"), await user(admin, key, "dave")
    rows = named("carol", "DAVE")
    plan = (await admin.post(f"{DEFAULT}/plan", {"rows": rows}, key=key)).json
    assert {row.get("member", row.get("subject")) for row in plan["added"]["rows"]} == {
        "role:editor",
        carol["subject"],
        dave["subject"],
    }
    assert plan["accounts"] == {carol["subject"]: "carol", dave["subject"]: "DAVE"}
    sent = {"rows": rows, "revision": plan["revision"], "digest": plan["digest"]}
    applied = await admin.post(f"{DEFAULT}/apply", sent, key=key)
    assert applied.json["added"] == 4
    for person in (carol, dave):
        assert await admin.allowed(key, person["subject"], "read", "doc:1")
    assert not await admin.allowed(key, "user:name=carol", "read", "doc:1")
    assert not (await admin.post(f"{DEFAULT}/plan", {"rows": rows}, key=key)).json["pending"]
    renamed = await admin.ask("PATCH", f"/v1/users/{carol['id']}", {"username": "carol.d"}, key=key)
    assert renamed.status == 200
    assert await admin.allowed(key, carol["subject"], "read", "doc:1")
    unknown = await admin.post(f"{DEFAULT}/plan", {"rows": rows}, key=key)
    assert (unknown.status, unknown.problem) == (422, "unknown-account-name")
    assert "policy.csv:2" in unknown.json["detail"]
    assert not (await admin.post(f"{DEFAULT}/plan", {"rows": named("carol.d", "dave")}, key=key)).json["pending"]


async def test_an_account_that_changes_between_plan_and_apply_is_not_applied(admin: Service) -> None:
    """Deleted, or its name another's by then: the plan is stale, and nothing is written."""
    key = await admin.tenant("acme")
    carol = await user(admin, key, "carol")
    rows = named("carol")
    plan = (await admin.post(f"{DEFAULT}/plan", {"rows": rows}, key=key)).json
    sent = {"rows": rows, "revision": plan["revision"], "digest": plan["digest"]}
    await admin.ask("DELETE", f"/v1/users/{carol['id']}?reason=left", key=key)
    gone = await admin.post(f"{DEFAULT}/apply", sent, key=key)
    assert (gone.status, gone.problem) == (422, "unknown-account-name")
    await user(admin, key, "carol")
    stale = await admin.post(f"{DEFAULT}/apply", sent, key=key)
    assert (stale.status, stale.problem) == (412, "revision-conflict")
    assert (await admin.get("/v1/tenants/acme/memberships", key=key)).json["memberships"] == []
    other = await admin.post(f"{DEFAULT}/apply", sent | {"rows": named("dave")}, key=key)
    assert (other.status, other.problem) == (409, "plan-mismatch")


async def test_names_stand_for_accounts_of_their_own_tenant(admin: Service) -> None:
    """Another tenant's account of that name is nobody; rows of the API say ids."""
    acme, beta = await admin.tenant("acme"), await admin.tenant("beta")
    await user(admin, beta, "carol")
    answer = await admin.post(f"{DEFAULT}/plan", {"rows": named("carol")}, key=acme)
    assert (answer.status, answer.problem) == (422, "unknown-account-name")
    for path, row in (("memberships", link("user:name=carol", "role:x")), ("rules", rule("user:name=carol", "doc:1"))):
        answer = await admin.post(f"/v1/tenants/beta/{path}", {"add": [row]}, key=beta)
        assert (answer.status, answer.problem) == (422, "invalid-row"), path


async def test_an_export_says_ids_or_names(admin: Service) -> None:
    """Names only to those who may read accounts; a deleted account stays an id; what is exported plans to nothing."""
    key = await admin.tenant("acme")
    carol, dave = await user(admin, key, "Carol"), await user(admin, key, "dave")
    rows = named("carol", "dave")
    plan = (await admin.post(f"{DEFAULT}/plan", {"rows": rows}, key=key)).json
    await admin.post(
        f"{DEFAULT}/apply", {"rows": rows, "revision": plan["revision"], "digest": plan["digest"]}, key=key
    )
    await admin.ask("DELETE", f"/v1/users/{dave['id']}?reason=left", key=key)

    async def members(query: str) -> set[str]:
        answer = await admin.get(f"{DEFAULT}/export{query}", key=key)
        return {row["member"] for row in answer.json["rows"] if row["type"] == "link"}

    assert await members("") == await members("?usernames=false") == {carol["subject"], dave["subject"]}
    assert await members("?usernames=true") == {"user:name=Carol", dave["subject"]}
    for row in (await admin.get(f"{DEFAULT}/export?usernames=true", key=key)).json["rows"]:
        assert "name=" not in json.dumps(row.get("role"))
    narrow = await admin.tenant("acme", "policy:read")
    assert (await admin.get(f"{DEFAULT}/export", key=narrow)).status == 200
    refused = await admin.get(f"{DEFAULT}/export?usernames=true", key=narrow)
    assert (refused.status, refused.problem) == (403, "missing-right")
    assert (await admin.get(f"{DEFAULT}/export?usernames=1", key=key)).status == 400


async def test_service_accounts_are_named_as_people_are(admin: Service) -> None:
    """Looked up at one revision, whoever is named; renamed, deleted or another tenant's, they are nobody."""
    key = await admin.tenant("acme")
    carol = await user(admin, key, "carol")
    billing = (await admin.post("/v1/service-accounts", {"name": "billing"}, key=key)).json
    rows = [
        link("service:name=billing", "role:editor") | at(1),
        link("user:name=carol", "role:editor") | at(2),
        rule("service:name=billing", "doc:2") | at(3),
    ]
    plan = (await admin.post(f"{DEFAULT}/plan", {"rows": rows}, key=key)).json
    assert plan["accounts"] == {billing["subject"]: "billing", carol["subject"]: "carol"}
    sent = {"rows": rows, "revision": plan["revision"], "digest": plan["digest"]}
    path = f"/v1/service-accounts/{billing['id']}"
    assert (await admin.ask("PATCH", path, {"name": "invoices"}, key=key)).status == 200
    gone = await admin.post(f"{DEFAULT}/apply", sent, key=key)
    assert (gone.status, gone.problem) == (422, "unknown-account-name")
    assert (await admin.post("/v1/service-accounts", {"name": "billing"}, key=key)).status == 201
    stale = await admin.post(f"{DEFAULT}/apply", sent, key=key)
    assert (stale.status, stale.problem) == (412, "revision-conflict")
    rows[0], rows[2] = (
        link("service:name=invoices", "role:editor") | at(1),
        rule("service:name=invoices", "doc:2") | at(3),
    )
    plan = (await admin.post(f"{DEFAULT}/plan", {"rows": rows}, key=key)).json
    sent = {"rows": rows, "revision": plan["revision"], "digest": plan["digest"]}
    assert (await admin.post(f"{DEFAULT}/apply", sent, key=key)).json["added"] == 3
    assert await admin.allowed(key, billing["subject"], "read", "doc:2")
    exported = (await admin.get(f"{DEFAULT}/export?usernames=true", key=key)).json["rows"]
    assert {row["member"] for row in exported if row["type"] == "link"} == {"service:name=invoices", "user:name=carol"}
    narrow = await admin.tenant("acme", "policy:read", "user:read")
    exported = (await admin.get(f"{DEFAULT}/export?usernames=true", key=narrow)).json["rows"]
    assert {row["member"] for row in exported if row["type"] == "link"} == {billing["subject"], "user:name=carol"}
    beta = await admin.tenant("beta")
    answer = await admin.post(f"{DEFAULT.replace('acme', 'beta')}/plan", {"rows": rows[:1]}, key=beta)
    assert (answer.status, answer.problem) == (422, "unknown-account-name")
    refused = await admin.post(
        "/v1/tenants/acme/memberships", {"add": [link("service:name=invoices", "role:x")]}, key=key
    )
    assert (refused.status, refused.problem) == (422, "invalid-row")
