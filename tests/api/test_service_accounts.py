"""Service accounts over HTTP: made, found, changed, disabled, deleted, and what their keys may do."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import pytest

from authz.rules import Owner, Rule
from service.http.admin_service_accounts import SERVICE_ACCOUNTS
from service.keys import CALLERS
from tenancy.ids import BASE_TENANT_ID
from tests.support.administration import Service, link, rule
from tests.support.persons import People
from tests.support.service_accounts import ACCOUNTS, program

pytestmark = pytest.mark.integration

WHY = {"reason": "because"}


@pytest.fixture
async def people(admin: Service) -> People:
    """People on an installation with the base that is shipped."""
    found = People(admin)
    await found.base()
    return found


async def test_an_account_is_made_found_changed_and_read_with_its_roles(admin: Service) -> None:
    """The tenant comes from the key; every write returns the revision, which `If-Match` takes."""
    key = await admin.tenant("acme")
    answer = await admin.post(ACCOUNTS, {"name": "billing", "description": " sends invoices "}, key=key)
    billing = answer.json
    assert (answer.status, answer.headers["Location"]) == (201, f"{ACCOUNTS}/{billing['id']}")
    assert (billing["subject"], billing["client_id"]) == (f"service:{billing['id']}", billing["id"])
    assert (billing["status"], billing["description"]) == ("active", "sends invoices")
    assert UUID(billing["id"]).version == 7
    given = await admin.post("/v1/tenants/acme/memberships", {"add": [link(billing["subject"], "role:x")]}, key=key)
    assert given.status == 200
    read = await admin.get(f"{ACCOUNTS}/{billing['id']}", key=key)
    assert [role["role"] for role in read.json["roles"]] == ["role:x"]
    path = f"{ACCOUNTS}/{billing['id']}"
    stale = await admin.ask("PATCH", path, {"name": "b2"}, key=key, headers={"If-Match": answer.headers["ETag"]})
    assert (stale.status, stale.problem) == (412, "revision-conflict")
    changed = await admin.ask(
        "PATCH", path, {"name": "b2", "description": None}, key=key, headers={"If-Match": read.headers["ETag"]}
    )
    assert (changed.json["name"], changed.json["description"]) == ("b2", None)
    same = await admin.ask("PATCH", path, {"name": "b2"}, key=key)
    assert same.headers["Kasbah-Revision"] == changed.headers["Kasbah-Revision"]


async def test_names_are_plain_and_of_one_account(admin: Service) -> None:
    """Nothing that could be read as another one; a deleted account's name is free again, its id never."""
    key = await admin.tenant("acme")
    for name in ("", "Billing", "1x", "a b", "bílling", "a" * 65, "name=x", "a\n"):
        refused = await admin.post(ACCOUNTS, {"name": name}, key=key)
        assert (refused.status, refused.problem) == (400, "invalid-service-account"), name
    first = await admin.post(ACCOUNTS, {"name": "billing"}, key=key)
    taken = await admin.post(ACCOUNTS, {"name": "billing"}, key=key)
    assert (taken.status, taken.problem) == (409, "service-account-name-taken")
    other = await admin.post(ACCOUNTS, {"name": "other"}, key=key)
    taken = await admin.ask("PATCH", f"{ACCOUNTS}/{other.json['id']}", {"name": "billing"}, key=key)
    assert (taken.status, taken.problem) == (409, "service-account-name-taken")
    gone = await admin.ask("DELETE", f"{ACCOUNTS}/{first.json['id']}?reason=old", key=key)
    assert gone.status == 204
    again = await admin.post(ACCOUNTS, {"name": "billing"}, key=key)
    assert (again.status, again.json["id"] != first.json["id"]) == (201, True)
    for method, suffix, body in (("PATCH", "", {"name": "x"}), ("POST", "/enable", WHY), ("POST", "/disable", WHY)):
        refused = await admin.ask(method, f"{ACCOUNTS}/{first.json['id']}{suffix}", body, key=key)
        assert (refused.status, refused.problem) == (409, "service-account-deleted")


