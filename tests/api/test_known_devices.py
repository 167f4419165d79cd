"""Devices that an account knows: seen and forgotten by their owner and by administrators, and by what stops a thief."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from click.testing import Result

from tests.support.commands import kasbah
from tests.support.sessions import signed_in
from tests.support.sign_in import PASSWORD, WRONG, FrontDoor, front_door

pytestmark = pytest.mark.integration

MINE = "/v1/users/me/devices"
NEW = "seven quiet lanterns drift"


@pytest.fixture
async def door(own_database_url: str) -> AsyncIterator[FrontDoor]:
    async with front_door(own_database_url) as running:
        yield running


@pytest.fixture
def run(door: FrontDoor, monkeypatch, tmp_path) -> Callable[..., Any]:
    """Run one command against the service and return its result."""
    monkeypatch.chdir(tmp_path)

    async def command(*arguments: str, key: str) -> Result:
        return await kasbah(door.url, key, "auth", "devices", *arguments)

    return command


async def remembered(door: FrontDoor, name: str = "alice") -> tuple[str, str]:
    """Sign somebody in from a device that is known from then on; return its token, and the session's."""
    done = await door.login(name, remember_device=True)
    assert done.status == 200, done.body
    return done.json["device"]["token"], done.json["session"]["token"]


async def is_known(door: FrontDoor, user_id: UUID, device: str) -> bool:
    """Whether a device gets in when strangers have locked the password."""
    door.execute("DELETE FROM credential_failures WHERE authenticator = 'password'")
    door.execute(
        "INSERT INTO credential_failures (tenant_id, user_id, authenticator, failures) VALUES (%s, %s, 'password', 100)",
        door.tenants["acme"],
        user_id,
    )
    status = (await door.login("alice", device=device)).status
    door.execute("DELETE FROM credential_failures WHERE authenticator = 'password'")
    return status == 200


async def test_people_see_and_forget_the_devices_that_their_account_knows(door: FrontDoor) -> None:
    """One is a stranger's from then on, with nothing left of what failed from it; nobody is signed out; it is audited."""
    alice = await door.user("alice")
    first, _ = await remembered(door)
    second, session = await remembered(door)
    assert (await door.login("alice", WRONG, device=first)).status == 401
    listed = (await door.get(MINE, key=session)).json["devices"]
    assert [set(one) for one in listed] == [{"id", "created_at", "last_used_at", "expires_at", "signed_in"}] * 2
    assert [one["signed_in"] for one in listed] == [True, True]
    assert listed[0]["last_used_at"] > listed[1]["last_used_at"]
    assert (await door.ask("DELETE", f"{MINE}/{listed[1]['id']}", key=session)).status == 204
    assert [await is_known(door, alice.id, device) for device in (first, second)] == [False, True]
    assert door.query("SELECT authenticator FROM credential_failures WHERE failures > 0") == []
    assert (await door.ask("DELETE", MINE, key=session)).status == 204
    assert (await door.get(MINE, key=session)).json == {"devices": []}
    assert not await is_known(door, alice.id, second)
    told = [event for event in door.events("tenant") if event["action"] == "sign_in.forget_device"]
    assert [(event["actor"], event["target"]) for event in told] == [(alice.ref, alice.ref)] * 2
    assert [event["detail"] for event in told] == [{"device": listed[1]["id"]}, {"devices": 1}]


async def test_nobody_forgets_anothers_device_nor_with_a_key(door: FrontDoor) -> None:
    """Another one's id is one that there is not."""
    await door.user("alice")
    bob = await door.user("bob")
    _, session = await remembered(door)
    (device,) = (await door.get(MINE, key=session)).json["devices"]
    other = (await signed_in(door.app, bob.tenant_id, bob.id)).token
    for missing in (device["id"], str(uuid4()), device["id"].upper(), "current"):
        assert (await door.ask("DELETE", f"{MINE}/{missing}", key=other)).status == 404
    key = (await door.post("/v1/users/me/keys", {"name": "tool"}, key=session)).json["token"]
    for method in ("GET", "DELETE"):
        assert (await door.ask(method, MINE, key=key)).problem == "interactive-only"
    assert (await door.get(MINE, key=session)).json == {"devices": [device]}


async def test_administrators_forget_all_devices_of_an_account(door: FrontDoor) -> None:
    """Beside the counters, with a reason in the audit."""
    alice = await door.user("alice")
    device, session = await remembered(door)
    path = f"/v1/users/{alice.id}/sign-in"
    assert (await door.get(path, key=door.keys["acme"])).json["known_devices"] == 1
    assert (await door.ask("DELETE", f"{path}/devices?reason=stolen", key=door.keys["acme"])).status == 204
    assert (await door.get(path, key=door.keys["acme"])).json["known_devices"] == 0
    assert not await is_known(door, alice.id, device)
    assert (await door.get(MINE, key=session)).status == 200
    (event,) = [one for one in door.events("tenant") if one["action"] == "sign_in.forget_device"]
    assert (event["target"], event["reason"], event["detail"]) == (alice.ref, "stolen", {"devices": 1})
    for key, missing in ((door.keys["beta"], alice.id), (door.keys["acme"], uuid4())):
        assert (await door.ask("DELETE", f"/v1/users/{missing}/sign-in/devices?reason=x", key=key)).status == 404


