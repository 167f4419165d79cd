"""People's own second factors over HTTP: what the edge asks for, what is shown once, and what becomes of sessions."""

import json
import re
from datetime import timedelta
from xml.etree import ElementTree as ET

import pytest

from authn.factors import FactorKind, counter_of
from authn.sessions import Acr
from service.keys import KEY_RING, SESSIONS
from tests.support.factors import Phone, bind_phone
from tests.support.people import PostOffice
from tests.support.sessions import signed_in

pytestmark = pytest.mark.integration

FACTORS = "/v1/users/me/factors"
CODES = "/v1/users/me/recovery-codes"


async def sign_in(post: PostOffice, user, acr=Acr.AAL1, **more) -> str:
    """Return the token of a session that began now."""
    return (await signed_in(post.app, user.tenant_id, user.id, acr, **more)).token


async def mailed_code(post: PostOffice, token: str, address: str) -> str:
    """Ask for a code and read it."""
    assert (await post.ask("POST", f"{FACTORS}/mail", key=token)).status == 202
    return re.search(r"\b\d{8}\b", (await post.mails(address))[-1].text)[0]


async def enrolled(post: PostOffice, user, name="my phone"):
    """Return an answer and a phone of somebody who enrolled as people do."""
    token = await sign_in(post, user)
    code = await mailed_code(post, token, user.email)
    begun = await post.post(FACTORS, {"kind": "totp", "name": name, "code": code}, key=token)
    assert begun.status == 201, begun.body
    phone = Phone.scan(begun.json)
    done = await post.post(f"{FACTORS}/{phone.id}/confirm", {"code": phone.code()}, key=token)
    assert done.status == 200, done.body
    return done.json, phone


async def test_a_person_binds_a_phone(post: PostOffice):
    """The secret is shown once, with a picture; the first code gives recovery codes and a session that goes on."""
    alice = await post.person("alice")
    old = await sign_in(post, alice)
    token = await sign_in(post, alice)
    code = await mailed_code(post, token, "alice@example.org")
    begun = (await post.post(FACTORS, {"kind": "totp", "name": " my  phone ", "code": code}, key=token)).json
    assert ET.fromstring(begun["qr_svg"]).tag.endswith("svg")
    assert begun["secret"] not in begun["qr_svg"]
    assert len(begun["secret"]) == 32
    assert f"secret={begun['secret']}" in begun["uri"]
    assert "issuer=acme" in begun["uri"]
    phone = Phone.scan(begun)
    assert (await post.get(FACTORS, key=token)).json["factors"] == []
    answer = await post.post(f"{FACTORS}/{phone.id}/confirm", {"code": phone.code()}, key=token)
    done = answer.json
    assert len(done["recovery_codes"]) == 10
    assert done["factor"]["name"] == "my phone"
    assert (await post.get(FACTORS, key=token)).status == (await post.get(FACTORS, key=old)).status == 401
    shown = (await post.get(FACTORS, key=done["session"]["token"])).json
    assert (shown["methods"], shown["recovery_codes_left"]) == (["totp", "recovery_code"], 10)
    everything = json.dumps(shown) + (await post.get(CODES, key=done["session"]["token"])).body.decode()
    for secret in (begun["secret"], *done["recovery_codes"]):
        assert secret not in everything
    assert (await post.mails("alice@example.org"))[-1].message["Subject"] == "How you sign in to acme was changed"


