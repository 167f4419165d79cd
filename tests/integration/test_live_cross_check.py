"""The live cross-check in a running service: another process agrees, and says so when it does not."""

import asyncio
import http.client
import json
import os
import re
import time

import psutil
import pytest

from tests.support.edge import question
from tests.support.policies import rows
from tests.support.seeding import seed

pytestmark = [pytest.mark.integration, pytest.mark.process]

ACME = """
base g role:owner role:reader
base p role:reader record:* read
g user:alice role:owner
p role:owner record:* write
p user:* record:secret read deny
p user:alice record:1 delete if context.sure == true
"""


def ask(connection: http.client.HTTPConnection, key: str, subject: str, action: str, resource: str) -> None:
    """Ask on a kept connection: only such questions take the fast way, which is what is sampled."""
    body = json.dumps(question(f"user:{subject}", action, f"record:{resource}"))
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    connection.request("POST", "/access/v1/evaluation", body, headers)
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 200


def listens(pid: int, port: int) -> bool:
    connections = psutil.Process(pid).net_connections("tcp")
    return any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in connections)


def comparisons(service, key: str) -> dict[str, float]:
    text = service.request("GET", "/metrics", key=key).body.decode()
    return {
        name: float(value) for name, value in re.findall(r'kasbah_oracle_checks_total\{outcome="(\w+)"\} (\S+)', text)
    }


def test_answers_are_compared_in_another_process(start_service, database_url):
    """Allow, deny, no match and a condition: all agree; the process is replaced when it dies."""
    own = "\n".join(line for line in ACME.splitlines() if not line.startswith("base "))
    seeded = asyncio.run(seed(database_url, {"acme": rows(own)}))
    service = start_service(KASBAH_CROSS_CHECK_PER_SECOND="50", KASBAH_CROSS_CHECK_SHARE="1", KASBAH_BULK_WORKER="off")
    asked = [("alice", "read", "1"), ("alice", "write", "1"), ("alice", "read", "secret"), ("bob", "read", "1")]
    children = set(service.workers())
    assert len(children) == 2

    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)

    def ask_until(least: float) -> dict[str, float]:
        deadline = time.monotonic() + 60
        found: dict[str, float] = {}
        while time.monotonic() < deadline:
            for subject, action, resource in asked:
                ask(connection, seeded.keys["acme"], subject, action, resource)
                time.sleep(0.03)
            found = comparisons(service, seeded.platform_key)
            if found.get("agrees", 0) >= least:
                return found
            time.sleep(0.05)
        raise AssertionError(f"not compared: {found}\n{service.output()}")

    first = ask_until(10)
    assert first.get("differs", 0) == 0
    watcher = next(pid for pid in children if not listens(pid, service.port))
    assert psutil.Process(watcher).nice() == 19
    if hasattr(os, "SCHED_IDLE"):
        assert os.sched_getscheduler(watcher) == os.SCHED_IDLE
    psutil.Process(watcher).kill()
    after = ask_until(first["agrees"] + 5)
    assert after.get("differs", 0) == 0
    assert watcher not in service.workers()
    assert "cross_check.differs" not in service.output()
    connection.close()
    assert service.stop() == 0


def test_comparing_rests_most_of_the_time(start_service, database_url):
    """By default it takes a hundredth of a core: most samples come to nothing, and each of those is counted."""
    seeded = asyncio.run(seed(database_url, {"globex": rows("g user:alice role:owner\np role:owner record:* read")}))
    service = start_service(KASBAH_CROSS_CHECK_PER_SECOND="100", KASBAH_BULK_WORKER="off")
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
    deadline = time.monotonic() + 60
    found: dict[str, float] = {}
    # The first comparison loads PyCasbin and connects to PostgreSQL, so a long rest follows it.
    while found.get("dropped", 0) < 20 and time.monotonic() < deadline:
        ask(connection, seeded.keys["globex"], "alice", "read", "1")
        time.sleep(0.02)
        found = comparisons(service, seeded.platform_key)
    connection.close()
    assert found["dropped"] >= 20, f"{found}\n{service.output()}"
    assert found["dropped"] > found.get("agrees", 0)
    assert service.stop() == 0
