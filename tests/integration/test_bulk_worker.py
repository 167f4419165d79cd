"""A real `kasbah serve` with its bulk worker: large policies through the public port, and kills in the middle."""

import asyncio
import http.client
import json
import os
import signal
import threading
import time
from contextlib import suppress

import psutil
import pytest
from redis import Redis

from tests.support.seeding import seed

pytestmark = [pytest.mark.integration, pytest.mark.process]

BASE = "/v1/tenants/acme"
RULES = 6_000


def wait_for(condition, timeout_seconds: float = 60.0):
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        with suppress(OSError, psutil.Error):
            found = condition()
            if found:
                return found
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


def bulk_worker(service) -> int:
    """Return the process that listens on a Unix socket."""

    def find() -> int | None:
        for pid in service.workers():
            for connection in psutil.Process(pid).net_connections("unix"):
                if connection.laddr.endswith("/socket") and "kasbah-bulk-" in connection.laddr:
                    return pid
        return None

    return wait_for(find)


def rows_of(generation: int, count: int = RULES) -> list[dict[str, object]]:
    """Return rules of which one says which generation they are."""
    rules = [("user:alice", f"record:generation-{generation}")]
    rules += [(f"user:u{number}", f"record:{generation}-{number}") for number in range(count - 1)]
    return [
        {
            "type": "rule",
            "subject": subject,
            "resource": resource,
            "action": "read",
            "source": {"file": "acme/policy.csv", "line": line},
        }
        for line, (subject, resource) in enumerate(rules, 1)
    ]


