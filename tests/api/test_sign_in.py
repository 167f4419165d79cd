"""Signing in over HTTP: with a password, with a second factor, and everything that signs nobody in."""

import json
from collections.abc import AsyncIterator

import pytest

from authn.sessions import is_session_token
from authz.errors import StaleError
from authz.request import Ref
from authz.rules import RoleLink
from service.keys import SESSION_STORE
from service.mfa_demands import NodeDemands
from tenancy.ids import PLATFORM_TENANT_ID
from tests.support.administration import Answer
from tests.support.factors import wrong_code
from tests.support.persons import People
from tests.support.sign_in import PASSWORD, WRONG, FrontDoor, front_door


@pytest.fixture
async def door(own_database_url: str) -> AsyncIterator[FrontDoor]:
    async with front_door(own_database_url) as running:
        yield running


def said(answer: Answer) -> tuple[int, bytes, dict[str, str]]:
    """All of an answer that could tell somebody something."""
    its_own = {"x-request-id", "date"}
    return answer.status, answer.body, {name: v for name, v in answer.headers.items() if name.lower() not in its_own}


async def test_a_password_signs_in_whom_it_is_enough_for(door: FrontDoor) -> None:
    """By username or address, in any spelling; the session is theirs and says what was proven."""
    alice = await door.user("alice")
    for identifier in ("alice", "ALICE", "alice@example.org", "Alice@EXAMPLE.org"):
        answer = await door.login(identifier)
        assert answer.status == 200, answer.body
        assert answer.json["status"] == "authenticated"
        session = answer.json["session"]
        assert is_session_token(session["token"])
        assert (session["acr"], session["amr"]) == ("aal1", ["pwd"])
        assert set(answer.json) == {"status", "session"}
        found = await door.app[SESSION_STORE].find(session["token"])
        assert found is not None
        assert (found.user_id, str(found.session_id), found.device) == (alice.id, session["id"], "browser")
        assert found.address == "127.0.0.1"
    assert (await door.get("/v1/users/me/keys", key=session["token"])).status == 200
    assert door.account(alice.id, "last_sign_in_at IS NOT NULL") == (True,)


async def test_a_password_that_is_too_old_signs_nobody_in(door: FrontDoor) -> None:
    """Where a tenant's marked deviation says so; told to whom has proven it, counted as no failure, and audited."""
    alice = await door.user("alice")
    rule = {"rule": "max_age_days:30", "reason": "the auditors ask for it"}
    path = "/v1/tenants/acme/settings"
    settings = (await door.get(path)).json
    aged = settings | {"password": settings["password"] | {"deviations": [rule]}}
    assert (await door.ask("PUT", path, aged)).status == 200
    door.execute("UPDATE users SET password_changed_at = now() - interval '29 days'")
    assert (await door.login("alice")).status == 200
    door.execute("UPDATE users SET password_changed_at = now() - interval '30 days'")
    for _ in range(8):
        refused = await door.login("alice")
        assert (refused.status, refused.json["type"]) == (403, "urn:kasbah:problem:password-expired")
    assert (await door.login("alice", WRONG)).status == 401
    await door.phone(alice)
    assert (await door.login("alice")).status == 403
    told = [(event["action"], event["outcome"]) for event in door.events("tenant")]
    assert told.count(("session.begin", "refused")) == 9


async def test_a_password_chosen_beside_a_factor_signs_nobody_in_alone(door: FrontDoor) -> None:
    """Told to whom has proven it, counted as no failure, audited; good again beside a factor; a reset takes 15 at least."""
    short = "кошка 🐈 eins!"  # 14 code points
    alice = await door.user("alice", password=short, mfa_required=True)
    assert (await door.login("alice", short)).json["status"] == "enrollment_required"
    door.execute("UPDATE users SET mfa_required = false")
    for _ in range(8):
        refused = await door.login("alice", short)
        assert (refused.status, refused.problem) == (403, "password-too-short")
    assert (await door.login("alice", WRONG)).status == 401
    told = [event for event in door.events("tenant") if event["action"] == "session.begin"]
    assert {(event["outcome"], event["detail"]["reason"]) for event in told} == {("refused", "password-too-short")}
    assert 'outcome="password_too_short"' in (await door.get("/metrics")).body.decode()
    phone = await door.phone(alice)
    challenge = (await door.login("alice", short)).json["challenge"]
    assert (await door.verify(challenge, "totp", phone.code())).status == 200
    door.execute("DELETE FROM authenticators")
    assert (await door.login("alice", short)).problem == "password-too-short"
    await door.post(
        "/v1/account/password-reset-request", {"identifier": "alice"}, key="", headers={"X-Tenant-ID": "acme"}
    )
    token = await door.token("alice@example.org")
    for chosen, status in ((short, 422), ("кошка 🐈 zwei 2!", 204)):
        reset = await door.post("/v1/account/password-reset", {"token": token, "password": chosen}, key="")
        assert reset.status == status, reset.body
    assert (await door.login("alice", "кошка 🐈 zwei 2!")).json["status"] == "authenticated"