async def test_lists_have_pages_searches_and_states(admin: Service) -> None:
    """Oldest first; cursors are of one list."""
    key = await admin.tenant("acme")
    for name in ("worker-a", "worker-b", "web"):
        assert (await admin.post(ACCOUNTS, {"name": name}, key=key)).status == 201
    page = await admin.get(f"{ACCOUNTS}?limit=2", key=key)
    rest = await admin.get(f"{ACCOUNTS}?limit=2&cursor={page.json['next_cursor']}", key=key)
    found = [account["name"] for account in (*page.json["service_accounts"], *rest.json["service_accounts"])]
    assert found == ["worker-a", "worker-b", "web"]
    found = await admin.get(f"{ACCOUNTS}?q=worker-", key=key)
    assert [account["name"] for account in found.json["service_accounts"]] == ["worker-a", "worker-b"]
    assert (await admin.get(f"{ACCOUNTS}?q=web&cursor={page.json['next_cursor']}", key=key)).status == 400
    web = (await admin.get(f"{ACCOUNTS}?q=web", key=key)).json["service_accounts"][0]
    assert (await admin.ask("DELETE", f"{ACCOUNTS}/{web['id']}?reason=x", key=key)).status == 204
    assert (await admin.get(f"{ACCOUNTS}?q=web", key=key)).json["service_accounts"] == []
    gone = (await admin.get(f"{ACCOUNTS}?q=web&status=deleted", key=key)).json["service_accounts"]
    assert [(account["id"], account["status"]) for account in gone] == [(web["id"], "deleted")]
    assert (await admin.get(f"{ACCOUNTS}?status=gone", key=key)).status == 400


async def test_a_key_may_do_what_its_scopes_and_its_account_may_now(admin: Service, people: People) -> None:
    """Neither alone; a role that is taken counts at once."""
    await people.tenant_id("acme")
    billing = await program(admin, "acme", "billing")
    own = (await admin.get("/v1/keys/self", key=billing.key)).json
    assert (own["subject"], own["tenant"]) == (billing.ref, "acme")
    row = {"add": [rule("role:x", "record:1")]}
    assert (await admin.post("/v1/tenants/acme/rules", row, key=billing.key)).problem == "missing-right"
    author = {"add": [link(billing.ref, "role:policy-author")]}
    given = await admin.post("/v1/tenants/acme/memberships", author)
    least = {"Kasbah-Min-Revision": str(given.json["revision"])}
    assert (await admin.post("/v1/tenants/acme/rules", row, key=billing.key, headers=least)).status == 200
    path = f"{ACCOUNTS}/{billing.id}/keys?tenant=acme"
    narrow = await admin.post(path, {"name": "narrow", "scopes": ["policy:read"], **WHY})
    refused = await admin.post("/v1/tenants/acme/rules", row, key=narrow.json["token"])
    assert refused.problem == "missing-scope"
    taken = await admin.post("/v1/tenants/acme/memberships", {"remove": author["add"]})
    least = {"Kasbah-Min-Revision": str(taken.json["revision"])}
    assert (await admin.post("/v1/tenants/acme/rules", row, key=billing.key, headers=least)).problem == "missing-right"
    history = (await admin.get("/v1/tenants/acme/policy/history")).json["changes"]
    assert billing.ref in {change["actor"] for change in history}


