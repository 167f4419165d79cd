"""Security keys over HTTP: added by whoever signed in lately, for one answer, and by nobody else."""

import re
from datetime import timedelta

import pytest

from authn.relying_party import RelyingParty
from authn.sessions import Acr
from service.keys import KEY_RING, SECURITY_KEYS, SESSIONS
from service.routes import FRESH
from tests.support.factors import bind_phone, bind_security_key
from tests.support.people import PostOffice
from tests.support.sessions import signed_in
from tests.support.software_authenticator import SoftwareAuthenticator, b64

pytestmark = pytest.mark.integration

KEYS = "/v1/users/me/security-keys"
FACTORS = "/v1/users/me/factors"


async def person(post: PostOffice, username: str = "alice", **more):
    """Somebody with a phone, who is signed in with it; returns account and token."""
    user = await post.person(username, **more)
    await bind_phone(post.app[SESSIONS], post.app[KEY_RING], user.tenant_id, user.id)
    new = await signed_in(post.app, user.tenant_id, user.id, Acr.AAL2)
    return user, new.token


async def asked(post: PostOffice, token: str, name: str = "Blue key", **more):
    answer = await post.post(KEYS, {"name": name, **more}, key=token)
    assert answer.status == 201, answer.body
    return answer.json


async def added(post: PostOffice, token: str, key: SoftwareAuthenticator, name: str = "Blue key"):
    """Add a key; returns what was answered."""
    begun = await asked(post, token, name)
    answer = await post.post(f"{KEYS}/{begun['id']}", {"attestation": key.create(begun["public_key"])}, key=token)
    assert answer.status == 200, answer.body
    return answer.json


async def test_a_person_adds_several_keys(post):
    """Each under its name; others are signed out each time, this session goes on; told by mail and in the audit."""
    user, token = await person(post)
    other = await signed_in(post.app, user.tenant_id, user.id, Acr.AAL2)
    first = await added(post, token, SoftwareAuthenticator(post.origin))
    assert first["factor"]["name"] == "Blue key"
    assert first["factor"]["kind"] == "webauthn"
    assert (first["session"]["acr"], first["session"]["amr"]) == ("aal2", ["pwd", "otp", "hwk", "mfa"])
    for ended in (token, other.token):
        assert (await post.get(FACTORS, key=ended)).status == 401
    token = first["session"]["token"]
    second = await added(post, token, SoftwareAuthenticator(post.origin, algorithm="EdDSA"), "Red key")
    listed = await post.get(FACTORS, key=second["session"]["token"])
    assert {one["name"] for one in listed.json["factors"]} == {"phone", "Blue key", "Red key"}
    assert set(listed.json["methods"]) >= {"totp", "webauthn"}
    assert len(await post.mails("alice@example.org")) == 2
    actions = [event["action"] for (event,) in post.query("SELECT event FROM audit_events")]
    assert actions.count("factor.enrol") == 2


async def test_a_key_that_is_there_is_excluded_and_refused(post):
    """The browser is told; who goes around it is refused, also from another account."""
    _, token = await person(post)
    key = SoftwareAuthenticator(post.origin)
    token = (await added(post, token, key))["session"]["token"]
    begun = await asked(post, token)
    assert [one["id"] for one in begun["public_key"]["excludeCredentials"]] == [b64(key.credentials[0].credential_id)]
    _, other = await person(post, "bob")
    begun = await asked(post, other)
    stolen = SoftwareAuthenticator(post.origin).create(
        begun["public_key"], credential_id=key.credentials[0].credential_id
    )
    refused = await post.post(f"{KEYS}/{begun['id']}", {"attestation": stolen}, key=other)
    assert (refused.status, refused.problem) == (409, "security-key-taken")


async def test_what_is_asked_is_answered_once_and_by_whom_it_was_asked(post):
    """Not by another session, not by another account, not twice, not after a wrong answer, not after a newer one."""
    user, token = await person(post)
    same = (await signed_in(post.app, user.tenant_id, user.id, Acr.AAL2)).token
    _, bob = await person(post, "bob")
    begun = await asked(post, token)
    answer = {"attestation": SoftwareAuthenticator(post.origin).create(begun["public_key"])}
    path = f"{KEYS}/{begun['id']}"
    for stranger in (same, bob):
        assert (await post.post(path, answer, key=stranger)).status == 404
    bad = {"attestation": SoftwareAuthenticator("https://evil.example").create(begun["public_key"])}
    refused = await post.post(path, bad, key=token)
    assert (refused.status, refused.problem) == (422, "security-key-refused")
    assert (await post.post(path, answer, key=token)).status == 404
    older, newer = await asked(post, token), await asked(post, token)
    for begun, status in ((older, 404), (newer, 200), (newer, 401)):
        made = {"attestation": SoftwareAuthenticator(post.origin).create(begun["public_key"])}
        assert (await post.post(f"{KEYS}/{begun['id']}", made, key=token)).status == status
    assert (await post.post(f"{KEYS}/nothing", answer, key=bob)).status == 404


