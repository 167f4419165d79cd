"""Rights that take a second factor or a fresh sign-in: of administrative routes, of the gate, and of decisions; on two nodes."""

from datetime import timedelta

import pytest

from authn.sessions import Acr
from authz.rules import Effect, Owner, Rule
from tenancy.ids import BASE_TENANT_ID
from tests.support.administration import Answer, Service, link, rule
from tests.support.persons import People, Person
from tests.support.sessions import signed_in

pytestmark = pytest.mark.integration

RULES = "/v1/tenants/acme/rules"
AUDIT = "/v1/audit"
SETTINGS = "/v1/tenants/acme/settings"
MERGE = {"Content-Type": "application/merge-patch+json"}


@pytest.fixture
async def people(admin: Service) -> People:
    """A tenant in which tenant administrators must prove a second factor."""
    made = People(admin)
    await made.base()
    await admin.tenant("acme")
    await demand(admin, demand="roles", roles=["role:tenant-admin"])
    return made


async def demand(admin: Service, **mfa: object) -> Answer:
    answer = await admin.ask("PATCH", SETTINGS, {"mfa": mfa}, headers=MERGE)
    assert answer.status == 200, answer.body
    return answer


async def token_of(admin: Service, person: Person, acr: Acr, minutes_ago: float = 0) -> str:
    new = await signed_in(admin.app, person.tenant_id, person.id, acr, ago=timedelta(minutes=minutes_ago))
    return new.token


def assert_step_up(answer: Answer, acr_values: str, max_age: int | None = None) -> None:
    """An answer as RFC 9470 section 3 has it."""
    assert (answer.status, answer.problem) == (401, "insufficient-user-authentication"), answer.body
    challenge = answer.headers["WWW-Authenticate"]
    assert challenge.startswith("Bearer ")
    assert 'error="insufficient_user_authentication"' in challenge
    assert f'acr_values="{acr_values}"' in challenge
    assert ("max_age" in challenge) is (max_age is not None)
    assert (answer.json["acr_values"], answer.json.get("max_age")) == (acr_values, max_age)


async def test_a_role_that_demands_a_second_factor_administers_nothing_without(admin: Service, people: People) -> None:
    """The answer says to sign in with two; a personal key of before counts as one; services' keys go on."""
    alice = await people.person("acme", "alice", "role:tenant-admin")
    weak, strong = await token_of(admin, alice, Acr.AAL1), await token_of(admin, alice, Acr.AAL2)
    for credential in (weak, alice.key):
        assert_step_up(await admin.get(RULES, key=credential), "aal2")
        assert_step_up(await admin.post("/access/v1/evaluation", {}, key=credential), "aal2")
    assert (await admin.get(RULES, key=strong)).status == 200
    assert (await admin.get(RULES)).status == 200
    bob = await people.person("acme", "bob", "role:security-auditor")
    assert (await admin.get(RULES, key=await token_of(admin, bob, Acr.AAL1))).status == 200
    written = await admin.post(RULES, {"add": [rule("role:x", "doc:1")]}, key=bob.key)
    assert (written.status, written.problem) == (403, "missing-right")


async def test_the_demand_counts_from_its_revision_on_every_node(own_database_url: str) -> None:
    """A node that is asked for the revision of the setting decides by it, whoever wrote it."""
    async with Service(own_database_url).serving() as one, Service(own_database_url).serving() as two:
        people = People(one)
        await people.base()
        await one.tenant("acme")
        alice = await people.person("acme", "alice", "role:tenant-admin")
        for node in (one, two):
            assert (await node.get(RULES, key=alice.key)).status == 200
        for wanted, refused in (
            ({"demand": "roles", "roles": ["role:tenant-admin"]}, True),
            ({"demand": "optional"}, False),
        ):
            answer = await one.ask("PUT", SETTINGS, {"mfa": wanted})
            least = {"Kasbah-Min-Revision": answer.headers["Kasbah-Revision"]}
            for node in (two, one):
                judged = await node.get(RULES, key=alice.key, headers=least)
                assert judged.status == (401 if refused else 200), judged.body


async def test_a_demand_on_everybody_is_one_on_every_role(admin: Service, people: People) -> None:
    """A key of whoever had proven one factor keeps what is no role's."""
    bob = await people.person("acme", "bob", "role:security-auditor")
    assert (await admin.get(RULES, key=bob.key)).status == 200
    await demand(admin, demand="required", roles=[])
    assert_step_up(await admin.get(RULES, key=bob.key), "aal2")
    assert (await admin.get("/v1/keys/self", key=bob.key)).status == 200


async def test_an_inactive_role_gives_nothing_away(admin: Service, people: People) -> None:
    """What only it may grant is not granted, though another role may write memberships."""
    await demand(admin, demand="roles", roles=["role:policy-author"])
    carol = await people.person("acme", "carol", "role:user-admin", "role:policy-author")
    dora = await people.person("acme", "dora")
    body = {"add": [link(dora.ref, "role:policy-author")]}
    url = "/v1/tenants/acme/memberships"
    refused = await admin.post(url, body, key=await token_of(admin, carol, Acr.AAL1))
    assert (refused.status, refused.problem) == (403, "grant-refused")
    assert (await admin.post(url, body, key=await token_of(admin, carol, Acr.AAL2))).status in {200, 201}


async def test_nobody_moves_a_right_to_where_it_takes_one_factor(admin: Service, people: People) -> None:
    """Whoever proved two has `role:policy-author` by a role that demands them, and does not take it directly."""
    alice = await people.person("acme", "alice", "role:tenant-admin")
    body = {"add": [link(alice.ref, "role:policy-author")]}
    refused = await admin.post("/v1/tenants/acme/memberships", body, key=await token_of(admin, alice, Acr.AAL2))
    assert (refused.status, refused.problem) == (403, "own-rights")
    assert "second factor" in refused.json["detail"]


