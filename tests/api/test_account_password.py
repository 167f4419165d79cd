"""`POST /v1/users/me/password` over HTTP."""

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest
import structlog
from sqlalchemy import text

import service.app
from service.all_routes import all_routes
from service.callers import Callers
from service.keys import PASSWORDS
from tenancy.unit_of_work import tenant_unit_of_work
from tests.support.accounts import PRESENT, WANTED, Accounts
from tests.support.administration import Service
from tests.support.persons import People
from tests.support.sessions import signed_in

PATH = "/v1/users/me/password"


@pytest.fixture
async def person(admin: Service):
    """A person of a tenant without any role, with a password, and a token of theirs, signed in."""
    people = People(admin)
    tenant_id = await people.tenant_id("acme")
    accounts = Accounts(people.sessions, tenant_id)
    jane = await accounts.add("jane", stored=await accounts.hasher.hash(PRESENT), email="jane@example.com")

    async def new_key() -> str:
        return (await signed_in(admin.app, tenant_id, jane.id)).token

    yield await new_key(), accounts, new_key
    accounts.hasher.close()


def both(present: str, wanted: str) -> dict[str, str]:
    return {"current_password": present, "new_password": wanted}


async def test_a_person_replaces_their_password(admin: Service, person) -> None:
    """All that acts for the person ends with it; they go on under a new token, and the new password is asked for."""
    key, _, new_key = person
    other = await new_key()
    done = await admin.post(PATH, both(PRESENT, WANTED), key=key)
    assert done.status == 200, done.body
    assert int(done.headers["Kasbah-Revision"]) > 1
    for ended in (key, other):
        assert (await admin.post(PATH, both(WANTED, PRESENT), key=ended)).status == 401
    key = done.json["session"]["token"]
    wrong = await admin.post(PATH, both(PRESENT, "another one entirely"), key=key)
    assert (wrong.status, wrong.problem, wrong.json["pointer"]) == (403, "wrong-password", "/current_password")
    assert (await admin.post(PATH, both(WANTED, "another one entirely"), key=key)).status == 200


async def test_a_refusal_says_every_reason_and_what_helps(admin: Service, person) -> None:
    """For people: codes, sentences, guidance, and how strong it is; never the password."""
    key, _, _ = person
    refused = await admin.post(PATH, both(PRESENT, "Acme2024"), key=key)
    assert (refused.status, refused.problem, refused.json["pointer"]) == (422, "password-refused", "/new_password")
    assert {reason["code"] for reason in refused.json["reasons"]} == {"too_short", "context"}
    assert all(reason["message"] and reason["guidance"] for reason in refused.json["reasons"])
    assert refused.json["strength"]["score"] < 3
    assert b"Acme2024" not in refused.body


async def test_too_many_wrong_ones_wait(admin: Service, person) -> None:
    """429 with the seconds; at the cap a lock."""
    key, accounts, _ = person
    for _ in range(6):
        assert (await admin.post(PATH, both("wrong", WANTED), key=key)).status == 403
    waits = await admin.post(PATH, both(PRESENT, WANTED), key=key)
    assert (waits.status, waits.problem) == (429, "too-many-tries")
    assert 0 < int(waits.headers["Retry-After"]) <= 30
    async with tenant_unit_of_work(accounts.sessions, accounts.tenant_id) as work:
        await work.session.execute(text("UPDATE credential_failures SET failures = 100, blocked_until = NULL"))
    locked = await admin.post(PATH, both(PRESENT, WANTED), key=key)
    assert (locked.status, locked.problem) == (403, "credential-locked")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"current_password": PRESENT},
        both(PRESENT, WANTED) | {"user_id": "x"},
        both(PRESENT, WANTED) | {"hint": "my dog"},
        both("", WANTED),
        both(PRESENT, "x" * 2000),
        b'{"current_password": "a", "current_password": "b", "new_password": "c"}',
        b'{"current_password": "a", "new_password": "\\ud800"}',
    ],
)
async def test_what_is_no_such_request_is_refused(admin: Service, person, body) -> None:
    """No hints, no other people's passwords, no half of a character; nothing is counted."""
    key, accounts, _ = person
    answer = await admin.ask("POST", PATH, body, key=key)
    assert answer.status == 400, answer.body
    assert PRESENT.encode() not in answer.body
    assert await accounts.count("credential_failures") == 0


