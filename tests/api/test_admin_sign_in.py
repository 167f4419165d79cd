"""Administrators see and clear counters of failed sign-ins."""

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from authz.request import Ref
from authz.rules import RoleLink
from tests.support.persons import People
from tests.support.sign_in import PASSWORD, WRONG, FrontDoor, front_door


@pytest.fixture
async def door(own_database_url: str) -> AsyncIterator[FrontDoor]:
    async with front_door(own_database_url) as running:
        yield running


async def test_administrators_see_and_clear_the_counters_of_an_account(door: FrontDoor) -> None:
    """Each authenticator and device apart; afterwards the next try is judged; it is in the audit with its reason."""
    alice = await door.user("alice")
    device = (await door.login("alice", remember_device=True)).json["device"]["token"]
    for _ in range(6):
        await door.login("alice", WRONG)
    await door.login("alice", WRONG, device=device)
    assert (await door.login("alice")).status == 429
    path = f"/v1/users/{alice.id}/sign-in"
    seen = (await door.get(path, key=door.keys["acme"])).json
    assert seen["last_sign_in_at"] is not None
    assert seen["known_devices"] == 1
    unknown, known = seen["failures"]
    assert (unknown["authenticator"], unknown["device_id"], unknown["failures"]) == ("password", None, 6)
    assert unknown["waits_until"] is not None
    assert not unknown["locked"]
    assert (known["authenticator"], known["failures"], known["waits_until"]) == ("password", 1, None)
    assert known["device_id"] is not None
    cleared = await door.ask("DELETE", f"{path}/failures?reason=helpdesk", key=door.keys["acme"])
    assert cleared.status == 204, cleared.body
    assert (await door.get(path, key=door.keys["acme"])).json["failures"] == []
    assert (await door.login("alice")).status == 200
    (event,) = [one for one in door.events("tenant") if one["action"] == "sign_in.clear"]
    assert (event["target"], event["reason"]) == (alice.ref, "helpdesk")


async def test_a_locked_account_is_shown_and_opened(door: FrontDoor) -> None:
    alice = await door.user("alice")
    door.execute(
        "INSERT INTO credential_failures (tenant_id, user_id, authenticator, failures) VALUES (%s, %s, 'password', 100)",
        door.tenants["acme"],
        alice.id,
    )
    path = f"/v1/users/{alice.id}/sign-in"
    assert (await door.get(path, key=door.keys["acme"])).json["failures"][0]["locked"]
    assert (await door.login("alice")).status == 401
    await door.ask("DELETE", f"{path}/failures", key=door.keys["acme"])
    assert (await door.login("alice")).status == 200


async def test_only_whoever_stands_above_an_account_clears_its_counters(door: FrontDoor) -> None:
    """Not a person who administers accounts but has less than this one; not one's own; not of another tenant."""
    people = People(door)
    await people.base()
    boss, helper = await door.user("boss"), await door.user("helper")
    acme = door.tenants["acme"]
    await people.write(
        acme, [RoleLink(helper.ref, Ref("role:user-admin")), RoleLink(boss.ref, Ref("role:tenant-admin"))]
    )
    session = (await door.login("helper")).json["session"]["token"]
    for user, status in ((boss, 403), (helper, 403)):
        answer = await door.ask("DELETE", f"/v1/users/{user.id}/sign-in/failures", key=session)
        assert (answer.status, answer.problem) == (status, "target-too-powerful")
    for user_id in (boss.id, uuid4(), "nobody"):
        for method, path in (("GET", "sign-in"), ("DELETE", "sign-in/failures")):
            answer = await door.ask(method, f"/v1/users/{user_id}/{path}", key=door.keys["beta"])
            assert answer.status == 404


async def test_networks_begin_anew_when_an_administrator_says_so(door: FrontDoor) -> None:
    """Counts of the tenant, without names; one address or all."""
    for number in range(3):
        await door.login(f"nobody{number}", PASSWORD)
    key = door.keys["acme"]
    seen = (await door.get("/v1/sign-in/failures", key=key)).json
    assert seen == {"identifiers": {"counted": 3, "waiting": 0}, "networks": {"counted": 1, "waiting": 0}}
    assert (await door.get("/v1/sign-in/failures", key=door.keys["beta"])).json["networks"]["counted"] == 0
    assert (await door.ask("DELETE", "/v1/sign-in/failures?address=192.0.2.1", key=key)).status == 204
    assert (await door.get("/v1/sign-in/failures", key=key)).json == seen
    assert (await door.ask("DELETE", "/v1/sign-in/failures?address=nowhere", key=key)).status == 400
    assert (await door.ask("DELETE", "/v1/sign-in/failures?address=127.0.0.1", key=key)).status == 204
    assert (await door.get("/v1/sign-in/failures", key=key)).json["networks"]["counted"] == 0
    assert (await door.ask("DELETE", "/v1/sign-in/failures", key=key)).status == 204
    assert (await door.get("/v1/sign-in/failures", key=key)).json["identifiers"]["counted"] == 0
