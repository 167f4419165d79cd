"""The administration over HTTP, on PostgreSQL: tenants, rows, plans, history, keys."""

import asyncio
import json
from typing import Any

import pytest

from tests.support.administration import Service, at, link, rule

pytestmark = pytest.mark.integration

GRANT = rule("role:editor", "doc:*", "write", condition=None)


async def test_tenants_are_created_once_listed_and_read(admin: Service) -> None:
    """A tenant is made by a platform key, shown in the list, and its slug is never used again."""
    made = await admin.post("/v1/tenants", {"slug": "acme", "display_name": "Acme Inc"})
    assert made.status == 201
    assert made.headers["Location"] == "/v1/tenants/acme"
    assert made.json["display_name"] == "Acme Inc"
    assert made.headers["Kasbah-Revision"] == str(made.json["revision"])
    again = await admin.post("/v1/tenants", {"slug": "acme"})
    assert (again.status, again.problem) == (409, "slug-taken")
    listed = await admin.get("/v1/tenants")
    assert [tenant["slug"] for tenant in listed.json["tenants"]] == ["acme"]
    assert (await admin.get("/v1/tenants/acme")).json == made.json


BAD_TENANTS = [
    ({"slug": "Acme"}, "invalid-slug"),
    ({"slug": "_base"}, "invalid-slug"),
    ({"slug": "api"}, "invalid-slug"),
    ({"slug": "acme", "id": "7"}, "invalid-request"),
    ({}, "invalid-request"),
    ({"slug": 7}, "invalid-request"),
    ({"slug": "acme", "display_name": "a\u202eb"}, "invalid-display-name"),
    (b'{"slug": "acme", "slug": "beta"}', "invalid-request"),
    (b"", "invalid-request"),
    (b"[]", "invalid-request"),
    (b'{"slug": "acme"} x', "invalid-request"),
]


async def test_a_bad_tenant_is_refused(admin: Service) -> None:
    """Unknown, repeated, missing and ill-typed members are 400, and nothing is made."""
    for body, problem in BAD_TENANTS:
        answer = await admin.post("/v1/tenants", body)
        assert (answer.status, answer.problem) == (400, problem), body
    assert (await admin.get("/v1/tenants")).json["tenants"] == []


