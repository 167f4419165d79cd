"""The simulated callers: 80 % checks, 10 % batches, 5 % searches, 5 % policy changes; most on hot tenants.

Beside them somebody signs in, looks at their account and signs out, twice a second in all.

Locust loads this file by its path; the plan that `python -m loadtests` made is named by KASBAH_LOADTEST_PLAN, and how
often each caller does something by KASBAH_LOADTEST_PACE (times a second). Every answer is compared with the right one,
and a wrong one is a failure.
"""

import itertools
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from locust import constant_throughput, task
from locust.contrib.fasthttp import FastHttpUser

from loadtests.plan import PASSWORD

HOT_SHARE = 0.8
SIGN_INS_PER_SECOND = 2.0

_tenants: list[dict[str, Any]] = json.loads(Path(os.environ["KASBAH_LOADTEST_PLAN"]).read_text("utf-8"))
_hot = [tenant for tenant in _tenants if tenant["hot"]]
_cold = [tenant for tenant in _tenants if not tenant["hot"]] or _hot
_numbers = itertools.count()


class Caller(FastHttpUser):
    """A service that asks, and now and then changes a policy; it checks that it is answered what it must be."""

    # A pace, not a pause: at as much as a service can do, times of answers say how many callers there are, not how long
    # the service takes.
    wait_time = constant_throughput(float(os.environ["KASBAH_LOADTEST_PACE"]))
    connection_timeout = 5.0
    network_timeout = 10.0

    def on_start(self) -> None:
        """Take a name that no other caller changes."""
        self._name = f"visitor-{os.getpid()}-{next(_numbers)}"
        self._present: dict[tuple[str, str], bool] = {}

    @task(80)
    def check(self) -> None:
        """Ask one question."""
        tenant, kind = self._tenant()
        body, allowed = random.choice(tenant["checks"])
        self._post("check", kind, tenant, "/access/v1/evaluation", body, lambda answer: answer["decision"] is allowed)

    @task(10)
    def batch(self) -> None:
        """Ask many questions at once."""
        tenant, kind = self._tenant()
        body, allowed = random.choice(tenant["batches"])
        self._post(
            "batch",
            kind,
            tenant,
            "/access/v1/evaluations",
            body,
            lambda answer: [item["decision"] for item in answer["evaluations"]] == allowed,
        )

    @task(5)
    def search(self) -> None:
        """Ask who may do something, or what somebody may do."""
        tenant, kind = self._tenant()
        path, body, found = random.choice(tenant["searches"])
        missing, token = set(found), ""

        def is_right(answer: Any) -> bool:
            nonlocal token
            names = set(_names(answer))
            wrong = names - missing
            missing.difference_update(names)
            token = answer["page"]["next_token"]
            # A tenant that moves on may end a page early; what it says is right all the same.
            return not wrong and (bool(token) or not missing)

        while True:
            page = body["page"] | {"token": token} if token else body["page"]
            if self._post("search", kind, tenant, path, body | {"page": page}, is_right) is None or not token:
                return

    @task(4)
    def change_membership(self) -> None:
        """Grant or revoke a role, then ask for an answer that is at least as new."""
        row = {"type": "link", "member": f"user:{self._name}", "role": "role:visitor"}
        self._change("memberships", row, {"type": "record", "id": "lobby"}, "enter")

    @task(1)
    def change_rule(self) -> None:
        """Add or remove a rule, then ask for an answer that is at least as new."""
        row = {"type": "rule", "subject": f"user:{self._name}", "resource": "record:door", "action": "open"}
        self._change("rules", row, {"type": "record", "id": "door"}, "open")

    def _change(self, rows: str, row: dict[str, Any], resource: dict[str, str], action: str) -> None:
        tenant, kind = self._tenant()
        present = not self._present.get((tenant["slug"], rows), False)
        path = f"/v1/tenants/{tenant['slug']}/{rows}"
        body = {"add" if present else "remove": [row]}
        headers = self._post("change", kind, tenant, path, body, lambda _answer: True)
        revision = (headers or {}).get("Kasbah-Revision")
        if revision is None:
            return
        self._present[tenant["slug"], rows] = present
        question = {"subject": {"type": "user", "id": self._name}, "action": {"name": action}, "resource": resource}
        self._post(
            "check after change",
            kind,
            tenant,
            "/access/v1/evaluation",
            question,
            lambda answer: answer["decision"] is present,
            {"Kasbah-Min-Revision": revision},
        )

    def _tenant(self) -> tuple[dict[str, Any], str]:
        if random.random() < HOT_SHARE:
            return random.choice(_hot), "hot"
        return random.choice(_cold), "cold"

    def _post(  # noqa: PLR0917 - what a request is made of
        self,
        name: str,
        kind: str,
        tenant: dict[str, Any],
        path: str,
        body: object,
        is_right: Callable[[Any], bool],
        headers: dict[str, str] | None = None,
    ) -> Any:
        """Send, judge, and return the headers of a good answer."""
        sent = {"Authorization": f"Bearer {tenant['key']}", "Content-Type": "application/json"} | (headers or {})
        with self.client.post(
            path, data=json.dumps(body), headers=sent, name=f"{name}, {kind}", catch_response=True
        ) as response:
            if not 200 <= response.status_code < 300:
                response.failure(f"status {response.status_code}: {(response.text or '')[:200]}")
                return None
            if not is_right(response.json()):
                response.failure(f"wrong answer in {tenant['slug']} to {json.dumps(body)[:300]}")
                return None
            response.success()
            return response.headers


class Person(FastHttpUser):
    """Somebody who signs in, looks at their account, and signs out."""

    fixed_count = 1
    wait_time = constant_throughput(SIGN_INS_PER_SECOND)
    connection_timeout = 5.0
    network_timeout = 10.0

    @task
    def visit(self) -> None:
        """Sign in and out again; every step must succeed."""
        tenant = random.choice(_hot)
        who = {"identifier": random.choice(tenant["people"]), "password": PASSWORD}
        signed_in = self._step("sign in", "POST", "/v1/auth/login", {"X-Tenant-ID": tenant["slug"]}, who)
        if signed_in is None:
            return
        session = {"Authorization": f"Bearer {signed_in['session']['token']}"}
        self._step("own account", "GET", "/v1/users/me", session)
        self._step("sign out", "DELETE", "/v1/users/me/sessions/current", session)

    def _step(self, name: str, method: str, path: str, headers: dict[str, str], body: object = None) -> Any:
        """Send, and return the JSON of a good answer, or an empty object."""
        sent = headers | ({} if body is None else {"Content-Type": "application/json"})
        data = None if body is None else json.dumps(body)
        with self.client.request(method, path, data=data, headers=sent, name=name, catch_response=True) as response:
            if not 200 <= response.status_code < 300:
                response.failure(f"status {response.status_code}: {(response.text or '')[:200]}")
                return None
            response.success()
            return response.json() if response.text else {}


def _names(answer: dict[str, Any]) -> list[str]:
    return [result.get("id", result.get("name", "")) for result in answer["results"]]
