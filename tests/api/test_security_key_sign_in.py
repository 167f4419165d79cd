"""Signing in with a password and a security key, over HTTP: what a key proves, and what it does not."""

from collections.abc import AsyncIterator

import pytest

from authn.factors import FactorKind, FactorMethod
from authn.relying_party import RelyingParty
from service.keys import FACTORS, KEY_RING, NEW_FACTORS, SESSIONS
from tests.support.factors import bind_phone, bind_security_key
from tests.support.sign_in import FrontDoor, front_door
from tests.support.software_authenticator import SoftwareAuthenticator, b64

pytestmark = pytest.mark.integration


@pytest.fixture
async def door(own_database_url: str) -> AsyncIterator[FrontDoor]:
    """The application, with people who have passwords."""
    async with front_door(own_database_url) as running:
        yield running


async def owner(door: FrontDoor, name: str = "alice", **more) -> SoftwareAuthenticator:
    """Somebody with a security key, which is returned."""
    user = await door.user(name, **more)
    key = SoftwareAuthenticator(door.origin)
    party = RelyingParty("localhost", "Kasbah", (door.origin,))
    await bind_security_key(door.app[SESSIONS], user.tenant_id, user.id, key, party=party)
    return key


async def half(door: FrontDoor, name: str = "alice", **more):
    """A challenge, and what the browser is given for it."""
    begun = await door.login(name, **more)
    assert begun.json["status"] == "mfa_required"
    assert begun.json["methods"] == ["webauthn"]
    asked = await door.options(begun.json["challenge"], "webauthn")
    assert asked.status == 200, asked.body
    return begun.json["challenge"], asked.json["options"]


async def test_password_and_key_sign_in(door):
    """With the account's keys offered; the session says what was used."""
    key = await owner(door)
    challenge, options = await half(door)
    assert [one["id"] for one in options["allowCredentials"]] == [b64(key.credentials[0].credential_id)]
    assert options["rpId"] == "localhost"
    done = await door.verify(challenge, "webauthn", key.get(options))
    assert done.status == 200, done.body
    assert (done.json["session"]["acr"], done.json["session"]["amr"]) == ("aal2", ["pwd", "hwk", "mfa"])
    token = done.json["session"]["token"]
    begun = await door.post("/v1/users/me/security-keys", {"name": "second"}, key=token)
    assert begun.status == 201, "a fresh sign-in at the account's full level"


async def test_an_assertion_is_good_once_for_its_own_sign_in(door):
    """Not again, not for another challenge, not for bytes that were asked for before; all refusals are alike."""
    key = await owner(door)
    challenge, options = await half(door)
    other, other_options = await half(door)
    assert options["challenge"] != other_options["challenge"]
    answer = key.get(options)
    refused = await door.verify(other, "webauthn", answer)
    assert (refused.status, refused.problem) == (401, "invalid-credentials")
    newer = await door.options(challenge, "webauthn")
    assert (await door.verify(challenge, "webauthn", answer)).status == 401
    assert (await door.verify(challenge, "webauthn", key.get(newer.json["options"]))).status == 200
    assert (await door.verify(challenge, "webauthn", answer)).problem == "challenge-expired"


async def test_a_page_elsewhere_gets_nothing(door):
    """A proxy that looks like us asks for the key: what it signs is of another origin, or of another RP id."""
    key = await owner(door)
    challenge, options = await half(door)
    for forged in (
        {"client": {"origin": "https://kasbah.evil.example"}},
        {"client": {"origin": door.origin.replace("http:", "https:")}},
        {"rp_id": "evil.example"},
        {"client": {"crossOrigin": True}},
    ):
        assert (await door.verify(challenge, "webauthn", key.get(options, **forged))).status == 401


async def test_anothers_key_signs_in_nobody(door):
    """Neither of the same tenant nor of another one, under whichever name."""
    key = await owner(door)
    for name, tenant in (("mallory", "acme"), ("mallory", "beta")):
        theirs = await owner(door, name, tenant=tenant)
        challenge, options = await half(door)
        answer = theirs.get(options, credential=theirs.credentials[0])
        assert (await door.verify(challenge, "webauthn", answer)).status == 401
        renamed = answer | {name: b64(key.credentials[0].credential_id) for name in ("id", "rawId")}
        assert (await door.verify(challenge, "webauthn", renamed)).status == 401


async def test_a_copied_key_is_refused_and_told(door):
    """The counter went on with the copy; the person is told by mail, and the audit tells it apart."""
    key = await owner(door)
    for count, status in ((7, 200), (7, 401), (3, 401), (8, 200)):
        challenge, options = await half(door)
        done = await door.verify(challenge, "webauthn", key.get(options, sign_count=count))
        assert done.status == status
    subjects = [str(mail.message["Subject"]) for mail in await door.mails("alice@example.org")]
    assert subjects.count("A security key of yours may have been copied") == 2
    told = [event for event in door.events("tenant") if event["action"] == "factor.counter"]
    assert [event["outcome"] for event in told] == ["refused"] * 2


async def test_without_options_there_is_nothing_to_sign(door):
    """A challenge of a sign-in is none of a key's; and a code is no assertion."""
    key = await owner(door)
    begun = await door.login("alice")
    forged = {"challenge": b64(bytes(32)), "rpId": "localhost"}
    answer = key.get(forged, credential=key.credentials[0])
    assert (await door.verify(begun.json["challenge"], "webauthn", answer)).status == 401
    assert (await door.verify(begun.json["challenge"], "webauthn", "123456")).status == 401
    assert (await door.verify(begun.json["challenge"], "totp", "123456")).status == 400
    assert (await door.options(begun.json["challenge"], "totp")).status == 400


async def test_a_deployment_without_keys_offers_none(door):
    """Neither to whoever must bind a factor, nor to whoever has a key of before, nor in what anybody lists."""
    demanded = await door.user("bob", mfa_required=True)
    assert (await door.login("bob")).json["methods"] == ["totp", "webauthn"]
    await owner(door)
    alice = door.query("SELECT user_id FROM users WHERE username = 'alice'")[0][0]
    phone = await bind_phone(door.app[SESSIONS], door.app[KEY_RING], demanded.tenant_id, alice)
    assert (await door.login("alice")).json["methods"] == ["totp", "webauthn"]
    del door.app[FACTORS][FactorMethod.WEBAUTHN], door.app[NEW_FACTORS][FactorKind.WEBAUTHN]
    assert (await door.login("bob")).json["methods"] == ["totp"]
    begun = (await door.login("alice")).json
    assert begun["methods"] == ["totp"]
    session = (await door.verify(begun["challenge"], "totp", phone.code())).json["session"]
    own = await door.get("/v1/users/me/factors", key=session["token"])
    others = await door.get(f"/v1/users/{alice}/factors", key=door.keys["acme"])
    for listed in (own, others):
        assert listed.json["methods"] == ["totp"]
        assert {one["kind"] for one in listed.json["factors"]} == {"totp", "webauthn"}
