"""Keys over HTTP: replaced with an overlap, limited, and shown with when they were last used."""

import asyncio
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from service.keys import CALLERS, SESSIONS
from tests.support.administration import Service
from tests.support.persons import People
from tests.support.service_accounts import ACCOUNTS, program

pytestmark = pytest.mark.integration

KEYS = "/v1/tenants/acme/keys"


@pytest.fixture
async def people(admin: Service) -> People:
    """People on an installation with the base that is shipped."""
    found = People(admin)
    await found.base()
    return found


def moment(text: str) -> datetime:
    """Read a time of an answer."""
    return datetime.fromisoformat(text)


async def test_a_key_is_replaced_and_goes_on_for_the_overlap(admin: Service) -> None:
    """Both work meanwhile; name, scopes and limits are the same; then the old one is refused on its own."""
    own = await admin.tenant("acme")
    limits = {"requests_per_second": 20, "burst": 40}
    old = await admin.post(KEYS, {"name": "ci", "scopes": ["policy:read"], "limits": limits}, key=own)
    rotated = await admin.post(f"{KEYS}/{old.json['id']}/rotate", {"overlap_seconds": 5, "reason": "due"}, key=own)
    assert rotated.status == 201, rotated.body
    new = rotated.json
    assert new["token"] != old.json["token"]
    same = ("name", "scopes", "limits", "expires_at", "owner")
    assert {name: new[name] for name in same} == {name: old.json[name] for name in same}
    assert (new["replaces"], new["previous"]["id"]) == (old.json["id"], old.json["id"])
    for token in (old.json["token"], new["token"]):
        assert (await admin.get("/v1/tenants/acme/rules", key=token)).status == 200
    left = (moment(new["previous"]["ends_at"]) - datetime.now(UTC)).total_seconds()
    assert left <= 5
    await asyncio.sleep(left + 0.2)
    assert (await admin.get("/v1/tenants/acme/rules", key=old.json["token"])).status == 401
    assert (await admin.get("/v1/tenants/acme/rules", key=new["token"])).status == 200
    event = (await admin.get(f"/v1/audit?tenant=acme&target=key:{new['id']}")).json["events"][0]
    assert (event["action"], event["detail"]["previous"]) == ("key.rotate", f"key:{old.json['id']}")
    assert event["reason"] == "due"
    assert new["token"] not in str(event)


async def test_without_overlap_the_old_key_ends_at_once(admin: Service) -> None:
    """And what has ended is not replaced."""
    own = await admin.tenant("acme")
    old = (await admin.post(KEYS, {"name": "ci", "scopes": ["policy:read"]}, key=own)).json
    rotate = f"{KEYS}/{old['id']}/rotate"
    assert (await admin.post(rotate, {"overlap_seconds": 0}, key=own)).status == 201
    assert (await admin.get("/v1/keys/self", key=old["token"])).status == 401
    again = await admin.post(rotate, {"overlap_seconds": 0}, key=own)
    assert (again.status, again.problem) == (409, "key-ended")
    limited = await admin.ask("PATCH", f"{KEYS}/{old['id']}", {"limits": None}, key=own)
    assert (limited.status, limited.problem) == (409, "key-ended")


async def test_an_overlap_never_prolongs_the_old_key(admin: Service) -> None:
    """It ends when it would have ended; the new one lives as long as that was made for, or as is said."""
    own = await admin.tenant("acme")
    end = datetime.now(UTC) + timedelta(hours=1)
    old = (await admin.post(KEYS, {"name": "ci", "expires_at": end.isoformat()}, key=own)).json
    rotated = (await admin.post(f"{KEYS}/{old['id']}/rotate", {}, key=own)).json
    assert abs(moment(rotated["previous"]["ends_at"]) - end) < timedelta(milliseconds=1)
    life = moment(rotated["expires_at"]) - datetime.now(UTC)
    assert timedelta(minutes=59) < life <= timedelta(hours=1)
    for body, pointer in (
        ({"overlap_seconds": -1}, "/overlap_seconds"),
        ({"overlap_seconds": 30 * 86400 + 1}, "/overlap_seconds"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "/expires_at"),
    ):
        refused = await admin.post(f"{KEYS}/{rotated['id']}/rotate", body, key=own)
        assert (refused.status, refused.json["pointer"]) == (400, pointer)


async def test_nothing_lets_a_key_live_on(admin: Service, own_database_url: str) -> None:
    """Not the service either, whose role may bring an end nearer: the end of a key is a promise."""
    own = await admin.tenant("acme")
    end = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    key = (await admin.post(KEYS, {"name": "ci", "expires_at": end}, key=own)).json
    tenant_id = (await admin.get("/v1/tenants/acme", key=own)).json["id"]
    assert (await admin.ask("DELETE", f"{KEYS}/{key['id']}", key=own)).status == 204
    with psycopg.connect(own_database_url, autocommit=True) as connection:
        connection.execute("SET ROLE kasbah_service")
        connection.execute("SELECT set_config('app.tenant_id', %s, false)", [tenant_id])
        for change in ("expires_at = NULL", "expires_at = now() + interval '1 day'", "revoked_at = NULL"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="never ends later"):
                connection.execute(f"UPDATE api_keys SET {change} WHERE key_id = %s", [key["id"]])
        nearer = connection.execute("UPDATE api_keys SET expires_at = now() WHERE key_id = %s", [key["id"]])
        assert nearer.rowcount == 1


