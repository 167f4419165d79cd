"""`kasbah auth …` against a real service: signing in from a terminal, and the counters of failed sign-ins."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from click.testing import CliRunner, Result

from service.cli.root import root
from tests.support.commands import kasbah
from tests.support.factors import wrong_code
from tests.support.sign_in import PASSWORD, WRONG, FrontDoor, front_door

pytestmark = pytest.mark.integration


@pytest.fixture
async def door(own_database_url: str) -> AsyncIterator[FrontDoor]:
    async with front_door(own_database_url) as running:
        yield running


@pytest.fixture
def run(door: FrontDoor, monkeypatch, tmp_path) -> Callable[..., Any]:
    """Run one command against the service and return its result."""
    monkeypatch.chdir(tmp_path)

    async def command(*arguments: str, typed: str = "", key: str | None = None) -> Result:
        return await kasbah(door.url, door.keys["acme"] if key is None else key, *arguments, typed=typed)

    return command


async def test_a_password_is_asked_without_echo_and_the_session_works(door, run):
    """The token is printed, and nothing else holds it; it is what KASBAH_API_KEY takes."""
    await door.user("alice")
    done = await run("auth", "login", "alice", "--tenant", "acme", typed=f"{PASSWORD}\n", key="")
    assert done.exit_code == 0, done.output
    assert PASSWORD not in done.output
    first, token = done.stdout.strip().splitlines()
    assert first.startswith("signed in as alice (aal1: pwd) until 20")
    assert (await door.get("/v1/users/me", key=token)).status == 200
    assert "kasbah/" in (await run("session", "list", key=token)).stdout
    audited = await run("audit", "list", "--tenant", "acme", "--action", "session.begin")
    assert "password aal1" in audited.stdout
    as_json = await run(
        "auth", "login", "alice", "--tenant", "acme", "--password-stdin", "--output", "json", typed=f"{PASSWORD}\n"
    )
    assert json.loads(as_json.stdout)["session"]["acr"] == "aal1"


async def test_a_code_is_asked_of_whoever_has_a_factor(door, run):
    alice = await door.user("alice")
    phone = await door.phone(alice)
    wrong = await run("auth", "login", "alice", "--tenant", "acme", typed=f"{PASSWORD}\n{wrong_code(phone)}\n")
    assert wrong.exit_code == 5
    assert "Nobody is signed in by this\neach code is taken once" in wrong.stderr
    code = phone.code()
    done = await run("auth", "login", "alice", "--tenant", "acme", typed=f"{PASSWORD}\n{code}\n")
    assert "aal2: pwd otp mfa" in done.stdout
    assert code not in done.output
    other = await run("auth", "login", "alice", "--tenant", "acme", "--method", "recovery_code", typed=f"{PASSWORD}\n")
    assert other.exit_code == 5
    assert "this account offers: totp" in other.stderr


async def test_refusals_say_what_they_may(door, run):
    """A wrong password, a factor that must be bound first, input that ends, no server."""
    await door.user("alice")
    await door.user("bob", mfa_required=True)
    wrong = await run("auth", "login", "alice", "--tenant", "acme", typed=f"{WRONG}\n")
    assert (wrong.exit_code, wrong.stdout, "code" in wrong.stderr) == (5, "", False)
    must = await run("auth", "login", "bob", "--tenant", "acme", typed=f"{PASSWORD}\n")
    assert must.exit_code == 5
    assert "must be bound" in must.stderr
    assert (await run("auth", "login", "alice", "--tenant", "acme", "--password-stdin")).exit_code == 2
    nowhere = await asyncio.to_thread(
        CliRunner().invoke, root, ["auth", "login", "alice", "--tenant", "acme"], env={"KASBAH_URL": ""}
    )
    assert nowhere.exit_code == 3


async def test_counters_are_shown_and_cleared(door, run):
    """Of an account, named by anything; of the tenant's networks."""
    await door.user("alice")
    for _ in range(6):
        await door.login("alice", WRONG)
    shown = await run("auth", "failures", "show", "alice")
    assert "last sign-in: never" in shown.stdout
    assert "password" in shown.stdout
    assert json.loads((await run("auth", "failures", "show", "--output", "json")).stdout)["networks"]["counted"] == 1
    assert (await run("auth", "failures", "clear", "alice", "--reason", "why")).exit_code == 2
    cleared = await run("auth", "failures", "clear", "alice@example.org", "--reason", "why", "--yes")
    assert cleared.stdout == "cleared failed sign-ins of alice@example.org\n"
    assert "no failures" in (await run("auth", "failures", "show", "alice")).stdout
    assert (await run("auth", "failures", "clear", "--address", "127.0.0.1", "--reason", "why", "--yes")).exit_code == 0
    assert "0" in (await run("auth", "failures", "show")).stdout
    both = await run("auth", "failures", "clear", "alice", "--address", "127.0.0.1", "--reason", "why", "--yes")
    assert both.exit_code == 2
