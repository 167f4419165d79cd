"""A second factor that is demanded of everybody counts for who is signed in already, on every node."""

from collections.abc import AsyncIterator

import pytest

from authn.sessions import Acr
from tenancy.tenant_settings import TenantLimits
from tests.support.administration import Answer, rule
from tests.support.persons import People
from tests.support.sessions import signed_in
from tests.support.sign_in import FrontDoor, two_doors

pytestmark = pytest.mark.integration

SELF = "/v1/keys/self"
RULES = "/v1/tenants/acme/rules"
SETTINGS = "/v1/tenants/acme/settings"


@pytest.fixture
async def doors(own_database_url: str) -> AsyncIterator[tuple[FrontDoor, FrontDoor]]:
    async with two_doors(own_database_url) as running:
        yield running


@pytest.fixture
async def rolled_out(own_database_url: str) -> AsyncIterator[tuple[FrontDoor, FrontDoor]]:
    """The second node is the first one that was started with the platform's demand."""
    async with two_doors(own_database_url, then=TenantLimits(mfa_required=True)) as running:
        yield running


async def token_of(door: FrontDoor, user, acr: Acr) -> str:
    return (await signed_in(door.app, user.tenant_id, user.id, acr)).token


async def demand(door: FrontDoor, **mfa: object) -> dict[str, str]:
    """Set what the tenant demands; return the header that asks for an answer by it."""
    answer = await door.ask("PATCH", SETTINGS, {"mfa": mfa}, headers={"Content-Type": "application/merge-patch+json"})
    assert answer.status == 200, answer.body
    return {"Kasbah-Min-Revision": answer.headers["Kasbah-Revision"]}


def assert_stronger(answer: Answer) -> None:
    """As RFC 9470 section 3 has it: another sign-in would do, of any age."""
    assert (answer.status, answer.problem) == (401, "insufficient-user-authentication"), answer.body
    assert 'acr_values="aal2"' in answer.headers["WWW-Authenticate"]
    assert (answer.json["acr_values"], "max_age" in answer.json) == ("aal2", False)


async def test_a_tenants_demand_counts_for_who_is_signed_in_on_every_node(doors) -> None:
    """A session with one factor is good for factors and sessions alone, as after a recovery code, until it is taken back."""
    alice = await doors[0].user("alice")
    weak, strong = [await token_of(doors[0], alice, acr) for acr in (Acr.AAL1, Acr.AAL2)]
    for door in doors:
        assert (await door.get(SELF, key=weak)).status == 200
    since = await demand(doors[0], demand="required")
    for door in reversed(doors):
        assert_stronger(await door.get(SELF, key=weak, headers=since))
        assert (await door.get(SELF, key=strong, headers=since)).status == 200
        for path in ("/v1/users/me/sessions", "/v1/users/me/factors"):
            assert (await door.get(path, key=weak, headers=since)).status == 200
    assert (await doors[1].login("alice")).json["status"] == "enrollment_required"
    since = await demand(doors[1], demand="optional")
    for door in doors:
        assert (await door.get(SELF, key=weak, headers=since)).status == 200
    since = await demand(doors[0], demand="required")
    assert (await doors[1].ask("DELETE", "/v1/users/me/sessions/current", key=weak, headers=since)).status == 204


async def test_a_demand_on_a_role_leaves_who_has_it_the_rest(doors) -> None:
    """Its role is inactive in the session; what no role brings is there."""
    people = People(doors[0])
    await people.base()
    alice = await people.person("acme", "alice", "role:security-auditor")
    weak = (await signed_in(doors[0].app, alice.tenant_id, alice.id)).token
    since = await demand(doors[0], demand="roles", roles=["role:security-auditor"])
    for door in doors:
        assert_stronger(await door.get(RULES, key=weak, headers=since))
        assert (await door.get(SELF, key=weak, headers=since)).status == 200


async def test_a_session_below_the_demand_answers_for_nobody(doors) -> None:
    """A service that passes it on is told so, and which level would do; the plain question is answered as before."""
    alice = await doors[0].user("alice")
    weak, strong = [await token_of(doors[0], alice, acr) for acr in (Acr.AAL1, Acr.AAL2)]
    assert (await doors[0].post(RULES, {"add": [rule(alice.ref, "doc:1")]})).status in {200, 201}
    question = {
        "subject": {"type": "user", "id": str(alice.id)},
        "action": {"name": "read"},
        "resource": {"type": "doc", "id": "1"},
    }
    since = await demand(doors[0], demand="required")
    for door in doors:
        key = door.keys["acme"]
        refused = await door.post("/access/v1/evaluation", question, key=key, headers=since | {"Kasbah-Session": weak})
        assert (refused.status, refused.problem, refused.json["acr_values"]) == (401, "subject-session", "aal2")
        for headers in (since, since | {"Kasbah-Session": strong}):
            assert (await door.post("/access/v1/evaluation", question, key=key, headers=headers)).json["decision"]


async def test_the_platforms_demand_counts_for_who_is_signed_in(rolled_out) -> None:
    """From the start of each node with it: sessions, and roles by keys that a sign-in with one factor made."""
    old, new = rolled_out
    people = People(old)
    await people.base()
    alice = await people.person("acme", "alice", "role:security-auditor")
    weak, strong = [(await signed_in(old.app, alice.tenant_id, alice.id, acr)).token for acr in (Acr.AAL1, Acr.AAL2)]
    assert (await old.get(SELF, key=weak)).status == 200
    assert (await old.get(RULES, key=alice.key)).status == 200
    assert_stronger(await new.get(SELF, key=weak))
    assert_stronger(await new.get(RULES, key=alice.key))
    assert (await new.get(RULES, key=strong)).status == 200
    assert (await new.get(RULES, key=new.keys["acme"])).status == 200  # a service signs nobody in
    assert (await old.get(SELF, key=weak)).status == 200
