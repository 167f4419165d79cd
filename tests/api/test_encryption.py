"""`/v1/encryption` and `kasbah keys`: what is told of keys, and rotations that are begun over HTTP."""

import asyncio
import json
import threading
from datetime import timedelta
from uuid import uuid4

import psycopg
import pytest
from click.testing import CliRunner

from service.cli import encryption
from service.cli.root import root
from service.keys import KEY_RING, SESSIONS
from tenancy.key_encryption import KeyEncryptionKeys
from tenancy.key_nodes import KeyNode
from tenancy.unit_of_work import tenant_unit_of_work
from tests.support.administration import META, Service
from tests.support.sealed_things import NEW, OLD

pytestmark = pytest.mark.integration

KEYS, ROTATION = "/v1/encryption/keys", "/v1/encryption/rotation"


@pytest.fixture
async def admin(own_database_url):
    """A node that was given two keys, of which it prefers the newer one; the older one is in use."""
    service = Service(own_database_url)
    service.keks = KeyEncryptionKeys([OLD], "old")
    async with service.serving():
        await sealed(service, "acme")
    service = Service(own_database_url)
    service.keks = KeyEncryptionKeys([NEW, OLD], "new")
    async with service.serving() as running:
        yield running


@pytest.fixture
def run(admin, monkeypatch):
    """Run a command against the node, and its job as soon as the command looks on."""
    monkeypatch.setattr(encryption, "POLL_SECONDS", 0.01)
    looks, said = threading.Event(), encryption._said
    monkeypatch.setattr(encryption, "_said", lambda rotation: looks.set() or said(rotation))

    async def command(*arguments, key=None, job=True):
        environment = {"KASBAH_URL": admin.url, "KASBAH_API_KEY": key or admin.platform}
        looks.clear()
        working = asyncio.create_task(_job(admin, looks) if job else asyncio.sleep(0))
        try:
            return await asyncio.to_thread(CliRunner().invoke, root, ["keys", *arguments], env=environment)
        finally:
            working.cancel()

    return command


async def _job(admin, looks):
    while not looks.is_set():  # noqa: ASYNC110 - set in another thread
        await asyncio.sleep(0.01)
    while True:
        await admin.rotator.run()
        await asyncio.sleep(0.01)


async def sealed(service, slug):
    """Seal personal fields in a tenant, so that it has a data key."""
    tenant_id = await service.bootstrap.ensure_tenant(slug, slug, meta=META)
    async with tenant_unit_of_work(service.app[SESSIONS], tenant_id) as work:
        personal = await service.app[KEY_RING].seal_personal(work, uuid4(), {"email": "alice@example.com"})
    return tenant_id, personal


def told(key_id, **more):
    numbers = {"data_keys": 0, "superseded": 0, "tenants": 0}
    return {"id": key_id, "known": True, "active": False, "preferred": False, "nodes": 0} | numbers | more


async def test_keys_are_told_by_name_and_number(admin):
    """Which one wraps new data keys, which one will, what each wraps; one that this node lacks, too."""
    assert (await admin.get(KEYS)).json["keys"] == [
        told("new", preferred=True),
        told("old", active=True, data_keys=1, tenants=1),
    ]
    admin.rotator.keks._keys.pop("old")
    assert (await admin.get(KEYS)).json["keys"][1] == told("old", known=False, active=True, data_keys=1, tenants=1)


async def test_a_rotation_is_begun_once_and_goes_on_by_itself(admin):
    """With its key it acts once; another one is refused meanwhile; what it did is told."""
    assert (await admin.get(ROTATION)).json == {"rotation": None}
    tenant_id, personal = await sealed(admin, "acme")
    headers = {"Idempotency-Key": "one"}
    begun = await admin.post(ROTATION, {"reason": "yearly"}, headers=headers)
    assert begun.status == 201
    assert (begun.json["rotation"]["phase"], begun.json["rotation"]["key"]) == ("rewrap", "new")
    again = await admin.post(ROTATION, {"reason": "yearly"}, headers=headers)
    assert (again.status, again.body) == (201, begun.body)
    other = await admin.post(ROTATION, {"kind": "retirement"})
    assert (other.status, other.problem) == (409, "rotation-under-way")
    await admin.rotator.run()
    done = (await admin.get(ROTATION)).json["rotation"]
    assert done["finished_at"] is not None
    counted = {name: done[name] for name in ("keys_wrapped", "keys_made", "sealed_anew", "failed")}
    assert counted == {"keys_wrapped": 1, "keys_made": 1, "sealed_anew": 2, "failed": 0}
    assert (await admin.get(KEYS)).json["keys"] == [
        told("new", active=True, preferred=True, data_keys=2, superseded=1, tenants=1),
        told("old"),
    ]
    async with tenant_unit_of_work(admin.app[SESSIONS], tenant_id) as work:
        assert await admin.app[KEY_RING].open_personal(work, personal) == {"email": "alice@example.com"}


