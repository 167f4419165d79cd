"""Who must have a second factor enrols on the way in, over HTTP; and everything that enrols nobody."""

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from authn.totp import STEP_SECONDS
from service.keys import CHALLENGES, VOLATILE
from tests.support.administration import Answer
from tests.support.factors import Phone
from tests.support.sign_in import OPTIONS, PASSWORD, FrontDoor, front_door
from tests.support.software_authenticator import SoftwareAuthenticator

pytestmark = pytest.mark.integration

MAIL = "/v1/auth/enrolment/mail"
BEGIN = "/v1/auth/enrolment/begin"
FINISH = "/v1/auth/enrolment/finish"
HEADERS = {"User-Agent": "browser"}


@pytest.fixture
async def door(own_database_url: str) -> AsyncIterator[FrontDoor]:
    async with front_door(own_database_url) as running:
        yield running


async def challenged(door: FrontDoor, name: str = "alice", **more: Any) -> str:
    """Return the challenge of somebody who must enrol."""
    answer = await door.login(name, **more)
    assert answer.json["status"] == "enrollment_required", answer.body
    assert "session" not in answer.json
    return answer.json["challenge"]


async def demanded(door: FrontDoor, name: str = "alice", **more: Any):
    return await door.user(name, mfa_required=True, **more)


async def mailed_code(door: FrontDoor, challenge: str, address: str = "alice@example.org") -> str:
    answer = await door.post(MAIL, {"challenge": challenge}, key="", headers=HEADERS)
    assert (answer.status, answer.json) == (202, {"status": "accepted"}), answer.body
    found = [re.search(r"\b\d{8}\b", mail.text) for mail in await door.mails(address)]
    return [code[0] for code in found if code is not None][-1]


async def begin(door: FrontDoor, challenge: str, *, headers=HEADERS, **proof: str) -> Answer:
    body = {"challenge": challenge, "method": "totp", "name": "my phone"} | proof
    return await door.post(BEGIN, body, key="", headers=headers)


async def finish(door: FrontDoor, challenge: str, code: str, *, headers=HEADERS) -> Answer:
    return await door.post(FINISH, {"challenge": challenge, "code": code}, key="", headers=headers)


async def enrolled(door: FrontDoor, name: str = "alice", **proof: str) -> tuple[Answer, Phone]:
    challenge = await challenged(door, name)
    proof = proof or {"code": await mailed_code(door, challenge, f"{name}@example.org")}
    begun = await begin(door, challenge, **proof)
    assert begun.status == 200, begun.body
    phone = Phone.scan(begun.json)
    return await finish(door, challenge, phone.code()), phone


def authenticators(door: FrontDoor, user) -> list[tuple[bool]]:
    return door.query("SELECT confirmed_at IS NOT NULL FROM authenticators WHERE user_id = %s", user.id)


async def test_password_mailbox_and_a_first_code_sign_in(door: FrontDoor) -> None:
    """The session says what was used; next time the authenticator is asked for, and its first code is spent."""
    alice = await demanded(door)
    answer, phone = await enrolled(door)
    assert answer.status == 200, answer.body
    session = answer.json["session"]
    assert (session["acr"], session["amr"]) == ("aal2", ["pwd", "otp", "mfa"])
    assert len(answer.json["recovery_codes"]) == 10
    assert (await door.get("/v1/users/me", key=session["token"])).json["id"] == str(alice.id)
    again = (await door.login("alice")).json
    assert (again["status"], again["methods"]) == ("mfa_required", ["totp", "recovery_code"])
    ((step,),) = door.query("SELECT last_step FROM authenticators WHERE user_id = %s", alice.id)
    spent = phone.code(now=datetime.fromtimestamp(step * STEP_SECONDS, UTC))
    assert (await door.verify(again["challenge"], "totp", spent)).status == 401
    assert (await door.verify(again["challenge"], "totp", phone.code(1))).status == 200
    events = [event["action"] for event in door.events("tenant") if event.get("actor") == alice.ref]
    assert events == [
        "factor.enrolment_code",
        "factor.enrol",
        "factor.recovery_codes",
        "session.begin",
        "session.begin",
    ]


