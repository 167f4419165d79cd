"""`/v1/audit` over HTTP: searches, pages, exports, and whose audit one may read."""

import asyncio
import json
from urllib.parse import quote
from uuid import UUID

import aiohttp
import pytest

from service.http.admin_audit import AUDIT
from service.http.admin_users import USERS
from service.http.exports import EXPORTS
from tenancy.audit_chain import NO_HASH, AuditEvent, ChainHead, hash_of
from tenancy.audit_lines import Begin, read_line
from tenancy.audit_verification import verify_chain
from tenancy.ids import TenantId
from tests.support.administration import Service, link, rule

pytestmark = pytest.mark.integration


async def changed(admin: Service, key: str, count: int, slug: str = "acme") -> None:
    """Grant a role to `count` subjects, one request each."""
    for number in range(count):
        body = {"add": [link(f"user:{number}", "role:r")], "reason": f"reason {number}"}
        answer = await admin.post(
            f"/v1/tenants/{slug}/memberships", body, key=key, headers={"X-Request-ID": f"r-{number}"}
        )
        assert answer.status == 200


async def events(admin: Service, query: str = "", **more):
    answer = await admin.get(f"/v1/audit?tenant=acme{query}", **more)
    assert answer.status == 200, answer.body
    return answer.json["events"]


async def test_the_story_of_a_tenant_is_told(admin: Service) -> None:
    """Who, what, when, from where, on whom, why, in which request and revision."""
    key = await admin.tenant("acme")
    await changed(admin, key, 1)
    newest, made_key, created = await events(admin, key=key)
    assert [event["seq"] for event in (newest, made_key, created)] == [3, 2, 1]
    assert newest["action"] == "policy.change"
    assert newest["actor"] == newest["credential"] == f"key:{key[7:15]}"
    assert newest["address"] == "127.0.0.1"
    assert (newest["reason"], newest["request_id"], newest["revision"]) == ("reason 0", "r-0", 3)
    assert newest["at"] > made_key["at"] > created["at"]
    assert made_key["action"] == "key.create"
    assert made_key["after"]["prefix"] == key[7:15]
    assert created["after"]["slug"] == "acme"


async def test_filters_find_what_they_say_and_nothing_else(admin: Service) -> None:
    """Each alone, and all that are given together."""
    key = await admin.tenant("acme")
    await changed(admin, key, 3)
    everything = await events(admin)
    target = quote(everything[-1]["target"])
    middle = quote(everything[1]["at"])
    expected = {
        "&action=policy.change": [5, 4, 3],
        f"&actor=key:{key[7:15]}": [5, 4, 3],
        "&actor=key:test": [2, 1],
        f"&target={target}": [1],
        "&target=user:1": [4],
        "&outcome=success": [5, 4, 3, 2, 1],
        "&outcome=refused": [],
        "&request_id=r-1": [4],
        f"&since={middle}": [5, 4],
        f"&until={middle}": [3, 2, 1],
        f"&since={middle}&until={middle}": [],
        "&order=oldest": [1, 2, 3, 4, 5],
        "&action=policy.change&request_id=r-2": [5],
        "&action=key.create&request_id=r-2": [],
        "&actor=user:nobody": [],
        "&target=" + quote("' OR 1=1 --"): [],
        "&request_id=" + quote("r-1') OR ('1'='1"): [],
        "&chain=sign_in": [],
    }
    for query, numbers in expected.items():
        assert [event["seq"] for event in await events(admin, query)] == numbers, query


@pytest.mark.parametrize("order", ["newest", "oldest"])
async def test_pages_follow_each_other_while_events_come(admin: Service, order: str) -> None:
    """Each event once; a cursor belongs to its tenant, order and filter."""
    key = await admin.tenant("acme")
    await changed(admin, key, 3)
    seen, cursor = [], ""
    while True:
        answer = await admin.get(f"/v1/audit?tenant=acme&limit=2&order={order}{cursor}", key=key)
        seen += [event["seq"] for event in answer.json["events"]]
        if answer.json["next_cursor"] is None:
            break
        cursor = f"&cursor={answer.json['next_cursor']}"
        if len(seen) == 2 and order == "newest":
            await changed(admin, key, 1)
    assert seen == ([5, 4, 3, 2, 1] if order == "newest" else [1, 2, 3, 4, 5])
    assert cursor
    for other in ("order=newest&action=key.create", f"order={order}&chain=sign_in", f"order={order}&outcome=success"):
        assert (await admin.get(f"/v1/audit?tenant=acme&{other}{cursor}", key=key)).status == 400, other
    await admin.tenant("beta")
    assert (await admin.get(f"/v1/audit?tenant=beta&order={order}{cursor}")).status == 400


