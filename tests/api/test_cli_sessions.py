"""`kasbah session …` against a real server."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result

from authn.begin_session import Client
from tests.support.commands import kasbah
from tests.support.people import PostOffice
from tests.support.sessions import signed_in

pytestmark = pytest.mark.integration


@pytest.fixture
def run(post: PostOffice, monkeypatch, tmp_path) -> Callable[..., Any]:
    """Run one command against the service and return its result."""
    monkeypatch.chdir(tmp_path)

    async def command(*arguments: str, key: str) -> Result:
        return await kasbah(post.url, key, "session", *arguments)

    return command


async def test_people_list_and_end_their_own(post: PostOffice, run):
    """A table, the same as JSON; one that ended is not there any more, and signing out is the end of the token."""
    user = await post.person("alice")
    at = post.tenants["acme"]
    phone = await signed_in(post.app, at, user.id, client=Client("a phone", "198.51.100.9"))
    desk = await signed_in(post.app, at, user.id, client=Client("a desk\x1b[31m", "192.0.2.7"))
    listed = await run("list", key=desk.token)
    assert listed.exit_code == 0, listed.output
    first, second = listed.stdout.splitlines()[1:]
    assert (str(desk.session.session_id) in first, "this one" in first, "\x1b" in first) == (True, True, False)
    assert ("a phone" in second, "aal1 (pwd)" in second, "this one" in second) == (True, True, False)
    found = json.loads((await run("list", "--output", "json", key=desk.token)).stdout)["sessions"]
    assert [each["current"] for each in found] == [True, False]
    ended = await run("revoke", str(phone.session.session_id), key=desk.token)
    assert (ended.exit_code, ended.stdout) == (0, f"revoked session {phone.session.session_id}\n")
    assert (await run("revoke", str(phone.session.session_id), key=desk.token)).exit_code == 5
    assert len((await run("list", key=desk.token)).stdout.splitlines()) == 2
    assert (await run("revoke", "current", key=desk.token)).exit_code == 0
    assert (await run("list", key=desk.token)).exit_code == 5


async def test_administrators_end_those_of_an_account(post: PostOffice, run):
    """Named as accounts are named, with a reason; all of them only when that is meant."""
    user = await post.person("alice")
    at, key = post.tenants["acme"], post.keys["acme"]
    new = await signed_in(post.app, at, user.id)
    assert str(new.session.session_id) in (await run("list", "--user", "alice", key=key)).stdout
    assert (await run("revoke-all", "--user", "alice", key=key)).exit_code == 2
    assert (await run("revoke-all", "--user", "alice", "--reason", "left", key=key)).exit_code == 2
    assert (await run("revoke", "current", "--reason", "x", key=new.token)).exit_code == 2
    for own in (("revoke-all", "--yes"), ("revoke", str(new.session.session_id))):
        refused = await run(*own, "--user", str(user.id), "--reason", "x", key=new.token)
        assert (refused.exit_code, "your own account: leave out --user" in refused.stderr) == (2, True)
    done = await run("revoke-all", "--user", "alice@example.org", "--reason", "left", "--yes", key=key)
    assert (done.exit_code, done.stdout) == (0, "revoked every sign-in and personal key\n")
    assert (await run("list", "--user", user.ref.partition(":")[2], key=key)).stdout == "no sessions\n"
    assert (await run("list", key=new.token)).exit_code == 5
    assert (await run("list", "--user", "nobody", key=key)).exit_code == 5