async def test_a_security_key_enrols_as_well(door: FrontDoor) -> None:
    """The key signs what this challenge asked for; the session says so, and the next sign-in takes an assertion."""
    alice = await demanded(door)
    challenge = await challenged(door)
    code = await mailed_code(door, challenge)
    begun = await begin(door, challenge, code=code, method="webauthn", name="blue key")
    key, forged = SoftwareAuthenticator(door.origin), SoftwareAuthenticator("https://evil.example")
    for wrong in ({"attestation": forged.create(begun.json["public_key"])}, {"attestation": {}}, {"code": "123456"}):
        answer = await door.post(FINISH, {"challenge": challenge} | wrong, key="", headers=HEADERS)
        assert (answer.status, answer.problem) == (403, "wrong-code")
    assert authenticators(door, alice) == []
    made = {"challenge": challenge, "attestation": key.create(begun.json["public_key"])}
    done = await door.post(FINISH, made, key="", headers=HEADERS)
    assert done.status == 200, done.body
    assert done.json["session"]["amr"] == ["pwd", "hwk", "mfa"]
    assert len(done.json["recovery_codes"]) == 10
    again = (await door.login("alice")).json
    assert again["methods"] == ["webauthn", "recovery_code"]
    asked = {"challenge": again["challenge"], "method": "webauthn"}
    options = (await door.post(OPTIONS, asked, key="", headers=HEADERS)).json["options"]
    assert (await door.verify(again["challenge"], "webauthn", key.get(options))).status == 200


async def test_a_recovery_code_signs_in_to_enrol_and_nothing_else(door: FrontDoor) -> None:
    """It works once; then a phone is bound, the codes are new, and the session may do everything."""
    await demanded(door)
    answer, _ = await enrolled(door)
    first, second, *_ = answer.json["recovery_codes"]
    challenge = (await door.login("alice")).json["challenge"]
    recovered = await door.verify(challenge, "recovery_code", first)
    session = recovered.json["session"]
    assert (session["acr"], session["amr"], session["enrolment_required"]) == ("aal2", ["pwd", "mfa"], True)
    token = session["token"]
    listed = (await door.get("/v1/users/me/sessions", key=token)).json["sessions"]
    assert [one["enrolment_required"] for one in listed] == [one["current"] for one in listed] == [True, False]
    assert (await door.get("/v1/users/me", key=token)).problem == "enrolment-required"
    assert (await door.get("/v1/users/me/recovery-codes", key=token)).json == {"left": 9}
    begun = await door.post("/v1/users/me/factors", {"kind": "totp", "name": "new phone"}, key=token)
    phone = Phone.scan(begun.json)
    path = f"/v1/users/me/factors/{phone.id}/confirm"
    done = await door.post(path, {"code": phone.code()}, key=token)
    assert len(done.json["recovery_codes"]) == 10
    assert done.json["session"]["enrolment_required"] is False
    assert (await door.get("/v1/users/me", key=done.json["session"]["token"])).status == 200
    for spent in (first, second):
        challenge = (await door.login("alice")).json["challenge"]
        assert (await door.verify(challenge, "recovery_code", spent)).status == 401


async def test_a_stolen_password_enrols_nothing(door: FrontDoor) -> None:
    """Without the mail there is no way on; the owner is told that somebody knows the password."""
    alice = await demanded(door)
    challenge = await challenged(door)
    for proof in ({"code": "00000000"}, {"code": ""}, {"ticket": "A" * 43}, {"ticket": "x"}):
        answer = await begin(door, challenge, **proof)
        assert (answer.status, answer.problem) == (401, "invalid-credentials")
    assert (await finish(door, challenge, "123456")).status == 400
    assert (await begin(door, challenge, code="00000000")).status == 401
    assert (await begin(door, challenge, code="00000000")).status == 410
    assert authenticators(door, alice) == []
    await door.settled()
    assert "Someone knows your password for acme" in [
        m.message["Subject"] for m in await door.mails("alice@example.org")
    ]


