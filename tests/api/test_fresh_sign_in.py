"""What routes demand of a sign-in: a session, a fresh one, at the account's full level (RFC 9470)."""

import re
from datetime import timedelta

import pytest

from authn.sessions import Acr
from service.all_routes import all_routes
from service.routes import FRESH, STEP_UP, Needs
from tests.support.accounts import PRESENT
from tests.support.people import PostOffice
from tests.support.persons import People
from tests.support.sessions import signed_in

pytestmark = pytest.mark.integration

PASSWORD = "/v1/users/me/password"
OWN_KEYS = "/v1/users/me/keys"
BOTH = {"current_password": PRESENT, "new_password": "nine purple ladders sing"}
MARGIN = timedelta(seconds=20)


async def person(post: PostOffice, username: str = "alice", *, factor: bool = False):
    """An account, with a second factor if it is to be one that can prove more."""
    user = await post.person(username)
    if factor:
        post.execute(
            "INSERT INTO authenticators (tenant_id, user_id, authenticator_id, kind, name, credential_id, public_key, "
            "sign_count, confirmed_at) VALUES (%s, %s, gen_random_uuid(), 'webauthn', 'key', 'id', 'key', 0, now())",
            user.tenant_id,
            user.id,
        )
    return user


async def test_a_sign_in_that_is_too_old_is_asked_for_again(post: PostOffice):
    """On both sides of the limit; the answer says what is enough, in its header and in its members."""
    user = await person(post)
    at = post.tenants["acme"]
    old = await signed_in(post.app, at, user.id, ago=FRESH.max_age + MARGIN)
    asked = await post.post(OWN_KEYS, {"name": "laptop"}, key=old.token)
    assert (asked.status, asked.problem) == (401, "insufficient-user-authentication")
    assert (asked.json["acr_values"], asked.json["max_age"]) == ("aal1", 300)
    challenge = asked.headers["WWW-Authenticate"]
    assert challenge.startswith("Bearer ")
    said = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    assert said["error"] == "insufficient_user_authentication"
    assert (said["acr_values"], said["max_age"]) == ("aal1", "300")
    young = await signed_in(post.app, at, user.id, ago=FRESH.max_age - MARGIN)
    assert (await post.post(OWN_KEYS, {"name": "laptop"}, key=young.token)).status == 201


async def test_an_account_with_a_second_factor_must_have_proven_it(post: PostOffice):
    """The password alone, however fresh, is not the account's full level."""
    user = await person(post, factor=True)
    at = post.tenants["acme"]
    for path, body in ((PASSWORD, BOTH), (OWN_KEYS, {"name": "laptop"})):
        weak = await signed_in(post.app, at, user.id, Acr.AAL1)
        asked = await post.post(path, body, key=weak.token)
        assert (asked.status, asked.json["acr_values"]) == (401, "aal2")
    full = await signed_in(post.app, at, user.id, Acr.AAL2)
    assert (await post.post(OWN_KEYS, {"name": "laptop"}, key=full.token)).status == 201


async def test_administration_that_changes_something_asks_sessions_to_step_up(post: PostOffice):
    """Reading goes on; a key is bounded by its scopes and is not asked."""
    people = People(post)
    await people.base()
    admin = await people.person("acme", "root", "role:tenant-admin")
    other = await person(post)
    at = post.tenants["acme"]
    old = await signed_in(post.app, at, admin.id, ago=STEP_UP.max_age + MARGIN)
    assert (await post.get(f"/v1/users/{other.id}", key=old.token)).status == 200
    for key, status in ((old.token, 401), (admin.key, 200)):
        done = await post.post(f"/v1/users/{other.id}/disable", {"reason": "left"}, key=key)
        assert done.status == status, done.body
    young = await signed_in(post.app, at, admin.id, ago=STEP_UP.max_age - MARGIN)
    assert (await post.post(f"/v1/users/{other.id}/enable", {"reason": "is back"}, key=young.token)).status == 200


def test_every_administrative_change_demands_it():
    """Whatever is decided on a resource and is no reading; routes on one's own say it themselves."""
    decided = [route for route in all_routes() if isinstance(route.access, Needs) and route.access.resource]
    lax = {(route.method, route.path) for route in decided if route.access.freshness is None}
    harmless = {(method, path) for method, path in lax if method == "GET" or path.endswith("/plan")}
    assert {path for _, path in lax - harmless} == {
        "/access/v1/evaluation",
        "/access/v1/evaluations",
        "/access/v1/search/subject",
        "/access/v1/search/resource",
        "/access/v1/search/action",
    }
    assert len(decided) - len(lax) > 20


async def test_whoever_used_a_recovery_code_enrols_first(post: PostOffice):
    """The session is good for nothing else, decisions and administration included."""
    people = People(post)
    await people.base()
    admin = await people.person("acme", "root", "role:tenant-admin")
    new = await signed_in(post.app, post.tenants["acme"], admin.id, Acr.AAL2, must_enrol=True)
    for method, path in (("GET", "/v1/users"), ("GET", OWN_KEYS), ("GET", "/v1/keys/self"), ("GET", "/v1/users/me")):
        refused = await post.ask(method, path, key=new.token)
        assert (refused.status, refused.problem) == (403, "enrolment-required"), path
    question = {
        "subject": {"type": "user", "id": "x"},
        "action": {"name": "read"},
        "resource": {"type": "record", "id": "1"},
    }
    assert (await post.post("/access/v1/evaluation", question, key=new.token)).status == 403
    root = await people.person(None, "operator", "role:platform-admin")
    for must_enrol, status in ((True, 403), (False, 200)):
        session = await signed_in(post.app, root.tenant_id, root.id, Acr.AAL2, must_enrol=must_enrol)
        assert (await post.get("/metrics", key=session.token)).status == status, "it authenticates by itself"


async def test_a_key_that_a_session_makes_lives_on_its_own(post: PostOffice):
    """Longer than the session, since nothing of it bounds the key; and with every scope, since its owner's rights do."""
    user = await person(post)
    new = await signed_in(post.app, post.tenants["acme"], user.id)
    made = (await post.post(OWN_KEYS, {"name": "laptop"}, key=new.token)).json
    assert made["expires_at"] > new.session.expires_at.isoformat()
    own = await post.get("/v1/users/me", key=made["token"])
    assert (own.status, own.json["id"]) == (200, str(user.id))