async def test_decisions_are_for_enforcement_points(admin: Service, people: People) -> None:
    """A key asks for decisions while its account may, also for gateways; its scopes bound what it asserts."""
    acme = await people.tenant_id("acme")
    await people.write(acme, [])
    await admin.post("/v1/tenants/acme/rules", {"add": [rule("user:ann", "record:1")]})
    billing = await program(admin, "acme", "billing", scopes=frozenset())
    body = {
        "subject": {"type": "user", "id": "ann"},
        "action": {"name": "read"},
        "resource": {"type": "record", "id": "1"},
    }
    gateway = {
        "X-Kasbah-Key": billing.key,
        "X-Kasbah-Subject": "ann",
        "X-Original-Method": "GET",
        "X-Original-Host": "app.example",
        "X-Original-URI": "/x",
    }
    refused = await admin.post("/access/v1/evaluation", body, key=billing.key)
    assert (refused.status, refused.problem) == (403, "missing-right")
    at_gateway = await admin.get("/v1/forward-auth", headers=gateway, key="")
    assert at_gateway.status == 403
    add = {"add": [link(billing.ref, "role:enforcement-point"), link("user:ann", "role:reader")]}
    given = await admin.post("/v1/tenants/acme/memberships", add)
    least = {"Kasbah-Min-Revision": str(given.json["revision"])}
    answer = await admin.post("/access/v1/evaluation", body, key=billing.key, headers=least)
    assert (answer.status, answer.json["decision"]) == (200, True)
    await admin.post("/v1/tenants/acme/rules", {"add": [rule("user:ann", "url:app.example/x", "GET")]})
    assert (await admin.get("/v1/forward-auth", headers=gateway, key="")).status == 200


async def test_a_disabled_account_may_do_nothing_and_goes_on_when_enabled(admin: Service, people: People) -> None:
    """Its keys are refused and decisions about it say why; as the account comes back, so do its keys."""
    await people.tenant_id("acme")
    billing = await program(admin, "acme", "billing", "role:tenant-admin", "role:reader")
    await admin.post("/v1/tenants/acme/rules", {"add": [rule("role:reader", "record:1")]})
    key = await admin.tenant("acme")
    assert await admin.allowed(key, billing.ref, "read", "record:1")
    assert (await admin.get("/v1/tenants/acme/rules", key=billing.key)).status == 200
    path = f"{ACCOUNTS}/{billing.id}"
    assert (await admin.post(f"{path}/disable?tenant=acme", {"reason": " "})).status == 400
    disabled = await admin.post(f"{path}/disable?tenant=acme", WHY)
    assert (disabled.json["status"], disabled.json["status_reason"]) == ("disabled", "because")
    assert (await admin.get("/v1/tenants/acme/rules", key=billing.key)).status == 401
    asked = {
        "subject": {"type": "service", "id": billing.id},
        "action": {"name": "read"},
        "resource": {"type": "record", "id": "1"},
    }
    answer = await admin.post("/access/v1/evaluation", asked, key=key)
    assert (answer.json["decision"], answer.json["context"]["kasbah"]["reason"]) == (False, "account_disabled")
    refused = await admin.post(f"{path}/keys?tenant=acme", {"name": "x", **WHY})
    assert (refused.status, refused.problem) == (409, "service-account-not-active")
    assert (await admin.post(f"{path}/enable?tenant=acme", WHY)).json["status"] == "active"
    admin.app[CALLERS]._refused.clear()  # a refusal is remembered for a second
    assert (await admin.get("/v1/tenants/acme/rules", key=billing.key)).status == 200
    assert await admin.allowed(key, billing.ref, "read", "record:1")