async def test_a_stolen_password_enrols_nothing_by_an_address_of_its_own(door: FrontDoor) -> None:
    """It may change the address; until that cannot be taken back, the new mailbox binds nothing, in any session."""
    alice = await door.user("alice")
    session = (await door.login("alice")).json["session"]["token"]
    wanted = {"email": "mallory@example.org", "current_password": PASSWORD}
    assert (await door.post("/v1/users/me/email", wanted, key=session)).status == 202
    undo = await door.token("alice@example.org")
    confirm = await door.token("mallory@example.org")
    assert (await door.post("/v1/account/address-confirmation", {"token": confirm}, key="")).status == 204
    session = (await door.login("alice")).json["session"]["token"]
    answer = await door.post("/v1/users/me/factors/mail", {}, key=session)
    assert (answer.status, answer.problem) == (409, "enrolment-not-possible")
    door.execute("UPDATE users SET mfa_required = true WHERE user_id = %s", alice.id)
    challenge = await challenged(door)
    answer = await door.post(MAIL, {"challenge": challenge}, key="", headers=HEADERS)
    assert (answer.status, answer.problem) == (409, "enrolment-not-possible")
    assert door.query("SELECT count(*) FROM enrolment_codes") == [(0,)]
    # The owner takes the address back, and nothing of the thief's is in the way.
    assert (await door.post("/v1/account/address-undo", {"token": undo}, key="")).status == 204
    assert await mailed_code(door, await challenged(door))


async def test_an_address_that_cannot_be_taken_back_any_more_enrols(door: FrontDoor) -> None:
    """As long as the link to the old one works, and no longer; an administrator's own change keeps nobody out."""
    alice = await door.user("alice")
    session = (await door.login("alice")).json["session"]["token"]
    wanted = {"email": "alicia@example.org", "current_password": PASSWORD}
    assert (await door.post("/v1/users/me/email", wanted, key=session)).status == 202
    confirm = await door.token("alicia@example.org")
    assert (await door.post("/v1/account/address-confirmation", {"token": confirm}, key="")).status == 204
    session = (await door.login("alice")).json["session"]["token"]
    door.execute("UPDATE address_changes SET created_at = created_at - interval '71 hours'")
    assert (await door.post("/v1/users/me/factors/mail", {}, key=session)).status == 409
    door.execute("UPDATE address_changes SET created_at = created_at - interval '1 hour'")
    assert (await door.post("/v1/users/me/factors/mail", {}, key=session)).status == 202
    said = {"email": "new@example.org", "reason": "married"}
    merge = {"Content-Type": "application/merge-patch+json", "X-Tenant-ID": "acme"}
    assert (await door.ask("PATCH", f"/v1/users/{alice.id}", said, headers=merge)).status == 200
    door.execute("UPDATE users SET email_verified_at = now(), mfa_required = true WHERE user_id = %s", alice.id)
    assert await mailed_code(door, await challenged(door), "new@example.org")


@pytest.mark.parametrize(("verified", "status"), [(True, 202), (False, 409)])
async def test_asking_for_codes_without_end_fills_neither_mailbox_nor_audit(
    door: FrontDoor, verified: bool, status: int
) -> None:
    """Whether one can be mailed or not: a few times within the hour it is looked into, and written down."""
    await demanded(door, verified=verified)
    challenge = await challenged(door)
    answers = [(await door.post(MAIL, {"challenge": challenge}, key="", headers=HEADERS)) for _ in range(8)]
    assert [answer.status for answer in answers] == [status] * 5 + [429] * 3
    assert answers[-1].headers["Retry-After"]
    events = [event for event in door.events("tenant") if event["action"] == "factor.enrolment_code"]
    assert len(events) == 5
    assert len(await door.mails("alice@example.org")) == (5 if verified else 0)


async def test_a_challenge_goes_forward_only_and_for_its_own_client(door: FrontDoor) -> None:
    """One for a second factor enrols nothing, one for an enrolment proves nothing, and no other client uses either."""
    await demanded(door)
    bob = await door.user("bob")
    await door.phone(bob)
    other = (await door.login("bob")).json["challenge"]
    mine = await challenged(door)
    code = await mailed_code(door, mine)
    for answer in (
        await door.post(MAIL, {"challenge": other}, key="", headers=HEADERS),
        await begin(door, other, code=code),
        await finish(door, other, "123456"),
        await begin(door, mine, code=code, headers={"User-Agent": "another"}),
        await door.post(MAIL, {"challenge": mine}, key="", headers={"User-Agent": "another"}),
        await begin(door, "kasbah_challenge_" + "A" * 43, code=code),
    ):
        assert (answer.status, answer.problem) == (410, "challenge-expired")
    assert (await door.verify(mine, "totp", "123456")).status == 400
    assert (await begin(door, mine, code=code)).status == 200


