"""Accounts over HTTP: made, found, changed, disabled, deleted, and what decisions make of them."""

import asyncio
import json

import psycopg
import pytest

from tests.support.administration import Service, at, link, rule
from tests.support.persons import People, Person

pytestmark = pytest.mark.integration

WHY = {"reason": "because"}


async def made(admin: Service, key: str, username: str, **more: object) -> dict:
    """Create an account and return it."""
    answer = await admin.post("/v1/users", {"username": username, **more}, key=key)
    assert answer.status == 201, answer.body
    return dict(answer.json)


async def test_an_account_is_made_found_changed_and_read_with_its_roles(admin: Service) -> None:
    """The tenant comes from the key; every write returns the revision, which `If-Match` takes."""
    key = await admin.tenant("acme")
    answer = await admin.post(
        "/v1/users", {"username": "Carol", "email": "Carol@Example.com", "display_name": "Carol D"}, key=key
    )
    carol = answer.json
    assert (answer.status, answer.headers["Location"]) == (201, f"/v1/users/{carol['id']}")
    assert (carol["subject"], carol["status"]) == (f"user:{carol['id']}", "active")
    assert (carol["email"], carol["email_verified_at"], carol["password_set"]) == ("Carol@example.com", None, False)
    given = await admin.post("/v1/tenants/acme/memberships", {"add": [link(carol["subject"], "role:editor")]}, key=key)
    assert given.status == 200
    read = await admin.get(answer.headers["Location"], key=key)
    assert [role["role"] for role in read.json["roles"]] == ["role:editor"]
    assert read.json | {"roles": None} == carol | {"roles": None}
    stale = await admin.ask(
        "PATCH",
        f"/v1/users/{carol['id']}",
        {"username": "carol.d"},
        key=key,
        headers={"If-Match": answer.headers["ETag"]},
    )
    assert (stale.status, stale.problem) == (412, "revision-conflict")
    changed = await admin.ask(
        "PATCH",
        f"/v1/users/{carol['id']}",
        {"username": "carol.d", "display_name": None, "mfa_required": True},
        key=key,
        headers={"If-Match": read.headers["ETag"]},
    )
    assert (changed.json["username"], changed.json["display_name"], changed.json["mfa_required"]) == (
        "carol.d",
        None,
        True,
    )
    assert int(changed.headers["Kasbah-Revision"]) == int(read.headers["Kasbah-Revision"]) + 1
    same = await admin.ask("PATCH", f"/v1/users/{carol['id']}", {"username": "carol.d"}, key=key)
    assert same.headers["Kasbah-Revision"] == changed.headers["Kasbah-Revision"], "nothing changed"
    for spelled in ("CAROL.D", "carol@EXAMPLE.com", "ｃarol.d"):
        found = await admin.get(f"/v1/users?identifier={spelled}", key=key)
        assert [user["id"] for user in found.json["users"]] == [carol["id"]]
    assert (await admin.get("/v1/users?identifier=carol", key=key)).json["users"] == []


async def test_a_disabled_account_is_denied_at_once_and_an_enabled_one_not(admin: Service) -> None:
    """Single decisions, with the reason; memberships stay as they are meanwhile."""
    key = await admin.tenant("acme")
    user = await made(admin, key, "carol")
    await admin.post(
        "/v1/tenants/acme/rules", {"add": [rule("role:editor", "doc:*"), rule("user:*", "page:*")]}, key=key
    )
    await admin.post("/v1/tenants/acme/memberships", {"add": [link(user["subject"], "role:editor")]}, key=key)
    one = f"/v1/users/{user['id']}"
    for resource in ("doc:1", "page:1"):
        assert await admin.allowed(key, user["subject"], "read", resource)
    disabled = await admin.post(f"{one}/disable", {"reason": "on leave"}, key=key)
    assert (disabled.json["status"], disabled.json["status_reason"]) == ("disabled", "on leave")
    for resource in ("doc:1", "page:1"):
        assert not await admin.allowed(key, user["subject"], "read", resource)
    body = {"subject": {"type": "user", "id": user["id"]}, "action": {"name": "read"}}
    answer = await admin.post("/access/v1/evaluation", body | {"resource": {"type": "doc", "id": "1"}}, key=key)
    assert answer.json["context"]["kasbah"]["reason"] == "account_disabled"
    search = {"subject": {"type": "user"}, "action": {"name": "read"}, "resource": {"type": "doc", "id": "1"}}
    assert (await admin.post("/access/v1/search/subject", search, key=key)).json["results"] == []
    again = await admin.post(f"{one}/disable", WHY, key=key)
    assert (again.status, again.headers["Kasbah-Revision"]) == (200, disabled.headers["Kasbah-Revision"])
    assert again.json["status_reason"] == "on leave"
    enabled = await admin.post(f"{one}/enable", WHY, key=key)
    assert (enabled.json["status"], enabled.json["status_reason"]) == ("active", None)
    assert await admin.allowed(key, user["subject"], "read", "doc:1")
    assert [
        entry["id"] for entry in (await admin.post("/access/v1/search/subject", search, key=key)).json["results"]
    ] == [user["id"]]


