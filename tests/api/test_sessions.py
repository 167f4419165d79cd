"""Sessions as credentials: what they are good for, where people see them, and what ends them."""

import asyncio
import base64
import re
from uuid import uuid4

import pytest
import redis

from authn.begin_session import Client
from authn.sessions import MAX_SESSIONS, Acr, digest_of, home_of_session
from service.keys import CALLERS, SESSION_STORE
from tests.support.administration import Service
from tests.support.people import PostOffice
from tests.support.persons import People
from tests.support.servers import session_servers
from tests.support.sessions import signed_in

pytestmark = pytest.mark.integration

SELF = "/v1/keys/self"
MINE = "/v1/users/me/sessions"


@pytest.fixture
async def people(post: PostOffice) -> People:
    """Whoever makes people with roles, on the base that is shipped."""
    made = People(post)
    await made.base()
    return made


async def is_in(service: Service, token: str) -> bool:
    """Whether a session counts, on this node and now."""
    for _ in range(20):
        answer = await service.get(SELF, key=token)
        if answer.status != 503:  # a busy machine answers too late now and then
            break
    assert answer.status in {200, 401}, answer.body
    return answer.status == 200


async def test_a_session_is_a_credential_that_nobody_can_guess(post: PostOffice):
    """256 random bits beside the tenant's id; what is stored opens nothing, and another token is nothing."""
    user = await post.person("alice")
    tenant_id = post.tenants["acme"]
    new = await signed_in(post.app, tenant_id, user.id, Acr.AAL2)
    answer = await post.get(SELF, key=new.token)
    assert (answer.status, answer.json["subject"], answer.json["tenant"]) == (200, user.ref, "acme")
    others = [(await signed_in(post.app, tenant_id, user.id)).token for _ in range(20)]
    secrets = {base64.urlsafe_b64decode(token.removeprefix("kasbah_session_"))[16:] for token in [new.token, *others]}
    assert len(secrets) == 21
    assert {len(secret) for secret in secrets} == {32}
    stored = []
    with valkey() as client:
        for name in client.keys(f"*{{{tenant_id}}}*"):
            kind = client.type(name)
            stored += [name, *(client.zrange(name, 0, -1) if kind == b"zset" else [client.get(name)])]
    assert len(stored) > 21
    secret = new.token.removeprefix("kasbah_session_")
    assert not [value for value in stored if secret[-20:].encode() in value]
    last = "A" if new.token[-1] != "A" else "B"
    for wrong in (new.token[:-1] + last, new.token + "A", "kasbah_session_", "kasbah_session_" + "A" * 64):
        assert not await is_in(post, wrong)


async def test_people_see_where_they_are_signed_in(post: PostOffice):
    """Device, address and when; their own and nothing that could be used; the newest first."""
    user = await post.person("alice")
    bob = await post.person("bob")
    at = post.tenants["acme"]
    phone = await signed_in(post.app, at, user.id, client=Client("a phone", "198.51.100.9"))
    desk = await signed_in(post.app, at, user.id, Acr.AAL2, client=Client("a desk", "192.0.2.7"))
    await signed_in(post.app, at, bob.id)
    answer = await post.get(MINE, key=desk.token)
    found = answer.json["sessions"]
    assert [(each["device"], each["address"], each["current"]) for each in found] == [
        ("a desk", "192.0.2.7", True),
        ("a phone", "198.51.100.9", False),
    ]
    assert [(each["acr"], each["amr"]) for each in found] == [("aal2", ["pwd", "otp", "mfa"]), ("aal1", ["pwd"])]
    for token in (desk.token, phone.token):
        assert token.removeprefix("kasbah_session_") not in answer.body.decode()
    assert (await post.get(MINE, key=post.keys["acme"])).problem == "interactive-only"


async def test_people_end_one_session_or_sign_out_or_end_all(post: PostOffice, people: People):
    """What ended is out at once, and nothing else is; what is nobody's, or another's, is not found."""
    user = await post.person("alice")
    bob = await post.person("bob")
    at = post.tenants["acme"]
    first, second, third = [await signed_in(post.app, at, user.id) for _ in range(3)]
    other = await signed_in(post.app, at, bob.id)
    key = await people.key(at, user.id)
    for missing in (other.session.session_id, uuid4(), "nonsense"):
        assert (await post.ask("DELETE", f"{MINE}/{missing}", key=first.token)).status == 404
    assert (await post.ask("DELETE", f"{MINE}/{second.session.session_id}", key=first.token)).status == 204
    assert [await is_in(post, each.token) for each in (first, second, third)] == [True, False, True]
    assert (await post.ask("DELETE", f"{MINE}/current", key=first.token)).status == 204
    assert [await is_in(post, each.token) for each in (first, second, third)] == [False, False, True]
    listed = (await post.get(MINE, key=third.token)).json["sessions"]
    assert [each["id"] for each in listed] == [str(third.session.session_id)]
    fourth = await signed_in(post.app, at, user.id)
    assert await is_in(post, key)
    assert (await post.ask("DELETE", MINE, key=fourth.token)).status == 204
    assert [await is_in(post, token) for token in (third.token, fourth.token, key)] == [False] * 3
    assert await is_in(post, other.token)
    assert await is_in(post, (await signed_in(post.app, at, user.id)).token)


