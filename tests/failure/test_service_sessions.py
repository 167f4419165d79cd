"""Sessions on two nodes whose Valkey is killed, emptied, and restored from an older dump; and what ends them there."""

import shutil
import time
from functools import partial

import psycopg
import pytest
import redis

from tests.support.outside_checker import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.process]

SELF = "/v1/keys/self"
MINE = "/v1/users/me/sessions"
ENDED_SECONDS = 15.0
"""An end that was acknowledged counts by then on every node, however busy: half of how long a node remembers somebody.
With notices it takes a second, without them a poll more; that is measured on a machine that does nothing else."""


def status(node, token):
    """What a node answers whoever shows this token."""
    return node.request("GET", SELF, key=token).status


def statuses(installation, *tokens):
    return {status(node, token) for node in installation.nodes for token in tokens}


def out_everywhere(installation, tokens, seconds):
    """Wait until no node takes any of these tokens; fails when that takes longer."""
    began = time.monotonic()
    for node in installation.nodes:
        for token in tokens:
            wait_until(partial(lambda n, t: status(n, t) == 401, node, token), seconds)
    assert time.monotonic() - began < seconds


@pytest.mark.parametrize("what", ["disable", "end all", "password", "sign out"])
def test_who_is_signed_in_twice_is_out_on_both_nodes(installation, person, what):
    """Of a disable, an administrator's end, and a new password: both sessions, on both nodes, soon."""
    one, two = person.signs_in().token, person.signs_in().token
    assert statuses(installation, one, two) == {200}
    ended = [one, two]
    if what == "disable":
        person.administered("POST", "/disable", {"reason": "left"})
    elif what == "end all":
        person.administered("DELETE", "/sessions?reason=left")
    elif what == "password":
        with psycopg.connect(installation.postgres.url) as owner:
            epoch = "UPDATE users SET auth_epoch = auth_epoch + 1 WHERE user_id = %s"
            owner.execute(epoch, [person.user_id])
        person.administered("DELETE", "/sessions?reason=so+that+nodes+hear+of+it")
    else:
        ended = [one]
        assert installation.first.request("DELETE", f"{MINE}/current", key=one).status == 204
    out_everywhere(installation, ended, ENDED_SECONDS)
    assert statuses(installation, *ended) == {401}
    if what == "sign out":
        assert statuses(installation, two) == {200}


def test_a_suspended_tenant_has_nobody_signed_in(installation, person):
    """On both nodes, soon; taken back, the session goes on where it was not left idle for too long."""
    token = person.signs_in().token
    assert statuses(installation, token) == {200}
    key, path = installation.platform_key, f"/v1/tenants/{person.slug}"
    assert installation.first.request("POST", f"{path}/suspend", {"reason": "unpaid"}, key=key).status == 200
    for node in installation.nodes:
        wait_until(partial(lambda n: status(n, token) == 403, node), ENDED_SECONDS)
    assert installation.first.request("POST", f"{path}/reactivate", {"reason": "paid"}, key=key).status == 200
    for node in installation.nodes:
        wait_until(partial(lambda n: status(n, token) == 200, node), ENDED_SECONDS)


def test_a_killed_valkey_signs_nobody_in_and_keeps_nobody_from_signing_out(installation, person):
    """Who is known goes on, who is not gets 503; what is ended meanwhile is out on both nodes, and stays out."""
    known, unknown, ended = [person.signs_in().token for _ in range(3)]
    assert statuses(installation, known, ended) == {200}
    installation.valkey.kill()
    assert statuses(installation, known) == {200}
    refused = installation.second.request("GET", SELF, key=unknown)
    assert (refused.status, "retry-after" in refused.headers) == (503, True)
    assert installation.first.request("GET", MINE, key=known).status == 503
    assert installation.first.request("DELETE", f"{MINE}/current", key=ended).status == 204
    out_everywhere(installation, [ended], ENDED_SECONDS)
    installation.valkey.start_again()
    # It came back empty.
    for token in (unknown, ended):
        for node in installation.nodes:
            wait_until(partial(lambda n, t: status(n, t) == 401, node, token))
    new = person.signs_in().token
    assert statuses(installation, new) == {200}


def test_a_valkey_that_was_emptied_signs_out(installation, person):
    """At once where the session was not known; where it was, it goes on for a moment. A new sign-in works at once."""
    token = person.signs_in().token
    assert status(installation.first, token) == 200
    with redis.Redis.from_url(installation.valkey.url) as client:
        client.flushall()
    assert [status(node, token) for node in installation.nodes] == [200, 401]
    assert statuses(installation, person.signs_in().token) == {200}


def test_an_older_valkey_signs_nobody_in(installation, person):
    """A dump from before is loaded: what ended since stays ended, alone or with all others; the rest goes on."""
    signed_out, kept = person.signs_in().token, person.signs_in(idle_seconds=600).token
    assert statuses(installation, signed_out, kept) == {200}
    with redis.Redis.from_url(installation.valkey.url) as client:
        client.save()
        (directory,) = client.config_get("dir").values()
    dump = f"{directory}/dump.rdb"
    shutil.copy(dump, f"{dump}.old")
    assert installation.first.request("DELETE", f"{MINE}/current", key=signed_out).status == 204
    later = person.signs_in().token
    assert statuses(installation, later) == {200}

    def restore():
        installation.valkey.kill()
        shutil.copy(f"{dump}.old", dump)
        installation.valkey.start_again()

    restore()
    with redis.Redis.from_url(installation.valkey.url) as client:
        assert len(client.keys("*:session:*")) >= 2, "the older sessions are there"
    for node in installation.nodes:
        wait_until(partial(lambda n: status(n, kept) == 200, node))
    assert statuses(installation, signed_out) == {401}
    person.administered("POST", "/disable", {"reason": "left"})
    person.administered("POST", "/enable", {"reason": "back"})
    restore()
    for token in (signed_out, kept, later):
        for node in installation.nodes:
            wait_until(partial(lambda n, t: status(n, t) == 401, node, token))


def test_a_session_left_idle_is_over_on_both_nodes(installation, person):
    """By the database's clock; in use on one node alone it is not idle on the other."""
    idle, used = person.signs_in(idle_seconds=6).token, person.signs_in(idle_seconds=6).token
    assert statuses(installation, idle, used) == {200}
    until = time.monotonic() + 8
    while time.monotonic() < until:
        assert status(installation.first, used) == 200
        time.sleep(0.5)
    assert statuses(installation, used) == {200}
    assert statuses(installation, idle) == {401}
