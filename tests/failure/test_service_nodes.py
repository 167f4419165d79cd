"""Nodes beside each other: how soon and how surely one follows another, and what their deaths cost."""

import contextlib
import os
import signal
import statistics
import sys
import threading
import time

import pytest

from tests.support.installation import FLIP
from tests.support.outside_checker import (
    BOUND_SECONDS,
    PATIENCE_SECONDS,
    Checker,
    Connection,
    Question,
    Target,
    ask,
    verdict,
    wait_until,
)

pytestmark = [pytest.mark.integration, pytest.mark.process]

EDITOR = Question("user:alice", "write", "record:1")


def test_a_change_through_one_node_is_used_by_the_other(installation, tenant, capsys):
    """Soon by itself, and at once where the revision is demanded."""
    second = installation.second
    with (
        contextlib.closing(Connection(second.port)) as connection,
        Checker([Target(second.port, tenant.key)], tenant.warm_questions, rate=50, connections=2) as checker,
    ):
        followed, demanded = [], []
        for number in range(30):
            wanted = number % 2 == 0
            assert (tenant.grant if wanted else tenant.revoke)(installation.first).status == 200
            began = time.monotonic()
            if number % 3 == 0:
                answer = ask(connection, second.port, tenant.key, FLIP, tenant.revision)
                assert (answer.status, answer.decision) == (200, wanted)
                assert answer.revision >= tenant.revision
                demanded.append(time.monotonic() - began)
                checker.demand = tenant.revision
            else:
                while ask(connection, second.port, tenant.key, FLIP).decision is not wanted:
                    assert time.monotonic() - began < PATIENCE_SECONDS
                followed.append(time.monotonic() - began)
    with capsys.disabled():
        sys.stdout.write(
            f"\nused by the other node after {statistics.median(followed) * 1000:.0f} ms (median), "
            f"{max(followed) * 1000:.0f} ms (most); demanded: {statistics.median(demanded) * 1000:.0f} ms\n"
        )
    assert set(verdict(checker.seen, tenant.truth)) == {"200"}


def test_a_revision_that_does_not_exist_yet_is_not_answered_older(installation, tenant):
    """503 in bounded time; when the revision comes while it is waited for, the answer is of that revision."""
    second = installation.second
    refused = tenant.ask(second, EDITOR, tenant.revision + 5)
    assert (refused.status, refused.fault) == (503, "")
    assert refused.seconds < BOUND_SECONDS
    # On a busy machine the revision may come when nobody waits for it any more.
    for number in range(10):
        wanted = number % 2 == 0
        answers = []
        waiting = threading.Thread(
            target=lambda demanded, answers: answers.append(tenant.ask(second, FLIP, demanded)),
            args=(tenant.revision + 1, answers),
        )
        waiting.start()
        time.sleep(0.3)
        assert (tenant.grant if wanted else tenant.revoke)(installation.first).status == 200
        waiting.join()
        (answer,) = answers
        assert answer.fault == ""
        if answer.status == 200:
            break
    assert (answer.status, answer.decision, answer.revision) == (200, wanted, tenant.revision)


def test_a_key_revoked_on_one_node_ends_on_the_other(installation, tenant):
    """Soon by itself; at once where the revision of the revocation is demanded, however warm the key was."""
    first, second = installation.nodes
    path = f"/v1/tenants/{tenant.slug}/keys"
    for demanding in (False, True, True, True):
        made = first.request("POST", path, {"name": "short-lived"}, key=installation.platform_key)
        key = made.json()["token"]
        with contextlib.closing(Connection(second.port)) as connection:
            for _ in range(3):
                assert ask(connection, second.port, key, EDITOR).status == 200
            revoked = first.request("DELETE", f"{path}/{made.json()['id']}", key=installation.platform_key)
            assert revoked.status == 204
            revision = int(revoked.headers["kasbah-revision"])
            if demanding:
                assert ask(connection, second.port, key, EDITOR, revision).fault.startswith("status 401")
            wait_until(lambda c=connection, k=key: ask(c, second.port, k, EDITOR).fault.startswith("status 401"))
        with contextlib.closing(Connection(first.port)) as connection:
            assert ask(connection, first.port, key, EDITOR).fault.startswith("status 401")