async def test_a_deleted_account_leaves_its_id_and_nothing_else(admin: Service, people: People) -> None:
    """Its keys end, what the API granted goes, its subject is denied, and what happened is told."""
    await people.tenant_id("acme")
    billing = await program(admin, "acme", "billing", "role:tenant-admin")
    key = await admin.tenant("acme")
    gone = await admin.ask("DELETE", f"{ACCOUNTS}/{billing.id}?reason=replaced", key=key)
    assert gone.status == 204
    assert (await admin.get("/v1/tenants/acme/rules", key=billing.key)).status == 401
    members = await admin.get(f"/v1/tenants/acme/memberships?subject={billing.ref}", key=key)
    assert members.json["memberships"] == []
    keys = (await admin.get(f"{ACCOUNTS}/{billing.id}/keys", key=key)).json["keys"]
    assert [entry["revoked_at"] is not None for entry in keys] == [True]
    read = (await admin.get(f"{ACCOUNTS}/{billing.id}", key=key)).json
    assert (read["status"], read["name"], read["status_reason"]) == ("deleted", "billing", "replaced")
    events = (await admin.get(f"/v1/audit?tenant=acme&target={billing.ref}")).json["events"]
    assert {"service_account.create", "service_account.delete"} <= {event["action"] for event in events}
    deleted = next(event for event in events if event["action"] == "service_account.delete")
    assert deleted["detail"] == {"keys_ended": 1, "rows_removed": 1}
    assert deleted["before"]["name"] == "billing"


async def test_a_key_is_made_by_who_could_give_all_that_the_account_has(admin: Service, people: People) -> None:
    """Otherwise whoever makes keys becomes every service; a role counts as much as a right."""
    await people.tenant_id("acme")
    mighty = await program(admin, "acme", "mighty", "role:tenant-admin")
    rows = [rule("role:keeper", "record:1")]
    await admin.post("/v1/tenants/acme/rules", {"add": rows})
    keeper = Rule("role:keeper", "kasbah:service-account", "*", base=True, owner=Owner.API)
    await people.write(BASE_TENANT_ID, [keeper])
    ann = await people.person("acme", "ann", "role:keeper")
    own = await admin.post(ACCOUNTS, {"name": "own"}, key=ann.key)
    made = await admin.post(f"{ACCOUNTS}/{own.json['id']}/keys", {"name": "x", **WHY}, key=ann.key)
    assert made.status == 201
    key = f"{ACCOUNTS}/{mighty.id}/keys/{mighty.key_id}"
    for method, path, body in (
        ("POST", f"{ACCOUNTS}/{mighty.id}/keys", {"name": "x", **WHY}),
        ("POST", f"{key}/rotate", {"overlap_seconds": 0, **WHY}),
        ("PATCH", key, {"limits": {"requests_per_second": 1}, **WHY}),
        ("DELETE", f"{key}?reason=x", None),
        ("POST", f"{ACCOUNTS}/{mighty.id}/disable", WHY),
        ("PATCH", f"{ACCOUNTS}/{mighty.id}", {"name": "meek"}),
        ("DELETE", f"{ACCOUNTS}/{mighty.id}?reason=x", None),
    ):
        refused = await admin.ask(method, path, body, key=ann.key)
        assert (refused.status, refused.problem) == (403, "target-too-powerful"), (method, path)
    # It got its role later: whoever made its key before has no more power over it.
    await admin.post("/v1/tenants/acme/memberships", {"add": [link(own.json["subject"], "role:tenant-admin")]})
    refused = await admin.post(f"{ACCOUNTS}/{own.json['id']}/keys", {"name": "x", **WHY}, key=ann.key)
    assert refused.problem == "target-too-powerful"


