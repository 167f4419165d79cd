"""The first administrator comes by a one-time token that takes the database to make. There is no default account."""

import asyncio

import psycopg
import pytest

from authz.policy_files import read_directory
from service.shipped_base import shipped_base
from tests.support.administration import Service
from tests.support.paths import ROOT
from tests.support.persons import People

PASSWORD = "nine purple ladders sing"


def body(token: str, name: str = "ada", **more: str) -> dict[str, str]:
    """What the first administrator sends."""
    return {"token": token, "username": name, "email": f"{name}@example.com", "password": PASSWORD} | more


async def token_of(admin: Service, *, again: bool = False) -> str:
    """Make a token in the database."""
    made = await admin.bootstrap.administrator_token(again=again)
    assert made is not None
    return made.token


async def test_the_token_makes_an_administrator_with_a_key(admin: Service) -> None:
    """Who then makes a tenant and its people; the audit has it, without token and password."""
    await admin.bootstrap.seed_base()
    token = await token_of(admin)
    made = await admin.post("/v1/bootstrap", body(token, display_name="Ada"), key="")
    assert made.status == 201, made.body
    key = made.json["key"]["token"]
    said = (await admin.get("/v1/keys/self", key=key)).json
    assert (said["subject"], said["tenant"]) == (made.json["user"]["subject"], None)
    assert (await admin.post("/v1/tenants", {"slug": "acme"}, key=key)).status == 201
    person = {"username": "bob", "email": "bob@example.com"}
    assert (await admin.post("/v1/users?tenant=acme", person, key=key)).status == 201
    assert (await admin.get("/v1/users/me", key=key)).json["email_verified_at"] is None
    events = await admin.get("/v1/audit?tenant=_platform&limit=1000", key=key)
    assert {"bootstrap.token", "user.create", "key.create"} <= {event["action"] for event in events.json["events"]}
    for secret in (token, PASSWORD, key):
        assert secret.encode() not in events.body


async def test_without_a_token_there_is_no_way_in(admin: Service, own_database_url: str) -> None:
    """Unknown, spent, expired and overtaken ones are refused alike, before any password is looked at."""
    token = await token_of(admin)
    other = await token_of(admin)
    old = await token_of(admin)
    with psycopg.connect(own_database_url, autocommit=True) as owner:
        owner.execute("UPDATE bootstrap_tokens SET expires_at = now() WHERE token_hash = sha256(%s)", (old.encode(),))
    unknown = "kasbah-bootstrap_" + "A" * 43
    refused = [await admin.post("/v1/bootstrap", body(bad), key="") for bad in ("", "x", unknown, old)]
    assert (await admin.post("/v1/bootstrap", body(token), key="")).status == 201
    refused += [await admin.post("/v1/bootstrap", body(bad, "eve"), key="") for bad in (token, other)]
    refused += [await admin.post("/v1/bootstrap", body(token, "eve", password="short"), key="")]
    assert {answer.status for answer in refused} == {403}
    assert len({answer.body for answer in refused}) == 1
    assert refused[0].problem == "bootstrap-refused"


async def test_a_token_works_once_however_often_it_is_sent(admin: Service) -> None:
    """Eight at once, with other names: one account, one key."""
    token = await token_of(admin)
    sent = [admin.post("/v1/bootstrap", body(token, f"ada{number}"), key="") for number in range(8)]
    answers = await asyncio.gather(*sent)
    assert sorted(answer.status for answer in answers) == [201, *[403] * 7]
    users = (await admin.get("/v1/users?tenant=_platform")).json["users"]
    assert len(users) == 1


async def test_of_two_tokens_for_the_first_administrator_one_is_taken(admin: Service) -> None:
    """At once or one after the other."""
    tokens = [await token_of(admin) for _ in range(2)]
    sent = [admin.post("/v1/bootstrap", body(token, f"ada{number}"), key="") for number, token in enumerate(tokens)]
    assert sorted(answer.status for answer in await asyncio.gather(*sent)) == [201, 403]


async def test_a_token_that_is_refused_for_its_password_is_not_spent(admin: Service) -> None:
    """Nor for its names: the person tries again."""
    token = await token_of(admin)
    weak = await admin.post("/v1/bootstrap", body(token, password="password1234567"), key="")
    assert (weak.status, weak.problem) == (422, "password-refused")
    odd = await admin.post("/v1/bootstrap", body(token, "a@b"), key="")
    assert odd.status == 400
    assert (await admin.post("/v1/bootstrap", body(token), key="")).status == 201


async def test_whoever_has_the_database_makes_another_one(admin: Service) -> None:
    """The way back in; without being asked there is no token where an administrator is."""
    assert (await admin.post("/v1/bootstrap", body(await token_of(admin)), key="")).status == 201
    assert await admin.bootstrap.administrator_token() is None
    again = await token_of(admin, again=True)
    assert (await admin.post("/v1/bootstrap", body(again, "eve"), key="")).status == 201


async def test_an_installation_gets_the_shipped_base_once(admin: Service) -> None:
    """Never again once anybody wrote one, also when it is empty by now."""
    files = read_directory(ROOT / "policies").base
    assert shipped_base() == [*files.rules, *files.links]
    assert await admin.bootstrap.seed_base() is True
    found = (await admin.get("/v1/tenants/_base/rules?limit=1000")).json["rules"]
    assert len(found) == len(shipped_base())
    assert await admin.bootstrap.seed_base() is False


async def test_a_base_that_was_written_is_left_alone(admin: Service) -> None:
    """Keys go on working on it; there are no rights for people until it is replaced."""
    row = {"type": "rule", "subject": "role:x", "resource": "doc:1", "action": "read"}
    assert (await admin.post("/v1/tenants/_base/rules", {"add": [row]})).status == 200
    assert await admin.bootstrap.seed_base() is False
    made = await admin.post("/v1/bootstrap", body(await token_of(admin)), key="")
    assert made.status == 201
    refused = await admin.get("/v1/tenants", key=made.json["key"]["token"])
    assert (refused.status, refused.problem) == (403, "missing-right")
    assert (await admin.get("/v1/tenants")).status == 200


@pytest.mark.parametrize("member", ["role", "roles", "tenant", "email_verified_at", "password_hash"])
async def test_nothing_else_can_be_asked_for(admin: Service, member: str) -> None:
    """Writable members are a closed list."""
    answer = await admin.post("/v1/bootstrap", body(await token_of(admin), **{member: "x"}), key="")
    assert answer.status == 400


async def test_people_of_tenants_are_no_administrators_of_the_platform(admin: Service) -> None:
    """A role of that name cannot even be given in a tenant, so it does not count."""
    people = People(admin)
    await people.person("acme", "ann", "role:platform-admin")
    assert await admin.bootstrap.administrator_token() is not None
