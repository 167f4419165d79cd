"""Wall clocks that jump under running services: that of a node says nothing, and the database's never runs backwards."""

import time
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from tests.support.installation import FLIP, running_installation
from tests.support.moved_clock import moved_clocks
from tests.support.outside_checker import Checker, Question, Target, verdict, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.process]

DAY = 86_400
CAROL = Question("user:carol", "write", "record:1")


@pytest.fixture(scope="module")
def clocks():
    """The clock of PostgreSQL and Valkey, and that of both nodes."""
    with moved_clocks("servers", "nodes") as (servers, nodes):
        yield servers, nodes


@pytest.fixture(scope="module")
def running(tmp_path_factory, clocks):
    """An installation whose clocks can be moved."""
    servers, nodes = clocks
    with pytest.MonkeyPatch.context() as patch:
        for name, value in servers.environment.items():
            patch.setenv(name, value)
        with running_installation(tmp_path_factory.mktemp("clocks"), **nodes.environment) as made:
            yield made


@pytest.fixture
def installation(running, clocks):
    """The installation, with clocks that are right before and after the test."""
    yield running
    for clock in clocks:
        clock.move(0)
    running.mend()


def checked(installation, tenant):
    """Ask both nodes, warm and cold, while clocks jump."""
    targets = [Target(node.port, tenant.key) for node in installation.nodes]
    return Checker(targets, tenant.questions, rate=20, connections=2)


def asked(node, key):
    """Return the status that a key of a decision point is answered."""
    question = {
        "subject": {"type": "user", "id": "alice"},
        "action": {"name": "read"},
        "resource": {"type": "record", "id": "1"},
    }
    return node.request("POST", "/access/v1/evaluation", question, key=key).status


def database_time(installation):
    """Return what PostgreSQL takes for the time."""
    with psycopg.connect(installation.postgres.url) as connection:
        return connection.execute("SELECT clock_timestamp()").fetchone()[0]


def lend(installation, tenant, ends):
    """Make carol an editor until `ends`, and let both nodes hold that, if they are asked in time."""
    link = {"type": "link", "member": "user:carol", "role": "role:editor", "expires_at": ends.isoformat()}
    answer = tenant.change(installation.first, "memberships", {"add": [link]})
    assert answer.status == 200, answer.body
    tenant.revision = answer.json()["revision"]
    for node in installation.nodes:
        wait_until(
            lambda n=node: tenant.ask(n, CAROL, tenant.revision).decision is True or database_time(installation) >= ends
        )


def turn_and_follow(installation, tenant):
    """Grant and revoke through the first node; both follow, whatever the clocks say."""
    for write, wanted in ((tenant.grant, True), (tenant.revoke, False)):
        assert write(installation.first).status == 200
        for node in installation.nodes:
            wait_until(lambda n=node, w=wanted: tenant.ask(n, FLIP).decision is w)


def test_a_nodes_own_clock_says_nothing(installation, tenant, clocks):
    """A day ahead or behind, it neither ends a grant or a key early nor lets one live on; changes travel as ever."""
    _, nodes = clocks
    path = f"/v1/tenants/{tenant.slug}/keys"
    with checked(installation, tenant) as checker:
        for days in (1, -1):
            for seconds in (5, 20, 60):  # longer on a machine that is too slow to show anything sooner
                nodes.move(0)
                ends = database_time(installation) + timedelta(seconds=seconds)
                lend(installation, tenant, ends)
                body = {"name": f"short-{days}-{seconds}", "scopes": ["decision:check"], "expires_at": ends.isoformat()}
                made = installation.first.request("POST", path, body, key=installation.platform_key)
                assert made.status == 201, made.body
                key = made.json()["token"]
                nodes.move(days * DAY)
                seen = [(tenant.ask(node, CAROL).decision, asked(node, key)) for node in installation.nodes]
                if database_time(installation) < ends:
                    break
            assert seen == [(True, 200), (True, 200)]
            turn_and_follow(installation, tenant)
            for node in installation.nodes:
                wait_until(lambda n=node: tenant.ask(n, CAROL).decision is False)
                wait_until(lambda n=node, k=key: asked(n, k) == 401)
            assert database_time(installation) >= ends
    assert set(verdict(checker.seen, tenant.truth)) == {"200"}


def test_the_databases_clock_ahead_ends_grants_and_set_back_revives_none(installation, tenant, clocks):
    """It jumps a day ahead, then back: who was denied by then stays denied on every node that decided so."""
    servers, _ = clocks
    lend(installation, tenant, datetime.now(UTC) + timedelta(hours=1))
    with checked(installation, tenant) as checker:
        servers.move(DAY)
        assert database_time(installation) - datetime.now(UTC) > timedelta(hours=23)
        for node in installation.nodes:
            wait_until(lambda n=node: tenant.ask(n, CAROL).decision is False)
        turn_and_follow(installation, tenant)
        servers.move(0)
        assert database_time(installation) - datetime.now(UTC) < timedelta(hours=1)
        until = time.monotonic() + 3
        while time.monotonic() < until:
            assert not any(tenant.ask(node, CAROL).decision for node in installation.nodes)
        turn_and_follow(installation, tenant)
    assert set(verdict(checker.seen, tenant.truth)) == {"200"}
    for node in installation.nodes:
        node.kill()
    installation.mend()
    # A node that never heard the wrong time goes by the right one.
    for node in installation.nodes:
        wait_until(lambda n=node: tenant.ask(n, CAROL).decision is True)


def test_the_databases_clock_set_back_keeps_everything_going(installation, tenant, clocks):
    """An hour back: what was over stays over, decisions and changes go on, and new grants end in bounded time."""
    servers, _ = clocks
    lend(installation, tenant, database_time(installation) + timedelta(seconds=3))
    for node in installation.nodes:
        wait_until(lambda n=node: tenant.ask(n, CAROL).decision is False)
    with checked(installation, tenant) as checker:
        servers.move(-3600)
        until = time.monotonic() + 3
        while time.monotonic() < until:
            assert not any(tenant.ask(node, CAROL).decision for node in installation.nodes)
        turn_and_follow(installation, tenant)
        ready = [node.request("GET", "/readyz").status for node in installation.nodes]
        assert ready == [200, 200]
    assert set(verdict(checker.seen, tenant.truth)) == {"200"}


def test_sessions_live_by_the_databases_time(installation, clocks, person):
    """A node whose clock runs a day ahead ends none, and one a day behind brings none back."""
    _, nodes = clocks

    def answers(token):
        return {node.request("GET", "/v1/keys/self", key=token).status for node in installation.nodes}

    lasting = person.signs_in().token
    assert answers(lasting) == {200}
    for seconds in (4, 16, 60):  # longer on a machine that is too slow to show anything sooner
        began = time.monotonic()
        short = person.signs_in(absolute_seconds=seconds).token
        if answers(short) == {200}:
            break
    else:
        pytest.fail("the short session was over at once")
    for offset in (DAY, -DAY):
        nodes.move(offset)
        for node in installation.nodes:
            wait_until(lambda n=node: n.request("GET", "/readyz").status == 200)
        assert answers(lasting) == {200}
    time.sleep(max(0.0, began + seconds + 1 - time.monotonic()))
    assert (answers(lasting), answers(short)) == ({200}, {401})