async def test_an_account_looks_after_its_own_keys_and_nothing_else_of_its_own(admin: Service, people: People) -> None:
    """It replaces them within scopes, time and limits of the key that it uses; its own state is for others."""
    await people.tenant_id("acme")
    until = (datetime.now(UTC) + timedelta(days=10)).isoformat()
    limits = {"requests_per_second": 50, "burst": 90}
    own = await program(admin, "acme", "own", "role:tenant-admin", expires_at=until, limits=limits)
    keys = f"{ACCOUNTS}/{own.id}/keys"
    rotated = await admin.post(f"{keys}/{own.key_id}/rotate", {"overlap_seconds": 60, **WHY}, key=own.key)
    assert rotated.status == 201, rotated.body
    assert datetime.fromisoformat(rotated.json["expires_at"]) <= datetime.fromisoformat(until)
    assert rotated.json["limits"] == limits
    longer = await admin.post(keys, {"name": "x", **WHY}, key=rotated.json["token"])
    assert (longer.status, longer.json["pointer"]) == (403, "/expires_at")
    soon = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    wider = {"name": "x", "expires_at": soon, "limits": {"requests_per_second": 51}, **WHY}
    refused = await admin.post(keys, wider, key=rotated.json["token"])
    assert (refused.status, refused.json["pointer"]) == (403, "/limits")
    lifted = await admin.ask(
        "PATCH", f"{keys}/{rotated.json['id']}", {"limits": None, **WHY}, key=rotated.json["token"]
    )
    assert (lifted.status, lifted.json["pointer"]) == (403, "/limits")
    for method, path, body in (
        ("POST", f"{ACCOUNTS}/{own.id}/disable", WHY),
        ("PATCH", f"{ACCOUNTS}/{own.id}", {"name": "x"}),
        ("DELETE", f"{ACCOUNTS}/{own.id}?reason=x", None),
    ):
        refused = await admin.ask(method, path, body, key=rotated.json["token"])
        assert (refused.status, refused.problem) == (403, "target-too-powerful"), (method, path)


async def test_making_an_account_acts_once(admin: Service) -> None:
    """The same `Idempotency-Key` gives the same account, and a key's token again."""
    key = await admin.tenant("acme")
    once = {"Idempotency-Key": "a"}
    first = await admin.post(ACCOUNTS, {"name": "billing"}, key=key, headers=once)
    again = await admin.post(ACCOUNTS, {"name": "billing"}, key=key, headers=once)
    assert (first.status, again.status, first.body) == (201, 201, again.body)
    path = f"{ACCOUNTS}/{first.json['id']}/keys"
    one = await admin.post(path, {"name": "x", **WHY}, key=key, headers=once)
    two = await admin.post(path, {"name": "x", **WHY}, key=key, headers=once)
    assert (one.status, one.body) == (201, two.body)
    assert len((await admin.get(path, key=key)).json["keys"]) == 1


async def test_another_tenants_account_is_unknown(admin: Service) -> None:
    """By every route, with the body of an id that nobody has."""
    await admin.tenant("acme")
    theirs = await program(admin, "acme", "billing")
    key = await admin.tenant("beta")
    own = await admin.post(ACCOUNTS, {"name": "own"}, key=key)
    nobody = "01890000-0000-7000-8000-000000000000"
    for method, path, body in (
        ("GET", f"{ACCOUNTS}/{{}}", None),
        ("PATCH", f"{ACCOUNTS}/{{}}", {"name": "x"}),
        ("POST", f"{ACCOUNTS}/{{}}/disable", WHY),
        ("DELETE", f"{ACCOUNTS}/{{}}?reason=x", None),
        ("GET", f"{ACCOUNTS}/{{}}/keys", None),
        ("POST", f"{ACCOUNTS}/{{}}/keys", {"name": "x", **WHY}),
        ("DELETE", f"{ACCOUNTS}/{{}}/keys/{theirs.key_id}?reason=x", None),
        ("POST", f"{ACCOUNTS}/{own.json['id']}/keys/{theirs.key_id}/rotate", WHY),
    ):
        foreign = await admin.ask(method, path.format(theirs.id), body, key=key)
        unknown = await admin.ask(method, path.format(nobody), body, key=key)
        assert (foreign.status, foreign.body) == (404, unknown.body), (method, path)
    for spelling in (theirs.id.upper(), theirs.id.replace("-", ""), "x"):
        assert (await admin.get(f"{ACCOUNTS}/{spelling}?tenant=acme")).status == 404


async def test_a_suspended_tenant_has_no_services(admin: Service, people: People) -> None:
    """Keys of its service accounts are answered as those of its people are."""
    await people.tenant_id("acme")
    billing = await program(admin, "acme", "billing", "role:tenant-admin")
    suspended = await admin.post("/v1/tenants/acme/suspend", WHY)
    assert suspended.status == 200
    refused = await admin.get("/v1/tenants/acme/rules", key=billing.key)
    assert (refused.status, refused.problem) == (403, "tenant-suspended")


