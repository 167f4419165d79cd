"""`kasbah invitation …` and the mails that `kasbah user` has sent, against a real server and a real mail server."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result

from tests.support.commands import kasbah
from tests.support.people import PostOffice

pytestmark = pytest.mark.integration


@pytest.fixture
def run(post: PostOffice, monkeypatch, tmp_path) -> Callable[..., Any]:
    """Run one command against the service and return its result."""
    monkeypatch.chdir(tmp_path)

    async def command(*arguments: str, key: str | None = None) -> Result:
        return await kasbah(post.url, key or post.keys["acme"], *arguments)

    return command


async def test_the_life_of_an_invitation(post, run):
    """Made, listed, sent anew, revoked; named by its id or address."""
    made = await run("invitation", "create", "carol@example.org", "--role", "role:editor", "--output", "json")
    assert made.exit_code == 0, made.output
    first = await post.token("carol@example.org")
    assert first not in made.output
    listed = await run("invitation", "list")
    assert "carol@example.org" in listed.stdout
    assert "role:editor" in listed.stdout
    assert (await run("invitation", "resend", "carol@example.org")).exit_code == 0
    second = await post.token("carol@example.org")
    assert second != first
    assert (await run("invitation", "revoke", "carol@example.org")).exit_code == 2  # nobody is there to ask
    gone = await run("invitation", "revoke", json.loads(made.stdout)["id"], "--yes")
    assert gone.stdout == "revoked carol@example.org\n"
    assert (await run("invitation", "list")).stdout == "no invitations\n"
    assert "revoked" in (await run("invitation", "list", "--all")).stdout
    assert (await run("invitation", "revoke", "carol@example.org", "--yes")).exit_code == 5
    assert (await run("invitation", "resend", "nobody@example.org")).exit_code == 5
    for bad in (("no address",), ("a@example.org", "--role", "role:platform-admin")):
        assert (await run("invitation", "create", *bad)).exit_code == 5, bad
    named = await run("invitation", "create", "dave@example.org", "--tenant", "beta", key=post.platform)
    assert named.exit_code == 0
    assert (await run("invitation", "list", "--tenant", "beta")).exit_code == 5


async def test_links_are_sent_for_others(post, run):
    """To the account's own address; the command shows none."""
    await post.person("alice")
    await post.person("bob", verified=False)
    assert (await run("user", "reset-password", "alice")).exit_code == 2
    sent = await run("user", "reset-password", "alice", "--reason", "lost")
    assert sent.stdout == "a link is on its way to the account's own address\n"
    assert await post.token("alice@example.org") not in sent.output
    assert (await run("user", "verify", "bob")).exit_code == 0
    assert "/account/verify?" in (await post.mails("bob@example.org"))[-1].link
    assert (await run("user", "reset-password", "bob", "--reason", "lost")).exit_code == 5
    assert (await run("user", "verify", "nobody")).exit_code == 5