async def test_a_deleted_account_leaves_a_tombstone(admin: Service, own_database_url: str) -> None:
    """Nothing personal is left in its row or opened from the audit; what the API gave is gone, what files gave stays."""
    key = await admin.tenant("acme")
    user = await made(admin, key, "carol", email="carol@example.com", display_name="Carol Danvers")
    one = f"/v1/users/{user['id']}"
    rows = [link(user["subject"], "role:reader", **at(1))]
    plan = (await admin.post("/v1/tenants/acme/policy/plan", {"rows": rows}, key=key)).json
    plan = {"rows": rows, "revision": plan["revision"], "digest": plan["digest"]}
    assert (await admin.post("/v1/tenants/acme/policy/apply", plan, key=key)).status == 200
    await admin.post("/v1/tenants/acme/memberships", {"add": [link(user["subject"], "role:editor")]}, key=key)
    entity = {"type": "entity", "kind": "subject", "ref": user["subject"], "properties": {"level": 3}}
    await admin.post("/v1/tenants/acme/entities", {"add": [entity]}, key=key)
    await admin.post(
        "/v1/tenants/acme/rules", {"add": [rule("role:editor", "doc:*"), rule("role:reader", "doc:*")]}, key=key
    )
    assert await admin.allowed(key, user["subject"], "read", "doc:1")
    assert (await admin.ask("DELETE", one, key=key)).status == 400
    gone = await admin.ask("DELETE", f"{one}?reason=left", key=key)
    assert gone.status == 204
    assert not await admin.allowed(key, user["subject"], "read", "doc:1")
    shown = (await admin.get(one, key=key)).json
    assert (shown["status"], shown["username"], shown["email"], shown["display_name"]) == ("deleted", None, None, None)
    assert [(role["role"], role["owner"]) for role in shown["roles"]] == [("role:reader", "files")]
    assert (await admin.get("/v1/tenants/acme/entities", key=key)).json["entities"] == []
    for verb, path, body in (
        ("DELETE", f"{one}?reason=x", None),
        ("PATCH", one, {"username": "back"}),
        ("POST", f"{one}/enable", WHY),
        ("POST", f"{one}/disable", WHY),
    ):
        answer = await admin.ask(verb, path, body, key=key)
        assert (answer.status, answer.problem) == (409, "user-deleted"), path
    assert (await admin.get("/v1/users", key=key)).json["users"] == []
    assert [entry["id"] for entry in (await admin.get("/v1/users?status=deleted", key=key)).json["users"]] == [
        user["id"]
    ]
    again = await made(admin, key, "carol", email="carol@example.com")
    assert again["id"] != user["id"]
    with psycopg.connect(own_database_url) as owner:
        row = owner.execute("SELECT users::text FROM users WHERE user_id = %s", [user["id"]]).fetchone()
        assert "arol" not in row[0]
        keys = owner.execute("SELECT wrapped FROM subject_keys WHERE subject_id = %s", [user["id"]]).fetchall()
        assert keys == [(None,)]