async def test_a_finished_challenge_is_dead(door: FrontDoor) -> None:
    """Nothing of it works again, whatever Valkey brings back."""
    alice = await demanded(door)
    challenge = await challenged(door)
    code = await mailed_code(door, challenge)
    phone = Phone.scan((await begin(door, challenge, code=code)).json)
    names = [name async for name in door.app[VOLATILE].client.scan_iter("*challenge*")]
    saved = {name: await door.app[VOLATILE].client.dump(name) for name in names}
    assert (await finish(door, challenge, phone.code())).status == 200
    for name, value in saved.items():
        await door.app[VOLATILE].client.restore(name, 0, value, replace=True)
    for answer in (
        await finish(door, challenge, phone.code(1)),
        await begin(door, challenge, code=code),
        await door.post(MAIL, {"challenge": challenge}, key="", headers=HEADERS),
    ):
        assert (answer.status, answer.problem) == (410, "challenge-expired")
    assert authenticators(door, alice) == [(True,)]


async def test_one_code_finishes_once_however_many_send_it(door: FrontDoor) -> None:
    """Ten at once: one session, one authenticator, one set of recovery codes."""
    alice = await demanded(door)
    challenge = await challenged(door)
    phone = Phone.scan((await begin(door, challenge, code=await mailed_code(door, challenge))).json)
    code = phone.code()
    answers = await asyncio.gather(*(finish(door, challenge, code) for _ in range(10)))
    assert sorted(answer.status for answer in answers) == [200, *[410] * 9]
    assert authenticators(door, alice) == [(True,)]
    assert door.query("SELECT count(*) FROM recovery_codes") == [(10,)]
    assert door.query("SELECT count(*) FROM audit_events WHERE event::json->>'action' = 'factor.enrol'") == [(1,)]


async def test_nobody_enrols_past_an_account_that_changed(door: FrontDoor) -> None:
    """Disabled, signed out, another password, or enrolled elsewhere, between the steps: begin again."""
    for number, change in enumerate(
        (
            "status = 'disabled'",
            "auth_epoch = auth_epoch + 1",
            "password_hash = password_hash || 'x'",
        )
    ):
        name = f"person{number}"
        user = await demanded(door, name)
        challenge = await challenged(door, name)
        phone = Phone.scan(
            (await begin(door, challenge, code=await mailed_code(door, challenge, f"{name}@example.org"))).json
        )
        door.execute(f"UPDATE users SET {change} WHERE user_id = %s", user.id)
        assert (await finish(door, challenge, phone.code())).status == 410, change
        assert authenticators(door, user) == [(False,)]
    alice = await demanded(door)
    challenge = await challenged(door)
    phone = Phone.scan((await begin(door, challenge, code=await mailed_code(door, challenge))).json)
    await door.phone(alice)
    assert (await finish(door, challenge, phone.code())).status == 410


async def test_an_invitation_counts_as_the_mail(door: FrontDoor) -> None:
    """Its acceptance answers a ticket, which enrols its account once, with the password and with nothing less."""
    changed = await door.ask(
        "PATCH", "/v1/tenants/acme/settings", {"mfa": {"demand": "required"}}, key=door.keys["acme"]
    )
    assert changed.status == 200, changed.body
    for name in ("carol", "dave"):
        made = await door.post("/v1/invitations", {"email": f"{name}@example.org"}, key=door.keys["acme"])
        assert made.status == 201, made.body
    tickets = {}
    for name in ("carol", "dave"):
        said = {"token": await door.token(f"{name}@example.org"), "username": name, "password": PASSWORD}
        tickets[name] = (await door.post("/v1/account/invitation", said, key="")).json["enrolment_ticket"]["token"]
    challenge = await challenged(door, "carol")
    assert (await begin(door, challenge, ticket=tickets["dave"])).status == 401
    first = Phone.scan((await begin(door, challenge, ticket=tickets["carol"])).json)
    # A ticket is spent with the enrolment: whoever broke off begins again.
    challenge = await challenged(door, "carol")
    phone = Phone.scan((await begin(door, challenge, ticket=tickets["carol"])).json)
    assert (await finish(door, challenge, wrong_of(phone))).status == 403
    assert (await finish(door, challenge, phone.code())).status == 200
    assert first.id != phone.id
    assert (await door.login("carol")).json["status"] == "mfa_required"
    assert door.query("SELECT count(*) FROM links WHERE purpose = 'enrolment' AND spent_at IS NOT NULL") == [(1,)]