BAD = ["action=user.admire", "outcome=maybe", "since=yesterday", "since=2026-03-01T12:00:00", "until=7", "order=random"]
BAD += ["chain=other", "personal=yes", "target=a%0Ab", "actor=", "request_id=%00", "limit=0", "cursor=AAAA"]
BAD += ["action=key.create&action=key.revoke"]


async def test_a_bad_search_is_refused(admin: Service) -> None:
    """400, whatever is wrong."""
    await admin.tenant("acme")
    for query in BAD:
        for path in ("/v1/audit", "/v1/audit/export"):
            if path == "/v1/audit/export" and not query.startswith(("chain", "personal")):
                continue
            assert (await admin.get(f"{path}?tenant=acme&{query}")).status == 400, query


async def test_whose_audit_one_reads(admin: Service) -> None:
    """A tenant its own; the platform everybody's, its own, and the base's. The scope is needed."""
    own, other = await admin.tenant("acme"), await admin.tenant("beta")
    weak = await admin.tenant("acme", "policy:read")
    for path in ("/v1/audit", "/v1/audit/export"):
        assert (await admin.get(path, key=own)).status == 200
        assert (await admin.get(path, key="")).status == 401
        refused = await admin.get(path, key=weak)
        assert (refused.status, refused.problem) == (403, "missing-scope")
        foreign = await admin.get(f"{path}?tenant=acme", key=other)
        unknown = await admin.get(f"{path}?tenant=nobody", key=other)
        assert (foreign.status, foreign.body) == (403, unknown.body)
        assert (await admin.get(f"{path}?tenant=_platform", key=own)).status == 403
        assert (await admin.get(path)).status == 400
        assert (await admin.get(f"{path}?tenant=nobody")).status == 404
        for slug in ("_platform", "_base"):
            assert (await admin.get(f"{path}?tenant={slug}")).status == 200
    platform = (await admin.get("/v1/audit?tenant=_platform&action=tenant.create")).json["events"]
    assert [event["after"]["slug"] for event in platform] == ["beta", "acme"]
    assert b"beta" not in (await admin.get("/v1/audit", key=own)).body


async def test_an_export_is_a_chain_that_anybody_can_verify(admin: Service, monkeypatch) -> None:
    """Pages are joined; the last line says where the chain stands; row by row the hashes hold."""
    monkeypatch.setattr("service.http.admin_audit.EXPORT_PAGE", 2)
    key = await admin.tenant("acme")
    await changed(admin, key, 3)
    answer = await admin.get("/v1/audit/export", key=key)
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    first, *middle, last = [read_line(line) for line in answer.body.splitlines()]
    assert isinstance(first, Begin)
    assert (first.first_seq, first.first_previous) == (1, NO_HASH)
    assert isinstance(last, ChainHead)
    assert len(middle) == last.last_seq == 5
    assert all(isinstance(event, AuditEvent) and hash_of(event) == event.hash for event in middle)
    assert verify_chain(last, middle) == []
    empty = (await admin.get("/v1/audit/export?chain=sign_in", key=key)).body.splitlines()
    assert verify_chain(read_line(empty[-1]), []) == []


async def test_too_many_exports_at_once_are_put_off(admin: Service, monkeypatch) -> None:
    """503, and a place is given back."""
    key = await admin.tenant("acme")
    monkeypatch.setattr("service.http.exports.MAX_EXPORTS", 0)
    assert (await admin.get("/v1/audit/export", key=key)).status == 503
    monkeypatch.setattr("service.http.exports.MAX_EXPORTS", 1)
    for _ in range(2):
        assert (await admin.get("/v1/audit/export", key=key)).status == 200


async def test_one_tenant_does_not_hold_all_places_for_exports(admin: Service, monkeypatch) -> None:
    """Half of them are left to others."""
    mine, other = await admin.tenant("acme"), await admin.tenant("beta")
    monkeypatch.setattr("service.http.exports.MAX_EXPORTS", 2)
    acme = TenantId(UUID((await admin.get("/v1/tenants/acme")).json["id"]))
    admin.app[EXPORTS][acme] = 1
    for path in ("/v1/audit/export", "/v1/users/export"):
        assert (await admin.get(path, key=mine)).status == 503
        assert (await admin.get(path, key=other)).status == 200
    assert dict(admin.app[EXPORTS]) == {acme: 1}