async def test_the_audit_tells_the_story_without_names(admin: Service, own_database_url: str) -> None:
    """Each change is one event; whatever is personal is sealed in it."""
    key = await admin.tenant("acme")
    user = await made(admin, key, "carol", email="carol@example.com", display_name="Carol Danvers", reason="hired")
    one = f"/v1/users/{user['id']}"
    await admin.ask("PATCH", one, {"username": "carol.d", "email": "c@example.org", "reason": "married"}, key=key)
    await admin.post(f"{one}/disable", WHY, key=key)
    await admin.post(f"{one}/enable", WHY, key=key)
    await admin.ask("DELETE", f"{one}?reason=left", key=key)
    with psycopg.connect(own_database_url) as owner:
        rows = owner.execute(
            "SELECT event::text FROM audit_events WHERE event::text LIKE '%%user.%%' ORDER BY seq"
        ).fetchall()
    events = [json.loads(text) for (text,) in rows]
    assert [event["action"] for event in events] == [
        "user.create",
        "user.update",
        "user.disable",
        "user.enable",
        "user.delete",
    ]
    assert {event["target"] for event in events} == {user["subject"]}
    assert [event["reason"] for event in events] == ["hired", "married", "because", "because", "left"]
    assert events[1]["detail"] == {"fields": ["username", "email"]}
    assert events[2]["before"] == {"status": "active"}
    assert all("personal" in event for event in events[:2])
    for (text,) in rows:
        assert "arol" not in text
        assert "example" not in text


BAD_USERS = [
    ({}, "invalid-request"),
    ({"username": 7}, "invalid-request"),
    ({"username": "a b"}, "invalid-username"),
    ({"username": "a@b.example"}, "invalid-username"),
    ({"username": "p\u0430ypal"}, "invalid-username"),
    ({"username": "x" * 65}, "invalid-username"),
    ({"username": "x", "email": "nobody"}, "invalid-email"),
    ({"username": "x", "email": "a@b.example\r\nBcc: c@d.example"}, "invalid-email"),
    ({"username": "x", "display_name": "a\u202eb"}, "invalid-display-name"),
    ({"username": "x", "reason": "a\nb"}, "invalid-request"),
    (b'{"username": "x", "username": "y"}', "invalid-request"),
]
FORBIDDEN_FIELDS = (
    "id",
    "tenant",
    "tenant_id",
    "status",
    "password",
    "password_hash",
    "email_verified",
    "email_verified_at",
    "verified",
    "roles",
    "auth_epoch",
    "created_by",
    "owner",
)


async def test_a_bad_account_is_refused(admin: Service) -> None:
    """Names that cannot be; members that only the service writes: 400, and nothing is made."""
    key = await admin.tenant("acme")
    for body, problem in BAD_USERS:
        answer = await admin.post("/v1/users", body, key=key)
        assert (answer.status, answer.problem) == (400, problem), body
        assert b"nobody" not in answer.body
    user = await made(admin, key, "carol")
    for name in FORBIDDEN_FIELDS:
        for verb, path in (("POST", "/v1/users"), ("PATCH", f"/v1/users/{user['id']}")):
            answer = await admin.ask(verb, path, {"username": "x", name: True}, key=key)
            assert (answer.status, answer.problem) == (400, "invalid-request"), (verb, name)
    for verb, path, body in (
        ("PATCH", f"/v1/users/{user['id']}", {"username": None}),
        ("PATCH", f"/v1/users/{user['id']}", {"email": "x@y.example"}),  # without a reason
        ("POST", f"/v1/users/{user['id']}/disable", {}),
        ("POST", f"/v1/users/{user['id']}/disable", {"reason": "  "}),
        ("DELETE", f"/v1/users/{user['id']}?reason=", None),
        ("GET", "/v1/users?status=gone", None),
        ("GET", "/v1/users?q=", None),
        ("GET", "/v1/users?q=a&q=b", None),
        ("GET", "/v1/users?identifier=carol&q=c", None),
        ("GET", "/v1/users?cursor=AAAA", None),
    ):
        answer = await admin.ask(verb, path, body, key=key)
        assert (answer.status, answer.problem) == (400, "invalid-request"), (verb, path)
    assert len((await admin.get("/v1/users", key=key)).json["users"]) == 1


async def test_taken_names_are_said_to_administrators(admin: Service) -> None:
    """In whatever spelling, at creation and at change."""
    key = await admin.tenant("acme")
    await made(admin, key, "carol", email="carol@example.com")
    other = await made(admin, key, "dave")
    for body, problem in (
        ({"username": "CAROL"}, "username-taken"),
        ({"username": "x", "email": "Carol@example.COM"}, "email-taken"),
    ):
        answer = await admin.post("/v1/users", body, key=key)
        assert (answer.status, answer.problem) == (409, problem)
        answer = await admin.ask("PATCH", f"/v1/users/{other['id']}", {"reason": "x"} | body, key=key)
        assert (answer.status, answer.problem) == (409, problem)