async def test_what_ended_stays_in_the_audit(post: PostOffice):
    """Beginning and end, by the session's id; the device only for who may read what is personal."""
    user = await post.person("alice")
    new = await signed_in(post.app, post.tenants["acme"], user.id, client=Client("a very special phone", "192.0.2.9"))
    await post.ask("DELETE", f"{MINE}/current", key=new.token)
    answer = await post.get(f"/v1/audit?target={user.ref}", key=post.keys["acme"])
    events = {event["action"]: event for event in answer.json["events"]}
    session = str(new.session.session_id)
    begun, ended = events["session.begin"], events["session.end"]
    assert begun["detail"] == {"session": session, "acr": "aal1", "amr": ["pwd"], "method": "password"}
    assert ended["detail"]["session"] == session
    for event in (begun, ended):
        assert (event["actor"], event["credential"]) == (user.ref, f"session:{session}")
    assert b"special phone" not in answer.body
    assert new.token not in answer.body.decode()


async def test_administrators_see_and_end_sessions_of_who_is_not_above_them(post: PostOffice, people: People):
    """With a reason, audited, in their own tenant; never of somebody who may more."""
    helper = await people.person("acme", "helper", "role:user-admin")
    boss = await people.person("acme", "boss", "role:tenant-admin")
    user = await post.person("alice")
    at = post.tenants["acme"]
    one, two = [await signed_in(post.app, at, user.id) for _ in range(2)]
    above = await signed_in(post.app, at, boss.id)
    path = f"/v1/users/{user.id}/sessions"
    shown = await post.get(path, key=helper.key)
    assert {each["id"] for each in shown.json["sessions"]} == {str(new.session.session_id) for new in (one, two)}
    assert (await post.ask("DELETE", path, key=helper.key)).status == 400
    ended = await post.ask("DELETE", f"{path}/{one.session.session_id}?reason=lost+phone", key=helper.key)
    assert (ended.status, await is_in(post, one.token), await is_in(post, two.token)) == (204, False, True)
    assert (await post.ask("DELETE", f"{path}?reason=left", key=helper.key)).status == 204
    assert not await is_in(post, two.token)
    for suffix in ("", f"/{above.session.session_id}"):
        refused = await post.ask("DELETE", f"/v1/users/{boss.id}/sessions{suffix}?reason=x", key=helper.key)
        assert (refused.status, refused.problem) == (403, "target-too-powerful")
    assert await is_in(post, above.token)
    for method, suffix in (("GET", ""), ("DELETE", "?reason=x"), ("DELETE", f"/{uuid4()}?reason=x")):
        assert (await post.ask(method, f"{path}{suffix}", key=post.keys["beta"])).status == 404
    events = (await post.get(f"/v1/audit?target={user.ref}", key=post.keys["acme"])).json["events"]
    said = {event["action"]: event for event in events}
    assert (said["session.end"]["actor"], said["session.end"]["reason"]) == (helper.ref, "lost phone")
    assert (said["session.end_all"]["actor"], said["session.end_all"]["reason"]) == (helper.ref, "left")


@pytest.mark.parametrize("what", ["disable", "delete", "suspend", "email"])
async def test_what_ends_sign_ins_ends_sessions(post: PostOffice, what: str):
    """From the next request on; a suspended tenant says so."""
    user = await post.person("alice")
    at = post.tenants["acme"]
    both = [await signed_in(post.app, at, user.id) for _ in range(2)]
    assert [await is_in(post, new.token) for new in both] == [True, True]
    path, key = f"/v1/users/{user.id}", post.keys["acme"]
    if what == "disable":
        done = await post.post(f"{path}/disable", {"reason": "x"}, key=key)
    elif what == "delete":
        done = await post.ask("DELETE", f"{path}?reason=x", key=key)
    elif what == "suspend":
        done = await post.post("/v1/tenants/acme/suspend", {"reason": "x"})
    else:
        headers = {"Content-Type": "application/merge-patch+json"}
        done = await post.ask("PATCH", path, {"email": "b@example.org", "reason": "x"}, key=key, headers=headers)
    assert done.status in {200, 204}, done.body
    for new in both:
        refused = await post.get(SELF, key=new.token)
        assert (refused.status, refused.problem) == (
            (403, "tenant-suspended") if what == "suspend" else (401, "not-authenticated")
        )
    if what == "disable":
        await post.post(f"{path}/enable", {"reason": "x"}, key=key)
        assert [await is_in(post, new.token) for new in both] == [False, False]
    if what == "delete":
        assert await post.app[SESSION_STORE].list_of(at, user.id) == []


