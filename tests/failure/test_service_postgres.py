"""PostgreSQL killed, frozen, restarted and full under whole services: bounded, honest, all or nothing, healing."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import psutil
import psycopg
import pytest

from tests.support.installation import FLIP, done
from tests.support.outside_checker import (
    BOUND_SECONDS,
    Checker,
    Connection,
    Question,
    Target,
    ask,
    never_after,
    verdict,
    wait_until,
)
from tests.support.paths import ROOT
from tests.support.running_service import clean_environment

pytestmark = [pytest.mark.integration, pytest.mark.process]

MAX_STALENESS_SECONDS = 5.0
SURELY_WARM_SECONDS = 2.0
"""Into an outage: the last poll before it was longer ago the busier the machine is."""

EDITOR = Question("user:alice", "write", "record:1")
BARRED = Question("user:barred-300", "read", "record:1")


def answers(installation, tenant, question=EDITOR):
    """Whether both nodes answer."""
    return all(tenant.ask(node, question).status == 200 for node in installation.nodes)


def both(installation, tenant):
    """Return the targets of a checker on both nodes."""
    return [Target(node.port, tenant.key) for node in installation.nodes]


def writes_again(installation, tenant):
    """Wait until a write is taken and used by both nodes."""
    assert done(lambda: tenant.grant(installation.first)).status == 200
    for node in installation.nodes:
        wait_until(lambda n=node: tenant.ask(n, FLIP, tenant.revision).decision is True)


def test_a_frozen_postgresql_is_outlived_until_max_staleness(installation, tenant):
    """Warm decisions go on, then 503; cold ones are 503 in bounded time, whoever waits beside them; then it heals."""
    with (
        # More connections than key look-ups may run at once, so that waiting for a turn is tried too.
        Checker(both(installation, tenant), tenant.warm_questions, rate=6, connections=20) as warm,
        Checker(both(installation, tenant), tenant.questions, rate=10, connections=2) as cold,
    ):
        time.sleep(1)
        frozen_at = time.monotonic()
        frozen = installation.freeze_postgres()
        time.sleep(MAX_STALENESS_SECONDS + 6)
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
        thawed_at = time.monotonic()
        wait_until(lambda: answers(installation, tenant))
        time.sleep(1)
        writes_again(installation, tenant)
    seen = warm.seen + cold.seen
    assert set(verdict(seen, tenant.truth)) == {"200", "503"}
    for answer in warm.seen:
        age = answer.sent - frozen_at
        if age + answer.seconds < SURELY_WARM_SECONDS:
            assert answer.status == 200, f"a warm decision failed {age:.2f} s into the outage"
        elif age > MAX_STALENESS_SECONDS + 0.1 and answer.sent + answer.seconds < thawed_at:
            assert answer.status == 503, f"answered {age:.2f} s after PostgreSQL was last heard"


def test_a_killed_postgresql_is_outlived_and_taken_up_again(installation, tenant):
    """SIGKILL and a restart: warm decisions lose nothing, unless that took as long as max_staleness."""
    with Checker(both(installation, tenant), tenant.warm_questions, rate=25, connections=3) as checker:
        time.sleep(0.5)
        killed_at = time.monotonic()
        installation.postgres.kill()
        for node in installation.nodes:
            seen = tenant.ask(node, BARRED)
            assert seen.status == 503, "a look-up that failed must not become `has no roles`"
            assert seen.seconds < BOUND_SECONDS
        installation.postgres.start_again()
        back_at = time.monotonic()
        wait_until(lambda: answers(installation, tenant, BARRED))
        writes_again(installation, tenant)
        assert tenant.revoke(installation.first).status == 200
        for node in installation.nodes:
            wait_until(lambda n=node: tenant.ask(n, FLIP).decision is False)
        followed = time.monotonic()
        time.sleep(0.5)
    lost = set(verdict(checker.seen, tenant.truth)) - {"200"}
    assert lost <= ({"503"} if back_at - killed_at > SURELY_WARM_SECONDS else set())
    never_after(checker.seen, followed, tenant.revision)


def test_a_long_outage_ends_in_503_and_heals(installation, tenant):
    """Refused connections: 503 past max_staleness on every route that needs PostgreSQL, then full service again."""
    with Checker(both(installation, tenant), tenant.questions, rate=20, connections=3) as checker:
        installation.postgres.kill()
        down_at = time.monotonic()
        time.sleep(MAX_STALENESS_SECONDS + 0.5)
        for node in installation.nodes:
            assert tenant.ask(node, EDITOR).status == 503
            ready = node.request("GET", "/readyz")
            assert (ready.status, ready.json()["parts"]["policy"]) == (503, "not ready")
            for method, path, body in (
                ("GET", f"/v1/tenants/{tenant.slug}/rules", None),
                ("GET", f"/v1/tenants/{tenant.slug}/changes", None),
                ("POST", f"/v1/tenants/{tenant.slug}/rules", {"add": []}),
                ("POST", "/v1/tenants", {"slug": "unborn"}),
                ("GET", "/v1/keys/self", None),
            ):
                began = time.monotonic()
                answer = node.request(method, path, body, key=installation.platform_key)
                assert time.monotonic() - began < BOUND_SECONDS
                assert (answer.status, answer.headers.get("content-type")) == (503, "application/problem+json")
                assert answer.headers["retry-after"].isdigit()
        installation.postgres.start_again()
        wait_until(lambda: answers(installation, tenant, BARRED))
        writes_again(installation, tenant)
    assert set(verdict(checker.seen, tenant.truth)) == {"200", "503"}
    never_after(
        [seen for seen in checker.seen if seen.sent < down_at + MAX_STALENESS_SECONDS + 0.5],
        down_at + MAX_STALENESS_SECONDS + 0.1,
        2**62,
    )


def test_exhausted_connections_refuse_what_needs_one_and_recover(installation, tenant):
    """Other clients hold every connection that PostgreSQL gives: what is held goes on, the rest is 503 in time."""
    with (
        contextlib.ExitStack() as held,
        Checker(both(installation, tenant), tenant.questions, rate=20, connections=6) as checker,
    ):
        time.sleep(0.5)
        taken = take_every_connection(held, installation.postgres.url)
        assert taken > 10
        time.sleep(MAX_STALENESS_SECONDS + 1.5)
        held.close()
        wait_until(lambda: answers(installation, tenant, BARRED))
        writes_again(installation, tenant)
    assert set(verdict(checker.seen, tenant.truth)) <= {"200", "503"}


def take_every_connection(held, url):
    """Open connections until PostgreSQL gives none, with those that the service held; return how many."""
    taken = []
    for _ in range(4):
        with contextlib.suppress(psycopg.OperationalError):
            while True:
                taken.append(held.enter_context(psycopg.connect(url, autocommit=True, connect_timeout=60)))
        # What is ended here is taken in the next round, unless the service is quicker.
        taken[0].execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'kasbah'")
    return len(taken)


def large_directory(directory, slug, rules):
    """Write a policy directory with `rules` rules, one of which lets `user:large` read."""
    (directory / slug).mkdir(parents=True)
    (directory / "model.conf").write_text((ROOT / "policies" / "model.conf").read_text())
    lines = [f"p, user:u{number}, {slug}, large:{number}, write, allow" for number in range(rules)]
    lines.append(f"p, user:large, {slug}, large:last, write, allow")
    (directory / slug / "policy.csv").write_text("\n".join(lines) + "\n")


def cli(installation, node, *arguments):
    """Start `kasbah` against a node."""
    environment = clean_environment(KASBAH_URL=node.base_url, KASBAH_API_KEY=installation.platform_key)
    return subprocess.Popen(
        [sys.executable, "-m", "service", *arguments],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


LARGE_RULES = 8_001
FIRST = Question("user:u0", "write", "large:0")
LAST = Question("user:large", "write", "large:last")


def holds_all_or_nothing(installation, tenant, before):
    """Return whether the large policy is there; whole, or not at all, with the revision that goes with it."""
    revision = tenant.head(installation.first)
    with psycopg.connect(installation.postgres.url) as connection:
        (rules,) = connection.execute(
            "SELECT count(*) FROM rules AS r JOIN tenants AS t USING (tenant_id) WHERE t.slug = %s AND r.owner = 'files'",
            (tenant.slug,),
        ).fetchone()
        (items,) = connection.execute(
            "SELECT count(*) FROM change_items AS i JOIN tenants AS t USING (tenant_id) "
            "WHERE t.slug = %s AND i.revision > %s",
            (tenant.slug, before),
        ).fetchone()
    applied = revision == before + 1
    assert applied or revision == before
    assert rules == (LARGE_RULES if applied else 0)
    assert items == (LARGE_RULES if applied else 0)
    for node in installation.nodes:
        for question in (FIRST, LAST):
            wait_until(lambda n=node, q=question: tenant.ask(n, q, revision).status == 200)
            assert tenant.ask(node, question, revision).decision is applied
    return applied


@pytest.mark.parametrize("victim", ["postgres", "node"])
def test_a_kill_during_apply_leaves_all_or_nothing(installation, tenant, tmp_path, victim):
    """At several moments of `policy apply`: the tenant has the old policy or the new one, and a retry succeeds."""
    large_directory(tmp_path, tenant.slug, LARGE_RULES - 1)
    outcomes = []
    with Checker(
        [Target(installation.second.port, tenant.key)], tenant.warm_questions, rate=25, connections=2
    ) as checker:
        for wait_for in ("apply", "rows", "rows"):
            before = tenant.head(installation.first)
            applying = cli(installation, installation.first, "policy", "apply", str(tmp_path), "--yes")
            wait_for_write(installation, tenant, applying, rows=wait_for == "rows")
            if victim == "postgres":
                installation.postgres.kill()
            else:
                installation.first.kill()
            said, _ = applying.communicate(timeout=300)
            assert "Traceback" not in said
            installation.mend()
            outcomes.append(holds_all_or_nothing(installation, tenant, before))
            assert applying.returncode in ({0} if outcomes[-1] else set()) | {3}, said
            if outcomes[-1]:
                break
        retry = cli(installation, installation.first, "policy", "apply", str(tmp_path), "--yes")
        said, _ = retry.communicate(timeout=300)
        assert retry.returncode == 0, said
        assert tenant.ask(installation.second, LAST, tenant.head(installation.first)).decision is True
    assert set(verdict(checker.seen, tenant.truth)) <= {"200", "503"}


def wait_for_write(installation, tenant, applying, *, rows):
    """Wait until an apply has locked its tenant; with `rows`, until it has been writing for a while."""
    with psycopg.connect(installation.postgres.url, autocommit=True) as connection:
        query = (
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'kasbah' AND backend_xid IS NOT NULL "
            "AND now() - xact_start > %s * interval '1 second'"
        )
        deadline = time.monotonic() + 60
        while connection.execute(query, (0.25 if rows else 0.0,)).fetchone() == (0,):
            assert time.monotonic() < deadline
            if applying.poll() is not None:
                return
            time.sleep(0.002)


def test_a_database_put_back_to_an_earlier_state_is_believed(installation, tenant, stack):
    """Its files come from before a grant and a new key; another change then takes the same revision.

    Neither what nodes hold, nor what Valkey holds under that revision, nor the remembered key may live on.
    """
    everyone = {"type": "rule", "subject": "user:*", "resource": "record:*", "action": "write"}
    nobody = Question("user:nobody", "write", "record:1")
    path = f"/v1/tenants/{tenant.slug}/keys"
    installation.postgres.kill()
    connections = [stack.enter_context(contextlib.closing(Connection(node.port))) for node in installation.nodes]
    with put_aside(installation) as put_back:
        wait_until(lambda: answers(installation, tenant))
        first, key = installation.first, installation.platform_key
        lost_key = done(lambda: first.request("POST", path, {"name": "lost"}, key=key)).json()["token"]
        lost = done(lambda: tenant.change(first, "rules", {"add": [everyone]}))
        assert lost.status == 200, lost.body
        revision = lost.json()["revision"]
        for node, connection in zip(installation.nodes, connections, strict=True):
            assert tenant.ask(node, nobody, revision).decision is True
            assert ask(connection, node.port, lost_key, EDITOR, revision).decision is True
        put_back()
    wait_until(lambda: all(tenant.ask(node, nobody).decision is False for node in installation.nodes))
    for row in ("record:a", "record:b"):
        added = {"type": "rule", "subject": "user:other", "resource": row, "action": "write"}
        other = done(lambda rule=added: tenant.change(first, "rules", {"add": [rule]}))
    assert other.json()["revision"] == revision
    for node, connection in zip(installation.nodes, connections, strict=True):
        assert tenant.ask(node, nobody, revision).decision is False
        assert ask(connection, node.port, lost_key, EDITOR).fault.startswith("status 401")
    with installation.another_node() as cold:
        assert tenant.ask(cold, nobody, revision).decision is False
        assert tenant.ask(cold, EDITOR, revision).decision is True


def test_a_database_put_back_and_counted_on_past_a_node_is_believed(installation, tenant, stack):
    """A node that was away finds its transactions and its revision passed: nothing but the stamps tells.

    Meanwhile another node used the same revision for something else.
    """
    everyone = {"type": "rule", "subject": "user:*", "resource": "record:*", "action": "write"}
    nobody = Question("user:nobody", "write", "record:1")
    away, other = installation.nodes
    installation.postgres.kill()
    with put_aside(installation) as put_back:
        wait_until(lambda: answers(installation, tenant))
        # The other node may still hold a connection from before; a write is not tried twice for the caller.
        lost = done(lambda: tenant.change(other, "rules", {"add": [everyone]}))
        assert lost.status == 200, lost.body
        revision = lost.json()["revision"]
        wait_until(lambda: tenant.ask(away, nobody, revision).decision is True)
        time.sleep(1.0)  # two polls, so that its cursor is beyond that change
        stack.enter_context(frozen(away))
        cursor = transaction_number(installation)
        put_back()
        wait_until(lambda: tenant.ask(other, nobody).decision is False)
        while transaction_number(installation) <= cursor:
            pass
        changed = done(lambda: tenant.change(other, "rules", {"add": [{**everyone, "subject": "user:other"}]}))
        assert changed.status == 200, changed.body
        assert changed.json()["revision"] == revision
        stack.close()
    # Until its first poll it may answer from memory, as before any other change.
    wait_until(lambda: tenant.ask(away, nobody).decision is False)
    assert not any(tenant.ask(away, nobody, revision).decision for _ in range(20))
    used = Question("user:other", "write", "record:1")
    wait_until(lambda: tenant.ask(away, used, revision).decision is True)


@contextlib.contextmanager
def frozen(node):
    """Hold all processes of a node still; those are freed again at the end."""
    parent = psutil.Process(node.process.pid)
    processes = [parent, *parent.children(recursive=True)]
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()


def transaction_number(installation):
    """Spend a transaction number and return it."""
    with psycopg.connect(installation.postgres.url, autocommit=True) as connection:
        return connection.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()[0]


@pytest.fixture
def stack():
    """Closes what a test opened."""
    with contextlib.ExitStack() as opened:
        yield opened


@contextlib.contextmanager
def put_aside(installation):
    """Copy the files of the stopped PostgreSQL and start it; yield what stops it and puts the copy back."""
    data = installation.directory / "postgres" / "postgres" / "data"
    aside = data.with_name("aside")
    subprocess.run(["cp", "-a", str(data), str(aside)], check=True)
    installation.postgres.start_again()

    def put_back():
        installation.postgres.kill()
        subprocess.run(["rm", "-rf", str(data)], check=True)
        aside.rename(data)
        installation.postgres.start_again()

    yield put_back
