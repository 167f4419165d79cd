"""Two real nodes whose settings are one key apart: a rotation under way, killed, and gone on with."""

import asyncio
import base64
import secrets
import time
from uuid import uuid4

import psycopg
import pytest

from service.bootstrap import Bootstrap, create_platform_key
from tenancy.database import open_engine, open_sessions
from tenancy.key_encryption import KeyEncryptionKeys, LocalKeyEncryption
from tenancy.key_ring import KeyRing
from tenancy.tenant import ChangeMeta
from tenancy.unit_of_work import tenant_unit_of_work
from tests.support.servers import patient

pytestmark = [pytest.mark.integration, pytest.mark.process, pytest.mark.slow]

OLD, NEW = secrets.token_bytes(32), secrets.token_bytes(32)
PEOPLE = 600


def setting(**keys: bytes) -> dict[str, str]:
    """Return the setting for keys in this order."""
    return {
        "KASBAH_ENCRYPTION__KEYS": ",".join(f"{name}:{base64.b64encode(key).decode()}" for name, key in keys.items())
    }


def wait_for(condition, timeout_seconds=120.0):
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


async def tell(url):
    """Seal something of many people in one tenant, under the old key; return what a reader needs."""
    engine = open_engine(url, patient())
    try:
        sessions = open_sessions(engine)
        tenant_id = await Bootstrap(engine).ensure_tenant("acme", "Acme", meta=ChangeMeta("key:test"))
        ring = KeyRing(sessions, KeyEncryptionKeys([LocalKeyEncryption("old", OLD)], "old"))
        async with tenant_unit_of_work(sessions, tenant_id) as work:
            told = [await ring.seal_personal(work, uuid4(), {"n": str(number)}) for number in range(PEOPLE)]
        return tenant_id, told
    finally:
        await engine.dispose()


async def read(url, tenant_id, told, **keys):
    """Return what a node with these keys reads."""
    engine = open_engine(url, patient())
    try:
        sessions = open_sessions(engine)
        known = [LocalKeyEncryption(name, key) for name, key in keys.items()]
        ring = KeyRing(sessions, KeyEncryptionKeys(known, known[0].id))
        async with tenant_unit_of_work(sessions, tenant_id) as work:
            return [int(fields["n"]) for fields in await ring.open_all_personal(work, told)]
    finally:
        await engine.dispose()


def test_a_rotation_outlives_the_node_that_carries_it_out(own_database_url, start_service):
    """SIGKILL while a part is done: all still opens; the other node, whose settings say another order, finishes it."""
    tenant_id, told = asyncio.run(tell(own_database_url))
    platform = asyncio.run(create_platform_key(own_database_url, "test"))
    first = start_service(database=own_database_url, **setting(new=NEW, old=OLD))
    with psycopg.connect(own_database_url) as owner:

        def done() -> int:
            query = (
                "SELECT count(*) FROM subject_keys s JOIN data_keys k ON k.key_id = s.wrapped_key "
                "WHERE k.superseded_at IS NULL"
            )
            with psycopg.connect(own_database_url) as other:
                return other.execute(query).fetchone()[0]

        # Somebody holds a few rows, so that the rotation cannot be over before it is killed.
        owner.execute("SELECT 1 FROM subject_keys ORDER BY subject_id LIMIT 5 FOR UPDATE")
        assert done() == PEOPLE
        begun = first.request("POST", "/v1/encryption/rotation", {"reason": "yearly"}, key=platform)
        assert begun.status == 201, begun.body
        wait_for(lambda: done() == PEOPLE - 5)
        first.kill()
    assert asyncio.run(read(own_database_url, tenant_id, told, old=OLD, new=NEW)) == list(range(PEOPLE))
    second = start_service(database=own_database_url, **setting(old=OLD, new=NEW))

    def rotation():
        return second.request("GET", "/v1/encryption/rotation", key=platform).json()["rotation"]

    wait_for(lambda: rotation()["finished_at"])
    assert rotation()["failed"] == 0
    assert done() == PEOPLE
    told_keys = second.request("GET", "/v1/encryption/keys", key=platform).json()["keys"]
    counts = {key["id"]: key["data_keys"] for key in told_keys}
    assert counts["old"] == counts["derived"] == 0
    assert asyncio.run(read(own_database_url, tenant_id, told, new=NEW)) == list(range(PEOPLE))
    for service in (first, second):
        for secret in (OLD, NEW):
            assert base64.b64encode(secret).decode() not in service.log.read_text("utf-8")
