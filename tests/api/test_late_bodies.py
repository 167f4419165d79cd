"""Who acts is asked again when a body took its time, and whoever makes a key must still have their own."""

import asyncio
import json

import pytest
from sqlalchemy import text

from authn.user_rows import raise_auth_epoch
from service.keys import CALLERS
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


class LateBody:
    """A request whose head was sent, and whose body is not there yet."""

    def __init__(self, admin: Service, path: str, body: object, *, key: str, method: str = "POST") -> None:
        self._admin = admin
        self._body = json.dumps(body).encode()
        self._head = (
            f"{method} {path} HTTP/1.1\r\nHost: kasbah\r\nAuthorization: Bearer {key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(self._body)}\r\nConnection: close\r\n\r\n"
        ).encode()

    async def begin(self) -> "LateBody":
        """Send the head and the first byte of the body, and give the service time to admit it."""
        port = int(self._admin.url.rpartition(":")[2])
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", port)
        self._writer.write(self._head + self._body[:1])
        await self._writer.drain()
        await asyncio.sleep(0.3)
        return self

    async def end(self) -> tuple[int, str]:
        """Send the rest; return status and problem."""
        self._writer.write(self._body[1:])
        answer = await self._reader.read()
        self._writer.close()
        said = json.loads(answer.partition(b"\r\n\r\n")[2] or b"{}")
        return int(answer.split(b" ", 2)[1]), str(said.get("type", "")).rpartition(":")[2]


async def end_sign_ins(people: People, person: Person) -> None:
    """Raise the epoch of an account, as a change of its password does."""
    async with tenant_unit_of_work(people.sessions, person.tenant_id) as work:
        await lock_head(work)
        await raise_auth_epoch(work, person.id)
        head = await raise_head(work)
        await record_change(work.session, head, "user", META, audit=[AuditEntry("user.update", person.ref)])


async def heard(admin: Service, key: str) -> None:
    """Wait until the node knows that a key ended."""
    async with asyncio.timeout(60):
        while (await admin.get("/v1/keys/self", key=key)).status != 401:  # noqa: ASYNC110 - the server changes
            await asyncio.sleep(0.05)


async def test_a_stolen_key_that_waits_makes_no_key_for_afterwards(admin: Service, people: People) -> None:
    """Its request began before the owner ended all sign-ins; nothing it makes outlives that."""
    ann = await people.person("acme", "ann")
    late = await LateBody(admin, OWN, {"name": "for later"}, key=ann.key).begin()
    await end_sign_ins(people, ann)
    await heard(admin, ann.key)
    assert await late.end() == (401, "not-authenticated")
    fresh = await people.key(ann.tenant_id, ann.id)
    assert [key["name"] for key in (await admin.get(OWN, key=fresh)).json["keys"]] == ["test", "test"]


async def test_no_node_that_has_not_heard_yet_makes_a_key_for_afterwards(admin: Service, people: People) -> None:
    """Whoever makes keys without pause gets none that outlives the end of all sign-ins, and none by a revoked key."""
    ann = await people.person("acme", "ann")
    service = await admin.tenant("acme")
    own = (await admin.get("/v1/keys/self", key=service)).json["id"]
    assert (await admin.post("/v1/tenants/acme/keys", {"name": "x"}, key=service)).status == 201
    assert (await admin.post(OWN, {"name": "x"}, key=ann.key)).status == 201
    admin.app[CALLERS].holds = lambda _: True  # a node that hears nothing
    await end_sign_ins(people, ann)
    async with tenant_unit_of_work(people.sessions, ann.tenant_id) as work:
        await work.session.execute(text("UPDATE api_keys SET revoked_at = now() WHERE key_id = :id"), {"id": own})
    for path, key in ((OWN, ann.key), ("/v1/tenants/acme/keys", service)):
        refused = await admin.post(path, {"name": "for later"}, key=key)
        assert (refused.status, refused.problem) == (401, "not-authenticated")
        assert refused.headers["WWW-Authenticate"]


async def test_a_key_that_was_revoked_meanwhile_writes_nothing(admin: Service, people: People) -> None:
    """Nor does the key of a service."""
    key = await admin.tenant("acme")
    own = (await admin.get("/v1/keys/self", key=key)).json["id"]
    late = await LateBody(admin, "/v1/tenants/acme/rules", {"add": [rule("role:x", "record:1")]}, key=key).begin()
    assert (await admin.ask("DELETE", f"/v1/tenants/acme/keys/{own}")).status == 204
    assert await late.end() == (401, "not-authenticated")


async def test_a_right_that_was_taken_meanwhile_is_not_used(admin: Service, people: People) -> None:
    """An administrator who is none any more when the body is there."""
    boss, bob = await people.person("acme", "boss", "role:user-admin"), await people.person("acme", "bob")
    late = await LateBody(admin, f"/v1/users/{bob.id}/disable", {"reason": "last act"}, key=boss.key).begin()
    taken = await admin.post("/v1/tenants/acme/memberships", {"remove": [link(boss.ref, "role:user-admin")]})
    assert taken.status == 200, taken.body
    assert await late.end() == (403, "missing-right")
    assert (await admin.get(f"/v1/users/{bob.id}", headers={"X-Tenant-ID": "acme"})).json["status"] == "active"


async def test_a_suspended_tenant_is_left_alone(admin: Service, people: People) -> None:
    """Suspended while the body was on its way."""
    key = await admin.tenant("acme")
    late = await LateBody(admin, "/v1/tenants/acme/rules", {"add": [rule("role:x", "record:1")]}, key=key).begin()
    assert (await admin.post("/v1/tenants/acme/suspend", {"reason": "x"})).status == 200
    assert await late.end() == (403, "tenant-suspended")