async def test_the_row_stays_and_the_service_cannot_remove_it(admin: Service, own_database_url: str) -> None:
    """The service's role neither deletes a service account nor changes an id."""
    await admin.tenant("acme")
    await program(admin, "acme", "billing")
    with psycopg.connect(own_database_url, autocommit=True) as connection:
        connection.execute("SET ROLE kasbah_service")
        for statement in (
            "DELETE FROM service_accounts",
            "UPDATE service_accounts SET service_account_id = gen_random_uuid()",
            "UPDATE service_accounts SET created_by = 'x'",
            "UPDATE api_keys SET service_account_id = NULL",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)


async def test_an_account_that_is_disabled_while_its_key_makes_another_makes_none(
    admin: Service, people: People
) -> None:
    """The key is looked at again under the tenant's lock."""
    await people.tenant_id("acme")
    own = await program(admin, "acme", "own", "role:tenant-admin")
    path = f"{ACCOUNTS}/{own.id}"
    for number in range(5):
        make = admin.post(f"{path}/keys", {"name": f"k{number}", **WHY}, key=own.key)
        disabled, made = await asyncio.gather(admin.post(f"{path}/disable?tenant=acme", WHY), make)
        assert disabled.status == 200
        assert made.status in {201, 401, 409}, made.body
        if made.status == 201:
            assert int(made.headers["Kasbah-Revision"]) < int(disabled.headers["Kasbah-Revision"])
        assert (await admin.get("/v1/keys/self", key=own.key)).status == 401
        assert (await admin.post(f"{path}/enable?tenant=acme", WHY)).status == 200
        admin.app[CALLERS]._refused.clear()  # a refusal is remembered for a second


async def test_only_so_many_accounts(admin: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deleted ones do not count."""
    key = await admin.tenant("acme")
    monkeypatch.setattr(admin.app[SERVICE_ACCOUNTS], "_max_accounts", 1)
    first = await admin.post(ACCOUNTS, {"name": "a"}, key=key)
    beyond = await admin.post(ACCOUNTS, {"name": "b"}, key=key)
    assert (beyond.status, beyond.problem) == (422, "service-account-limit-exceeded")
    assert (await admin.ask("DELETE", f"{ACCOUNTS}/{first.json['id']}?reason=x", key=key)).status == 204
    assert (await admin.post(ACCOUNTS, {"name": "b"}, key=key)).status == 201


async def test_the_platform_has_service_accounts_of_its_own(admin: Service, people: People) -> None:
    """Decided in `_platform`, they reach every tenant as its people do, and no further than their roles."""
    await people.tenant_id("acme")
    deployer = await program(admin, "_platform", "deployer", "role:platform-operator")
    own = (await admin.get("/v1/keys/self", key=deployer.key)).json
    assert (own["subject"], own["tenant"]) == (deployer.ref, None)
    assert (await admin.post("/v1/tenants", {"slug": "gamma"}, key=deployer.key)).status == 201
    assert (await admin.get("/v1/service-accounts?tenant=acme", key=deployer.key)).problem == "missing-right"
    assert (await admin.post("/v1/keys", {"name": "x"}, key=deployer.key)).problem == "missing-right"
    owned = await admin.post(f"/v1/keys/{deployer.key_id}/rotate", {})
    assert (owned.status, owned.problem) == (409, "key-owned")
    foreign = await admin.get(f"{ACCOUNTS}/{deployer.id}?tenant=acme")
    assert foreign.status == 404
    disabled = await admin.post(f"{ACCOUNTS}/{deployer.id}/disable?tenant=_platform", WHY)
    assert disabled.status == 200
    assert (await admin.get("/v1/tenants", key=deployer.key)).status == 401
