"""The audit under outages: PostgreSQL killed in the middle of writes, and a sink that is away, full, and back."""

import asyncio
import json
import time
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from authz.errors import StorageUnavailableError
from authz.request import Ref
from authz.rules import Owner, RoleLink
from authz.storage_write import PostgresPolicyWriter
from migrations import runner
from tenancy.audit import AuditChain
from tenancy.audit_reader import AuditReader
from tenancy.audit_verification import verify_chain
from tenancy.create_tenant import create_tenant
from tenancy.database import DatabaseLimits, open_engine, open_sessions
from tenancy.storage import TenantStore
from tenancy.tenant import ChangeMeta
from tests.support.seeding import seed

META = ChangeMeta("key:test")
PATIENCE_SECONDS = 60.0

pytestmark = [pytest.mark.integration, pytest.mark.slow]


async def test_a_postgresql_killed_while_writing_leaves_all_or_nothing(own_postgres):
    """Every change that is there has its event, every event its change, and the chain holds, acknowledged or not."""
    runner.upgrade(own_postgres.url)
    engine = open_engine(own_postgres.url, DatabaseLimits(pool_size=4))
    sessions = open_sessions(engine)
    head = await create_tenant("acme", None, meta=META, tenants=TenantStore(sessions))
    acknowledged = set()

    async def write(lane: str, enough: asyncio.Event) -> None:
        writer = PostgresPolicyWriter(sessions)
        for number in range(200):
            row = RoleLink(Ref(f"user:{lane}-{number}"), Ref("role:r"))
            with suppress(StorageUnavailableError):
                result = await writer.change_rows(head.tenant_id, add=[row], remove=[], owner=Owner.API, meta=META)
                acknowledged.add(result.head.revision)
            if number == 5:
                enough.set()

    for turn in range(2):
        enough = asyncio.Event()
        writing = asyncio.gather(*(write(f"{turn}-{lane}", enough) for lane in range(3)))
        await enough.wait()
        own_postgres.kill()
        await writing
        own_postgres.start_again()
    found, events = await AuditReader(sessions).read(head.tenant_id, AuditChain.TENANT, after=None, limit=5000)
    assert verify_chain(found, events) == []
    told = [json.loads(event.text)["revision"] for event in events]
    with psycopg.connect(own_postgres.url) as owner:
        rows = owner.execute(
            "SELECT revision FROM changes WHERE tenant_id = %s ORDER BY revision", (head.tenant_id,)
        ).fetchall()
    assert told == [row[0] for row in rows]
    assert acknowledged <= set(told)
    await engine.dispose()


@pytest.mark.process
def test_a_sink_that_is_away_stops_changes_and_nothing_else(start_service, database_url, tmp_path: Path):
    """A file whose directory is not there: 503 for changes, decisions go on; when it is there, all heals and arrives."""
    folder = tmp_path / "mounted"
    path = folder / "checkpoints.jsonl"
    seeded = asyncio.run(seed(database_url, {"acme": [RoleLink(Ref("user:alice"), Ref("role:r"))]}))
    service = start_service(
        KASBAH_AUDIT__SINK=path.as_uri(),
        KASBAH_AUDIT__MAX_BEHIND_SECONDS="1",
        KASBAH_AUDIT__CHECKPOINT_SECONDS="1",
    )
    key = seeded.keys["acme"]

    def change(number: int):
        body = {"add": [{"type": "link", "member": f"user:{number}", "role": "role:r"}]}
        return service.request("POST", "/v1/tenants/acme/memberships", body, key=key)

    def metrics() -> str:
        return service.request("GET", "/metrics", key=seeded.platform_key).body.decode()

    def until(condition) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.1)

    numbers = iter(range(10_000))
    until(lambda: change(next(numbers)).status == 503)
    refused = change(next(numbers))
    assert (refused.status, refused.json()["type"]) == (503, "urn:kasbah:problem:audit-unavailable")
    question = {
        "subject": {"type": "user", "id": "alice"},
        "action": {"name": "read"},
        "resource": {"type": "record", "id": "1"},
    }
    assert service.request("POST", "/access/v1/evaluation", question, key=key).status == 200
    # Changes stop as soon as an event is too old, which may be before the sink is next tried.
    until(lambda: 'kasbah_events_total{event="audit_sink_failures"}' in metrics())
    folder.mkdir()
    until(lambda: change(next(numbers)).status == 200)
    until(lambda: service.request("GET", "/v1/audit/checkpoints", key=key).json()["checkpoints"])
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["number"] for line in lines] == list(range(1, len(lines) + 1))
    until(lambda: "kasbah_audit_behind_seconds" in metrics())