@pytest.mark.parametrize(
    ("typed", "status"),
    [
        ("quiet stones 1", 403),
        ("quiet stones 12", 200),
        ("e\u0301" * 14, 403),
        ("e\u0301" * 15, 200),
        ("🐈" * 14, 403),
        ("🐈" * 15, 200),
    ],
    ids=["14", "15", "14 composed", "15 composed", "14 cats", "15 cats"],
)
async def test_what_a_password_alone_must_have_is_counted_as_when_it_is_chosen(door: FrontDoor, typed, status) -> None:
    """In code points, after composing."""
    await door.user("alice", password=typed)
    assert (await door.login("alice", typed)).status == status


async def test_an_imported_password_keeps_the_rules_of_where_it_was_chosen(door: FrontDoor) -> None:
    """Else bringing accounts along would lock their people out."""
    await door.user("alice", password="quiet stones", password_set_by="import")
    assert (await door.login("alice", "quiet stones")).status == 200


async def test_a_right_password_is_no_failure_though_nobody_can_say_what_else_is_needed(
    door: FrontDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever tries again during an outage is not made to wait, nor locked out, by passwords that were right."""
    await door.user("alice")

    async def unknown(*_: object) -> bool:
        raise StaleError("the node is blind")

    with monkeypatch.context() as blind:
        blind.setattr(NodeDemands, "demanded", unknown)
        for _ in range(8):
            assert (await door.login("alice")).status == 503
    assert door.query("SELECT * FROM credential_failures") == []
    assert (await door.login("alice")).status == 200


async def test_what_signs_nobody_in_is_one_answer(door: FrontDoor) -> None:
    """Unknown, disabled, deleted, without a password, wrong, of an unknown or suspended tenant: byte for byte."""
    await door.user("alice")
    await door.user("bob", tenant="beta")
    await door.user("invited", password=None)
    disabled = await door.user("disabled")
    door.execute("UPDATE users SET status = 'disabled' WHERE user_id = %s", disabled.id)
    door.execute("UPDATE tenants SET status = 'suspended' WHERE slug = 'beta'")
    answers = [
        await door.login("alice", WRONG),
        await door.login("nobody"),
        await door.login("nobody@example.org"),
        await door.login("in valid\0name"),
        await door.login("disabled"),
        await door.login("invited"),
        await door.login("alice", tenant="nowhere"),
        await door.login("alice", tenant="beta"),
        await door.login("bob", tenant="beta"),
        await door.login("alice", tenant="_platform"),
        await door.login("alice", tenant="Not A Slug"),
        await door.login("alice", WRONG, device="kasbah_device_unknown"),
    ]
    first, *others = [said(answer) for answer in answers]
    assert all(other == first for other in others)
    assert answers[0].status == 401
    assert answers[0].json == {
        "type": "urn:kasbah:problem:invalid-credentials",
        "title": "Nobody is signed in by this",
        "status": 401,
    }


async def test_why_is_in_the_audit_alone(door: FrontDoor) -> None:
    """Each failure with its reason; about an account, if there is one; names that were tried are nowhere."""
    alice = await door.user("alice")
    disabled = await door.user("disabled")
    door.execute("UPDATE users SET status = 'disabled' WHERE user_id = %s", disabled.id)
    await door.login("alice", WRONG)
    await door.login("disabled")
    await door.login("canary-name")
    await door.login("alice", tenant="nowhere")
    await door.settled()
    found = [(event["action"], event["detail"]["reason"], event.get("target")) for event in door.events()]
    assert sorted(found, key=str) == sorted(
        [
            ("sign_in.refuse", "wrong-password", alice.ref),
            ("sign_in.refuse", "not-active", disabled.ref),
            ("sign_in.refuse", "no-account", None),
            ("sign_in.refuse", "no-tenant", None),
        ],
        key=str,
    )
    text = json.dumps(door.events())
    assert WRONG not in text
    assert "canary-name" not in text
    assert "127.0.0.1" not in text, "an address is sealed"
    answer = await door.login("alice")
    assert answer.status == 200
    (begun,) = [event for event in door.events("tenant") if event["action"] == "session.begin"]
    assert (begun["target"], begun["detail"]["method"], begun["detail"]["acr"]) == (alice.ref, "password", "aal1")
    assert answer.json["session"]["token"] not in json.dumps(door.events("tenant"))


async def test_a_tenant_must_be_named_and_a_body_be_right(door: FrontDoor) -> None:
    """What is asked wrong is told, since it is about the request alone."""
    nameless = await door.post("/v1/auth/login", {"identifier": "a", "password": "b"}, key="")
    assert (nameless.status, nameless.problem) == (400, "tenant-required")
    for body in (
        {"identifier": "a"},
        {"identifier": "a", "password": "b", "more": 1},
        {"identifier": 1, "password": ""},
    ):
        assert (await door.post("/v1/auth/login", body, key="", headers={"X-Tenant-ID": "acme"})).status == 400
    assert (await door.login("alice", "")).problem == "unusable-password"
    long = await door.login("alice", "x" * 2000)
    assert (long.status, long.problem) == (400, "unusable-password")
    assert door.query("SELECT * FROM sign_in_throttles") == []


async def test_failures_wait_alike_whether_there_is_an_account_or_not(door: FrontDoor) -> None:
    """Six are judged, then 429 with how long; a right password is not judged meanwhile, and counts afterwards."""
    await door.user("alice")
    for identifier in ("alice", "nobody"):
        assert [(await door.login(identifier, WRONG)).status for _ in range(6)] == [401] * 6
        waiting = await door.login(identifier, PASSWORD)
        assert (waiting.status, waiting.problem, waiting.headers["Retry-After"]) == (429, "too-many-tries", "30")
    door.later(30)
    assert (await door.login("alice")).status == 200
    assert door.query("SELECT * FROM credential_failures") == []
    assert (await door.login("nobody")).status == 401
    waiting = await door.login("nobody")
    assert (waiting.status, waiting.headers["Retry-After"]) == (429, "60")


async def test_the_session_sent_along_ends_and_no_other(door: FrontDoor) -> None:
    """A new token at each sign-in; that of somebody else, or a preset one, does nothing."""
    await door.user("alice")
    await door.user("carol")
    first = (await door.login("alice")).json["session"]["token"]
    carols = (await door.login("carol")).json["session"]["token"]
    bearer = {"Authorization": f"Bearer {first}"}
    second = (await door.login("alice", headers=bearer)).json["session"]["token"]
    assert second != first
    store = door.app[SESSION_STORE]
    assert await store.find(first) is None
    assert await store.find(second) is not None
    await door.login("alice", headers={"Authorization": f"Bearer {carols}"})
    assert await store.find(carols) is not None
    preset = f"kasbah_session_{'A' * 64}"
    third = await door.login("alice", headers={"Authorization": f"Bearer {preset}"})
    assert third.status == 200
    assert third.json["session"]["token"] != preset


async def test_a_second_factor_is_asked_of_whoever_has_one(door: FrontDoor) -> None:
    """The password gives a challenge and nothing else; the code gives the session, once."""
    alice = await door.user("alice")
    phone = await door.phone(alice)
    half = await door.login("alice")
    assert half.status == 200
    assert set(half.json) == {"status", "challenge", "methods", "expires_at"}
    assert (half.json["status"], half.json["methods"]) == ("mfa_required", ["totp"])
    assert door.query("SELECT last_sign_in_at FROM users WHERE user_id = %s", alice.id) == [(None,)]
    done = await door.verify(half.json["challenge"], "totp", phone.code())
    assert done.status == 200, done.body
    session = done.json["session"]
    assert (session["acr"], session["amr"]) == ("aal2", ["pwd", "otp", "mfa"])
    again = await door.verify(half.json["challenge"], "totp", phone.code(1))
    assert (again.status, again.problem) == (410, "challenge-expired")


async def test_a_right_password_that_leads_no_further_is_in_the_audit(door: FrontDoor) -> None:
    """Whoever stole it may stop there; from where it was given is sealed, and no wrong one looks like it."""
    alice, bob = await door.user("alice"), await door.user("bob", mfa_required=True)
    await door.phone(alice)
    await door.login("alice", WRONG)
    for name in ("alice", "bob"):
        await door.login(name)
    said = [event for event in door.events("tenant") if event["action"] == "sign_in.password"]
    assert [(event["target"], event["detail"]) for event in said] == [
        (alice.ref, {"step": "mfa"}),
        (bob.ref, {"step": "enrol"}),
    ]
    assert "127.0.0.1" not in json.dumps(said)


async def test_a_demanded_factor_that_is_not_there_must_be_bound_first(door: FrontDoor) -> None:
    """By the account, the tenant, or a role: no session without it, and no second step either."""
    await door.user("alice", mfa_required=True)
    half = await door.login("alice")
    assert (half.json["status"], half.json["methods"]) == ("enrollment_required", ["totp", "webauthn"])
    skipped = await door.verify(half.json["challenge"], "totp", "000000")
    assert (skipped.status, skipped.problem) == (400, "invalid-request")


async def test_known_devices_have_failures_of_their_own(door: FrontDoor) -> None:
    """Strangers lock an account; its owner signs in from a known device, and nobody else does."""
    alice = await door.user("alice")
    known = await door.login("alice", remember_device=True)
    device = known.json["device"]["token"]
    assert device.startswith("kasbah_device_")
    door.execute(
        "INSERT INTO credential_failures (tenant_id, user_id, authenticator, failures) VALUES (%s, %s, 'password', 100)",
        door.tenants["acme"],
        alice.id,
    )
    locked, wrong = await door.login("alice"), await door.login("nobody")
    assert said(locked) == said(wrong)
    assert (await door.login("alice", device=device)).status == 200
    bob = await door.user("bob")
    door.execute(
        "INSERT INTO credential_failures (tenant_id, user_id, authenticator, failures) VALUES (%s, %s, 'password', 100)",
        door.tenants["acme"],
        bob.id,
    )
    assert (await door.login("bob", device=device)).status == 401, "a device is known to one account"
    assert [(await door.login("alice", WRONG, device=device)).status for _ in range(6)] == [401] * 6
    assert (await door.login("alice", device=device)).status == 429
    hashed = door.query("SELECT token_hash FROM known_devices")
    assert device.encode() not in bytes(hashed[0][0])


async def test_the_last_failure_is_told_by_mail_once(door: FrontDoor) -> None:
    """At a hundred the password is locked for unknown devices: the owner is told, and how to open it again."""
    alice = await door.user("alice")
    door.execute(
        "INSERT INTO credential_failures (tenant_id, user_id, authenticator, failures) VALUES (%s, %s, 'password', 99)",
        door.tenants["acme"],
        alice.id,
    )
    for _ in range(3):
        assert (await door.login("alice", WRONG)).status == 401
        await door.settled()
        door.later(3600)
    mails = [mail for mail in await door.mails("alice@example.org") if "locked" in str(mail.message["Subject"])]
    assert len(mails) == 1
    assert "ask for a new password" in mails[0].text
    locks = [event for event in door.events("tenant") if event["action"] == "sign_in.lock"]
    assert [event["target"] for event in locks] == [alice.ref]
    assert [event["detail"]["reason"] for event in door.events()] == ["wrong-password", "locked", "locked"]


async def test_a_right_password_with_a_wrong_factor_is_told_by_mail(door: FrontDoor) -> None:
    """Once an hour at most: whoever knows the password must not fill a mailbox."""
    alice = await door.user("alice")
    phone = await door.phone(alice)
    half = await door.login("alice")
    for _ in range(3):
        refused = await door.verify(half.json["challenge"], "totp", wrong_code(phone))
        assert (refused.status, refused.problem) == (401, "invalid-credentials")
    await door.settled()
    mails = [
        mail for mail in await door.mails("alice@example.org") if "knows your password" in str(mail.message["Subject"])
    ]
    assert len(mails) == 1


async def test_metrics_count_sign_ins_and_name_nobody(door: FrontDoor) -> None:
    """By outcome and method, of closed sets."""
    alice = await door.user("alice")
    await door.login("alice")
    await door.login("alice", WRONG)
    await door.phone(alice)
    await door.login("alice")
    text = (await door.get("/metrics")).body.decode()
    for outcome in ("authenticated", "refused", "mfa_required"):
        assert f'kasbah_sign_ins_total{{method="password",outcome="{outcome}"}} 1.0' in text
    assert "alice" not in text
    assert "acme" not in text


async def test_a_sign_in_from_elsewhere_is_told_where_devices_are_known(door: FrontDoor) -> None:
    """Whoever has their devices remembered is told of one that is not; nobody else gets a mail for each sign-in."""
    await door.user("alice")
    await door.login("alice")
    known = (await door.login("alice", remember_device=True)).json["device"]["token"]
    await door.login("alice", device=known)
    assert await door.mails("alice@example.org") == []
    await door.login("alice", agent="somewhere else")
    mails = await door.mails("alice@example.org")
    assert [str(mail.message["Subject"]) for mail in mails] == ["A new device signed in to acme"]


async def test_roles_and_tenants_demand_a_factor(door: FrontDoor) -> None:
    """As settings and roles are when the password was right, not as they were remembered."""
    alice = await door.user("alice")
    people = People(door)
    acme = door.tenants["acme"]
    assert (await door.login("alice")).json["status"] == "authenticated"
    path = "/v1/tenants/acme/settings"
    settings = (await door.get(path)).json
    demand = {"demand": "roles", "roles": ["role:editor"]}
    assert (await door.ask("PUT", path, settings | {"mfa": demand})).status == 200
    assert (await door.login("alice")).json["status"] == "authenticated"
    await people.write(acme, [RoleLink(Ref("group:writers"), Ref("role:editor"))])
    await people.write(acme, [RoleLink(alice.ref, Ref("group:writers"))])
    assert (await door.login("alice")).json["status"] == "enrollment_required"
    await people.take(acme, [RoleLink(alice.ref, Ref("group:writers"))])
    assert (await door.login("alice")).json["status"] == "authenticated"
    demand = {"demand": "required", "roles": []}
    assert (await door.ask("PUT", path, settings | {"mfa": demand})).status == 200
    assert (await door.login("alice")).json["status"] == "enrollment_required"


async def test_at_most_twenty_devices_are_known(door: FrontDoor) -> None:
    """The one that was used longest ago makes room, and its counter goes with it."""
    alice = await door.user("alice")
    first = (await door.login("alice", remember_device=True)).json["device"]["token"]
    await door.login("alice", WRONG, device=first)
    for _ in range(19):
        assert (await door.login("alice", remember_device=True)).status == 200
    assert door.query("SELECT count(*) FROM credential_failures") == [(1,)]
    assert (await door.login("alice", remember_device=True)).status == 200
    assert door.query("SELECT count(*) FROM known_devices WHERE user_id = %s", alice.id) == [(20,)]
    assert door.query("SELECT count(*) FROM credential_failures") == [(0,)]
    door.execute("UPDATE known_devices SET expires_at = now() - interval '1 second'")
    assert (await door.login("alice", device=first, remember_device=True)).json["device"]["token"] != first


async def test_the_platforms_people_sign_in_to_the_platform(door: FrontDoor) -> None:
    """Under its reserved name, with the same rules; they are nobody in a tenant."""
    door.tenants["_platform"] = PLATFORM_TENANT_ID
    await door.user("root", tenant="_platform")
    answer = await door.login("root", tenant="_platform")
    assert answer.status == 200
    assert (await door.get("/v1/users/me", key=answer.json["session"]["token"])).json["username"] == "root"
    assert (await door.login("root", tenant="acme")).status == 401
    assert (await door.login("root", tenant="_base")).status == 401