async def test_a_rotation_acts_once(admin: Service) -> None:
    """The same request gives the same key, and ten at once with different keys give ten."""
    own = await admin.tenant("acme")
    old = (await admin.post(KEYS, {"name": "ci"}, key=own)).json
    rotate, once = f"{KEYS}/{old['id']}/rotate", {"Idempotency-Key": "r"}
    answers = await asyncio.gather(*(admin.post(rotate, {}, key=own, headers=once) for _ in range(4)))
    assert {answer.status for answer in answers} == {201}
    assert len({answer.json["token"] for answer in answers}) == 1
    listed = (await admin.get(KEYS, key=own)).json["keys"]
    assert [entry["replaces"] for entry in listed].count(old["id"]) == 1
    at_once = await asyncio.gather(*(admin.post(rotate, {"overlap_seconds": 0}, key=own) for _ in range(5)))
    assert sorted(answer.status for answer in at_once) == [201, 409, 409, 409, 409]


async def test_keys_with_owners_are_replaced_where_they_live(admin: Service, people: People) -> None:
    """Whoever gets a successor acts as its owner: an administrator gets none of a person's or a service account's."""
    acme = await people.tenant_id("acme")
    boss = await people.person("acme", "boss", "role:tenant-admin")
    ann = await people.person("acme", "ann", "role:member")
    billing = await program(admin, "acme", "billing")
    own = (await admin.get("/v1/users/me/keys", key=ann.key)).json["keys"][0]
    for key_id in (own["id"], billing.key_id):
        for method, suffix, body in (("POST", "/rotate", {}), ("PATCH", "", {"limits": None})):
            for key in (boss.key, await admin.tenant("acme")):
                refused = await admin.ask(method, f"{KEYS}/{key_id}{suffix}", body, key=key)
                assert (refused.status, refused.problem) == (409, "key-owned")
    foreign = await admin.post(f"/v1/users/me/keys/{own['id']}/rotate", {}, key=boss.key)
    assert foreign.status == 404
    rotated = await admin.post(f"/v1/users/me/keys/{own['id']}/rotate", {"overlap_seconds": 60}, key=ann.key)
    assert (rotated.status, rotated.json["owner"]) == (201, ann.ref)
    # The key that replaced itself gave no more time than it had.
    assert moment(rotated.json["expires_at"]) <= moment(own["expires_at"])
    assert (await admin.get("/v1/keys/self", key=rotated.json["token"])).json["subject"] == ann.ref
    path = f"{ACCOUNTS}/{billing.id}/keys/{billing.key_id}"
    other = await admin.post(f"{ACCOUNTS}", {"name": "other"}, key=boss.key)
    wrong = f"{ACCOUNTS}/{other.json['id']}/keys/{billing.key_id}"
    for method, suffix, body in (("POST", "/rotate", {"reason": "x"}), ("PATCH", "", {"name": "n", "reason": "x"})):
        assert (await admin.ask(method, f"{wrong}{suffix}", body, key=boss.key)).status == 404
    assert (await admin.post(f"{path}/rotate", {"reason": "x"}, key=boss.key)).json["owner"] == billing.ref
    assert (await admin.post(f"{path}/rotate", {"reason": " "}, key=boss.key)).status == 400
    assert acme == boss.tenant_id


async def test_no_key_replaces_one_that_may_do_more(admin: Service) -> None:
    """Scopes, time and limits are bounds of whoever replaces, as of whoever makes."""
    own = await admin.tenant("acme")
    mighty = (await admin.post(KEYS, {"name": "m", "scopes": ["policy:write"]}, key=own)).json
    weak = await admin.tenant("acme", "key:write")
    refused = await admin.post(f"{KEYS}/{mighty['id']}/rotate", {}, key=weak)
    assert (refused.status, refused.problem) == (403, "scope-not-yours")
    slow = {"name": "slow", "scopes": ["key:write", "policy:write"], "limits": {"requests_per_second": 50}}
    slow_key = (await admin.post(KEYS, slow, key=own)).json
    assert slow_key["limits"] == {"requests_per_second": 50, "burst": 50}
    refused = await admin.post(f"{KEYS}/{mighty['id']}/rotate", {}, key=slow_key["token"])
    assert (refused.status, refused.json["pointer"]) == (403, "/limits")
    inherited = await admin.post(KEYS, {"name": "child"}, key=slow_key["token"])
    assert inherited.json["limits"] == slow_key["limits"]
    for limits in ({"requests_per_second": 51, "burst": 50}, {"requests_per_second": 50, "burst": 51}):
        wider = await admin.post(KEYS, {"name": "x", "limits": limits}, key=slow_key["token"])
        assert (wider.status, wider.json["pointer"]) == (403, "/limits")
    lifted = await admin.ask("PATCH", f"{KEYS}/{slow_key['id']}", {"limits": None}, key=slow_key["token"])
    assert (lifted.status, lifted.json["pointer"]) == (403, "/limits")