async def test_a_key_that_a_node_lacks_is_refused_and_shown(admin, run):
    """409, and nothing begins; the list says on how many nodes it is."""
    await KeyNode(admin.app[SESSIONS], KeyEncryptionKeys([OLD], "old")).announce()
    refused = await admin.post(ROTATION, {})
    assert (refused.status, refused.problem) == (409, "key-not-everywhere")
    assert (await admin.get(KEYS)).json["nodes"] == 1
    listed = (await run("list")).output.splitlines()
    assert [line.split("  ")[0] for line in listed] == ["key", "new", "old"]
    assert ["0/1" in listed[1], "1/1" in listed[2]] == [True, True]
    assert (await run("rotate")).exit_code == 5
    assert (await admin.post(ROTATION, {"kind": "retirement"})).status == 201


async def test_only_platform_keys_with_the_scope_rotate(admin):
    """A tenant's key is refused whatever its scopes; so is nobody at all, and a body that says anything else."""
    tenant, weak = await admin.tenant("acme"), await admin.tenant("acme", "encryption:read", "encryption:write")
    for method, path, body in (("GET", KEYS, None), ("GET", ROTATION, None), ("POST", ROTATION, {})):
        for key in (tenant, weak):
            refused = await admin.ask(method, path, body, key=key)
            assert (refused.status, refused.problem) == (403, "other-tenant")
        assert (await admin.ask(method, path, body, key="")).status == 401
    reads = (await admin.post("/v1/keys", {"name": "reads", "scopes": ["encryption:read"]})).json["token"]
    assert (await admin.get(KEYS, key=reads)).status == 200
    refused = await admin.post(ROTATION, {}, key=reads)
    assert (refused.status, refused.problem) == (403, "missing-scope")
    for body in ({"kind": "none"}, {"kind": "all", "key": "old"}, [], b"", {"reason": "a\nb"}):
        assert (await admin.post(ROTATION, body)).status == 400, body
    assert (await admin.get(ROTATION)).json == {"rotation": None}


async def test_the_commands_list_rotate_and_retire(admin, run, monkeypatch):
    """What an operator does in a year: look, rotate, retire, look."""
    before = await run("list", "--output", "json")
    assert [key["data_keys"] for key in json.loads(before.output)["keys"]] == [0, 1]
    assert "kasbah keys rotate goes over to it" in (await run("list")).output
    rotated = await run("rotate", "--reason", "yearly")
    assert rotated.exit_code == 0, rotated.output
    assert "1 data keys wrapped anew, 1 made, 1 values sealed anew" in rotated.output
    monkeypatch.setattr(admin.rotator, "_grace", timedelta(0))
    retired = await run("retire")
    assert retired.exit_code == 0, retired.output
    assert "1 data keys removed" in retired.output
    after = await run("list", "--output", "json")
    assert [(key["id"], key["data_keys"]) for key in json.loads(after.output)["keys"]] == [("new", 1), ("old", 0)]
    assert "wraps nothing" in (await run("list")).output
    again = await run("rotate", "--wrapping-only", "--output", "json")
    assert json.loads(again.stdout)["rotation"]["keys_wrapped"] == 1


async def test_a_command_that_meets_a_rotation_looks_on_or_says_what_is_under_way(admin, run):
    """Broken off and called again, it tells of the same rotation."""
    begun = (await admin.post(ROTATION, {})).json["rotation"]
    refused = await run("retire", job=False)
    assert (refused.exit_code, "keys are being rotated already" in refused.output) == (5, True)
    looked = await run("rotate", "--output", "json")
    assert looked.exit_code == 0, looked.output
    assert json.loads(looked.stdout)["rotation"]["id"] == begun["id"]


async def test_a_rotation_that_left_something_behind_ends_in_an_error(admin, run, own_database_url):
    """Exit code 1, and where to look."""
    with psycopg.connect(own_database_url, autocommit=True) as owner:
        owner.execute("UPDATE subject_keys SET wrapped = overlay(wrapped PLACING '\\x00000000' FROM 40)")
    rotated = await run("rotate")
    assert rotated.exit_code == 1
    assert "1 data keys or values did not open" in rotated.output