async def test_accounts_of_another_tenant_do_not_exist(admin: Service) -> None:
    """Each route answers another tenant's id as it does an unknown one; the same person has an account in each."""
    acme, beta = await admin.tenant("acme"), await admin.tenant("beta")
    user = await made(admin, acme, "carol", email="carol@example.com")
    assert (await made(admin, beta, "carol", email="carol@example.com"))["id"] != user["id"]
    unknown = "01890a5d-ac96-774b-bcce-b302099a8057"
    spelled = user["id"].upper()
    for verb, path, body in (
        ("GET", "", None),
        ("PATCH", "", {"username": "mine"}),
        ("DELETE", "?reason=x", None),
        ("POST", "/disable", WHY),
        ("POST", "/enable", WHY),
    ):
        foreign = await admin.ask(verb, f"/v1/users/{user['id']}{path}", body, key=beta)
        absent = await admin.ask(verb, f"/v1/users/{unknown}{path}", body, key=beta)
        other = await admin.ask(verb, f"/v1/users/{spelled}{path}", body, key=acme)
        assert foreign.status == absent.status == other.status == 404
        assert foreign.body == absent.body == other.body
    named = await admin.get(f"/v1/users/{user['id']}", key=beta, headers={"X-Tenant-ID": "acme"})
    assert (named.status, named.problem) == (403, "other-tenant")
    assert (await admin.get(f"/v1/users/{user['id']}", headers={"X-Tenant-ID": "acme"})).status == 200
    assert (await admin.get(f"/v1/users/{user['id']}?tenant=beta")).status == 404
    assert (await admin.get("/v1/users")).problem == "tenant-required"


async def test_people_of_the_platform_are_accounts_of_platform(admin: Service) -> None:
    """Platform keys name it; a tenant's key never reaches it; `_base` has no people."""
    key = await admin.tenant("acme")
    answer = await admin.post("/v1/users?tenant=_platform", {"username": "root.operator"})
    assert answer.status == 201
    listed = await admin.get("/v1/users", headers={"X-Tenant-ID": "_platform"})
    assert [user["username"] for user in listed.json["users"]] == ["root.operator"]
    for path in ("/v1/users?tenant=_platform", f"/v1/users/{answer.json['id']}?tenant=_platform"):
        assert (await admin.get(path, key=key)).status == 403
    assert (await admin.get(f"/v1/users/{answer.json['id']}", key=key)).status == 404
    assert (await admin.get("/v1/users?tenant=_base")).status == 404
    assert (await admin.get("/v1/tenants/_platform/rules")).status == 404


async def test_scopes_say_who_may_read_and_write_accounts(admin: Service) -> None:
    """One for reading, one for writing; neither comes with another."""
    writer = await admin.tenant("acme", "user:write")
    user = await made(admin, writer, "carol")
    reader = await admin.tenant("acme", "user:read")
    other = await admin.tenant("acme", "policy:read", "policy:write", "tenant:read", "settings:write")
    one = f"/v1/users/{user['id']}"
    writes = [("POST", "/v1/users", {"username": "x"}), ("PATCH", one, {"username": "x"})]
    writes += [("POST", f"{one}/disable", WHY), ("POST", f"{one}/enable", WHY), ("DELETE", f"{one}?reason=x", None)]
    for verb, path, body in [("GET", "/v1/users", None), ("GET", one, None)]:
        assert (await admin.ask(verb, path, body, key=reader)).status == 200
        for key in (writer, other):
            assert (await admin.ask(verb, path, body, key=key)).problem == "missing-scope"
    for verb, path, body in writes:
        for key in (reader, other):
            assert (await admin.ask(verb, path, body, key=key)).problem == "missing-scope"
    assert (await admin.get("/v1/users/me", key=reader)).status == 404