class Client:
    """One keep-alive connection, so that all is asked of one worker."""

    def __init__(self, service, key: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
        self.key = key

    def ask(self, method, path, body=None, **headers):
        sent = {"Authorization": f"Bearer {self.key}"} | {
            name.replace("_", "-"): said for name, said in headers.items()
        }
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            sent["Content-Type"] = "application/json"
        self._connection.request(method, path, data, sent)
        response = self._connection.getresponse()
        answer = response.read()
        return response.status, json.loads(answer), {name.lower(): value for name, value in response.getheaders()}

    def close(self):
        self._connection.close()

    def good(self, method, path, body=None, **headers):
        """Ask until there is a worker, and return body and headers of a good answer."""
        ends = time.monotonic() + 60
        while (asked := self.ask(method, path, body, **headers))[0] == 503 and time.monotonic() < ends:
            time.sleep(0.1)
        status, answer, sent = asked
        assert status == 200, (status, answer)
        return answer, sent

    def generation(self, number: int, **headers) -> bool:
        question = {
            "subject": {"type": "user", "id": "alice"},
            "action": {"name": "read"},
            "resource": {"type": "record", "id": f"generation-{number}"},
        }
        return self.good("POST", "/access/v1/evaluation", question, **headers)[0]["decision"]

    def plan(self, rows):
        return self.good("POST", f"{BASE}/policy/plan", {"rows": rows})[0]

    def apply(self, rows, plan):
        body = {"rows": rows, "revision": plan["revision"], "digest": plan["digest"]}
        return self.ask("POST", f"{BASE}/policy/apply", body)


def metrics(service) -> str:
    return service.request("GET", "/metrics", key="metrics-token-of-this-test").body.decode()


def counted_plans(service) -> float:
    lines = [line for line in metrics(service).splitlines() if line.startswith("kasbah_http_requests_total")]
    return sum(float(line.rpartition(" ")[2]) for line in lines if "/plan" in line)


@pytest.fixture
def acme(own_database_url, start_service):
    """A service with a bulk worker, and a client of a tenant in it."""
    seeded = asyncio.run(seed(own_database_url, {"acme": []}))
    service = start_service(database=own_database_url, KASBAH_HTTP__METRICS_TOKEN="metrics-token-of-this-test")
    client = Client(service, seeded.keys["acme"])
    yield service, client
    client.close()


def test_it_leaves_the_rule_set_for_the_workers_and_gives_way_to_them(acme, redis_url):
    """No worker has the tenant in use, so none can have stored it; and none has to wait for a core."""
    service, client = acme
    rows = rows_of(1)
    with Redis.from_url(redis_url) as valkey:
        valkey.flushdb()
        assert client.apply(rows, client.plan(rows))[0] == 200
        assert len(valkey.keys("kasbah:*:rules:*")) == 1
    bulk = bulk_worker(service)
    others = {psutil.Process(pid).nice() for pid in service.workers() if pid != bulk}
    assert psutil.Process(bulk).nice() > max(others)


def test_policies_pass_through_the_bulk_worker(acme):
    """Plan, apply, export, roll back; every decision right after a write knows it, demanded or not."""
    service, client = acme
    worker = bulk_worker(service)
    before = psutil.Process(worker).cpu_times().user
    first = rows_of(1)
    plan = client.plan(first)
    assert plan["added"]["count"] == RULES
    status, applied, headers = client.apply(first, plan)
    assert (status, applied["added"]) == (200, RULES)
    assert headers["kasbah-revision"] == str(applied["revision"])
    assert headers["x-request-id"]
    assert client.generation(1)
    for generation in (2, 3):
        rows = rows_of(generation)
        status, applied, headers = client.apply(rows, client.plan(rows))
        assert status == 200, applied
        if generation == 2:
            assert client.generation(2)  # not even one answer from before
            assert not client.generation(1)
        else:
            assert client.generation(3, Kasbah_Min_Revision=headers["kasbah-revision"])
    exported, headers = client.good("GET", f"{BASE}/policy/export")
    assert len(exported["rows"]) == RULES
    assert headers["kasbah-revision"] == str(applied["revision"])
    _, headers = client.good(
        "POST", f"{BASE}/policy/rollback", {"to_revision": plan["revision"] + 1}, If_Match=f'"{applied["revision"]}"'
    )
    assert client.generation(1)
    assert not client.generation(3)
    stale = client.ask("POST", f"{BASE}/policy/rollback", {"to_revision": plan["revision"]}, If_Match='"1"')
    assert stale[0] == 412
    assert client.ask("POST", f"{BASE}/policy/apply", {"rows": 1})[0] == 400
    assert client.ask("GET", "/v1/tenants/other/policy/export")[0] == 403
    assert psutil.Process(worker).cpu_times().user > before  # it was really there that the work was done
    # Workers hand their numbers over every second, the bulk worker its own as well.
    wait_for(lambda: "kasbah_tenants_in_memory 1.0" in metrics(service))
    time.sleep(1.5)
    wait_for(lambda: counted_plans(service) >= 3)
    assert counted_plans(service) == 3, "counted once, where it came in"
    assert service.stop() == 0
    assert not psutil.pid_exists(worker)


def test_a_killed_bulk_worker_leaves_all_or_nothing(acme):
    """SIGKILL at several moments of an apply: an answer within bounds, a whole policy, and the next apply works."""
    service, client = acme
    current = 1
    rows = rows_of(current)
    assert client.apply(rows, client.plan(rows))[0] == 200
    for delay in (0.05, 0.2, 0.5):
        rows = rows_of(current + 1)
        plan = client.plan(rows)
        worker = bulk_worker(service)
        threading.Timer(delay, os.kill, (worker, signal.SIGKILL)).start()
        status, answer, headers = client.apply(rows, plan)
        if status == 503:
            assert headers["retry-after"] == "1"
            assert answer["type"].startswith("urn:kasbah:problem:")
        else:
            assert status == 200
        wait_for(lambda dead=worker: not psutil.pid_exists(dead))
        exported, _ = client.good("GET", f"{BASE}/policy/export")
        found = {row["resource"] for row in exported["rows"]}
        assert found in ({row["resource"] for row in rows_of(n)} for n in (current, current + 1))
        done = f"record:generation-{current + 1}" in found
        if status == 200:
            assert done
        assert client.generation(current + 1, Kasbah_Min_Revision=str(exported["revision"])) is done
        current += done
    rows = rows_of(current + 1)
    assert client.apply(rows, client.plan(rows))[0] == 200
    assert client.generation(current + 1)
    assert service.stop() == 0


def test_decisions_go_on_without_a_bulk_worker(acme):
    """While it is stopped, decisions are answered; what it should do is given up by its caller, nothing hangs for it."""
    service, client = acme
    worker = bulk_worker(service)
    os.kill(worker, signal.SIGSTOP)
    try:
        waiting = http.client.HTTPConnection("127.0.0.1", service.port, timeout=1)
        waiting.request("GET", f"{BASE}/policy/export", headers={"Authorization": f"Bearer {client.key}"})
        with pytest.raises(TimeoutError):
            waiting.getresponse()
        waiting.close()
        for _ in range(20):
            assert client.generation(1) is False
        assert service.request("GET", "/readyz").status == 200
    finally:
        os.kill(worker, signal.SIGCONT)
    client.good("GET", f"{BASE}/policy/export")
