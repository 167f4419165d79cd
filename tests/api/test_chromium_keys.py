"""A real browser with a security key, on a page of the service itself: what it answers is a proof, elsewhere it is none."""

import secrets
import uuid
from dataclasses import replace

import pytest

from authn.relying_party import RelyingParty
from authn.sessions import Acr
from authn.webauthn_keys import (
    Asserted,
    KnownKey,
    NewKey,
    WebauthnRefused,
    creation_options,
    request_options,
    verify_assertion,
    verify_attestation,
)
from service.keys import KEY_RING, SESSIONS
from service.webauthn_settings import WebauthnSettings
from tests.support.chromium import CHROMIUM, MISSING, Browser, chromium
from tests.support.factors import bind_phone
from tests.support.sessions import signed_in
from tests.support.sign_in import front_door

pytestmark = [
    pytest.mark.integration,
    pytest.mark.chromium,
    pytest.mark.skipif(CHROMIUM is None, reason=MISSING),
]

ALICE = uuid.UUID("018f0000-0000-7000-8000-000000000001")
PAGE = "/account/password-reset-request"
KEYS = "/v1/users/me/security-keys"


def party_of(service) -> RelyingParty:
    """The relying party that such a deployment has by default."""
    found = WebauthnSettings().relying_party(service.url)
    assert found is not None
    return found


def asked(party: RelyingParty, challenge: bytes, *present: KnownKey):
    """Options for a new key of alice's."""
    return creation_options(
        party, user_id=ALICE, username="alice", display_name="Alice", challenge=challenge, present=present
    )


async def made(browser: Browser, party: RelyingParty) -> KnownKey:
    """A key that the browser made."""
    challenge = secrets.token_bytes(32)
    key = verify_attestation(party, await browser.create(asked(party, challenge)), challenge=challenge)
    assert isinstance(key, NewKey)
    return KnownKey(key.credential_id, key.public_key, key.transports)


async def test_a_browsers_key_is_made_and_proves_itself_on_our_page(admin):
    """Also under the headers that close our pages; the counter grows; a key is not taken twice; other sites get nothing."""
    party = party_of(admin)
    async with chromium() as browser:
        await browser.open(party.origins[0] + PAGE)
        await browser.plug_in()
        known = await made(browser, party)
        assert known.transports == ("usb",)
        counts = []
        for _ in range(2):
            challenge = secrets.token_bytes(32)
            answer = await browser.get(request_options(party, challenge=challenge, present=[known]))
            outcome = verify_assertion(party, answer, challenge=challenge, key=known, user_id=ALICE)
            assert isinstance(outcome, Asserted)
            assert outcome.user_verified
            counts.append(outcome.sign_count)
            elsewhere = replace(party, origins=("http://localhost:1",))
            other = verify_assertion(elsewhere, answer, challenge=challenge, key=known, user_id=ALICE)
            assert isinstance(other, WebauthnRefused)
        assert counts[0] < counts[1]
        with pytest.raises(AssertionError, match="InvalidStateError"):
            await browser.create(asked(party, secrets.token_bytes(32), known))
        with pytest.raises(AssertionError, match="SecurityError"):
            await browser.create(asked(replace(party, id="kasbah.example"), secrets.token_bytes(32)))


async def test_an_old_key_without_a_pin_is_a_second_factor(admin):
    """U2F: a touch and a counter, beside the password."""
    party = party_of(admin)
    async with chromium() as browser:
        await browser.open(party.origins[0] + PAGE)
        await browser.plug_in(protocol="u2f", verifies=False)
        known = await made(browser, party)
        challenge = secrets.token_bytes(32)
        answer = await browser.get(request_options(party, challenge=challenge, present=[known]))
        outcome = verify_assertion(party, answer, challenge=challenge, key=known, user_id=ALICE)
        assert isinstance(outcome, Asserted)
        assert not outcome.user_verified


async def test_a_person_adds_a_key_in_a_browser_and_signs_in_with_it(own_database_url):
    """Password and phone, then the key is added on our page; the next time it is what is asked for."""
    async with front_door(own_database_url) as door, chromium() as browser:
        user = await door.user("alice")
        await bind_phone(door.app[SESSIONS], door.app[KEY_RING], user.tenant_id, user.id)
        session = await signed_in(door.app, user.tenant_id, user.id, Acr.AAL2)
        await browser.open(door.origin + PAGE)
        await browser.plug_in()
        begun = await door.post(KEYS, {"name": "Blue key"}, key=session.token)
        made = await browser.create(begun.json["public_key"])
        bound = await door.post(f"{KEYS}/{begun.json['id']}", {"attestation": made}, key=session.token)
        assert bound.status == 200, bound.body
        for _ in range(2):
            half = await door.login("alice")
            assert "webauthn" in half.json["methods"]
            asked = await door.options(half.json["challenge"], "webauthn")
            answer = await browser.get(asked.json["options"])
            done = await door.verify(half.json["challenge"], "webauthn", answer)
            assert done.status == 200, done.body
            assert done.json["session"]["amr"] == ["pwd", "hwk", "mfa"]
            again = await door.verify(half.json["challenge"], "webauthn", answer)
            assert again.problem == "challenge-expired"
        begun = await door.post(KEYS, {"name": "again"}, key=done.json["session"]["token"])
        with pytest.raises(AssertionError, match="InvalidStateError"):
            await browser.create(begun.json["public_key"])