async def test_lists_page_and_filter(admin: Service) -> None:
    """Pages of one list follow each other; a cursor belongs to its tenant and its filters."""
    key, other = await admin.tenant("acme"), await admin.tenant("beta")
    users = [await made(admin, key, f"person{number}", display_name="Some One") for number in range(5)]
    await admin.post(f"/v1/users/{users[1]['id']}/disable", WHY, key=key)
    seen, cursor = [], ""
    while True:
        page = (await admin.get(f"/v1/users?q=SOME&limit=2{cursor}", key=key)).json
        seen += [user["id"] for user in page["users"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == [user["id"] for user in users]
    for path, owner in (("q=SOME", other), ("q=other", key), ("status=active", key), ("limit=2", key)):
        assert (await admin.get(f"/v1/users?{path}{cursor}", key=owner)).status == 400
    disabled = (await admin.get("/v1/users?status=disabled", key=key)).json["users"]
    assert [user["id"] for user in disabled] == [users[1]["id"]]
    for hostile in ("%25", "_", "person%25", "' OR ''='", "\\", "person0'--"):
        answer = (
            await admin.get("/v1/users", key=key) if not hostile else await admin.get(f"/v1/users?q={hostile}", key=key)
        )
        assert answer.json["users"] == [], hostile


async def test_a_repeated_creation_makes_one_account(admin: Service) -> None:
    """With `Idempotency-Key`, also at once; another body is refused."""
    key = await admin.tenant("acme")
    headers = {"Idempotency-Key": "k1"}
    body = {"username": "carol"}
    answers = await asyncio.gather(*(admin.post("/v1/users", body, key=key, headers=headers) for _ in range(4)))
    assert {answer.status for answer in answers} == {201}
    assert len({answer.body for answer in answers}) == 1
    assert len({answer.headers["Location"] for answer in answers}) == 1
    other = await admin.post("/v1/users", {"username": "dave"}, key=key, headers=headers)
    assert (other.status, other.problem) == (422, "idempotency-key-reused")


@pytest.fixture
async def people(admin: Service) -> People:
    """People on an installation with the base that is shipped."""
    found = People(admin)
    await found.base()
    return found


async def test_nobody_changes_an_account_that_holds_more(admin: Service, people: People) -> None:
    """Nor their own: names, address, state and life, by every route; those with less they look after."""
    boss = await people.person("acme", "boss", "role:tenant-admin")
    helper = await people.person("acme", "helper", "role:user-admin")
    member = await people.person("acme", "member", "role:member")

    async def tried(person: Person, target: Person) -> set[tuple[int, str]]:
        one = f"/v1/users/{target.id}"
        answers = [
            await admin.ask(verb, path, body, key=person.key)
            for verb, path, body in (
                ("PATCH", one, {"username": f"{target.id.hex[:8]}x"}),
                ("PATCH", one, {"email": "mine@example.org", "reason": "x"}),
                ("PATCH", one, {"mfa_required": True}),
                ("POST", f"{one}/disable", WHY),
                ("POST", f"{one}/enable", WHY),
                ("DELETE", f"{one}?reason=x", None),
            )
        ]
        return {(answer.status, answer.problem if answer.status >= 400 else "") for answer in answers}

    assert await tried(member, helper) == {(403, "missing-right")}
    for person, target in ((helper, boss), (helper, helper), (boss, boss)):
        assert await tried(person, target) == {(403, "target-too-powerful")}
    assert await tried(helper, member) == {(200, ""), (204, "")}
    assert await tried(boss, helper) == {(200, ""), (204, "")}
    weak = await admin.tenant("acme", "user:write")
    assert (await admin.post(f"/v1/users/{boss.id}/disable", WHY, key=weak)).problem == "target-too-powerful"


async def test_everyone_is_told_who_they_are(admin: Service, people: People) -> None:
    """A person by a personal key, of the platform too; not with an account that is disabled."""
    ann, root = await people.person("acme", "ann"), await people.person(None, "root", "role:platform-admin")
    told = await admin.get("/v1/users/me", key=ann.key)
    assert (told.status, told.json["username"], told.json["subject"]) == (200, "ann", ann.ref)
    assert (await admin.get("/v1/users/me", key=root.key)).json["username"] == "root"
    assert (await admin.get(f"/v1/users/{ann.id}", key=ann.key)).problem == "missing-right"
    disabled = await admin.post(f"/v1/users/{ann.id}/disable", WHY, key=root.key, headers={"X-Tenant-ID": "acme"})
    assert disabled.status == 200
    assert (await admin.get("/v1/users/me", key=ann.key)).status == 401
    listed = await admin.get("/v1/users?tenant=_platform", key=root.key)
    assert [user["username"] for user in listed.json["users"]] == ["root"]
