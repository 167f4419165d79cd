"""The whole service: a real `kasbah serve` on real PostgreSQL and Valkey."""

import asyncio
import json

import pytest

from authz.policy_files.directory import read_directory
from tests.support.edge import question
from tests.support.paths import ROOT, require_shared_data
from tests.support.policies import rows
from tests.support.seeding import Seeded, seed

pytestmark = [pytest.mark.integration, pytest.mark.process]

ACME = """
p role:editor record:* read
p role:editor record:* write
g user:alice role:editor
p user:* record:secret read deny
"""


@pytest.fixture(scope="module")
def seeded(database_url) -> Seeded:
    """Tenants `acme` and `todo`."""
    todo = read_directory(ROOT / "policies").tenants["todo"]
    return asyncio.run(seed(database_url, {"acme": rows(ACME), "todo": todo.rows, "other": []}))


@pytest.fixture(scope="module")
def running(seeded, service):
    """The service, started after its data."""
    return service


def test_it_decides_with_the_key_of_a_tenant(running, seeded):
    """Allow, deny, no match."""
    for body, expected in (
        (question("user:alice", "read", "record:1"), True),
        (question("user:alice", "read", "record:secret"), False),
        (question("user:bob", "read", "record:1"), False),
    ):
        answer = running.request("POST", "/access/v1/evaluation", body, key=seeded.keys["acme"])
        assert (answer.status, answer.json()["decision"]) == (200, expected)
        assert int(answer.headers["kasbah-revision"]) > 1
        other = running.request("POST", "/access/v1/evaluation", body, key=seeded.keys["other"])
        assert other.json()["decision"] is False


def test_a_platform_key_names_the_tenant(running, seeded):
    """And an unknown one is 404."""
    body = question("user:alice", "read", "record:1")
    named = {"X-Tenant-ID": "acme"}
    answer = running.request("POST", "/access/v1/evaluation", body, key=seeded.platform_key, headers=named)
    assert (answer.status, answer.json()["decision"]) == (200, True)
    for headers, status in (({}, 400), ({"X-Tenant-ID": "nowhere"}, 404), ({"X-Tenant-ID": "_base"}, 404)):
        answer = running.request("POST", "/access/v1/evaluation", body, key=seeded.platform_key, headers=headers)
        assert answer.status == status


def test_it_is_ready_and_says_of_what(running):
    """Names of parts, no details."""
    answer = running.request("GET", "/readyz")
    assert answer.json() == {"status": "ready", "parts": {"policy": "ready", "cache": "ready"}}


def test_metrics_count_what_was_decided(running, seeded):
    """For a platform key; not for a tenant's, and not for no one."""
    body = question("user:alice", "read", "record:1")
    assert running.request("POST", "/access/v1/evaluation", body, key=seeded.keys["acme"]).status == 200
    assert running.request("GET", "/metrics").status == 401
    assert running.request("GET", "/metrics", key=seeded.keys["acme"]).status == 403
    text = running.request("GET", "/metrics", key=seeded.platform_key).body.decode()
    counted = [line for line in text.splitlines() if line.startswith('kasbah_decisions_total{decision="allow"')]
    assert float(counted[0].rpartition(" ")[2]) >= 1
    assert "kasbah_snapshot_revision_age_seconds" in text
    assert 'kasbah_cache_lookups_total{cache="membership",outcome="miss"}' in text


def todo_cases():
    """Return (request, expected) of the single and the batch decisions of the scenario."""
    single, batch = [], []
    for draft in ("01", "02"):
        path = require_shared_data("authzen", "todo", f"decisions-authorization-api-1_0-{draft}.json")
        data = json.loads(path.read_text())
        single += [(case["request"], case["expected"]) for case in data["evaluation"]]
        batch += [(case["request"], case["expected"]) for case in data.get("evaluations", [])]
    return single, batch


def test_the_todo_scenario_comes_out_as_its_data_says(running, seeded):
    """OpenID's interop decisions, one by one and in batches."""
    single, batch = todo_cases()
    assert single
    assert batch
    for body, expected in single:
        answer = running.request("POST", "/access/v1/evaluation", body, key=seeded.keys["todo"])
        assert (answer.status, answer.json()["decision"]) == (200, expected), body
    for body, expected in batch:
        answer = running.request("POST", "/access/v1/evaluations", body, key=seeded.keys["todo"])
        found = [{"decision": item["decision"]} for item in answer.json()["evaluations"]]
        assert found == expected, body


def test_a_search_is_paged_with_stable_tokens(running, seeded):
    """All editors of a record, one a page."""
    body = {"subject": {"type": "user"}, "action": {"name": "read"}, "resource": {"type": "record", "id": "1"}}
    answer = running.request("POST", "/access/v1/search/subject", body, key=seeded.keys["acme"])
    assert answer.json()["results"] == [{"type": "user", "id": "alice"}]
    assert answer.json()["page"] == {"next_token": "", "count": 1}


def test_two_workers_agree_on_tokens_and_metrics(start_service, seeded):
    """A page token of one worker opens at the other; a scrape of either counts for both."""
    pair = start_service(KASBAH_WORKERS="2")
    body = {"subject": {"type": "user", "id": "alice"}, "resource": {"type": "record", "id": "1"}, "page": {"limit": 1}}
    for _ in range(12):
        answer = pair.request("POST", "/access/v1/search/action", body, key=seeded.keys["acme"])
        assert answer.json()["results"] == [{"name": "read"}]
        token = answer.json()["page"]["next_token"]
        following = body | {"page": {"token": token}}
        answer = pair.request("POST", "/access/v1/search/action", following, key=seeded.keys["acme"])
        assert (answer.status, answer.json()["results"]) == (200, [{"name": "write"}])
    for _ in range(20):
        evaluation = question("user:alice", "read", "record:1")
        assert pair.request("POST", "/access/v1/evaluation", evaluation, key=seeded.keys["acme"]).status == 200

    async def counted() -> float:
        await asyncio.sleep(1.5)  # workers hand over their counts once a second
        text = pair.request("GET", "/metrics", key=seeded.platform_key).body.decode()
        line = next(line for line in text.splitlines() if line.startswith('kasbah_decisions_total{decision="allow"'))
        return float(line.rpartition(" ")[2])

    assert asyncio.run(counted()) == 20