async def test_who_proved_one_factor_does_not_relax_the_demand(admin: Service, people: People) -> None:
    """Else whoever knows a password could take away what stops them; asking for more is fine."""
    await people.write(
        BASE_TENANT_ID, [Rule("role:keeper", "kasbah:settings", action) for action in ("read", "write")], Owner.API
    )
    eve = await people.person("acme", "eve", "role:keeper", "role:tenant-admin")
    weak, strong = await token_of(admin, eve, Acr.AAL1), await token_of(admin, eve, Acr.AAL2)

    async def patch(key: str, **mfa: object) -> Answer:
        return await admin.ask("PATCH", SETTINGS, {"mfa": mfa}, key=key, headers=MERGE)

    for credential in (weak, eve.key):
        assert_step_up(await patch(credential, demand="optional", roles=[]), "aal2")
        assert_step_up(await patch(credential, roles=["role:keeper"]), "aal2")
        put = await admin.ask("PUT", SETTINGS, {}, key=credential)
        assert_step_up(put, "aal2")
    assert (await admin.get(SETTINGS, key=weak)).json["mfa"] == {"demand": "roles", "roles": ["role:tenant-admin"]}
    assert (await patch(weak, roles=["role:tenant-admin", "role:other"])).status == 200
    assert (await patch(strong, demand="optional", roles=[])).status == 200


async def test_a_right_under_a_condition_says_which_sign_in_it_takes(admin: Service, people: People) -> None:
    """Level and age, as the base asks for them; signing in as told is enough."""
    fresh = "auth.acr == 'aal2' && now - auth.time <= duration('10m')"
    await people.write(BASE_TENANT_ID, [Rule("role:detective", "kasbah:audit", "read", Effect.ALLOW, fresh)], Owner.API)
    dana = await people.person("acme", "dana", "role:detective")
    for credential in (
        await token_of(admin, dana, Acr.AAL1),
        await token_of(admin, dana, Acr.AAL2, minutes_ago=11),
        dana.key,
    ):
        assert_step_up(await admin.get(AUDIT, key=credential), "aal2", 600)
    assert (await admin.get(AUDIT, key=await token_of(admin, dana, Acr.AAL2, minutes_ago=9))).status == 200
    other = await people.person("acme", "other")
    refused = await admin.get(AUDIT, key=await token_of(admin, other, Acr.AAL1))
    assert (refused.status, refused.problem) == (403, "missing-right")


async def test_a_real_session_counts_beside_a_services_key_until_it_ends(admin: Service, people: People) -> None:
    """What a service passes on is verified as any caller's session is."""
    key = await admin.tenant("acme")
    alice = await people.person("acme", "alice", "role:tenant-admin")
    await admin.post(
        "/v1/tenants/acme/rules",
        {"add": [rule("role:tenant-admin", "doc:1"), rule("user:*", "doc:2", condition="auth.acr == 'aal2'")]},
        key=key,
    )
    body = {
        "subject": {"type": "user", "id": str(alice.id)},
        "action": {"name": "read"},
        "resource": {"type": "doc", "id": "1"},
    }
    second = body | {"resource": {"type": "doc", "id": "2"}}
    for acr, expected in ((Acr.AAL1, False), (Acr.AAL2, True)):
        headers = {"Kasbah-Session": await token_of(admin, alice, acr)}
        for question in (body, second):
            answer = await admin.post("/access/v1/evaluation", question, key=key, headers=headers)
            assert (answer.status, answer.json["decision"]) == (200, expected), answer.body
    disabled = await admin.post(
        f"/v1/users/{alice.id}/disable", {"reason": "on leave"}, headers={"X-Tenant-ID": "acme"}
    )
    assert disabled.status == 200, disabled.body
    ended = await admin.post("/access/v1/evaluation", body, key=key, headers=headers)
    assert (ended.status, ended.problem) == (401, "subject-session")


async def test_a_personal_key_brings_no_more_than_who_made_it_had_proven(admin: Service, people: People) -> None:
    """By a session with two factors it administers as that session does; by less, or by a key of less, it does not."""
    alice = await people.person("acme", "alice", "role:tenant-admin")

    async def made_by(credential: str, path: str = "", **body: object) -> tuple[str, str]:
        answer = await admin.post(f"/v1/users/me/keys{path}", body or {"name": "tool"}, key=credential)
        assert answer.status == 201, answer.body
        return answer.json["token"], answer.json["id"]

    strong, identifier = await made_by(await token_of(admin, alice, Acr.AAL2))
    weak, _ = await made_by(await token_of(admin, alice, Acr.AAL1))
    child, _ = await made_by(strong)
    of_key, _ = await made_by(alice.key)
    for token, status in ((strong, 200), (child, 200), (weak, 401), (of_key, 401)):
        assert (await admin.get(RULES, key=token)).status == status
    rotated, _ = await made_by(await token_of(admin, alice, Acr.AAL1), f"/{identifier}/rotate", overlap_seconds=60)
    assert_step_up(await admin.get(RULES, key=rotated), "aal2")
    assert (await admin.get(RULES, key=strong)).status == 200
    events = (await admin.get("/v1/audit?action=key.create", headers={"X-Tenant-ID": "acme"})).json["events"]
    told = [event.get("after") or {} for event in events]
    assert {after["acr"] for after in told if "owner" in after} == {"aal1", "aal2"}
