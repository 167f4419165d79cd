"""What the simulated callers ask, and what they must be answered; made through the API before the load begins."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from authn.password_hashing import PasswordHasher
from authn.password_settings import PasswordSettings
from benchmarks.asking import Asker, RefusedError
from benchmarks.wire import body_of
from benchmarks.workload import ACTIONS, Question, Workload, subject
from service.http.policy_wire import sent_row

HOT_TENANTS = 2
COLD_TENANTS = 30
HOT_USERS = 1_000
COLD_USERS = 200
RULES = 1_000
BATCH = 20
ROWS_PER_REQUEST = 1_000
SEARCHES = 20
KEY_HOURS = 2
PEOPLE = 20
PASSWORD = "visitors of every tenant"
SCOPES = ["decision:check", "policy:read", "policy:write"]
VISITED = {"subject": "role:visitor", "resource": "record:lobby", "action": "enter"}


@dataclass(slots=True)
class TenantPlan:
    """One tenant: its key, and questions with their right answers as JSON-ready values."""

    slug: str
    key: str
    hot: bool
    checks: list[tuple[dict[str, Any], bool]] = field(default_factory=list)
    batches: list[tuple[dict[str, Any], list[bool]]] = field(default_factory=list)
    people: list[str] = field(default_factory=list)
    """Usernames of accounts whose password is `PASSWORD`."""
    searches: list[tuple[str, dict[str, Any], list[str]]] = field(default_factory=list)
    """Path, body, and the ids that must be found."""


def prepare(asker: Asker, hot_tenants: int, cold_tenants: int) -> Iterator[TenantPlan]:
    """Create what is missing and yield tenants that are ready.

    Args:
        asker: With a platform key.
        hot_tenants: How many tenants get most of the load.
        cold_tenants: How many share the rest.
    """
    for number in range(hot_tenants + cold_tenants):
        hot = number < hot_tenants
        slug = f"loadtest-hot-{number}" if hot else f"loadtest-cold-{number - hot_tenants}"
        workload = Workload(slug, RULES, HOT_USERS if hot else COLD_USERS, mixed=hot)
        create_tenant(asker, slug)
        load_rows(asker, workload)
        plan = TenantPlan(slug, create_key(asker, slug), hot)
        fill(plan, workload)
        if hot:
            plan.people = bring_in(asker, slug)
        yield plan


def create_tenant(asker: Asker, slug: str) -> None:
    """Create a tenant, unless an earlier run did."""
    try:
        asker.post("/v1/tenants", {"slug": slug})
    except RefusedError as refusal:
        if refusal.status != 409:
            raise


def create_key(asker: Asker, slug: str) -> str:
    """Create a key that ends by itself, and return its token."""
    expires_at = datetime.now(UTC) + timedelta(hours=KEY_HOURS)
    answer, _ = asker.post(
        f"/v1/tenants/{slug}/keys", {"name": "load test", "scopes": SCOPES, "expires_at": expires_at.isoformat()}
    )
    token: str = answer["token"]
    return token


def bring_in(asker: Asker, slug: str) -> list[str]:
    """Import accounts with the hash of their password; those that are there already stay as they are."""
    names = [f"visitor{number}" for number in range(PEOPLE)]
    lines = [json.dumps({"username": name, "password_hash": _hash_of_password()}) for name in names]
    headers = {"Content-Type": "application/x-ndjson", "X-Tenant-ID": slug}
    asker.post_bytes("/v1/users/import", "\n".join(lines).encode(), headers)
    return names


@cache
def _hash_of_password() -> str:
    return asyncio.run(_hashed(PasswordSettings(niceness=0, wait_seconds=30)))


async def _hashed(settings: PasswordSettings) -> str:
    hasher = PasswordHasher(settings)
    try:
        return await hasher.hash(PASSWORD)
    finally:
        hasher.close()


def load_rows(asker: Asker, workload: Workload) -> None:
    """Add rules and memberships; those that are there already are no change."""
    rules: list[object] = [sent_json(row) for row in (*workload.rules, *workload.hierarchy)]
    rules.append({"type": "rule", **VISITED})
    members: list[object] = [sent_json(row) for row in workload.memberships()]
    for path, rows in (("rules", rules), ("memberships", members)):
        for start in range(0, len(rows), ROWS_PER_REQUEST):
            asker.post(f"/v1/tenants/{workload.slug}/{path}", {"add": rows[start : start + ROWS_PER_REQUEST]})


def sent_json(row: Any) -> object:
    """Return a row as a client sends it."""
    return msgspec.to_builtins(sent_row(row))


def fill(plan: TenantPlan, workload: Workload) -> None:
    """Add questions and their answers."""
    questions = workload.questions(2_000 if plan.hot else 200)
    plan.checks = [(body_of(question), question.allowed) for question in questions]
    for start in range(0, len(questions) - BATCH, BATCH):
        part = questions[start : start + BATCH]
        body = {"evaluations": [body_of(question) for question in part]}
        plan.batches.append((body, [question.allowed for question in part]))
    plan.searches = list(searches(workload, [q for q in questions if q.allowed][:SEARCHES]))


def searches(workload: Workload, about: Sequence[Question]) -> Iterator[tuple[str, dict[str, Any], list[str]]]:
    """Yield a search for subjects and one for actions about each question, with all ids that must be found."""
    for question in about:
        asked = body_of(question)
        page = {"page": {"limit": 1000}}
        found = [
            subject(user).partition(":")[2]
            for user in range(workload.users)
            if workload.expected(user, question.action, question.resource)
        ]
        yield "/access/v1/search/subject", asked | {"subject": {"type": "user"}} | page, found
        user = int(question.subject.rpartition("-")[2])
        actions = [action for action in ACTIONS if workload.expected(user, action, question.resource)]
        yield "/access/v1/search/action", {key: asked[key] for key in ("subject", "resource")} | page, actions


def write_plan(path: Path, tenants: Sequence[TenantPlan]) -> None:
    """Write the plan for the simulated callers. It holds keys: nobody else may read it."""
    path.touch(mode=0o600)
    path.write_text(json.dumps([asdict(tenant) for tenant in tenants]), "utf-8")
