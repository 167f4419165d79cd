"""`kasbah user …` against a real server: what it prints, what it refuses, and its exit codes."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result

from tests.support.administration import Service, link
from tests.support.commands import kasbah

pytestmark = pytest.mark.integration


@pytest.fixture
def run(admin: Service, monkeypatch, tmp_path) -> Callable[..., Any]:
    """Run one command against the service and return its result."""
    monkeypatch.chdir(tmp_path)

    async def command(*arguments: str, key: str | None = None, group: str = "user") -> Result:
        return await kasbah(admin.url, key or admin.platform, group, *arguments)

    return command


async def test_the_life_of_an_account(admin: Service, run) -> None:
    """Named by username, address or id; the only tenant need not be named."""
    key = await admin.tenant("acme")
    made = await run("create", "carol", "--email", "carol@example.com", "--name", "Carol", "--output", "json")
    assert made.exit_code == 0, made.output
    user = json.loads(made.stdout)
    assert (await run("create", "carol", key=key)).exit_code == 5
    await admin.post("/v1/tenants/acme/memberships", {"add": [link(user["subject"], "role:editor")]}, key=key)
    for name in ("carol", "CAROL@example.com", user["id"]):
        shown = await run("show", name, "--tenant", "acme")
        assert (shown.exit_code, "role: role:editor" in shown.stdout, user["subject"] in shown.stdout) == (
            0,
            True,
            True,
        )
    renamed = await run("update", "carol", "--username", "carol.d", "--mfa-required", key=key)
    assert "username: carol.d\n" in renamed.stdout
    assert "mfa_required: true\n" in renamed.stdout
    assert (await run("update", "carol.d", "--email", "", key=key)).exit_code == 5  # an address changes with a reason
    without = await run("update", "carol.d", "--email", "", "--name", "", "--reason", "asked", key=key)
    assert "email: \n" in without.stdout
    assert (await run("disable", "carol.d", key=key)).exit_code == 2
    assert "status: disabled\n" in (await run("disable", "carol.d", "--reason", "on leave", key=key)).stdout
    listed = await run("list", "--status", "disabled", "-q", "CAR", key=key)
    assert listed.stdout.splitlines()[1].split()[0] == "carol.d"
    assert "status: active\n" in (await run("enable", "carol.d", "--reason", "back", key=key)).stdout
    assert (await run("delete", "carol.d", "--reason", "left", key=key)).exit_code == 2  # nobody is there to ask
    gone = await run("delete", "carol.d", "--reason", "left", "--yes", key=key)
    assert gone.stdout == f"deleted {user['subject']}\n"
    assert (await run("list", key=key)).stdout == "no users\n"
    assert user["id"] in (await run("list", "--status", "deleted", key=key)).stdout


async def test_what_is_refused_says_so(admin: Service, run) -> None:
    """An unknown name, a name that cannot be, nothing to change, several tenants."""
    key = await admin.tenant("acme")
    unknown = await run("show", "nobody", key=key)
    assert (unknown.exit_code, "no user is named `nobody`" in unknown.stderr) == (5, True)
    assert (await run("show", "01890a5d-ac96-774b-bcce-b302099a8057", key=key)).exit_code == 5
    bad = await run("create", "p\u0430ypal", key=key)
    assert (bad.exit_code, "one script" in bad.stderr) == (5, True)
    assert (await run("update", "nobody", "--reason", "x", key=key)).exit_code == 2
    await admin.tenant("beta")
    assert (await run("list")).exit_code == 2
    assert (await run("list", "--tenant", "_platform")).stdout == "no users\n"


async def test_a_policy_directory_may_name_accounts(admin: Service, run, tmp_path) -> None:
    """Linted and tried without a server, planned and applied with one; exported by name, it plans to nothing."""
    key = await admin.tenant("acme")
    user = json.loads((await run("create", "Carol", "--output", "json", key=key)).stdout)
    directory = tmp_path / "policies"
    (directory / "acme").mkdir(parents=True)
    (directory / "acme/policy.csv").write_text(
        "p, role:editor, acme, doc:*, write\ng, user:name=carol, role:editor, acme\n"
    )
    (directory / "acme/entities.yaml").write_text("subjects:\n  user:name=carol: {level: 3}\n")
    case = "- {name: x, subject: 'user:name=carol', action: write, resource: 'doc:1', decision: true}\n"
    (directory / "acme/cases.yaml").write_text(case)
    for command in ("lint", "test"):
        done = await run(command, str(directory), group="policy", key=key)
        assert done.exit_code == 0, done.output
    planned = await run("plan", str(directory), group="policy", key=key)
    assert f"{user['subject']} is the account carol" in planned.stdout
    applied = await run("apply", str(directory), "--yes", group="policy", key=key)
    assert applied.exit_code == 0, applied.output
    assert await admin.allowed(key, user["subject"], "write", "doc:1")
    why = await run("explain", "user:name=CAROL", "write", "doc:1", group="policy", key=key)
    assert why.stdout.startswith(f"allow\nallowed: {user['subject']} write doc:1")
    exported = tmp_path / "exported"
    assert (await run("export", str(exported), "--usernames", group="policy", key=key)).exit_code == 0
    assert "g, user:name=Carol, role:editor, acme" in (exported / "acme/policy.csv").read_text()
    assert "user:name=Carol" in (exported / "acme/entities.yaml").read_text()
    for source in (directory, exported):
        plan = await run("plan", str(source), "--detailed-exitcode", group="policy", key=key)
        assert plan.exit_code == 0, plan.output
    (directory / "acme/policy.csv").write_text("g, user:name=nobody, role:editor, acme\n")
    unknown = await run("plan", str(directory), group="policy", key=key)
    assert (unknown.exit_code, "policy.csv:1" in unknown.stderr) == (5, True)