@pytest.mark.parametrize("path", ["/v1/audit/export", "/v1/users/export"])
async def test_an_export_ends_with_the_right_of_who_reads_it(admin: Service, monkeypatch, path: str) -> None:
    """Its key is revoked between two pages: nothing of the next one is sent, and the answer breaks off."""
    key = await admin.tenant("acme")
    own = (await admin.get("/v1/keys/self", key=key)).json["id"]
    for name in ("ada", "bob", "cyd"):
        assert (await admin.post("/v1/users", {"username": name}, key=key)).status == 201
    monkeypatch.setattr("service.http.admin_audit.EXPORT_PAGE", 1)
    monkeypatch.setattr("service.http.admin_user_import.EXPORT_PAGE", 1)
    part, name = (admin.app[AUDIT], "read") if "audit" in path else (admin.app[USERS], "list")
    read, pages = getattr(part, name), 0

    async def revoking(*args, **more):
        nonlocal pages
        pages += 1
        if pages == 2:
            assert (await admin.ask("DELETE", f"/v1/tenants/acme/keys/{own}")).status == 204
        return await read(*args, **more)

    monkeypatch.setattr(part, name, revoking)
    async with admin.client.get(path, headers={"Authorization": f"Bearer {key}"}) as answer:
        assert answer.status == 200
        with pytest.raises(aiohttp.ClientError):
            await answer.read()
    assert pages == 2


