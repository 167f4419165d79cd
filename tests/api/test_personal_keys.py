"""Keys of people: never more than their owner, and no longer than the account and the sign-in they were made in."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from authn.user_rows import raise_auth_epoch
from tenancy.audit import AuditEntry
from tenancy.heads import lock_head, raise_head, record_change
from tenancy.unit_of_work import tenant_unit_of_work
from tests.support.administration import META, Service, link, rule
from tests.support.persons import People, Person

OWN = "/v1/users/me/keys"


@pytest.fixture
async def people(admin: Service) -> People:
    """People on an installation with the base that is shipped."""
    found = People(admin)
    await found.base()
    return found


async def end_sign_ins(people: People, person: Person, *, too_late: bool = False) -> None:
    """Raise the epoch of an account, as a change of its password does."""
    async with tenant_unit_of_work(people.sessions, person.tenant_id) as work:
        await lock_head(work)
        if not too_late:
            await raise_auth_epoch(work, person.id)
        head = await raise_head(work)
        if too_late:
            await raise_auth_epoch(work, person.id)
        await record_change(work.session, head, "user", META, audit=[AuditEntry("user.update", person.ref)])


async def put(people: People, person: Person, status: str) -> None:
    """Change the state of an account."""
    async with tenant_unit_of_work(people.sessions, person.tenant_id) as work:
        await lock_head(work)
        query = text("UPDATE users SET status = :status WHERE tenant_id = :tenant_id AND user_id = :user_id")
        await work.session.execute(query, {"status": status, "tenant_id": person.tenant_id, "user_id": person.id})
        head = await raise_head(work)
        entry = AuditEntry("user.disable", person.ref)
        await record_change(work.session, head, "user", META, audit=[entry], touched=[person.ref])


async def refused_within_the_bounds(admin: Service, key: str, path: str = "/v1/keys/self") -> None:
    """The key is answered 401 after a poll at the latest."""
    async with asyncio.timeout(60):
        while (await admin.get(path, key=key)).status != 401:  # noqa: ASYNC110 - it is the server that changes
            await asyncio.sleep(0.05)


async def test_a_person_makes_lists_and_ends_keys(admin: Service, people: People) -> None:
    """Each for its owner alone; the token is shown once, and histories name the person."""
    ann, bob = await people.person("acme", "ann", "role:member"), await people.person("acme", "bob")
    made = await admin.post(OWN, {"name": "laptop", "scopes": ["tenant:read", "key:read"]}, key=ann.key)
    assert made.status == 201
    assert made.json["owner"] == ann.ref
    assert made.json["scopes"] == ["decision:check", "key:read", "tenant:read"]
    token = made.json["token"]
    assert (await admin.get("/v1/keys/self", key=token)).json["subject"] == ann.ref
    assert (await admin.get("/v1/tenants/acme", key=token)).status == 200
    listed = await admin.get(OWN, key=ann.key)
    assert {key["name"] for key in listed.json["keys"]} == {"test", "laptop"}
    assert token.encode() not in listed.body
    page = await admin.get(f"{OWN}?limit=1", key=ann.key)
    rest = await admin.get(f"{OWN}?limit=1&cursor={page.json['next_cursor']}", key=ann.key)
    assert [key["name"] for key in (*page.json["keys"], *rest.json["keys"])] == ["test", "laptop"]
    assert [key["name"] for key in (await admin.get(OWN, key=bob.key)).json["keys"]] == ["test"]
    foreign = await admin.ask("DELETE", f"{OWN}/{made.json['id']}", key=bob.key)
    unknown = await admin.ask("DELETE", f"{OWN}/00000000-0000-0000-0000-000000000000", key=bob.key)
    assert (foreign.status, foreign.body) == (404, unknown.body)
    assert (await admin.ask("DELETE", f"{OWN}/{made.json['id']}", key=ann.key)).status == 204
    assert (await admin.get("/v1/keys/self", key=token)).status == 401
    history = (await admin.get("/v1/tenants/acme/policy/history")).json["changes"]
    assert [change["actor"] for change in history[:2]] == [ann.ref, ann.ref]


async def test_a_key_of_a_person_carries_no_more_than_the_one_that_made_it(admin: Service, people: People) -> None:
    """Neither scopes nor time; a service has no keys of its own to make here."""
    ann = await people.person("acme", "ann", scopes=frozenset({"key:write", "policy:read"}), days=10)
    beyond = await admin.post(OWN, {"name": "x", "scopes": ["policy:write"]}, key=ann.key)
    assert (beyond.status, beyond.problem) == (403, "scope-not-yours")
    later = (datetime.now(UTC) + timedelta(days=11)).isoformat()
    longer = await admin.post(OWN, {"name": "x", "expires_at": later}, key=ann.key)
    assert (longer.status, longer.json["pointer"]) == (403, "/expires_at")
    same = await admin.post(OWN, {"name": "x"}, key=ann.key)
    assert same.json["scopes"] == ["decision:check", "key:write", "policy:read"]
    assert datetime.fromisoformat(same.json["expires_at"]) <= datetime.now(UTC) + timedelta(days=10)
    service = await admin.tenant("acme")
    for method, path, body in (("GET", OWN, None), ("POST", OWN, {"name": "x"}), ("DELETE", f"{OWN}/x", None)):
        answer = await admin.ask(method, path, body, key=service)
        assert (answer.status, answer.problem) == (403, "missing-scope")


async def test_the_end_of_a_personal_key_says_its_zone(admin: Service, people: People) -> None:
    """As of every other key: nobody guesses which midnight is meant."""
    ann = await people.person("acme", "ann", days=365)
    refused = await admin.post(OWN, {"name": "x", "expires_at": "2090-01-01T00:00:00"}, key=ann.key)
    assert (refused.status, refused.problem, refused.json["pointer"]) == (400, "invalid-request", "/expires_at")


async def test_a_personal_key_ends_within_a_year(admin: Service, people: People) -> None:
    """There is none without an end, and thirty days are what nobody has to ask for."""
    ann = await people.person("acme", "ann", days=365)
    default = await admin.post(OWN, {"name": "x"}, key=ann.key)
    left = datetime.fromisoformat(default.json["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=29) < left <= timedelta(days=30)
    with pytest.raises(Exception, match="365 days"):
        await people.key(ann.tenant_id, ann.id, days=366)
    async with tenant_unit_of_work(people.sessions, ann.tenant_id) as work:
        with pytest.raises(DBAPIError, match="api_keys_personal"):
            await work.session.execute(text("INSERT INTO api_keys (tenant_id, key_id, key_hash, prefix, name, scopes, created_by, owner_id, owner_epoch) VALUES (:t, gen_random_uuid(), sha256('x'), 'x', 'x', '{}', 'x', :u, 1)"), {"t": ann.tenant_id, "u": ann.id})  # fmt: skip


async def test_a_personal_key_is_as_mighty_as_its_owner_now(admin: Service, people: People) -> None:
    """A role given counts at once, and so does a role taken away."""
    ann = await people.person("acme", "ann")
    row = {"add": [rule("role:x", "record:1")]}
    assert (await admin.post("/v1/tenants/acme/rules", row, key=ann.key)).problem == "missing-right"
    author = {"add": [link(ann.ref, "role:policy-author")]}
    given = await admin.post("/v1/tenants/acme/memberships", author)
    assert given.status == 200, given.body
    least = {"Kasbah-Min-Revision": str(given.json["revision"])}
    assert (await admin.post("/v1/tenants/acme/rules", row, key=ann.key, headers=least)).status == 200
    taken = await admin.post("/v1/tenants/acme/memberships", {"remove": author["add"]})
    least = {"Kasbah-Min-Revision": str(taken.json["revision"])}
    assert (await admin.post("/v1/tenants/acme/rules", row, key=ann.key, headers=least)).problem == "missing-right"


@pytest.mark.parametrize("status", ["disabled", "deleted"])
async def test_a_personal_key_ends_with_its_account(admin: Service, people: People, status: str) -> None:
    """On every route, also where scopes alone decide; a disabled account that is enabled has its keys back."""
    ann = await people.person("acme", "ann", "role:tenant-admin")
    assert (await admin.get("/v1/tenants/acme/rules", key=ann.key)).status == 200
    if status == "deleted":
        async with tenant_unit_of_work(people.sessions, ann.tenant_id) as work:
            await work.session.execute(text("UPDATE users SET username = NULL, username_key = NULL, email = NULL, email_key = NULL, status = 'deleted' WHERE user_id = :u"), {"u": ann.id})  # fmt: skip
            await lock_head(work)
            head = await raise_head(work)
            entry = AuditEntry("user.delete", ann.ref)
            await record_change(work.session, head, "user", META, touched=[ann.ref], audit=[entry])
    else:
        await put(people, ann, status)
    await refused_within_the_bounds(admin, ann.key)
    assert (await admin.get("/v1/tenants/acme/rules", key=ann.key)).status == 401
    if status == "disabled":
        await put(people, ann, "active")
        async with asyncio.timeout(60):  # a refused key is remembered for a second
            while (await admin.get("/v1/tenants/acme/rules", key=ann.key)).status != 200:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.05)


async def test_a_personal_key_ends_with_what_ends_sign_ins(admin: Service, people: People) -> None:
    """Every key that was made before, and the list says so; one made afterwards is good."""
    ann, bob = await people.person("acme", "ann"), await people.person("acme", "bob")
    for person in (ann, bob):
        assert (await admin.get("/v1/keys/self", key=person.key)).status == 200
    await end_sign_ins(people, ann)
    await refused_within_the_bounds(admin, ann.key)
    assert (await admin.get("/v1/keys/self", key=bob.key)).status == 200
    fresh = await people.key(ann.tenant_id, ann.id)
    assert (await admin.get("/v1/keys/self", key=fresh)).status == 200
    listed = (await admin.get(OWN, key=fresh)).json["keys"]
    assert [key["revoked_at"] is None for key in listed] == [False, True]
    (hers,) = (await admin.get(OWN, key=bob.key)).json["keys"]
    assert hers["revoked_at"] is None


async def test_a_head_that_was_raised_too_early_is_not_committed(people: People) -> None:
    """Nodes would go on taking keys of an account that was disabled; the database refuses to let that happen."""
    ann = await people.person("acme", "ann")
    with pytest.raises(DBAPIError, match="raised before the account was changed"):
        await end_sign_ins(people, ann, too_late=True)


async def test_nobody_makes_a_key_for_an_account_that_is_not_active(people: People) -> None:
    """Neither a disabled one nor one of another tenant."""
    ann = await people.person("acme", "ann")
    beta = await people.tenant_id("beta")
    with pytest.raises(Exception, match="no active account"):
        await people.key(beta, ann.id)
    await put(people, ann, "disabled")
    with pytest.raises(Exception, match="no active account"):
        await people.key(ann.tenant_id, ann.id)


async def test_a_person_has_so_many_keys_and_services_have_theirs(admin: Service, people: People) -> None:
    """One person's keys fill no one else's places."""
    ann = await people.person("acme", "ann")
    for _ in range(49):
        await people.key(ann.tenant_id, ann.id)
    full = await admin.post(OWN, {"name": "x"}, key=ann.key)
    assert (full.status, full.problem) == (422, "key-limit-exceeded")
    await end_sign_ins(people, ann)
    again = await people.key(ann.tenant_id, ann.id)
    assert (await admin.post(OWN, {"name": "x"}, key=again)).status == 201
    bob = await people.person("acme", "bob")
    assert (await admin.post(OWN, {"name": "x"}, key=bob.key)).status == 201


async def test_a_repeated_request_makes_one_key(admin: Service, people: People) -> None:
    """With an `Idempotency-Key`, in the tenant and for people of the platform."""
    for slug in ("acme", None):
        ann = await people.person(slug, "ann")
        answers = [
            await admin.post(OWN, {"name": "once"}, key=ann.key, headers={"Idempotency-Key": "1"}) for _ in range(2)
        ]
        assert answers[0].status == 201
        assert answers[0].body == answers[1].body
        assert [key["name"] for key in (await admin.get(OWN, key=ann.key)).json["keys"]] == ["test", "once"]


async def test_own_keys_are_those_of_ones_own_tenant(admin: Service, people: People) -> None:
    """Naming another tenant is refused, whether it exists or not; naming one's own is not."""
    ann, root = await people.person("acme", "ann"), await people.person(None, "root")
    await people.tenant_id("beta")
    for person, own in ((ann, "acme"), (root, "_platform")):
        assert (await admin.get(OWN, key=person.key, headers={"X-Tenant-ID": own})).status == 200
        for other in ("beta", "nobody"):
            answer = await admin.get(OWN, key=person.key, headers={"X-Tenant-ID": other})
            assert (answer.status, answer.problem) == (403, "other-tenant")