async def reset_by_mail(door: FrontDoor, _: UUID) -> None:
    headers = {"X-Tenant-ID": "acme"}
    await door.post("/v1/account/password-reset-request", {"identifier": "alice"}, key="", headers=headers)
    body = {"token": await door.token("alice@example.org"), "password": PASSWORD}
    assert (await door.post("/v1/account/password-reset", body, key="")).status == 204


async def reset_factors(door: FrontDoor, user_id: UUID) -> None:
    door.execute("UPDATE users SET factors_bound_at = now() WHERE user_id = %s", user_id)
    path = f"/v1/users/{user_id}/factors/reset"
    assert (await door.post(path, {"reason": "phone stolen"}, key=door.keys["acme"])).status == 202
    door.execute("UPDATE users SET enrolment_demanded = false WHERE user_id = %s", user_id)


async def take_address_back(door: FrontDoor, user_id: UUID) -> None:
    patch = {"email": "thief@example.org", "reason": "asked by phone"}
    headers = {"Content-Type": "application/merge-patch+json"}
    changed = await door.ask("PATCH", f"/v1/users/{user_id}", patch, key=door.keys["acme"], headers=headers)
    assert changed.status == 200, changed.body
    notice = (await door.mails("alice@example.org"))[-1]
    assert (await door.post("/v1/account/address-undo", {"token": notice.token}, key="")).status == 204


async def change_password(door: FrontDoor, user_id: UUID) -> None:
    token = (await signed_in(door.app, door.tenants["acme"], user_id)).token
    for present, wanted in ((PASSWORD, NEW), (NEW, PASSWORD)):
        body = {"current_password": present, "new_password": wanted}
        done = await door.post("/v1/users/me/password", body, key=token)
        assert done.status == 200, done.body
        token = done.json["session"]["token"]


@pytest.mark.parametrize(
    ("act", "known"),
    [(reset_factors, False), (take_address_back, False), (reset_by_mail, True), (change_password, True)],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_what_is_done_against_a_thief_forgets_their_device(door: FrontDoor, act, known) -> None:
    """Whoever's it was: nobody knows. A new password alone leaves devices: they are how an owner under attack gets in."""
    alice = await door.user("alice")
    device, _ = await remembered(door)
    await act(door, alice.id)
    assert await is_known(door, alice.id, device) is known


async def test_after_a_reset_the_next_sign_in_from_a_known_device_is_told(door: FrontDoor) -> None:
    """Once: it may be a thief's. The device that the reset made known is its owner's."""
    alice = await door.user("alice")
    device, _ = await remembered(door)
    await reset_by_mail(door, alice.id)
    told = []
    for _ in range(2):
        assert (await door.login("alice", device=device)).status == 200
        mails = await door.mails("alice@example.org")
        told.append(sum("new device" in str(mail.message["Subject"]) for mail in mails))
    assert told == [1, 1]
    headers = {"X-Tenant-ID": "acme"}
    await door.post("/v1/account/password-reset-request", {"identifier": "alice"}, key="", headers=headers)
    body = {"token": await door.token("alice@example.org"), "password": NEW, "remember_device": True}
    made = (await door.post("/v1/account/password-reset", body, key="")).json["device"]["token"]
    assert (await door.login("alice", NEW, device=made)).status == 200
    mails = await door.mails("alice@example.org")
    assert sum("new device" in str(mail.message["Subject"]) for mail in mails) == 1


async def test_devices_on_the_command_line(door: FrontDoor, run) -> None:
    """One's own by a session; those of an account by an administrator, who says why; nothing goes unasked."""
    await door.user("alice")
    await remembered(door)
    _, session = await remembered(door)
    listed = json.loads((await run("list", "--output", "json", key=session)).stdout)["devices"]
    assert listed[0]["id"] in (await run("list", key=session)).stdout
    done = await run("forget", listed[0]["id"], key=session)
    assert (done.exit_code, done.stdout) == (0, f"forgot device {listed[0]['id']}\n")
    assert (await run("forget", listed[0]["id"], key=session)).exit_code == 5
    unasked = await run("forget", key=session)
    assert (unasked.exit_code, "use --yes" in unasked.stderr) == (2, True)
    assert (await run("forget", "--yes", key=session)).stdout == "forgot every device that your account knew\n"
    assert (await run("list", key=session)).stdout == "no known devices\n"
    await remembered(door)
    key = door.keys["acme"]
    assert (await run("forget", "--user", "alice", "--yes", key=key)).exit_code == 2
    assert (await run("forget", "--reason", "x", "--yes", key=session)).exit_code == 2
    assert (await run("forget", listed[0]["id"], "--user", "alice", "--reason", "x", key=key)).exit_code == 2
    done = await run("forget", "--user", "alice", "--reason", "stolen", "--yes", key=key)
    assert (done.exit_code, done.stdout) == (0, "forgot every device that alice knew\n")
    assert (await door.get(MINE, key=session)).json == {"devices": []}