async def test_a_limit_counts_from_when_it_is_set(admin: Service) -> None:
    """On the next request, for as long as it is there, and it is told in the audit."""
    own = await admin.tenant("acme")
    key = (await admin.post(KEYS, {"name": "ci", "scopes": ["policy:read"]}, key=own)).json
    path = f"{KEYS}/{key['id']}"
    for body in ({"limits": {"requests_per_second": 0}}, {"limits": {"requests_per_second": 1, "burst": 0}}):
        refused = await admin.ask("PATCH", path, body, key=own)
        assert (refused.status, refused.problem) == (400, "invalid-key-limit")
    changed = await admin.ask(
        "PATCH", path, {"name": "slow", "limits": {"requests_per_second": 1, "burst": 2}}, key=own
    )
    assert (changed.json["name"], changed.json["limits"]["burst"]) == ("slow", 2)
    statuses = [(await admin.get("/v1/keys/self", key=key["token"])).status for _ in range(3)]
    assert statuses == [200, 200, 429]
    lifted = await admin.ask("PATCH", path, {"limits": None}, key=own)
    assert lifted.json["limits"] is None
    assert (await admin.get("/v1/keys/self", key=key["token"])).status == 200
    same = await admin.ask("PATCH", path, {"limits": None}, key=own)
    assert same.headers["Kasbah-Revision"] == lifted.headers["Kasbah-Revision"]
    events = (await admin.get(f"/v1/audit?tenant=acme&target=key:{key['id']}")).json["events"]
    changes = [event for event in events if event["action"] == "key.update"]
    assert {"limits": None} in [event["after"] for event in changes]


async def test_lists_show_when_a_key_was_last_used(admin: Service, own_database_url: str) -> None:
    """Written beside the requests, once a minute at most, whichever process saw it; a refused key is not used."""
    own = await admin.tenant("acme")
    key = (await admin.post(KEYS, {"name": "ci"}, key=own)).json
    assert key["last_used_at"] is None
    uses = admin.app[CALLERS].uses

    async def shown() -> str | None:
        found = (await admin.get(KEYS, key=own)).json["keys"]
        return next(entry["last_used_at"] for entry in found if entry["id"] == key["id"])

    await uses.flush()
    assert await shown() is None
    before = await admin.get("/v1/tenants/acme", key=own)
    assert (await admin.get("/v1/keys/self", key=key["token"])).status == 200
    await uses.flush()
    first = await shown()
    assert first is not None
    assert abs(moment(first) - datetime.now(UTC)) < timedelta(seconds=30)
    assert (await admin.get("/v1/keys/self", key=key["token"])).status == 200
    await uses.flush()
    assert await shown() == first, "twice within a minute"
    with psycopg.connect(own_database_url, autocommit=True) as connection:
        connection.execute(
            "UPDATE api_keys SET last_used_at = last_used_at - interval '2 minutes' WHERE key_id = %s", [key["id"]]
        )
    earlier = await shown()
    assert (await admin.get("/v1/keys/self", key=key["token"])).status == 200
    await uses.flush()
    assert moment(await shown() or "") > moment(earlier or "")
    # No use of a key is a change of the tenant.
    after = await admin.get("/v1/tenants/acme", key=own)
    assert before.headers["Kasbah-Revision"] == after.headers["Kasbah-Revision"]
    revoked = await admin.ask("DELETE", f"{KEYS}/{key['id']}", key=own)
    assert revoked.status == 204
    used = await shown()
    assert (await admin.get("/v1/keys/self", key=key["token"])).status == 401
    await uses.flush()
    assert await shown() == used


async def test_uses_wait_for_a_database_that_does_not_answer(admin: Service, own_database_url: str) -> None:
    """They are not lost, no row is waited for, and the time is no later than the database's own."""
    from authn.key_uses import KeyUses

    own = await admin.tenant("acme")
    key = (await admin.post(KEYS, {"name": "ci"}, key=own)).json
    tenant_id = (await admin.get("/v1/tenants/acme", key=own)).json["id"]
    uses = KeyUses(admin.app[SESSIONS])
    uses.note(tenant_id, key["id"])
    with psycopg.connect(own_database_url) as connection:
        connection.execute("SELECT 1 FROM api_keys WHERE key_id = %s FOR UPDATE", [key["id"]])
        async with asyncio.timeout(60):
            await uses.flush()
        connection.rollback()
        connection.execute("ALTER FUNCTION note_keys_used RENAME TO gone")
        connection.commit()
    uses.note(tenant_id, key["id"])
    with pytest.raises(Exception, match="note_keys_used"):
        await uses.flush()
    with psycopg.connect(own_database_url, autocommit=True) as connection:
        connection.execute("ALTER FUNCTION gone RENAME TO note_keys_used")
    await uses.stop()
    found = (await admin.get(KEYS, key=own)).json["keys"]
    used = next(entry["last_used_at"] for entry in found if entry["id"] == key["id"])
    assert moment(used) <= datetime.now(UTC)