async def test_an_account_has_so_many_sessions_and_no_more(post: PostOffice):
    """One more ends the oldest, for good: an older Valkey does not bring it back."""
    user = await post.person("alice")
    at = post.tenants["acme"]
    first = await signed_in(post.app, at, user.id)
    value = dump(post, first.token)
    others = [await signed_in(post.app, at, user.id) for _ in range(MAX_SESSIONS - 1)]
    assert await is_in(post, first.token)
    last = await signed_in(post.app, at, user.id)
    assert len((await post.get(MINE, key=last.token)).json["sessions"]) == MAX_SESSIONS
    assert not await is_in(post, first.token)
    with valkey() as client:
        client.set(*value)
    assert not await is_in(post, first.token)
    assert await is_in(post, others[0].token)


async def test_sessions_that_are_over_anyway_make_room_without_being_ended(post: PostOffice):
    """Nothing is written of them, and no audit says that they ended for want of room: they did so before."""
    user = await post.person("alice")
    at, path, key = post.tenants["acme"], f"/v1/users/{user.id}", post.keys["acme"]
    for _ in range(MAX_SESSIONS):
        await signed_in(post.app, at, user.id)
    for what in ("disable", "enable"):
        assert (await post.post(f"{path}/{what}", {"reason": "x"}, key=key)).status == 200
    assert await is_in(post, (await signed_in(post.app, at, user.id)).token)
    assert post.query("SELECT count(*) FROM ended_sessions") == [(0,)]
    assert len(await post.app[SESSION_STORE].list_of(at, user.id)) == 1


def valkey() -> redis.Redis:
    """The Valkey that services of tests use, asked with patience."""
    return redis.Redis.from_url(session_servers().redis_url)


def dump(service: Service, token: str) -> tuple[str, bytes]:
    """Return the name and the value of a session in Valkey."""
    name = service.app[SESSION_STORE]._name(home_of_session(token), digest_of(token))
    with valkey() as client:
        return name, client.get(name)


async def test_a_session_of_one_tenant_is_none_of_another(post: PostOffice):
    """Neither with the other's name, nor with its id in the token, nor with the value under the other's key."""
    user = await post.person("alice")
    new = await signed_in(post.app, post.tenants["acme"], user.id)
    refused = await post.get("/v1/users/me", key=new.token, headers={"X-Tenant-ID": "beta"})
    assert (refused.status, (await post.get("/v1/users", key=new.token)).status) == (200, 403)
    assert (await post.get("/v1/users?tenant=beta", key=new.token)).problem in {"other-tenant", "missing-right"}
    raw = base64.urlsafe_b64decode(new.token.removeprefix("kasbah_session_"))
    forged = "kasbah_session_" + base64.urlsafe_b64encode(post.tenants["beta"].bytes + raw[16:]).decode()
    assert not await is_in(post, forged)
    _, value = dump(post, new.token)
    name, _ = dump(post, forged)
    with valkey() as client:
        client.set(name, value)
    assert not await is_in(post, forged)
    assert post.app[SESSION_STORE].rejected == 1


async def test_a_value_that_was_changed_or_made_up_is_none(post: PostOffice):
    """Every bit of it is under the MAC; nobody is signed in by what stands in Valkey."""
    user = await post.person("alice")
    at = post.tenants["acme"]
    new = await signed_in(post.app, at, user.id)
    name, value = dump(post, new.token)
    with valkey() as client:
        for position in range(0, len(value), 7):
            flipped = bytes([*value[:position], value[position] ^ 1, *value[position + 1 :]])
            client.set(name, flipped)
            assert not await is_in(post, new.token), position
        for other in (b"", b"\0" * 32, value[32:], value + b"\0"):
            client.set(name, other)
            assert not await is_in(post, new.token)
        client.set(name, value)
        assert await is_in(post, new.token)


async def test_people_of_the_platform_sign_in_as_others_do(post: PostOffice, people: People):
    """Their session is the platform's: it names a tenant on a tenant's routes, and ends as others."""
    root = await people.person(None, "root", "role:platform-admin")
    new = await signed_in(post.app, root.tenant_id, root.id, Acr.AAL2)
    assert (await post.get("/v1/tenants", key=new.token)).status == 200
    assert (await post.get("/v1/users?tenant=acme", key=new.token)).status == 200
    assert (await post.get("/v1/users", key=new.token)).problem == "tenant-required"
    assert (await post.ask("DELETE", f"{MINE}/current", key=new.token)).status == 204
    assert not await is_in(post, new.token)


async def test_so_many_ends_at_once_are_one_end(post: PostOffice):
    """Signing out on two nodes, and again: the second finds it done."""
    user = await post.person("alice")
    new = await signed_in(post.app, post.tenants["acme"], user.id)
    answers = await asyncio.gather(*(post.ask("DELETE", f"{MINE}/current", key=new.token) for _ in range(10)))
    assert {answer.status for answer in answers} <= {204, 401}
    assert len([answer for answer in answers if "Kasbah-Revision" in answer.headers]) == 1
    assert re.fullmatch(r"\d+", next(a.headers["Kasbah-Revision"] for a in answers if "Kasbah-Revision" in a.headers))
    assert post.query("SELECT count(*) FROM ended_sessions") == [(1,)]
    assert post.app[CALLERS].others[0].totals()["session_refused"] >= 0