async def test_the_tenant_list_pages(admin: Service) -> None:
    """Pages follow each other without gap or repetition; a cursor of another list is refused."""
    for slug in "cabed":
        await admin.post("/v1/tenants", {"slug": slug})
    seen, cursor = [], ""
    while True:
        page = (await admin.get(f"/v1/tenants?limit=2{cursor}")).json
        seen += [tenant["slug"] for tenant in page["tenants"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == list("abcde")
    for path in ("/v1/tenants/a/rules", "/v1/tenants/a/changes", "/v1/keys"):
        assert (await admin.get(f"{path}?{cursor[1:]}")).status == 400
    for bad in ("limit=0", "limit=-1", "limit=x", "limit=1&limit=2", "cursor=", "cursor=AAAA", "limit=1e3"):
        assert (await admin.get(f"/v1/tenants?{bad}")).status == 400, bad


async def test_cursors_do_not_cross_tenants(admin: Service) -> None:
    """A cursor that one tenant's list gave is refused by another's."""
    keys = {}
    for slug in ("a", "b"):
        keys[slug] = await admin.tenant(slug)
        rows = [rule("role:x", f"doc:{number}") for number in range(3)]
        assert (await admin.post(f"/v1/tenants/{slug}/rules", {"add": rows})).status == 200
    cursor = (await admin.get("/v1/tenants/a/rules?limit=1", key=keys["a"])).json["next_cursor"]
    assert (await admin.get(f"/v1/tenants/a/rules?limit=1&cursor={cursor}", key=keys["a"])).status == 200
    assert (await admin.get(f"/v1/tenants/b/rules?limit=1&cursor={cursor}", key=keys["b"])).status == 400
    assert (await admin.get(f"/v1/tenants/a/rules?limit=1&owner=api&cursor={cursor}", key=keys["a"])).status == 400


async def test_rows_are_added_used_listed_and_removed(admin: Service) -> None:
    """What is added decides at once on this node; what is removed no longer does."""
    key = await admin.tenant("acme")
    added = await admin.post("/v1/tenants/acme/rules", {"add": [rule("role:editor", "doc:*", "write")]}, key=key)
    assert (added.status, added.json["added"]) == (200, 1)
    assert added.headers["ETag"] == f'"{added.json["revision"]}"'
    assert not await admin.allowed(key, "user:alice", "write", "doc:1")
    given = await admin.post("/v1/tenants/acme/memberships", {"add": [link("user:alice", "role:editor")]}, key=key)
    assert given.json["revision"] == added.json["revision"] + 1
    assert await admin.allowed(key, "user:alice", "write", "doc:1")
    listed = (await admin.get("/v1/tenants/acme/memberships?subject=user:alice", key=key)).json
    assert [(row["member"], row["role"], row["owner"]) for row in listed["memberships"]] == [
        ("user:alice", "role:editor", "api")
    ]
    assert (await admin.get("/v1/tenants/acme/memberships?role=role:none", key=key)).json["memberships"] == []
    gone = await admin.post("/v1/tenants/acme/memberships", {"remove": listed["memberships"]}, key=key)
    assert gone.json["removed"] == 1
    assert not await admin.allowed(key, "user:alice", "write", "doc:1")
    again = await admin.post("/v1/tenants/acme/memberships", {"remove": listed["memberships"]}, key=key)
    assert (again.json["removed"], again.json["revision"]) == (0, gone.json["revision"])


async def test_attributes_are_stored_and_used(admin: Service) -> None:
    """A stored attribute decides a condition."""
    key = await admin.tenant("acme")
    condition = "subject.properties.level >= 3"
    await admin.post("/v1/tenants/acme/rules", {"add": [rule("user:*", "doc:*", condition=condition)]}, key=key)
    entity = {"type": "entity", "kind": "subject", "ref": "user:bob", "properties": {"level": 3}}
    assert (await admin.post("/v1/tenants/acme/entities", {"add": [entity]}, key=key)).status == 200
    assert await admin.allowed(key, "user:bob", "read", "doc:1")
    assert not await admin.allowed(key, "user:eve", "read", "doc:1")
    listed = (await admin.get("/v1/tenants/acme/entities", key=key)).json["entities"]
    assert [(row["ref"], row["properties"]) for row in listed] == [("user:bob", {"level": 3})]


async def test_a_batch_is_all_or_nothing(admin: Service) -> None:
    """One bad row, and no row of the batch is written."""
    key = await admin.tenant("acme")
    rows = [rule("role:a", "doc:1"), rule("role:a", "no type")]
    refused = await admin.post("/v1/tenants/acme/rules", {"add": rows}, key=key)
    assert (refused.status, refused.problem) == (422, "invalid-row")
    assert (await admin.get("/v1/tenants/acme/rules", key=key)).json["rules"] == []


BAD_ROWS = [
    ("rules", rule("role:admin", "kasbah:tenants", "*"), 422),
    ("rules", rule("role:admin", "kasbah:*", "*"), 422),
    ("rules", rule("user:a", "doc:1", condition="1 +"), 422),
    ("rules", rule("user:a", "doc:1", effect="alow"), 400),
    ("rules", rule("user:a", "doc:1", dom="*"), 400),
    ("rules", rule("user:a", "doc:1", tenant="beta"), 400),
    ("rules", rule("user:a\n", "doc:1"), 422),
    ("rules", rule("us*r:a", "doc:1"), 422),
    ("rules", rule("", "doc:1"), 422),
    ("rules", link("user:a", "role:b"), 400),
    ("rules", link("role:a", "role:b", kind="h"), 400),
    ("rules", link("role:a", "role:a"), 422),
    ("memberships", link("role:a", "role:b"), 400),
    ("memberships", rule("user:a", "doc:1"), 400),
    ("memberships", link("user:a", "user:b"), 422),
    ("memberships", link("user:*", "role:b"), 422),
    ("memberships", link("user:a", "role:b", expires_at="2030-01-01T00:00:00"), 400),
    ("entities", {"type": "entity", "kind": "subject", "ref": "alice", "properties": {}}, 400),
    ("entities", {"type": "entity", "kind": "tenant", "ref": "user:a", "properties": {}}, 400),
    ("entities", rule("user:a", "doc:1"), 400),
    ("entities", {"type": "what"}, 400),
    ("entities", 7, 400),
]


async def test_a_tenant_key_cannot_write_this(admin: Service) -> None:
    """Platform resources, other domains, misspelt words and names that are none are refused, with a place."""
    key = await admin.tenant("acme")
    for path, row, status in BAD_ROWS:
        answer = await admin.post(f"/v1/tenants/acme/{path}", {"add": [row]}, key=key)
        assert answer.status == status, (row, answer.body)
        if status == 400:
            assert answer.json["pointer"].startswith("/add/0")
    for path in ("rules", "memberships", "entities"):
        assert (await admin.get(f"/v1/tenants/acme/{path}", key=key)).json[path] == []


async def test_repeated_members_are_refused_at_any_depth(admin: Service) -> None:
    """Two readers could understand such a row differently."""
    key = await admin.tenant("acme")
    for text in (
        b'{"add": [], "add": []}',
        b'{"add": [{"type": "rule", "subject": "user:a", "subject": "user:b", "resource": "d:1", "action": "r"}]}',
        b'{"add": [{"type": "rule", "subject": "user:a", "resource": "d:1", "action": "r", "\\u0061ction": "w"}]}',
        b'{"add": [{"type": "entity", "kind": "subject", "ref": "user:a", "properties": {"a": {"b": 1, "b": 2}}}]}',
    ):
        for path in ("rules", "entities"):
            assert (await admin.post(f"/v1/tenants/acme/{path}", text, key=key)).status == 400


async def test_if_match_is_honoured(admin: Service) -> None:
    """A writer that saw an older revision is refused, and changes nothing."""
    key = await admin.tenant("acme")
    now = (await admin.get("/v1/tenants/acme", key=key)).headers["ETag"]
    body = {"add": [rule("role:a", "doc:1")]}
    first = await admin.post("/v1/tenants/acme/rules", body, key=key, headers={"If-Match": now})
    assert first.status == 200
    body = {"add": [rule("role:a", "doc:2")]}
    second = await admin.post("/v1/tenants/acme/rules", body, key=key, headers={"If-Match": now})
    assert (second.status, second.problem) == (412, "revision-conflict")
    assert len((await admin.get("/v1/tenants/acme/rules", key=key)).json["rules"]) == 1
    for bad in ("7", 'W/"7"', '"x"', '"1", "2"'):
        assert (await admin.post("/v1/tenants/acme/rules", body, key=key, headers={"If-Match": bad})).status == 400


async def planned(admin: Service, slug: str, rows: list, key: str | None = None) -> dict:
    """Plan and apply rows; returns the plan."""
    plan = await admin.post(f"/v1/tenants/{slug}/policy/plan", {"rows": rows}, key=key)
    assert plan.status == 200, plan.body
    return plan.json


async def applied(admin: Service, slug: str, rows: list, key: str | None = None, **more) -> dict:
    """Plan and apply rows; returns the answer to the apply."""
    plan = await planned(admin, slug, rows, key)
    body = {"rows": rows, "revision": plan["revision"], "digest": plan["digest"]} | more
    answer = await admin.post(f"/v1/tenants/{slug}/policy/apply", body, key=key)
    assert answer.status == 200, answer.body
    return answer.json


async def test_plan_apply_history_and_rollback(admin: Service) -> None:
    """What was planned is applied, recorded with reason and commit, and rolled back as a new revision."""
    key = await admin.tenant("acme")
    rows = [rule("role:editor", "doc:1", "write") | at(1), link("user:alice", "role:editor") | at(2)]
    plan = await planned(admin, "acme", rows, key)
    assert (plan["added"]["count"], plan["removed"]["count"], plan["pending"]) == (2, 0, True)
    assert plan["flips"][0]["gained"] == 2
    assert {flip["subject"] for flip in plan["flips"][0]["examples"]} == {"user:alice", "role:editor"}
    assert not await admin.allowed(key, "user:alice", "write", "doc:1")
    first = await applied(admin, "acme", rows, key, reason="first import", git_commit="c0ffee")
    assert await admin.allowed(key, "user:alice", "write", "doc:1")
    assert not (await planned(admin, "acme", rows, key))["pending"]
    second = await applied(admin, "acme", rows[:1], key)
    assert not await admin.allowed(key, "user:alice", "write", "doc:1")
    back = await admin.post(
        "/v1/tenants/acme/policy/rollback", {"to_revision": first["revision"], "reason": "oops"}, key=key
    )
    assert (back.status, back.json["added"]) == (200, 1)
    assert back.json["revision"] == second["revision"] + 1
    assert await admin.allowed(key, "user:alice", "write", "doc:1")
    changes = (await admin.get("/v1/tenants/acme/policy/history", key=key)).json["changes"]
    assert [(c["kind"], c["reason"], c["git_commit"], c["added"], c["removed"]) for c in changes[:3]] == [
        ("rollback", "oops", None, 1, 0),
        ("apply", None, None, 0, 1),
        ("apply", "first import", "c0ffee", 2, 0),
    ]
    assert changes[0]["rolled_back_to"] == first["revision"]
    assert changes[0]["actor"] == f"key:{key[7:15]}"


async def test_a_change_shows_its_rows(admin: Service) -> None:
    """Added and removed rows, page by page and exactly as many as the history counts; a moved row is neither."""
    key = await admin.tenant("acme")
    other = await admin.tenant("beta")
    rows = [rule("role:editor", f"doc:{number}") | at(number + 1) for number in range(5)]
    first = await applied(admin, "acme", rows, key)
    grant = link("user:alice", "role:editor", expires_at="2999-01-01T00:00:00Z")
    second = await applied(admin, "acme", [rows[1] | at(9), *rows[2:], grant | at(7)], key)
    third = await applied(admin, "acme", [rows[1], *rows[2:], grant | {"expires_at": None} | at(7)], key)

    async def items(revision: object, tenant: str = "acme", **more: Any) -> Any:
        return await admin.get(f"/v1/tenants/{tenant}/changes/{revision}/items", **{"key": key} | more)

    whole = (await items(first["revision"])).json
    assert [item["change"] for item in whole["items"]] == ["added"] * 5
    assert {item["row"]["resource"] for item in whole["items"]} == {f"doc:{number}" for number in range(5)}
    assert whole["next_cursor"] is None
    assert whole["items"][0]["row"]["source"]["file"] == "policy.csv"
    said = [(item["change"], item["row"]["type"]) for item in (await items(second["revision"])).json["items"]]
    assert said == [("removed", "rule"), ("added", "link")]
    changed = (await items(third["revision"])).json["items"]
    assert [(item["change"], item["row"].get("expires_at")) for item in changed] == [
        ("removed", "2999-01-01T00:00:00Z"),
        ("added", None),
    ]
    paged, cursor = [], ""
    while cursor is not None:
        page = (await admin.get(f"/v1/tenants/acme/changes/{first['revision']}/items?limit=2{cursor}", key=key)).json
        paged += page["items"]
        cursor = page["next_cursor"] and f"&cursor={page['next_cursor']}"
    assert paged == whole["items"]
    assert (await items(1)).json["items"] == [], "a tenant is created without rows"
    for revision in (0, 999, "x", "-1", "9" * 30, "٣"):
        assert (await items(revision)).problem == "revision-not-found", revision
    assert (await items(first["revision"], key=other)).status == 403
    page = (await admin.get(f"/v1/tenants/acme/changes/{first['revision']}/items?limit=2", key=key)).json
    elsewhere = f"/v1/tenants/acme/changes/{second['revision']}/items?cursor={page['next_cursor']}"
    assert (await admin.get(elsewhere, key=key)).problem == "invalid-request", "a cursor of another change"


async def test_what_files_own_the_api_does_not_change(admin: Service) -> None:
    """The refusal names file and line; a conflict shows in the plan, and an apply of it is refused."""
    key = await admin.tenant("acme")
    mine = rule("role:editor", "doc:1", "write")
    await applied(admin, "acme", [mine | at(3)], key)
    refused = await admin.post("/v1/tenants/acme/rules", {"remove": [mine]}, key=key)
    assert (refused.status, refused.problem) == (409, "ownership-conflict")
    assert "policy.csv:3" in refused.json["detail"]
    granted = link("user:bob", "role:editor")
    assert (await admin.post("/v1/tenants/acme/memberships", {"add": [granted]}, key=key)).status == 200
    rows = [mine | at(3), granted | at(4)]
    plan = await planned(admin, "acme", rows, key)
    assert plan["conflicts"]["count"] == 1
    assert plan["conflicts"]["rows"][0]["existing"]["owner"] == "api"
    body = {"rows": rows, "revision": plan["revision"], "digest": plan["digest"]}
    conflict = await admin.post("/v1/tenants/acme/policy/apply", body, key=key)
    assert (conflict.status, conflict.problem) == (409, "ownership-conflict")
    await applied(admin, "acme", [], key)
    assert (await admin.get("/v1/tenants/acme/memberships", key=key)).json["memberships"], "the API's grant survives"


async def test_a_stale_or_altered_plan_is_refused(admin: Service) -> None:
    """Another revision is 412, other rows than those of the digest 409; neither writes."""
    key = await admin.tenant("acme")
    rows = [rule("role:editor", "doc:1") | at(1)]
    plan = await planned(admin, "acme", rows, key)
    await admin.post("/v1/tenants/acme/rules", {"add": [rule("role:x", "doc:9")]}, key=key)
    body = {"rows": rows, "revision": plan["revision"], "digest": plan["digest"]}
    assert (await admin.post("/v1/tenants/acme/policy/apply", body, key=key)).status == 412
    altered = body | {"rows": [rule("role:editor", "doc:*") | at(1)], "revision": plan["revision"] + 1}
    answer = await admin.post("/v1/tenants/acme/policy/apply", altered, key=key)
    assert (answer.status, answer.problem) == (409, "plan-mismatch")
    beta = await admin.tenant("beta")
    assert (await admin.post("/v1/tenants/beta/policy/apply", body, key=beta)).status == 409
    assert len((await admin.get("/v1/tenants/acme/rules", key=key)).json["rules"]) == 1


async def test_a_plan_refuses_what_apply_would_refuse(admin: Service) -> None:
    """Cycles, contradictions and rows that may not stand there are said before anybody is asked to agree."""
    key = await admin.tenant("acme")
    cycle = [link("role:a", "role:b") | at(1), link("role:b", "role:a") | at(2)]
    twice = [link("user:a", "role:b") | at(1), link("user:a", "role:b", expires_at="2030-01-01T00:00:00Z") | at(2)]
    for rows, problem in (
        (cycle, "invalid-row"),
        (twice, "contradicting-rows"),
        ([rule("role:a", "kasbah:x") | at(1)], "invalid-row"),
    ):
        answer = await admin.post("/v1/tenants/acme/policy/plan", {"rows": rows}, key=key)
        assert (answer.status, answer.problem) == (422, problem)
    unplaced = await admin.post("/v1/tenants/acme/policy/plan", {"rows": [rule("role:a", "doc:1")]}, key=key)
    assert (unplaced.status, unplaced.json["pointer"]) == (400, "/rows/0/source")


async def test_the_base_belongs_to_the_platform(admin: Service) -> None:
    """A platform key plans and applies `_base`; its plan counts every tenant's flips; tenants get 403."""
    acme, beta = await admin.tenant("acme"), await admin.tenant("beta")
    await admin.post("/v1/tenants/acme/memberships", {"add": [link("user:x", "role:member")]}, key=acme)
    rows = [rule("role:member", "doc:1") | at(1, "_base/policy.csv")]
    plan = await planned(admin, "_base", rows)
    assert {part["tenant"]: part["gained"] for part in plan["flips"]} == {"acme": 2, "beta": 1}
    before = (await admin.get("/v1/tenants/acme")).json["revision"]
    await applied(admin, "_base", rows)
    assert (await admin.get("/v1/tenants/acme")).json["revision"] == before + 1
    assert await admin.allowed(acme, "user:x", "read", "doc:1")
    for key in (acme, beta):
        for method, path, body in (
            ("POST", "policy/plan", {"rows": rows}),
            ("POST", "policy/apply", {"rows": [], "revision": 1, "digest": "0" * 64}),
            ("POST", "rules", {"add": [rule("role:x", "doc:1")]}),
            ("GET", "rules", None),
            ("GET", "policy/export", None),
        ):
            assert (await admin.ask(method, f"/v1/tenants/_base/{path}", body, key=key)).status == 403


async def test_export_is_everything_at_one_revision(admin: Service) -> None:
    """Both owners' rows and the model, with places."""
    key = await admin.tenant("acme")
    await applied(admin, "acme", [rule("role:a", "doc:1") | at(5)], key)
    await admin.post("/v1/tenants/acme/memberships", {"add": [link("user:x", "role:a")]}, key=key)
    found = await admin.get("/v1/tenants/acme/policy/export", key=key)
    assert found.json["model"].strip()
    assert [(row["type"], row["owner"], row.get("source")) for row in found.json["rows"]] == [
        ("rule", "files", {"file": "policy.csv", "line": 5}),
        ("link", "api", None),
    ]
    assert found.headers["Kasbah-Revision"] == str(found.json["revision"])


ROUTES = [
    ("GET", "/v1/tenants/{t}", None, "tenant:read"),
    ("GET", "/v1/tenants/{t}/rules", None, "policy:read"),
    ("POST", "/v1/tenants/{t}/rules", {"add": []}, "policy:write"),
    ("GET", "/v1/tenants/{t}/memberships", None, "policy:read"),
    ("POST", "/v1/tenants/{t}/memberships", {"add": []}, "policy:write"),
    ("GET", "/v1/tenants/{t}/entities", None, "policy:read"),
    ("POST", "/v1/tenants/{t}/entities", {"add": []}, "policy:write"),
    ("POST", "/v1/tenants/{t}/policy/plan", {"rows": []}, "policy:read"),
    ("POST", "/v1/tenants/{t}/policy/rollback", {"to_revision": 1}, "policy:write"),
    ("GET", "/v1/tenants/{t}/policy/history", None, "policy:read"),
    ("GET", "/v1/tenants/{t}/policy/export", None, "policy:read"),
    ("GET", "/v1/tenants/{t}/changes", None, "policy:read"),
    ("GET", "/v1/tenants/{t}/changes/1/items", None, "policy:read"),
    ("GET", "/v1/tenants/{t}/settings", None, "settings:read"),
    ("PUT", "/v1/tenants/{t}/settings", {}, "settings:write"),
    ("PATCH", "/v1/tenants/{t}/settings", {}, "settings:write"),
    ("GET", "/v1/tenants/{t}/keys", None, "key:read"),
    ("POST", "/v1/tenants/{t}/keys", {"name": "k"}, "key:write"),
]


async def test_tenants_scopes_and_unknown_names(admin: Service) -> None:
    """Each route: its scope is needed, another tenant is 403 with equal bytes, an unknown one 404 for the platform."""
    own = await admin.tenant("acme")
    await admin.tenant("beta")
    weak = await admin.tenant("acme", "decision:check")
    for method, path, body, scope in ROUTES:
        assert (await admin.ask(method, path.format(t="acme"), body, key=own)).status in {200, 201}, path
        refused = await admin.ask(method, path.format(t="acme"), body, key=weak)
        assert (refused.status, refused.problem) == (403, "missing-scope"), path
        assert scope in refused.json["detail"]
        other = await admin.ask(method, path.format(t="beta"), body, key=own)
        unknown = await admin.ask(method, path.format(t="nobody"), body, key=own)
        assert (other.status, unknown.status) == (403, 403)
        assert other.body == unknown.body
        assert (await admin.ask(method, path.format(t="nobody"), body)).status == 404
        # The platform has people, and nothing else that a tenant has.
        there = 200 if path.endswith("/memberships") else 404
        assert (await admin.ask(method, path.format(t="_platform"), body)).status == there
        assert (await admin.ask(method, path.format(t="acme"), body, key="")).status == 401
    for method, path, body in (
        ("GET", "/v1/tenants", None),
        ("POST", "/v1/tenants", {"slug": "gamma"}),
        ("GET", "/v1/keys", None),
        ("POST", "/v1/keys", {"name": "k"}),
        ("PUT", "/v1/model", {"text": "x"}),
    ):
        refused = await admin.ask(method, path, body, key=own)
        assert (refused.status, refused.problem) == (403, "other-tenant")
        assert "platform key" in refused.json["detail"]
        assert (await admin.ask(method, path, body, key="")).status == 401


async def test_keys_are_made_shown_once_used_and_revoked(admin: Service) -> None:
    """The token works until it is revoked; lists never show it; a key gives no scope that it lacks."""
    own = await admin.tenant("acme", "key:read", "key:write", "policy:read")
    made = await admin.post(
        "/v1/tenants/acme/keys",
        {"name": "ci", "scopes": ["policy:read"], "expires_at": "2999-01-01T00:00:00Z"},
        key=own,
    )
    assert made.status == 201
    token = made.json["token"]
    assert made.json["scopes"] == ["decision:check", "policy:read"]
    assert (await admin.get("/v1/tenants/acme/rules", key=token)).status == 200
    assert (await admin.get("/v1/keys/self", key=token)).json["tenant"] == "acme"
    listed = await admin.get("/v1/tenants/acme/keys", key=own)
    assert token.encode() not in listed.body
    assert made.json["id"] in {key["id"] for key in listed.json["keys"]}
    more = await admin.post("/v1/tenants/acme/keys", {"name": "x", "scopes": ["policy:write"]}, key=own)
    assert (more.status, more.problem) == (403, "scope-not-yours")
    odd = await admin.post("/v1/tenants/acme/keys", {"name": "x", "scopes": ["root"]})
    assert (odd.status, odd.problem) == (400, "unknown-scope")
    assert "`root` is not a scope; there are " in odd.json["detail"]
    past = {"name": "x", "expires_at": "2020-01-01T00:00:00Z"}
    assert (await admin.post("/v1/tenants/acme/keys", past, key=own)).status == 400
    gone = await admin.ask("DELETE", f"/v1/tenants/acme/keys/{made.json['id']}", key=own)
    assert gone.status == 204
    assert (await admin.get("/v1/tenants/acme/rules", key=token)).status == 401
    for identifier in ("00000000-0000-0000-0000-000000000000", "x"):
        assert (await admin.ask("DELETE", f"/v1/tenants/acme/keys/{identifier}", key=own)).status == 404
    beta = await admin.tenant("beta")
    foreign = await admin.post("/v1/tenants/beta/keys", {"name": "b"}, key=beta)
    assert (await admin.ask("DELETE", f"/v1/tenants/acme/keys/{foreign.json['id']}", key=own)).status == 404
    assert (await admin.get("/v1/keys/self", key=foreign.json["token"])).status == 200


async def test_the_feed_pages_and_never_ends(admin: Service) -> None:
    """Changes come oldest first; the last cursor, asked again later, shows what came since."""
    key = await admin.tenant("acme")
    for number in range(5):
        await admin.post("/v1/tenants/acme/rules", {"add": [rule("role:a", f"doc:{number}")]}, key=key)
    seen, cursor = [], ""
    while True:
        page = (await admin.get(f"/v1/tenants/acme/changes?limit=2{cursor}", key=key)).json
        seen += [change["revision"] for change in page["changes"]]
        cursor = f"&cursor={page['next_cursor']}"
        if not page["changes"]:
            break
    assert seen == list(range(1, len(seen) + 1))
    added = await admin.post("/v1/tenants/acme/rules", {"add": [rule("role:a", "doc:9")]}, key=key)
    later = (await admin.get(f"/v1/tenants/acme/changes?limit=2{cursor}", key=key)).json["changes"]
    assert [change["revision"] for change in later] == [added.json["revision"]]


async def read_events(response, count: int) -> list[tuple[int, dict]]:
    """Return the next events of a stream."""
    events = []
    identifier = 0
    async with asyncio.timeout(60):
        async for raw in response.content:
            line = raw.decode().rstrip("\n")
            if line.startswith("id: "):
                identifier = int(line[4:])
            elif line.startswith("data: "):
                events.append((identifier, json.loads(line[6:])))
                if len(events) == count:
                    break
    return events


async def test_the_stream_loses_nothing_and_ends_with_its_key(admin: Service) -> None:
    """Events come as they happen, resume after the last id, and stop when the key is revoked."""
    writer = await admin.tenant("acme")
    made = (await admin.post("/v1/tenants/acme/keys", {"name": "reader", "scopes": ["policy:read"]}, key=writer)).json
    headers = {"Authorization": f"Bearer {made['token']}", "Accept": "text/event-stream"}
    async with admin.client.get("/v1/tenants/acme/changes", headers=headers) as stream:
        assert stream.status == 200
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        history = await read_events(stream, 3)
        await admin.post("/v1/tenants/acme/rules", {"add": [rule("role:a", "doc:1")]}, key=writer)
        [(last, event)] = await read_events(stream, 1)
        assert (event["kind"], event["added"]) == ("api", 1)
        assert [identifier for identifier, _ in history] == list(range(1, last))
    await admin.post("/v1/tenants/acme/rules", {"add": [rule("role:a", "doc:2")]}, key=writer)
    resumed = headers | {"Last-Event-ID": str(last)}
    async with admin.client.get("/v1/tenants/acme/changes", headers=resumed) as stream:
        assert [identifier for identifier, _ in await read_events(stream, 1)] == [last + 1]
        await admin.ask("DELETE", f"/v1/tenants/acme/keys/{made['id']}", key=writer)
        async with asyncio.timeout(60):
            rest = await stream.content.read()
        assert b"data:" not in rest.replace(b"\n\n", b"\n") or b'"kind":"key"' in rest
    for bad in ("x", "-1", "1" * 30):
        answer = await admin.get(
            "/v1/tenants/acme/changes", key=writer, headers={"Accept": "text/event-stream", "Last-Event-ID": bad}
        )
        assert answer.status == 400


async def test_the_model_is_replaced_only_by_one_that_can_be_served(admin: Service) -> None:
    """Another good model is taken and decides; a bad one is 422 and changes nothing."""
    key = await admin.tenant("acme")
    await applied(admin, "acme", [rule("user:x", "doc:1") | at(1), rule("user:x", "doc:1", effect="deny") | at(2)], key)
    assert not await admin.allowed(key, "user:x", "read", "doc:1")
    model = (await admin.get("/v1/model", key=key)).json
    bad = await admin.ask("PUT", "/v1/model", {"text": model["text"].replace("keyMatch(r.obj", "eval(r.obj")})
    assert (bad.status, bad.problem) == (422, "invalid-model")
    text = model["text"].replace(" && !some(where (p.eft == deny))", "")
    assert text != model["text"]
    wrong = await admin.ask("PUT", "/v1/model", {"text": text, "replaces": "0" * 64})
    assert (wrong.status, wrong.problem) == (412, "model-conflict")
    plan = await admin.post(
        "/v1/tenants/acme/policy/plan", {"rows": [rule("user:x", "doc:1") | at(1)], "model": text}, key=key
    )
    assert plan.json["flips"][0]["complete"] is False
    assert (await admin.ask("PUT", "/v1/model", {"text": text, "replaces": model["digest"]})).status == 200
    async with asyncio.timeout(60):
        while not await admin.allowed(key, "user:x", "read", "doc:1"):  # noqa: ASYNC110 - an answer, no event
            await asyncio.sleep(0.05)


async def test_a_model_without_a_place_for_stored_rows_is_refused(admin: Service) -> None:
    """Planned or set, by a platform key alone: 409, with a count and a tenant; nothing changes."""
    key = await admin.tenant("acme")
    await applied(admin, "acme", [rule("user:x", "doc:1", effect="deny") | at(1)], key)
    model = (await admin.get("/v1/model")).json
    text = model["text"].replace(", eft, cond", ", cond")
    for answer in (
        await admin.post("/v1/model/plan", {"text": text}),
        await admin.ask("PUT", "/v1/model", {"text": text, "replaces": model["digest"]}),
    ):
        assert (answer.status, answer.problem) == (409, "model-too-narrow")
        assert "deny rules are stored: 1 (in `acme`)" in answer.json["detail"]
    assert (await admin.get("/v1/model")).json == model
    same = await admin.post("/v1/model/plan", {"text": model["text"]})
    assert same.json == {"digest": model["digest"], "replaces": model["digest"], "pending": False}
    assert (await admin.post("/v1/model/plan", {"text": model["text"] + "\n"})).json["pending"] is True
    assert (await admin.post("/v1/model/plan", {"text": "[x]"})).problem == "invalid-model"
    assert (await admin.post("/v1/model/plan", {"text": text}, key=key)).status == 403


async def test_large_bodies_are_bounded(admin: Service) -> None:
    """Ordinary routes take 1 MiB, plan and apply 64 MiB."""
    key = await admin.tenant("acme")
    rows = [rule("role:a", f"doc:{number}") | at(number + 1) for number in range(20_000)]
    assert (await admin.post("/v1/tenants/acme/rules", {"add": rows}, key=key)).status == 413
    plan = await planned(admin, "acme", rows, key)
    assert (plan["added"]["count"], len(plan["added"]["rows"])) == (20_000, 1000)
    assert plan["flips"][0]["gained"] == 20_000
