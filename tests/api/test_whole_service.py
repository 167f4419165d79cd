"""The whole service: a real `kasbah serve` on real PostgreSQL and Valkey."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest

from authn.api_keys import SCOPES, hash_token
from authn.storage import ApiKeyStore
from authz.policy_files.directory import read_directory
from authz.rules import Owner
from authz.storage_write import PostgresPolicyWriter
from service.bootstrap import Bootstrap
from tenancy.database import open_engine, open_sessions
from tests.support.edge import question
from tests.support.outside_checker import wait_until
from tests.support.paths import ROOT, require_shared_data
from tests.support.policies import rows
from tests.support.seeding import META, Seeded, seed
from tests.support.servers import patient

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

    def counted() -> float:
        text = pair.request("GET", "/metrics", key=seeded.platform_key).body.decode()
        lines = [line for line in text.splitlines() if line.startswith('kasbah_decisions_total{decision="allow"')]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    wait_until(lambda: counted() >= 20)  # workers hand over their counts once a second
    assert counted() == 20


@asynccontextmanager
async def elsewhere(database_url):
    """Sessions of another node: what it writes, the running service must find out."""
    engine = open_engine(database_url, patient())
    try:
        yield engine, open_sessions(engine)
    finally:
        await engine.dispose()


def test_a_key_revoked_elsewhere_ends_here_within_the_poll(running, seeded, database_url):
    """It was remembered and in use; no notice is sent."""

    async def make():
        async with elsewhere(database_url) as (engine, sessions):
            tenant = seeded.tenants["acme"]
            token = await Bootstrap(engine).create_key(tenant, "short-lived", scopes=SCOPES)
            return token, (await ApiKeyStore(sessions).find_by_hash(hash_token(token))).key.id

    async def revoke(key_id):
        async with elsewhere(database_url) as (_, sessions):
            await ApiKeyStore(sessions).revoke(seeded.tenants["acme"], key_id, meta=META)

    token, key_id = asyncio.run(make())
    body = question("user:alice", "read", "record:1")
    for _ in range(3):
        assert running.request("POST", "/access/v1/evaluation", body, key=token).status == 200
    asyncio.run(revoke(key_id))
    wait_until(lambda: running.request("POST", "/access/v1/evaluation", body, key=token).status != 200)
    for path in ("/access/v1/evaluation", "/access/v1/evaluations", "/access/v1/search/action"):
        assert running.request("POST", path, body, key=token).status == 401


def test_a_demanded_revision_is_read_through(running, seeded, database_url):
    """Written elsewhere a moment ago, without a notice: the answer is of that revision, at once."""

    async def write(number):
        async with elsewhere(database_url) as (_, sessions):
            writer = PostgresPolicyWriter(sessions)
            added = rows(f"g user:new{number} role:editor")
            result = await writer.change_rows(seeded.tenants["acme"], add=added, remove=(), owner=Owner.API, meta=META)
            return result.head.revision

    for number in range(3):
        revision = asyncio.run(write(number))
        body = question(f"user:new{number}", "read", "record:1")
        demand = {"Kasbah-Min-Revision": str(revision)}
        answer = running.request("POST", "/access/v1/evaluation", body, key=seeded.keys["acme"], headers=demand)
        assert (answer.status, answer.json()["decision"]) == (200, True)
        assert int(answer.headers["kasbah-revision"]) >= revision
    ahead = {"Kasbah-Min-Revision": str(revision + 1000)}
    answer = running.request("POST", "/access/v1/evaluation", body, key=seeded.keys["acme"], headers=ahead)
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")


def test_nothing_secret_is_logged_and_every_decision_is(start_service, seeded, tmp_path):
    """With everything logged that can be: no key, no link, no masked attribute, no body."""
    path = tmp_path / "decisions.jsonl"
    talkative = start_service(
        KASBAH_LOG_LEVEL="DEBUG",
        KASBAH_HTTP__DECISION_LOG__MODE="all",
        KASBAH_HTTP__DECISION_LOG__PATH=str(path),
    )
    key = seeded.keys["acme"]
    for _ in range(3):
        body = question("user:alice", "read", "record:1", context={"password": "canary-one", "ip": "10.0.0.1"})
        body["subject"]["properties"] = {"token": "canary-two", "team": "a"}
        headers = {"X-Request-ID": "x1"}
        assert talkative.request("POST", "/access/v1/evaluation", body, key=key, headers=headers).status == 200
    talkative.request("POST", "/access/v1/evaluation", {"bad": "canary-three"}, key=key)
    talkative.request("POST", "/access/v1/evaluation", body, key="kasbah_00000000_" + "canary" * 7 + "A")
    talkative.request("GET", "/v1/forward-auth", headers={"X-Kasbah-Key": key, "X-Kasbah-Subject": "a"})
    assert talkative.request("GET", "/account/verify?token=canary-link").status == 410
    assert talkative.request("POST", "/v1/account/verification", {"token": "canary-link"}).status in {400, 410}
    metrics = talkative.request("GET", "/metrics", key=seeded.platform_key).body.decode()
    talkative.stop()
    everything = path.read_text() + talkative.log.read_text() + metrics
    assert "canary" not in everything
    assert key not in everything
    assert key.split("_", 2)[2] not in everything
    assert seeded.platform_key not in everything
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(entries) == 3
    assert entries[0]["subject"] == "user:alice"
    assert entries[0]["request_id"] == "x1"
    assert entries[0]["attributes"]["context"] == {
        "ip": {"from": "caller", "value": "10.0.0.1"},
        "password": {"from": "caller", "value": "***"},
    }
    assert entries[0]["attributes"]["subject"]["team"] == {"from": "asserted", "value": "a"}
    assert entries[0]["attributes"]["subject"]["token"]["value"] == "***"
