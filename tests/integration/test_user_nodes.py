"""Accounts on two running services with one database: what one is told counts on the other, without any notice."""

import asyncio
import time

import pytest

from tests.support.installation import done
from tests.support.policies import rows
from tests.support.ports import free_port
from tests.support.seeding import seed

pytestmark = [pytest.mark.integration, pytest.mark.process]

POLICY = "p role:editor doc:* write\np user:* page:* read"
BOUND_SECONDS = 5.0
"""`max_staleness`: a revocation that was acknowledged acts by then on every node, with notices lost, or it decides nothing."""


class Api:
    """One service, asked with a tenant's key."""

    def __init__(self, service, key):
        self.service, self.key = service, key

    def send(self, method, path, body=None, **headers):
        return self.service.request(method, path, body, key=self.key, headers=headers)

    def decides(self, user, action, resource, **headers):
        kind, _, name = resource.partition(":")
        body = {
            "subject": {"type": "user", "id": user},
            "action": {"name": action},
            "resource": {"type": kind, "id": name},
        }
        answer = done(lambda: self.send("POST", "/access/v1/evaluation", body, **headers))
        assert answer.status == 200, answer.body
        return answer.json()["decision"], answer.json()["context"]["kasbah"]["reason"]


def test_a_disabled_account_is_denied_on_the_other_node_within_the_bound(own_database_url, start_service):
    """On the fast way, which has just allowed it, and at once where the revision is demanded."""
    made = asyncio.run(seed(own_database_url, {"acme": rows(POLICY)}))
    nobody = f"redis://127.0.0.1:{free_port()}/0"
    one, two = (
        Api(start_service(database=own_database_url, redis=nobody, KASBAH_WORKERS="1"), made.keys["acme"])
        for _ in range(2)
    )
    user = one.send("POST", "/v1/users", {"username": "carol"}).json()
    row = {"type": "link", "member": user["subject"], "role": "role:editor"}
    given = one.send("POST", "/v1/tenants/acme/memberships", {"add": [row]})
    demanded = {"Kasbah-Min-Revision": given.headers["kasbah-revision"]}
    for resource, action in (("doc:1", "write"), ("page:1", "read")):
        assert two.decides(user["id"], action, resource, **demanded) == (True, "rule")
        assert two.decides(user["id"], action, resource) == (True, "rule")
    disabled = one.send("POST", f"/v1/users/{user['id']}/disable", {"reason": "left"})
    acknowledged = time.monotonic()
    assert disabled.status == 200
    asked = time.monotonic()
    while two.decides(user["id"], "write", "doc:1") != (False, "account_disabled"):
        assert asked - acknowledged <= BOUND_SECONDS
        asked = time.monotonic()
    assert two.decides(user["id"], "read", "page:1") == (False, "account_disabled")
    assert one.decides(user["id"], "read", "page:1") == (False, "account_disabled")
    enabled = two.send("POST", f"/v1/users/{user['id']}/enable", {"reason": "back"})
    demanded = {"Kasbah-Min-Revision": enabled.headers["kasbah-revision"]}
    assert one.decides(user["id"], "write", "doc:1", **demanded) == (True, "rule")
    gone = one.send("DELETE", f"/v1/users/{user['id']}?reason=left")
    demanded = {"Kasbah-Min-Revision": gone.headers["kasbah-revision"]}
    assert two.decides(user["id"], "write", "doc:1", **demanded) == (False, "account_deleted")
