"""Access tokens while what they stand on is broken: servers, issuer and clocks."""

import os
import signal
import time

import pytest

from tests.support.installation import running_installation
from tests.support.issuer import AUDIENCE, serving_beside
from tests.support.moved_clock import moved_clocks
from tests.support.outside_checker import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.process]

DAY = 86_400
MAX_STALENESS_SECONDS = 5.0
QUESTION = {
    "subject": {"type": "user", "id": "alice"},
    "action": {"name": "write"},
    "resource": {"type": "record", "id": "1"},
}


@pytest.fixture(scope="module")
def clock():
    """The clock of both nodes."""
    with moved_clocks("nodes") as (nodes,):
        yield nodes


@pytest.fixture(scope="module")
def issuer():
    """An issuer that goes on while the test waits."""
    with serving_beside() as served:
        yield served


@pytest.fixture(scope="module")
def running(tmp_path_factory, clock, issuer):
    """An installation that takes the issuer's tokens; whoever has `role:asking` may ask for decisions."""
    settings = {
        "KASBAH_OAUTH__ISSUER": issuer.issuer,
        "KASBAH_OAUTH__AUDIENCE": AUDIENCE,
        "KASBAH_OAUTH__JWKS_URL": issuer.jwks_url,
        "KASBAH_OAUTH__INTROSPECTION_URL": issuer.introspection_url,
        "KASBAH_OAUTH__INTROSPECTION_SECONDS": "0",
    }
    with running_installation(tmp_path_factory.mktemp("tokens"), **settings, **clock.environment) as made:
        rule = {"type": "rule", "subject": "role:asking", "resource": "kasbah:decision", "action": "check"}
        answer = made.first.request("POST", "/v1/tenants/_base/rules", {"add": [rule]}, key=made.platform_key)
        assert answer.status == 200, answer.body
        yield made


@pytest.fixture
def installation(running, issuer, clock):
    """The installation, whole before and after the test."""
    yield running
    clock.move(0)
    issuer.status, issuer.hangs = 200, False
    running.mend()


@pytest.fixture
def new_person(installation, tenant):
    """Make people of the tenant who may ask for decisions; return their ids."""

    def make(name):
        first, key = installation.first, installation.platform_key
        made = first.request("POST", f"/v1/users?tenant={tenant.slug}", {"username": name}, key=key)
        assert made.status == 201, made.body
        link = {"type": "link", "member": made.json()["subject"], "role": "role:asking"}
        given = tenant.change(first, "memberships", {"add": [link]})
        assert given.status == 200, given.body
        tenant.revision = given.json()["revision"]
        return made.json()["id"]

    return make


def asked(node, token):
    """Ask for a decision; return the status."""
    answer = node.request("POST", "/access/v1/evaluation", QUESTION, key=token)
    assert answer.status != 200 or answer.json()["decision"] is True
    assert answer.status != 503 or int(answer.headers["retry-after"]) > 0
    return answer.status


def taken(installation, token):
    """Wait until both nodes take a token."""
    for node in installation.nodes:
        wait_until(lambda n=node: asked(n, token) == 200)


def test_tokens_outlive_valkey_and_postgresql_as_keys_do(installation, tenant, issuer, new_person):
    """Warm ones go on until `max_staleness`; whose account is not held is 503 within the bound; then all is as before."""
    carol, dave = new_person("carol"), new_person("dave")
    warm, cold = issuer.token(carol, "kasbah:decision:check"), issuer.token(dave, "kasbah:decision:check")
    taken(installation, warm)
    installation.valkey.kill()
    assert [asked(node, warm) for node in installation.nodes] == [200, 200]
    frozen = installation.freeze_postgres()
    assert [asked(node, warm) for node in installation.nodes] == [200, 200]
    assert [asked(node, cold) for node in installation.nodes] == [503, 503]
    time.sleep(MAX_STALENESS_SECONDS + 1)
    for token in (warm, cold):
        assert [asked(node, token) for node in installation.nodes] == [503, 503]
    for pid in frozen:
        os.kill(pid, signal.SIGCONT)
    for token in (warm, cold):
        taken(installation, token)


def test_an_issuer_that_hangs_stops_only_what_it_alone_can_say(installation, tenant, issuer, new_person):
    """Opaque tokens are 503 within the bound; JWTs of known keys and Kasbah's own keys go on."""
    erin = new_person("erin")
    token, opaque = issuer.token(erin, "kasbah:decision:check"), issuer.opaque(erin, "kasbah:decision:check")
    taken(installation, token)
    taken(installation, opaque)
    issuer.hangs = True
    for node in installation.nodes:
        assert [asked(node, opaque) for _ in range(5)] == [503] * 5
        assert (asked(node, token), asked(node, tenant.key)) == (200, 200)
    issuer.hangs = False
    taken(installation, opaque)


def test_a_nodes_own_clock_neither_ends_a_token_nor_lets_one_live_on(installation, tenant, issuer, new_person, clock):
    """Time is the database's: a node a day ahead takes a good token, one a day behind refuses an old one."""
    frank = new_person("frank")
    now = int(time.time())
    old = issuer.token(frank, "kasbah:decision:check", iat=now - 900, exp=now - 600)
    for days in (1, -1):
        clock.move(days * DAY)
        taken(installation, issuer.token(frank, "kasbah:decision:check"))
        assert [asked(node, old) for node in installation.nodes] == [401, 401]
        later = issuer.token(frank, "kasbah:decision:check", iat=now + days * DAY, exp=now + days * DAY + 300)
        assert [asked(node, later) for node in installation.nodes] == [401, 401]