def wrong_of(phone: Phone) -> str:
    near = {phone.code(step) for step in range(-3, 4)}
    return next(code for code in (f"{number:06}" for number in range(10)) if code not in near)


async def test_once_bound_a_password_and_a_mailbox_enrol_nothing(door: FrontDoor) -> None:
    """Whoever lost everything needs a reset; its ticket enrols once, and the old phone is worth nothing."""
    alice = await demanded(door)
    _, old = await enrolled(door)
    reset = await door.post(f"/v1/users/{alice.id}/factors/reset", {"reason": "lost"}, key=door.keys["acme"])
    assert reset.status == 202, reset.body
    mail = (await door.mails("alice@example.org"))[-1]
    ticket = next(word for word in mail.text.split() if len(word) == 43)
    challenge = await challenged(door)
    answer = await door.post(MAIL, {"challenge": challenge}, key="", headers=HEADERS)
    assert (answer.status, answer.problem) == (409, "enrolment-not-possible")
    assert (await begin(door, challenge, code="12345678")).status == 401
    done, phone = await enrolled(door, ticket=ticket)
    assert done.status == 200, done.body
    challenge = (await door.login("alice")).json["challenge"]
    assert (await door.verify(challenge, "totp", old.code(1))).status == 401
    assert (await door.verify(challenge, "totp", phone.code(1))).status == 200
    reset = await door.post(f"/v1/users/{alice.id}/factors/reset", {"reason": "again"}, key=door.keys["acme"])
    assert reset.status == 202, reset.body
    assert (await begin(door, await challenged(door), ticket=ticket)).status == 401


async def test_after_a_reset_the_password_alone_signs_nobody_in(door: FrontDoor) -> None:
    """Also where no second factor is demanded: it was there, so it is asked for."""
    alice = await door.user("alice")
    assert (await door.login("alice")).json["status"] == "authenticated"
    phone = await door.phone(alice)
    door.execute("UPDATE users SET factors_bound_at = now()")
    revoked = await door.ask("DELETE", f"/v1/users/{alice.id}/factors/{phone.id}?reason=lost", key=door.keys["acme"])
    assert revoked.status == 204, revoked.body
    challenge = await challenged(door)
    answer = await door.post(MAIL, {"challenge": challenge}, key="", headers=HEADERS)
    assert answer.problem == "enrolment-not-possible"


async def test_losing_valkey_in_the_middle_means_to_begin_again(door: FrontDoor) -> None:
    """What was begun is forgotten, what was bound stays, and no code comes back."""
    alice = await demanded(door)
    challenge = await challenged(door)
    code = await mailed_code(door, challenge)
    phone = Phone.scan((await begin(door, challenge, code=code)).json)
    assert await door.app[CHALLENGES].finish(challenge)
    assert (await finish(door, challenge, phone.code())).status == 410
    assert authenticators(door, alice) == [(False,)]
    challenge = await challenged(door)
    assert (await begin(door, challenge, code=code)).status == 401
    phone = Phone.scan((await begin(door, challenge, code=await mailed_code(door, challenge))).json)
    assert (await finish(door, challenge, phone.code())).status == 200


async def test_no_log_and_no_table_shows_a_secret(door: FrontDoor, capfd) -> None:
    """Seeds, codes of all kinds, tickets and tokens: not in the audit, not in the history, not in what is printed."""
    await demanded(door)
    challenge = await challenged(door)
    code = await mailed_code(door, challenge)
    begun = (await begin(door, challenge, code=code)).json
    phone = Phone.scan(begun)
    typed = phone.code()
    done = (await finish(door, challenge, typed)).json
    secrets = [begun["secret"], code, challenge, done["session"]["token"], *done["recovery_codes"]]
    tables = ("audit_events", "changes", "mails", "authenticators", "recovery_codes", "enrolment_codes", "links")
    stored = "".join(str(door.query(f"SELECT t::text FROM {table} AS t")) for table in tables)
    printed = "".join(capfd.readouterr())
    for secret in secrets:
        assert secret not in stored
        assert secret not in printed
    assert phone.secret.hex() not in stored
