"""Service accounts and limits of keys on running services: what one node is told counts on the other."""

import asyncio
import time
from datetime import UTC, datetime

import pytest

from tests.support.policies import rows
from tests.support.ports import free_port
from tests.support.seeding import seed

pytestmark = [pytest.mark.integration, pytest.mark.process]

POLICY = "p user:alice record:* read"
ACCOUNTS = "/v1/service-accounts"
QUESTION = {
    "subject": {"type": "user", "id": "alice"},
    "action": {"name": "read"},
    "resource": {"type": "record", "id": "1"},
}

BOUND_SECONDS = 5.0
"""`max_staleness`: a revocation that was acknowledged acts by then on every node, with notices lost, or it answers nobody."""


def test_a_disabled_account_is_refused_on_the_other_node_and_its_last_use_survives(own_database_url, start_service):
    """Its key worked there a moment ago; limits are those of a node, whichever worker is asked; uses are kept."""
    made = asyncio.run(seed(own_database_url, {"acme": rows(POLICY)}))
    nobody = f"redis://127.0.0.1:{free_port()}/0"
    one, two = (start_service(database=own_database_url, redis=nobody, KASBAH_WORKERS="2") for _ in range(2))
    key = made.keys["acme"]

    def send(service, method, path, body=None, *, token=key, **headers):
        return service.request(method, path, body, key=token, headers=headers)

    account = send(one, "POST", ACCOUNTS, {"name": "billing"}).json()
    path = f"{ACCOUNTS}/{account['id']}"
    body = {"name": "production", "reason": "test"}
    token = send(one, "POST", f"{path}/keys", body).json()["token"]
    limits = {"limits": {"requests_per_second": 1, "burst": 8}}
    slow = send(one, "POST", "/v1/tenants/acme/keys", {"name": "slow"} | limits).json()["token"]
    began = time.monotonic()
    statuses = [send(one, "GET", "/v1/keys/self", token=slow).status for _ in range(20)]
    filled = time.monotonic() - began
    assert 8 <= statuses.count(200) <= 8 + filled + 1, "workers count together"
    assert send(two, "GET", "/v1/keys/self", token=slow).status == 200, "each node counts by itself"
    answer = send(two, "GET", "/v1/keys/self", token=token)
    assert answer.status == 200
    assert answer.json()["subject"] == account["subject"]
    disabled = send(one, "POST", f"{path}/disable", {"reason": "pause"})
    acknowledged = time.monotonic()
    assert disabled.status == 200
    for asking in (("GET", "/v1/keys/self"), ("POST", "/access/v1/evaluation", QUESTION)):
        refused = 0
        while refused < 10:  # in a row: each worker hears of it by itself
            asked = time.monotonic()
            status = send(two, *asking, token=token).status
            assert status in {401, 503} or asked - acknowledged <= BOUND_SECONDS
            refused = refused + 1 if status == 401 else 0
    for service in (one, two):
        assert service.stop() == 0
    again = start_service(database=own_database_url, redis=nobody, KASBAH_WORKERS="1")
    (entry,) = send(again, "GET", f"{path}/keys").json()["keys"]
    assert entry["last_used_at"] is not None
    assert datetime.fromisoformat(entry["last_used_at"]) <= datetime.now(UTC)
