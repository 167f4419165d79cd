"""`kasbah service-account …` and `kasbah key …` against a real server: what they print, refuse, and their exit codes."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result

from tests.support.administration import Service, link
from tests.support.commands import kasbah
from tests.support.persons import People

pytestmark = pytest.mark.integration


@pytest.fixture
def run(admin: Service, monkeypatch, tmp_path) -> Callable[..., Any]:
    """Run one command against the service and return its result."""
    monkeypatch.chdir(tmp_path)

    async def command(*arguments: str, key: str | None = None) -> Result:
        return await kasbah(admin.url, key or admin.platform, *arguments)

    return command


async def test_the_life_of_a_service_account(admin: Service, run) -> None:
    """Named by name or id, with keys of its own."""
    key = await admin.tenant("acme")
    made = await run("service-account", "create", "billing", "--description", "Invoices", "--output", "json")
    assert made.exit_code == 0, made.output
    account = json.loads(made.stdout)
    assert (await run("service-account", "create", "billing", key=key)).exit_code == 5
    await admin.post("/v1/tenants/acme/memberships", {"add": [link(account["subject"], "role:editor")]}, key=key)
    home = ("--service-account", "billing")
    assert (await run("key", "create", "production", *home, key=key)).exit_code == 5, "without a reason"
    first = await run("key", "create", "production", *home, "--limit", "20/40", "--reason", "new", key=key)
    assert first.stdout.startswith("kasbah_")
    for name in ("billing", account["id"]):
        shown = (await run("service-account", "show", name, "--tenant", "acme")).stdout
        assert "role: role:editor" in shown
        assert "production, last used never" in shown
        assert f"client_id: {account['id']}" in shown
    explained = await run("policy", "explain", "service:name=billing", "read", "doc:1", "--tenant", "acme", key=key)
    assert account["subject"] in explained.stdout, explained.output
    nobody = await run("policy", "explain", "service:name=nobody", "read", "doc:1", "--tenant", "acme", key=key)
    assert nobody.exit_code == 5
    listed = (await run("key", "list", *home, key=key)).stdout.splitlines()
    assert "20/40" in listed[1]
    prefix = first.stdout.split("_")[1]
    rotated = await run("key", "rotate", prefix, *home, "--overlap", "30m", "--reason", "due", key=key)
    assert rotated.stdout.startswith("kasbah_")
    assert rotated.stdout != first.stdout
    slower = await run("key", "update", prefix, *home, "--limit", "5", "--reason", "noisy", key=key)
    assert slower.stdout.endswith("limit 5/5\n")
    gone = await run("key", "revoke", prefix, *home, "--reason", "done", "--yes", key=key)
    assert gone.stdout.startswith("revoked production")
    assert (await run("service-account", "disable", "billing", key=key)).exit_code == 2
    disabled = await run("service-account", "disable", "billing", "--reason", "pause", key=key)
    assert "status: disabled\n" in disabled.stdout
    assert "status: active\n" in (await run("service-account", "enable", "billing", "--reason", "go", key=key)).stdout
    renamed = await run("service-account", "update", "billing", "--name", "invoices", "--description", "", key=key)
    assert "name: invoices\ndescription: \n" in renamed.stdout
    assert (await run("service-account", "update", "invoices", key=key)).exit_code == 2
    assert (await run("service-account", "show", "billing", key=key)).exit_code == 5
    assert (await run("service-account", "list", "-q", "inv", key=key)).stdout.splitlines()[1].startswith("invoices")
    assert (await run("service-account", "delete", "invoices", "--reason", "x", key=key)).exit_code == 2
    ended = await run("service-account", "delete", "invoices", "--reason", "x", "--yes", key=key)
    assert ended.stdout == f"deleted {account['subject']}\n"
    assert (await run("service-account", "list", key=key)).stdout == "no service accounts\n"


async def test_keys_of_a_tenant_of_the_platform_and_of_ones_own(admin: Service, run) -> None:
    """Each where it lives; what ends at once, and what cannot be meant."""
    people = People(admin)
    await people.base()
    ann = await people.person("acme", "ann", "role:member")
    key = await admin.tenant("acme")
    made = await run("key", "create", "ci", "--expires-in", "2h", "--output", "json", key=key)
    rotated = await run("key", "rotate", json.loads(made.stdout)["prefix"], "--overlap", "0m", key=key)
    assert "ends 20" in rotated.stderr
    assert (await admin.get("/v1/keys/self", key=json.loads(made.stdout)["token"])).status == 401
    assert (await admin.get("/v1/keys/self", key=rotated.stdout.strip())).status == 200
    assert (await run("key", "create", "p", "--platform", "--limit", "9")).stdout.startswith("kasbah_")
    own = json.loads((await run("key", "list", "--own", "--output", "json", key=ann.key)).stdout)["keys"][0]
    mine = await run("key", "rotate", own["id"], "--own", "--overlap", "1h", key=ann.key)
    assert (await admin.get("/v1/keys/self", key=mine.stdout.strip())).json["subject"] == ann.ref
    lifted = await run("key", "update", own["id"], "--own", "--name", "old", "--no-limit", key=ann.key)
    assert lifted.stdout == f"changed old ({own['prefix']})\n"
    for wrong in (
        ("list", "--own", "--platform"),
        ("list", "--platform", "--tenant", "acme"),
        ("create", "x", "--limit", "fast"),
        ("create", "x", "--expires-in", "0d"),
        ("rotate", "x", "--overlap", "soon"),
        ("update", "x"),
        ("update", "x", "--limit", "1", "--no-limit"),
    ):
        assert (await run("key", *wrong, key=key)).exit_code == 2, wrong
    assert (await run("key", "list")).exit_code == 2