@pytest.mark.parametrize("path", ["/v1/audit/export", "/v1/users/export"])
async def test_whoever_reads_nothing_of_an_export_holds_no_place(admin: Service, monkeypatch, path: str) -> None:
    """Also from its very first page on: the answer breaks off, and the place is free."""
    key = await admin.tenant("acme")

    async def never(*_args: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("service.http.exports.SEND_SECONDS", 0.05)
    monkeypatch.setattr(aiohttp.web.StreamResponse, "write", never)
    async with asyncio.timeout(20):
        with pytest.raises(aiohttp.ClientError):
            await admin.get(path, key=key)
    assert admin.app[EXPORTS].total() == 0


@pytest.mark.parametrize("path", ["/v1/audit/export", "/v1/users/export"])
async def test_an_export_that_fails_half_way_does_not_look_whole(admin: Service, monkeypatch, path: str) -> None:
    """Whatever failed, nothing follows what was sent."""
    key = await admin.tenant("acme")
    assert (await admin.post("/v1/users", {"username": "ada"}, key=key)).status == 201
    monkeypatch.setattr("service.http.admin_audit.EXPORT_PAGE", 1)
    monkeypatch.setattr("service.http.admin_user_import.EXPORT_PAGE", 1)
    assert (await admin.post("/v1/users", {"username": "bob"}, key=key)).status == 201
    part, name = (admin.app[AUDIT], "read") if "audit" in path else (admin.app[USERS], "list")
    read, pages = getattr(part, name), 0

    async def breaking(*args, **more):
        nonlocal pages
        pages += 1
        if pages == 2:
            raise RuntimeError("a fault of ours")
        return await read(*args, **more)

    monkeypatch.setattr(part, name, breaking)
    with pytest.raises(aiohttp.ClientError):
        await admin.get(path, key=key)


async def test_personal_fields_need_a_right_of_their_own(admin: Service) -> None:
    """Reading the audit is not reading who people are."""
    key = await admin.tenant("acme", "audit:read")
    for path in ("/v1/audit", "/v1/audit/export"):
        refused = await admin.get(f"{path}?personal=true", key=key)
        assert (refused.status, refused.problem) == (403, "missing-right")


async def test_no_secret_is_in_any_event(admin: Service) -> None:
    """Every route that writes was used; neither tokens, nor their hashes, nor what an answer was sealed with."""
    from authn.api_keys import hash_token

    key = await admin.tenant("acme")
    made = await admin.post("/v1/tenants/acme/keys", {"name": "k", "scopes": ["policy:read"]}, key=key)
    again = await admin.post("/v1/keys", {"name": "k"}, headers={"Idempotency-Key": "canary-idempotency"})
    await admin.post("/v1/tenants/acme/rules", {"add": [rule("user:a", "doc:1")]}, key=key)
    entity = {"type": "entity", "kind": "subject", "ref": "user:bob", "properties": {"password": "canary-property"}}
    await admin.post("/v1/tenants/acme/entities", {"add": [entity]}, key=key)
    await admin.ask("DELETE", f"/v1/tenants/acme/keys/{made.json['id']}", key=key)
    lines = b"".join(
        [(await admin.get(f"/v1/audit/export?tenant={slug}")).body for slug in ("acme", "_platform", "_base")]
    ).decode()
    assert made.json["id"] in lines
    for token in (key, made.json["token"], again.json["token"], admin.platform):
        assert token not in lines
        assert token.rpartition("_")[2] not in lines
        assert hash_token(token).hex() not in lines
    for canary in ("canary-idempotency", "canary-property"):
        assert canary not in lines


async def test_a_deleted_tenants_audit_stays(admin: Service, own_database_url: str) -> None:
    """The platform reads it by the name that nobody gets again."""
    import psycopg

    await admin.tenant("acme")
    with psycopg.connect(own_database_url, autocommit=True) as owner:
        owner.execute("UPDATE tenants SET status = 'deleted' WHERE slug = 'acme'")
    assert len(await events(admin)) == 2
    assert (await admin.get("/v1/tenants/acme/rules")).status == 404
    assert json.loads((await admin.get("/v1/audit/export?tenant=acme")).body.splitlines()[0])["type"] == "begin"


async def test_no_secret_of_a_documented_request_or_answer_is_in_any_event(admin: Service) -> None:
    """Every example of every operation is sent; what is named like a secret, asked or answered, stands in no event."""
    import yaml

    from tests.support.paths import ROOT

    secrets: set[str] = {admin.platform}

    def collect(value) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                if isinstance(inner, str) and any(word in name for word in ("password", "token", "secret", "hash")):
                    secrets.add(inner)
                collect(inner)
        elif isinstance(value, list):
            for inner in value:
                collect(inner)

    secrets.add(await admin.tenant("acme"))
    document = yaml.safe_load((ROOT / "docs" / "openapi.yaml").read_text("utf-8"))
    for path, item in document["paths"].items():
        for method in {"post", "put", "patch", "delete"} & item.keys():
            media = item[method].get("requestBody", {}).get("content", {}).get("application/json", {})
            for example in media.get("examples", {}).values():
                collect(example["value"])
                route = path.replace("{tenant}", "acme")
                answer = await admin.ask(method.upper(), route, example["value"], headers={"X-Tenant-ID": "acme"})
                if answer.headers.get("Content-Type", "").startswith("application/json"):
                    collect(answer.json)
    long_enough = {secret for secret in secrets if len(secret) >= 8}
    assert len(long_enough) > 5
    lines = ""
    for slug in ("acme", "_platform", "_base"):
        for chain in ("tenant", "sign_in"):
            lines += (await admin.get(f"/v1/audit/export?tenant={slug}&chain={chain}")).body.decode()
    assert lines.count('"type":"event"') > 10
    assert {secret for secret in long_enough if secret in lines} == set()


async def test_who_may_read_accounts_reads_who_it_was_about(admin: Service) -> None:
    """Opened on demand, recorded when it is taken out; gone when the account is deleted, and the chain holds."""
    key = await admin.tenant("acme")
    made = await admin.post("/v1/users", {"username": "canary-name", "email": "canary@example.com"}, key=key)
    assert made.status == 201, made.body
    user = made.json["id"]
    [sealed] = (await admin.get("/v1/audit?action=user.create", key=key)).json["events"]
    assert sealed["target"] == f"user:{user}"
    assert set(sealed["personal"]) == {"subject"}
    assert b"canary" not in (await admin.get("/v1/audit/export", key=key)).body
    [opened] = (await admin.get("/v1/audit?action=user.create&personal=true", key=key)).json["events"]
    assert "canary-name" in opened["personal"]["fields"].values()
    assert b"canary-name" in (await admin.get("/v1/audit/export?personal=true", key=key)).body
    assert len((await admin.get("/v1/audit?action=audit.export", key=key)).json["events"]) == 1
    gone = await admin.ask("DELETE", f"/v1/users/{user}?reason=left", {"reason": "left"}, key=key)
    assert gone.status in {200, 204}, gone.body
    [erased] = (await admin.get("/v1/audit?action=user.create&personal=true", key=key)).json["events"]
    assert erased["personal"] == {"subject": user, "fields": None}
    *_, last = lines = [read_line(line) for line in (await admin.get("/v1/audit/export", key=key)).body.splitlines()]
    assert verify_chain(last, lines[1:-1]) == []