async def test_only_who_signed_in_lately_and_fully_changes_factors(post: PostOffice):
    """A key never; a session that is old, or that proved less than the account can, is told what would do."""
    alice = await post.person("alice")
    await bind_phone(post.app[SESSIONS], post.app[KEY_RING], alice.tenant_id, alice.id)
    changes = [
        ("POST", FACTORS, {"kind": "totp", "name": "x"}),
        ("POST", f"{FACTORS}/mail", None),
        ("POST", f"{FACTORS}/{alice.id}/confirm", {"code": "123456"}),
        ("PATCH", f"{FACTORS}/{alice.id}", {"name": "x"}),
        ("DELETE", f"{FACTORS}/{alice.id}", None),
        ("POST", CODES, None),
    ]
    old = await sign_in(post, alice, Acr.AAL2, ago=timedelta(minutes=6))
    weak = await sign_in(post, alice, Acr.AAL1)
    for method, path, body in changes:
        for token in (old, weak):
            answer = await post.ask(method, path, body, key=token)
            assert (answer.status, answer.problem) == (401, "insufficient-user-authentication"), (method, path)
            assert (answer.json["acr_values"], answer.json["max_age"]) == ("aal2", 300)
        answer = await post.ask(method, path, body, key=post.keys["acme"])
        assert (answer.status, answer.problem) == (403, "interactive-only")
    for path in (FACTORS, CODES):
        assert (await post.get(path, key=old)).status == 200
        assert (await post.get(path, key=post.keys["acme"])).problem == "interactive-only"


async def test_what_is_not_right_says_what_would_be(post: PostOffice):
    """No code, a wrong one, too many mails, a name that cannot be shown, an id of nobody's."""
    alice = await post.person("alice")
    nobody = await post.person("nobody", verified=False)
    token = await sign_in(post, alice)
    for body in ({}, {"code": "00000000"}, {"ticket": "A" * 43}):
        answer = await post.post(FACTORS, {"kind": "totp", "name": "x"} | body, key=token)
        assert (answer.status, answer.problem) == (403, "wrong-code")
    for name in ("", " ", "a\u202eb", "x" * 65):
        answer = await post.post(FACTORS, {"kind": "totp", "name": name}, key=token)
        assert (answer.status, answer.problem) == (400, "invalid-factor-name")
    answer = await post.ask("POST", f"{FACTORS}/mail", key=await sign_in(post, nobody))
    assert (answer.status, answer.problem) == (409, "enrolment-not-possible")
    answers = [await post.ask("POST", f"{FACTORS}/mail", key=token) for _ in range(6)]
    assert ([answer.status for answer in answers], "Retry-After" in answers[-1].headers) == ([202] * 5 + [429], True)
    for path in (f"{FACTORS}/{alice.id}", f"{FACTORS}/nonsense"):
        assert (await post.ask("DELETE", path, key=token)).status == 404
        assert (await post.post(f"{path}/confirm", {"code": "123456"}, key=token)).status == 404
    answer = await post.ask("POST", CODES, key=token)
    assert (answer.status, answer.problem) == (409, "enrolment-not-possible")


async def test_another_tenants_and_another_persons_factors_are_not_there(post: PostOffice):
    """404 for ids of both, to read, confirm, name and remove."""
    alice, bob = await post.person("alice"), await post.person("bob", tenant="beta")
    mallory = await post.person("mallory")
    _, phone = await enrolled(post, alice)
    waiting = await post.post(FACTORS, {"kind": "totp", "name": "x"}, key=(await signed_in_fully(post, alice)))
    for other in (bob, mallory):
        done, _ = await enrolled(post, other)
        token = done["session"]["token"]
        token = await signed_in_fully(post, other)
        for factor in (phone.id, waiting.json["id"]):
            assert (await post.ask("DELETE", f"{FACTORS}/{factor}", key=token)).status == 404
            assert (await post.ask("PATCH", f"{FACTORS}/{factor}", {"name": "x"}, key=token)).status == 404
            code = Phone.scan(waiting.json).code()
            assert (await post.post(f"{FACTORS}/{factor}/confirm", {"code": code}, key=token)).status == 404


async def signed_in_fully(post: PostOffice, user) -> str:
    """Return the token of a fresh session at the account's highest level."""
    return await sign_in(post, user, Acr.AAL2)