def test_a_node_that_stood_still_answers_nothing_old(installation, tenant):
    """Stopped for longer than max_staleness while a right is revoked: its first answer is a new one, or none."""
    first, second = installation.nodes
    assert tenant.grant(first).status == 200
    assert tenant.ask(second, FLIP, tenant.revision).decision is True
    connections = [Connection(second.port) for _ in range(4)]
    for connection in connections:
        assert ask(connection, second.port, tenant.key, FLIP).decision is True
    stopped = [second.process.pid, *second.workers()]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    answers = []
    try:
        assert tenant.revoke(first).status == 200
        waiting = [
            threading.Thread(target=lambda c=connection: answers.append(ask(c, second.port, tenant.key, FLIP)))
            for connection in connections
        ]
        for thread in waiting:
            thread.start()
        time.sleep(6)
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    for thread in waiting:
        thread.join()
    for connection in connections:
        connection.close()
    assert len(answers) == len(connections)
    assert not any(answer.decision for answer in answers)
    assert {answer.status for answer in answers} <= {200, 503}
    wait_until(lambda: tenant.ask(second, FLIP).decision is False)


def test_a_killed_worker_is_replaced(installation, tenant):
    """The other worker goes on, the new one answers right from its first request; only its own connections break."""
    with installation.another_node(KASBAH_WORKERS="2") as node:
        wait_until(lambda: tenant.ask(node, EDITOR).status == 200)
        with Checker([Target(node.port, tenant.key)], tenant.questions, rate=20, connections=6) as checker:
            time.sleep(0.5)
            before = set(node.workers())
            killed_at = time.monotonic()
            os.kill(min(before), signal.SIGKILL)
            wait_until(lambda: len(set(node.workers()) - before) == 1)
            replaced_at = time.monotonic()
            assert tenant.revoke(installation.first).status == 200
            time.sleep(2)
    broken = [answer for answer in checker.seen if answer.status == 0]
    assert len(broken) <= 6
    assert all(answer.fault.startswith(("ConnectionReset", "BrokenPipe")) for answer in broken), broken
    assert all(answer.sent < replaced_at and answer.sent + answer.seconds > killed_at for answer in broken), broken
    assert set(verdict([answer for answer in checker.seen if answer.status], tenant.truth)) <= {"200", "503"}


def test_a_rolling_restart_cuts_no_request(installation, tenant):
    """Both nodes are stopped by SIGTERM and started again, one after the other, under load from keep-alive clients.

    A client follows /readyz as a balancer does, and changes nodes only between requests.
    """
    nodes = [installation.node(KASBAH_UNREADY_SECONDS="4") for _ in range(2)]
    ready = {}
    stop = threading.Event()

    def watch():
        while not stop.wait(0.05):
            for node in nodes:
                try:
                    ready[node.port] = node.request("GET", "/readyz", timeout_seconds=2).status == 200
                except OSError:
                    ready[node.port] = False

    def balanced(preferred):
        return lambda: next((node.port for node in (preferred, *nodes) if ready.get(node.port)), preferred.port)

    watching = threading.Thread(target=watch, daemon=True)
    try:
        for node in nodes:
            node.start(wait=False)
        for node in nodes:
            node.wait_ready()
        installation.warm(tenant, *nodes)
        watching.start()
        wait_until(lambda: len(ready) == 2 and all(ready.values()))
        targets = [Target(balanced(node), tenant.key) for node in nodes]
        with Checker(targets, tenant.questions, rate=25, connections=4) as checker:
            time.sleep(0.5)
            for node in nodes:
                assert tenant.grant(installation.first).status == 200
                assert node.stop() == 0
                node.start()
                wait_until(lambda n=node: ready[n.port])
                assert tenant.revoke(installation.first).status == 200
                checker.demand = tenant.revision
                time.sleep(0.5)
            time.sleep(0.5)
        assert set(verdict(checker.seen, tenant.truth)) == {"200"}
        assert {answer.port for answer in checker.seen} == {node.port for node in nodes}
    finally:
        stop.set()
        for node in nodes:
            node.kill()