async def test_a_key_that_was_made_elsewhere_is_refused(post):
    """Another site, other bytes, another domain, a frame; nothing is bound and nobody is signed out."""
    _, token = await person(post)
    for forged in (
        {"client": {"origin": "https://evil.example"}},
        {"client": {"challenge": b64(bytes(32))}},
        {"rp_id": "evil.example"},
        {"client": {"crossOrigin": True}},
    ):
        begun = await asked(post, token)
        made = SoftwareAuthenticator(post.origin).create(begun["public_key"], **forged)
        refused = await post.post(f"{KEYS}/{begun['id']}", {"attestation": made}, key=token)
        assert (refused.status, refused.problem) == (422, "security-key-refused")
    listed = await post.get(FACTORS, key=token)
    assert [one["kind"] for one in listed.json["factors"]] == ["totp"]


async def test_the_first_authenticator_takes_a_mailed_code(post):
    """A stolen session of an account without factors adds none; the mailed code does, and recovery codes are shown."""
    user = await post.person("carol")
    token = (await signed_in(post.app, user.tenant_id, user.id)).token
    for given in ({}, {"code": "00000000"}, {"ticket": "x"}):
        refused = await post.post(KEYS, {"name": "Blue key", **given}, key=token)
        assert (refused.status, refused.problem) == (403, "wrong-code")
    assert (await post.ask("POST", f"{FACTORS}/mail", key=token)).status == 202
    code = re.search(r"\b[0-9]{8}\b", (await post.mails("carol@example.org"))[-1].text)[0]
    begun = await asked(post, token, code=code)
    made = SoftwareAuthenticator(post.origin).create(begun["public_key"])
    done = await post.post(f"{KEYS}/{begun['id']}", {"attestation": made}, key=token)
    assert done.status == 200, done.body
    assert len(done.json["recovery_codes"]) == 10


async def test_keys_are_for_whoever_signed_in_lately_and_fully(post):
    """No API key, no personal key, no old session, no session by the password alone."""
    user, _ = await person(post)
    for ago, acr in ((FRESH.max_age + timedelta(seconds=20), Acr.AAL2), (timedelta(0), Acr.AAL1)):
        weak = await signed_in(post.app, user.tenant_id, user.id, acr, ago=ago)
        for path in (KEYS, f"{KEYS}/{user.id}"):
            refused = await post.post(path, {"name": "Blue key"}, key=weak.token)
            assert (refused.status, refused.problem) == (401, "insufficient-user-authentication")
    assert (await post.post(KEYS, {"name": "Blue key"}, key=post.keys["acme"])).problem == "interactive-only"
    assert (await post.post(KEYS, {"name": "Blue key"}, key="")).status == 401


async def test_after_a_recovery_a_key_lets_its_person_go_on(post):
    """The session of a recovery code is good for that, and the one that follows for everything."""
    user, _ = await person(post)
    recovered = await signed_in(post.app, user.tenant_id, user.id, Acr.AAL2, must_enrol=True)
    assert (await post.get("/v1/users/me/keys", key=recovered.token)).problem == "enrolment-required"
    done = await added(post, recovered.token, SoftwareAuthenticator(post.origin))
    assert (await post.get("/v1/users/me/keys", key=done["session"]["token"])).status == 200


async def test_another_tenants_account_may_have_the_same_key(post):
    """Keys are excluded for each tenant alone: nobody learns who has one elsewhere."""
    key = SoftwareAuthenticator(post.origin)
    for tenant in ("acme", "beta"):
        user = await post.person("dora", tenant=tenant)
        await bind_phone(post.app[SESSIONS], post.app[KEY_RING], user.tenant_id, user.id)
        token = (await signed_in(post.app, user.tenant_id, user.id, Acr.AAL2)).token
        begun = await asked(post, token)
        assert begun["public_key"]["excludeCredentials"] == []
        await added(post, token, key)


async def test_names_and_bodies_have_their_bounds(post):
    """What is no name, no object, or too much."""
    _, token = await person(post)
    for body in ({"name": ""}, {"name": "x" * 65}, {"name": "a\u202eb"}, {}, {"name": "x", "kind": "totp"}):
        assert (await post.post(KEYS, body, key=token)).status == 400
    begun = await asked(post, token)
    path = f"{KEYS}/{begun['id']}"
    for body in ({}, {"attestation": "x"}, {"attestation": {}, "more": 1}):
        assert (await post.post(path, body, key=token)).status == 400
    assert (await post.post(path, {"attestation": {"id": "x" * 70_000}}, key=token)).status == 413
    assert (await post.post(path, {"attestation": {}}, key=token)).problem == "security-key-refused"


async def test_where_browsers_offer_no_keys_nothing_is_begun(post):
    """A deployment behind an address by number: told, not broken."""
    _, token = await person(post)
    del post.app._state[SECURITY_KEYS]
    refused = await post.post(KEYS, {"name": "Blue key"}, key=token)
    assert (refused.status, refused.problem) == (409, "enrolment-not-possible")


async def test_a_removed_key_proves_nothing(post):
    """As every authenticator."""
    user, token = await person(post)
    key = SoftwareAuthenticator(post.origin)
    party = RelyingParty("localhost", "Kasbah", (post.origin,))
    bound = await bind_security_key(post.app[SESSIONS], user.tenant_id, user.id, key, party=party)
    done = await post.ask("DELETE", f"{FACTORS}/{bound}", key=token)
    assert done.status == 200, done.body
    listed = await post.get(FACTORS, key=done.json["session"]["token"])
    assert [one["kind"] for one in listed.json["factors"]] == ["totp"]