async def test_a_demanded_factor_cannot_be_the_last_one_to_go(post: PostOffice):
    """By the account's own entry, its tenant, or a role; elsewhere the recovery codes go with it."""
    alice, bob = await post.person("alice"), await post.person("bob")
    _, phone = await enrolled(post, alice)
    post.execute("UPDATE users SET mfa_required = true WHERE user_id = %s", alice.id)
    answer = await post.ask("DELETE", f"{FACTORS}/{phone.id}", key=await signed_in_fully(post, alice))
    assert (answer.status, answer.problem) == (409, "last-factor")
    _, phone = await enrolled(post, bob)
    wanted = {"mfa": {"demand": "roles", "roles": ["role:auditor"]}}
    changed = await post.ask("PATCH", "/v1/tenants/acme/settings", wanted, key=post.keys["acme"])
    assert changed.status == 200, changed.body
    grant = {"add": [{"type": "link", "member": bob.ref, "role": "role:auditor"}]}
    assert (await post.post("/v1/tenants/acme/memberships", grant, key=post.keys["acme"])).status == 200
    token = await signed_in_fully(post, bob)
    assert (await post.ask("DELETE", f"{FACTORS}/{phone.id}", key=token)).problem == "last-factor"
    revoked = {"remove": [{"type": "link", "member": bob.ref, "role": "role:auditor"}]}
    assert (await post.post("/v1/tenants/acme/memberships", revoked, key=post.keys["acme"])).status == 200
    gone = await post.ask("DELETE", f"{FACTORS}/{phone.id}", key=await signed_in_fully(post, bob))
    assert gone.status == 200, gone.body
    left = (await post.get(FACTORS, key=gone.json["session"]["token"])).json
    assert (left["factors"], left["recovery_codes_left"]) == ([], 0)


async def test_after_a_recovery_only_factors_can_be_reached(post: PostOffice):
    """Until an authenticator is bound or proven again; then there are new codes, and the session may do all it could."""
    alice = await post.person("alice")
    done, phone = await enrolled(post, alice)
    token = await sign_in(post, alice, Acr.AAL2, must_enrol=True)
    assert (await post.get("/v1/users/me", key=token)).problem == "enrolment-required"
    for refused in (
        await post.post("/v1/users/me/recovery-codes", {}, key=token),
        await post.ask("DELETE", f"{FACTORS}/{phone.id}", key=token),
        await post.ask("PATCH", f"{FACTORS}/{phone.id}", {"name": "x"}, key=token),
    ):
        assert (refused.status, refused.problem) == (403, "enrolment-required")
    wrong = await post.post(f"{FACTORS}/{phone.id}/confirm", {"code": "12345"}, key=token)
    assert (wrong.status, wrong.problem) == (403, "wrong-code")
    again = await post.post(f"{FACTORS}/{phone.id}/confirm", {"code": phone.code(1)}, key=token)
    assert len(set(again.json["recovery_codes"]) | set(done["recovery_codes"])) == 20
    assert (await post.get("/v1/users/me", key=again.json["session"]["token"])).status == 200


async def test_guessing_a_confirmation_waits_and_is_over_at_the_cap(post: PostOffice):
    """429 with a time; at a hundred failures this secret is confirmed by nobody."""
    alice = await post.person("alice")
    token = await sign_in(post, alice)
    code = await mailed_code(post, token, "alice@example.org")
    phone = Phone.scan((await post.post(FACTORS, {"kind": "totp", "name": "x", "code": code}, key=token)).json)
    confirm = f"{FACTORS}/{phone.id}/confirm"
    answers = [await post.post(confirm, {"code": "abc"}, key=token) for _ in range(7)]
    assert [answer.problem for answer in answers] == ["wrong-code"] * 6 + ["too-many-tries"]
    post.execute("UPDATE credential_failures SET failures = 100, blocked_until = NULL")
    answer = await post.post(confirm, {"code": phone.code()}, key=token)
    assert (answer.status, answer.problem) == (403, "credential-locked")
    assert post.query("SELECT authenticator FROM credential_failures") == [(counter_of(FactorKind.TOTP, phone.id),)]