async def test_no_key_changes_a_password(admin: Service, person) -> None:
    """Neither a tenant's nor the platform's nor the person's own, whatever its scopes: somebody must have signed in."""
    _, accounts, _ = person
    key = await admin.tenant("acme", "account:write")
    people = People(admin)
    own = await people.person("acme", "joe")
    for token in (key, admin.platform, own.key):
        answer = await admin.post(PATH, both(PRESENT, WANTED), key=token)
        assert (answer.status, answer.problem) == (403, "interactive-only")
    assert await accounts.count("credential_failures") == 0
    weak = await admin.tenant("acme", "policy:read")
    assert (await admin.post(PATH, both(PRESENT, WANTED), key=weak)).status == 403
    assert (await admin.post(PATH, both(PRESENT, WANTED), key="")).status == 401


async def test_no_password_is_logged(admin: Service, person) -> None:
    """Right, wrong or refused, at the lowest level: neither in a log nor in an answer nor in metrics."""
    key, _, _ = person
    seen: list[object] = []

    def note(_logger, _name, event):
        seen.append(dict(event))
        raise structlog.DropEvent

    everything = structlog.make_filtering_bound_logger(logging.DEBUG)
    structlog.configure(wrapper_class=everything, processors=[note])
    logging.getLogger().setLevel(logging.DEBUG)
    try:
        bodies = [
            (await admin.post(PATH, body, key=key)).body
            for body in (
                both("canary-wrong-present", WANTED),
                both(PRESENT, "canary"),
                both(PRESENT, "x" * 2000 + "canary"),
                both(PRESENT, "canary-purple-ladders"),
            )
        ]
    finally:
        logging.getLogger().setLevel(logging.WARNING)
    metrics = (await admin.get("/metrics")).body
    said = repr(seen) + repr(bodies) + metrics.decode()
    assert any("/v1/users/me/password" in repr(event) for event in seen)
    assert "canary" not in said
    assert PRESENT not in said


async def test_a_full_pool_refuses_before_anything_else(admin: Service, person, monkeypatch) -> None:
    """No key is looked up and no body is read for it; with `Retry-After`, and without a line in the log for each."""
    pool = admin.app[PASSWORDS]._pool
    held = [pool.take(number) for number in range(pool._room)]
    seen: list[object] = []
    monkeypatch.setattr(Callers, "authenticate", lambda *_: seen.append("authenticated"))
    monkeypatch.setattr(service.app, "_log_failure", lambda *_: seen.append("logged"))
    for path in hashing_paths():
        answer = await admin.ask("POST", path, b"no JSON", key="of nobody")
        assert (answer.status, answer.problem) == (503, "password-hashing-busy"), path
        assert answer.headers["Retry-After"] == "1"
    assert seen == []
    monkeypatch.undo()
    for place in held:
        place.leave()
    assert (await admin.ask("POST", PATH, b"no JSON", key=person[0])).status == 400


async def test_a_tenants_flood_is_refused_before_its_bodies_are_read(admin: Service, person) -> None:
    """When half of the places are its own; who is of another tenant finds one."""
    key = person[0]
    pool = admin.app[PASSWORDS]._pool
    held = [pool.take("acme") for _ in range(pool._share)]
    answer = await admin.ask("POST", PATH, b"no JSON", key=key)
    assert (answer.status, answer.problem) == (503, "password-hashing-busy")
    other = await admin.tenant("globex", "account:write")
    assert (await admin.ask("POST", PATH, b"no JSON", key=other)).status == 403  # a key; nothing of a full pool
    for place in held:
        place.leave()
    assert (await admin.ask("POST", PATH, b"no JSON", key=key)).status == 400


async def test_whoever_sends_slowly_holds_no_place(admin: Service, person) -> None:
    """Or a few connections would keep everybody from signing in."""
    key, _, _ = person
    pool = admin.app[PASSWORDS]._pool
    sent, rest = asyncio.Event(), asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b'{"current'
        sent.set()
        await rest.wait()
        yield b'_password": "x", "new_password": "y"}'

    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    asking = asyncio.create_task(admin.client._request("POST", PATH, data=slowly(), headers=headers))
    async with asyncio.timeout(60):
        await sent.wait()
    await asyncio.sleep(0.05)
    assert pool._held == 0
    rest.set()
    answer = await asking
    assert answer.status == 403
    answer.release()


def hashing_paths() -> list[str]:
    """Return the paths of all routes that say that they hash."""
    return [route.path for route in all_routes() if route.hashes]


def test_every_route_that_hashes_says_so() -> None:
    """Whoever adds one adds it here, too; pages answer in their own words, and are tried in `test_pages.py`."""
    assert sorted(hashing_paths()) == [
        "/v1/account/invitation",
        "/v1/account/password-reset",
        "/v1/auth/login",
        "/v1/bootstrap",
        "/v1/users/me/email",
        "/v1/users/me/password",
    ]