async def test_an_administrators_list_says_whose_keys_they_are(admin: Service, people: People) -> None:
    """So that an audit can tell a person's key from a service's."""
    ann = await people.person("acme", "ann", "role:tenant-admin")
    service = await admin.tenant("acme")
    owners = {key["owner"] for key in (await admin.get("/v1/tenants/acme/keys", key=service)).json["keys"]}
    assert owners == {ann.ref, None}


async def test_a_person_is_told_of_keys_that_are_made_or_ended(admin: Service, people: People) -> None:
    """Whoever did it, at an address that is theirs for sure; a circle of keys fills no queue, a refusal tells nothing."""
    person = await people.person("acme", "alice")

    async def run(statement: str) -> list[str]:
        named = {"tenant_id": person.tenant_id, "user_id": person.id}
        async with tenant_unit_of_work(people.sessions, person.tenant_id) as work:
            found = await work.session.execute(
                text(f"{statement} WHERE tenant_id = :tenant_id AND user_id = :user_id"), named
            )
            return [row[0] for row in found] if found.returns_rows else []

    async def told() -> list[str]:
        return await run("SELECT kind FROM mails")

    await run("UPDATE users SET email = 'a@example.org', email_key = 'a@example.org', email_verified_at = NULL")
    assert (await admin.post(OWN, {"name": "first"}, key=person.key)).status == 201
    assert await told() == [], "nobody proved that address"
    await run("UPDATE users SET email_verified_at = clock_timestamp()")
    made = await admin.post(OWN, {"name": "second"}, key=person.key)
    assert made.status == 201
    assert await told() == ["key-changed"]
    assert (await admin.post(OWN, {"name": "x", "scopes": ["no:such"]}, key=person.key)).status == 400
    assert len(await told()) == 1
    path = f"/v1/tenants/acme/keys/{made.json['id']}"
    for _ in range(2):
        assert (await admin.ask("DELETE", path)).status == 204
        assert len(await told()) == 2, "by an administrator, once"
    for number in range(10):
        assert (await admin.post(OWN, {"name": f"k{number}"}, key=person.key)).status == 201
    assert await told() == ["key-changed"] * 10
