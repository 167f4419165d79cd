"""The commands that ask a server, against a real one: what they print, and their exit codes."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from service.cli.root import root
from tests.support.administration import Service, link, rule
from tests.support.commands import kasbah

pytestmark = pytest.mark.integration

BASE = "p, role:auditor, *, doc:*, read\n"
ACME = """\
# who may write
p, role:editor, acme, doc:*, write
p, user:*, acme, doc:public, read
g, user:alice, role:editor, acme
g, user:bob, role:auditor, acme, 2999-01-01T00:00:00Z
"""
ENTITIES = "subjects:\n  user:alice: {level: 3}\n"

Run = Callable[..., Any]


@pytest.fixture
def run(admin: Service, monkeypatch, tmp_path) -> Run:
    """Run one command against the service, with a key, and return its result."""
    monkeypatch.chdir(tmp_path)

    async def command(*arguments: str, key: str | None = None, stdin: str | None = None) -> Result:
        return await kasbah(admin.url, key or admin.platform, *arguments, typed=stdin)

    return command


async def model_of(admin: Service) -> str:
    """The model that a fresh database has."""
    return str((await admin.get("/v1/model")).json["text"])


@pytest.fixture
async def policies(admin: Service, tmp_path: Path) -> Path:
    """A policy directory with a base and one tenant, under the model of the database."""
    root_directory = tmp_path / "policies"
    for name, text in {
        "model.conf": await model_of(admin),
        "_base/policy.csv": BASE,
        "acme/policy.csv": ACME,
        "acme/entities.yaml": ENTITIES,
    }.items():
        path = root_directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root_directory


async def test_tenants_and_keys(run: Run, admin: Service) -> None:
    """Create and list tenants; create, list and revoke keys; each with text and JSON."""
    assert (await run("tenant", "list")).output == "no tenants yet: `kasbah tenant create SLUG`\n"
    made = await run("tenant", "create", "acme", "--name", "Acme Inc")
    assert (made.exit_code, made.output.startswith("created tenant acme (")) == (0, True)
    again = await run("tenant", "create", "acme")
    assert again.exit_code == 5
    assert "taken" in again.stderr
    listed = json.loads((await run("tenant", "list", "--output", "json")).stdout)
    assert [tenant["display_name"] for tenant in listed["tenants"]] == ["Acme Inc"]
    created = await run("key", "create", "ci", "--tenant", "acme", "--scope", "policy:read", "--expires-in", "90d")
    assert created.exit_code == 0, created.output
    token = created.stdout.strip()
    assert token.startswith("kasbah_")
    keys = await run("key", "list", "--tenant", "acme")
    assert token not in keys.output
    assert token[7:15] in keys.output
    assert f"key:{admin.platform[7:15]}" in keys.output, "who made it"
    assert (await run("key", "list", key=token)).exit_code == 5, "it lacks key:read"
    assert (await run("key", "revoke", token[7:15], "--tenant", "acme")).exit_code == 2, "nobody is there to ask"
    assert (await run("key", "revoke", token[7:15], "--tenant", "acme", "--yes")).exit_code == 0
    assert (await run("policy", "history", key=token)).exit_code == 5
    assert (await run("key", "revoke", "00000000", "--tenant", "acme")).exit_code == 5
    assert (await run("key", "create", "x")).exit_code == 2, "a platform key must say whose"
    assert (await run("key", "create", "x", "--platform", "--scope", "root")).exit_code == 5
    assert (await run("key", "create", "x", "--platform", "--expires-in", "1y")).exit_code == 2


async def test_a_key_is_revoked_with_all_that_come_from_it(run: Run, admin: Service) -> None:
    """Children and their children end, those that others made stay; without the option they live on."""
    own = await admin.tenant("acme")
    keys = {"": own}
    for name, maker in (("a", ""), ("ab", "a"), ("abc", "ab"), ("b", "")):
        made = await run("key", "create", name, "--scope", "key:write", "--scope", "key:read", key=keys[maker])
        keys[name] = made.stdout.strip()

    async def alive() -> set[str]:
        listed = json.loads((await run("key", "list", "--output", "json", key=own)).stdout)["keys"]
        return {key["name"] for key in listed if key["revoked_at"] is None}

    mistaken = await run("key", "revoke", keys["a"][7:15], "--with-created", "--yes", key=keys["a"])
    assert (mistaken.exit_code, await alive()) == (5, {"test", "a", "ab", "abc", "b"})
    assert (await run("key", "revoke", keys["ab"][7:15], "--yes", key=own)).exit_code == 0
    assert await alive() == {"test", "a", "abc", "b"}
    done = await run("key", "revoke", keys["a"][7:15], "--with-created", "--yes", "--output", "json", key=own)
    assert [made["prefix"] for made in json.loads(done.stdout)["created"]] == [keys["abc"][7:15]]
    assert await alive() == {"test", "b"}


async def test_plan_apply_explain_history_rollback_export(run: Run, policies: Path, tmp_path: Path) -> None:
    """The tour: from an unknown tenant to an applied, explained, rolled back and exported policy."""
    unknown = await run("policy", "plan", str(policies))
    assert unknown.exit_code == 5
    assert "kasbah tenant create acme" in unknown.stderr
    assert (await run("policy", "apply", str(policies), "--yes")).exit_code == 5
    await run("tenant", "create", "acme")

    plan = await run("policy", "plan", str(policies), "--detailed-exitcode")
    assert plan.exit_code == 4, plan.output
    assert "+ p, role:editor, acme, doc:*, write" in plan.output
    assert "acme/policy.csv" not in plan.output
    assert "user:alice gains write on doc:public" in plan.output
    assert "user:bob gains read on doc:public" in plan.output
    assert "pattern: user:* gains read on doc:public" in plan.output
    shown = json.loads((await run("policy", "plan", str(policies), "--output", "json")).stdout)
    assert [part["tenant"] for part in shown["tenants"]] == ["_base", "acme"]
    assert shown["tenants"][1]["added"]["count"] == 5

    unasked = await run("policy", "apply", str(policies))
    assert unasked.exit_code == 2
    assert "--yes" in unasked.stderr
    applied = await run("policy", "apply", str(policies), "--yes", "--reason", "first")
    assert applied.exit_code == 0, applied.output
    assert "applied acme: revision" in applied.output
    assert (await run("policy", "plan", str(policies), "--detailed-exitcode")).exit_code == 0
    assert "nothing to do" in (await run("policy", "apply", str(policies))).output

    explained = await run("policy", "explain", "user:alice", "write", "doc:1", "--tenant", "acme")
    assert explained.output.startswith("allow\n")
    assert "policy.csv:2" in explained.output
    denied = await run("policy", "explain", "user:eve", "write", "doc:1", "--context", "{}")
    assert denied.output.startswith("deny\n")
    assert "role:editor" in denied.output
    strong = await run("policy", "explain", "user:alice", "write", "doc:1", "--auth", '{"acr": "aal2"}')
    assert strong.output.startswith("allow\n")
    assert (await run("policy", "explain", "user:alice", "write", "doc:1", "--auth", "aal2")).exit_code == 2
    assert (await run("policy", "explain", "user:alice", "write", "doc:1", "--auth", '{"acr": "aal9"}')).exit_code == 5
    assert (await run("policy", "explain", "eve", "write", "doc:1")).exit_code == 2
    assert (await run("policy", "explain", "user:eve", "write", "doc:1", "--context", "[]")).exit_code == 2

    history = json.loads((await run("policy", "history", "--output", "json")).stdout)
    first = history["changes"][0]
    assert (first["kind"], first["reason"], first["added"]) == ("apply", "first", 5)
    assert "first" in (await run("policy", "history")).output

    (policies / "acme/policy.csv").write_text(ACME.replace("g, user:alice, role:editor, acme\n", ""))
    removed = await run("policy", "plan", str(policies), "--tenant", "acme")
    assert "- g, user:alice, role:editor, acme" in removed.output
    assert "user:alice loses write" in removed.output
    assert (await run("policy", "apply", str(policies), "--yes")).exit_code == 0
    assert (await run("policy", "explain", "user:alice", "write", "doc:1")).output.startswith("deny\n")
    shown = await run("policy", "history", "--revision", str(first["revision"] + 1))
    assert shown.output == "- g, user:alice, role:editor, acme    policy.csv:4\n"
    rows = json.loads((await run("policy", "history", "--revision", str(first["revision"]), "--output", "json")).stdout)
    assert [item["change"] for item in rows["items"]] == ["added"] * 5
    assert "no rows" in (await run("policy", "history", "--revision", "1")).output
    assert (await run("policy", "history", "--revision", "999")).exit_code == 5
    back = await run("policy", "rollback", "--to", str(first["revision"]), "--tenant", "acme", "--yes")
    assert back.exit_code == 0, back.output
    assert (await run("policy", "explain", "user:alice", "write", "doc:1")).output.startswith("allow\n")
    assert (await run("policy", "rollback", "--to", "999", "--yes")).exit_code == 5

    exported = await run("policy", "export", str(tmp_path / "out"))
    assert exported.exit_code == 0, exported.output
    assert (tmp_path / "out/model.conf").read_text() == (policies / "model.conf").read_text()
    (policies / "acme/policy.csv").write_text(ACME)
    for directory in (policies, tmp_path / "out"):
        again = await run("policy", "plan", str(directory), "--detailed-exitcode")
        assert again.exit_code == 0, again.output
    assert (await run("policy", "export", str(tmp_path / "out"))).exit_code == 0, "the files say the same"
    (tmp_path / "out/acme/policy.csv").write_text("# mine\n")
    refused = await run("policy", "export", str(tmp_path / "out"))
    assert (refused.exit_code, (tmp_path / "out/acme/policy.csv").read_text()) == (5, "# mine\n")
    assert (await run("policy", "export", str(tmp_path / "out"), "--force")).exit_code == 0


async def test_a_plan_file_is_applied_as_it_was_shown(run: Run, policies: Path, tmp_path: Path) -> None:
    """The base moves the tenants' revisions on by one; an edited or stale plan is refused."""
    await run("tenant", "create", "acme")
    file = tmp_path / "plan.json"
    assert (await run("policy", "plan", str(policies), "-o", str(file))).exit_code == 0
    edited = json.loads(file.read_text())
    edited["parts"][1]["rows"][0]["resource"] = "*"
    (tmp_path / "edited.json").write_text(json.dumps(edited))
    refused = await run("policy", "apply", str(tmp_path / "edited.json"), "--yes")
    assert refused.exit_code == 5, refused.output
    assert "applied before that: _base" in refused.stderr
    assert (await run("policy", "plan", str(policies), "-o", str(file))).exit_code == 0
    assert (await run("policy", "apply", str(file), "--yes")).exit_code == 0
    stale = await run("policy", "apply", str(file), "--yes")
    assert stale.exit_code == 5
    assert "revision" in stale.stderr
    (tmp_path / "bad.json").write_text("{}")
    assert (await run("policy", "apply", str(tmp_path / "bad.json"), "--yes")).exit_code == 2


async def test_a_plan_is_written_before_it_is_shown(run: Run, policies: Path, tmp_path: Path, monkeypatch) -> None:
    """Whoever pipes it into `head` must not go on to apply the file of an earlier plan."""
    await run("tenant", "create", "acme")

    def stopped(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("service.cli.policy_server.print_plan", stopped)
    assert (await run("policy", "plan", str(policies), "-o", str(tmp_path / "plan.json"))).exit_code != 0
    assert json.loads((tmp_path / "plan.json").read_text())["parts"][1]["tenant"] == "acme"


async def test_base_and_tenants_change_together(run: Run, policies: Path) -> None:
    """Base, model and tenants of one directory are applied in one go, each at the revision it then has."""
    await run("tenant", "create", "acme")
    model = (policies / "model.conf").read_text()
    (policies / "model.conf").write_text(model + "# a comment\n")
    planned = await run("policy", "plan", str(policies))
    assert "model.conf changes" in planned.output
    assert "user:alice gains write on doc:public" in planned.output, "a comment changes no answer"
    applied = await run("policy", "apply", str(policies), "--yes")
    assert applied.exit_code == 0, applied.output
    assert "applied model.conf" in applied.output
    assert (await run("policy", "explain", "user:bob", "read", "doc:7")).output.startswith("allow\n")


async def test_a_model_that_stored_rows_do_not_fit_is_refused_by_the_plan(run: Run, policies: Path) -> None:
    """The plan says which rows of which tenants are in the way, and exits as refused."""
    await run("tenant", "create", "acme")
    with (policies / "acme/policy.csv").open("a") as file:
        file.write("p, user:eve, acme, doc:*, *, deny\n")
    assert (await run("policy", "apply", str(policies), "--yes")).exit_code == 0
    model = (policies / "model.conf").read_text()
    (policies / "model.conf").write_text(model.replace("sub, dom, obj, act, eft, cond", "sub, dom, obj, act"))
    for name in ("_base", "acme"):
        (policies / name / "policy.csv").write_text("")
    planned = await run("policy", "plan", str(policies))
    assert planned.exit_code == 5, planned.output
    assert "the model has no column `eft`, but deny rules are stored" in planned.output


async def test_a_named_tenant_is_all_that_changes(run: Run, policies: Path, admin: Service) -> None:
    """`--tenant` leaves the base, the model and other tenants alone."""
    await run("tenant", "create", "acme")
    applied = await run("policy", "apply", str(policies), "--tenant", "acme", "--yes", "--output", "json")
    assert [entry["tenant"] for entry in json.loads(applied.stdout)["applied"]] == ["acme"]
    assert (await admin.get("/v1/tenants/_base/rules")).json["rules"] == []


async def test_a_tenant_key_does_its_own_tenant_and_says_what_it_skips(
    run: Run, policies: Path, admin: Service
) -> None:
    """Base, model and other tenants are skipped, and said to be."""
    key = await admin.tenant("acme")
    (policies / "beta").mkdir()
    (policies / "beta/policy.csv").write_text("p, user:a, beta, doc:1, read\n")
    planned = await run("policy", "plan", str(policies), key=key)
    assert planned.exit_code == 0, planned.output
    assert "skipped model.conf and _base" in planned.output
    assert "skipped beta" in planned.output
    assert (await run("policy", "apply", str(policies), "--yes", key=key)).exit_code == 0
    assert (await run("policy", "history", key=key)).exit_code == 0
    assert (await run("policy", "history", "--tenant", "beta", key=key)).exit_code == 5
    assert (await run("tenant", "list", key=key)).exit_code == 5


async def test_files_with_faults_are_never_sent(run: Run, policies: Path) -> None:
    """Errors end the command with 1 and their places; a missing directory with 2."""
    await run("tenant", "create", "acme")
    (policies / "acme/policy.csv").write_text("p, role:editor, acme, doc:*, write, alow\n")
    faulty = await run("policy", "apply", str(policies), "--yes")
    assert faulty.exit_code == 1
    assert "acme/policy.csv:1:" in faulty.stderr
    assert (await run("policy", "plan", str(policies / "nowhere"))).exit_code == 2
    assert (await run("policy", "plan", str(policies), "--tenant", "nobody")).exit_code in {1, 2}


async def test_conflicts_are_refused_before_anything_is_sent(run: Run, policies: Path, admin: Service) -> None:
    """A row that the API owns keeps the whole apply back."""
    key = await admin.tenant("acme")
    await admin.post("/v1/tenants/acme/memberships", {"add": [link("user:alice", "role:editor")]}, key=key)
    conflict = await run("policy", "apply", str(policies), "--yes")
    assert conflict.exit_code == 5
    assert "the admin API owns this row" in conflict.output
    assert (await admin.get("/v1/tenants/_base/rules")).json["rules"] == []


async def test_terminals_are_not_fooled(run: Run, admin: Service, policies: Path) -> None:
    """Names with escape sequences are printed escaped."""
    key = await admin.tenant("acme")
    row = rule("user:a", "doc:1", condition='context.a == "\u202e\u001b[2J"')
    await admin.post("/v1/tenants/acme/rules", {"add": [row]}, key=key)
    planned = await run("policy", "plan", str(policies))
    assert "\u001b[2J" not in planned.output


@pytest.mark.parametrize("text", ["a\r\nX-Evil: 1", "\udcff", "a\0b", "\x1b[31m", "ü", "..", ""])
async def test_no_text_of_the_command_line_ends_in_a_traceback(run: Run, admin: Service, text: str) -> None:
    """Line breaks, NUL, bytes that are not UTF-8: one line that says no, and an exit code that is documented."""
    await run("tenant", "create", "acme")
    for arguments in (
        ("policy", "explain", "--tenant", text, "user:a", "read", "doc:1"),
        ("policy", "explain", "--tenant", "acme", f"user:{text}", "read", f"doc:{text}"),
        ("policy", "history", "--tenant", text),
        ("policy", "rollback", "--tenant", text, "--to", "1", "--yes"),
        ("policy", "rollback", "--tenant", "acme", "--to", "1", "--yes", "--reason", f"{text}\0"),
        ("policy", "export", "--tenant", text, "out"),
        ("tenant", "create", text),
        ("tenant", "create", "other", "--name", f"{text}\0"),
        ("key", "create", f"{text}\0", "--tenant", "acme"),
        ("key", "list", "--tenant", text),
    ):
        ended = await run(*arguments)
        assert isinstance(ended.exception, SystemExit | None), (arguments, ended.exception)
        assert ended.exit_code in {0, 2, 5}, (arguments, ended.output)


async def test_no_server_is_three_and_says_where_it_looked(run: Run, monkeypatch, tmp_path: Path) -> None:
    """No settings, a dead port, something else that answers, and a key that nobody knows."""
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    for environment, said in (
        ({"KASBAH_URL": None, "KASBAH_API_KEY": None}, "kasbah dev"),
        ({"KASBAH_URL": "http://127.0.0.1:1", "KASBAH_API_KEY": "x"}, "cannot reach http://127.0.0.1:1"),
        ({"KASBAH_URL": "ftp://x", "KASBAH_API_KEY": "x"}, "no URL"),
        ({"KASBAH_URL": "http://127.0.0.1:1", "KASBAH_API_KEY": None}, "KASBAH_API_KEY"),
    ):
        found = await asyncio.to_thread(runner.invoke, root, ["tenant", "list"], env=environment)
        assert found.exit_code == 3, found.output
        assert said in found.stderr
    unknown = await run("tenant", "list", key="kasbah_00000000_" + "A" * 43)
    assert unknown.exit_code == 5
    assert "unknown, expired or revoked" in unknown.stderr


async def test_dev_json_is_found(admin: Service, tmp_path: Path) -> None:
    """Without settings the running `kasbah dev` is asked, in the state directory that is set."""
    (tmp_path / "dev.json").write_text(json.dumps({"base_url": admin.url, "platform_key": admin.platform}))
    environment = {"KASBAH_URL": None, "KASBAH_API_KEY": None, "KASBAH_STATE_DIR": str(tmp_path)}
    found = await asyncio.to_thread(CliRunner().invoke, root, ["tenant", "list"], env=environment)
    assert found.exit_code == 0, found.output


async def test_settings_of_a_tenant(run: Run, admin: Service, tmp_path: Path) -> None:
    """Shown whole; set one by one, from a merge patch, or replaced; a refusal names the member."""
    await admin.tenant("acme")
    shown = await run("tenant", "settings", "show", "acme")
    assert "password.min_length=15\n" in shown.output
    arguments = ("password.min_length=20", "mfa.demand=required", 'branding.name="7"')
    changed = await run("tenant", "settings", "set", "acme", *arguments, "--reason", "audit")
    assert (changed.exit_code, "password.min_length=20\n" in changed.output) == (0, True)
    path = tmp_path / "patch.json"
    path.write_text('{"password": {"min_length": null}}')
    patched = await run("tenant", "settings", "set", "acme", "--file", str(path), "--output", "json")
    assert json.loads(patched.stdout)["password"]["min_length"] == 15
    assert json.loads(patched.stdout)["branding"]["name"] == "7"
    replaced = await run(
        "tenant", "settings", "set", "acme", "--replace", "--file", "-", "--output", "json", stdin="{}"
    )
    assert json.loads(replaced.stdout)["mfa"]["demand"] == "optional"
    refused = await run("tenant", "settings", "set", "acme", "password.min_length=3")
    assert refused.exit_code == 5
    assert "/password/min_length" in refused.stderr
    for wrong in ((), ("x",), ("a=1", "a.b=2"), ("a=1", "a=2"), ("a=1", "--file", "-"), ("a=1", "--replace")):
        assert (await run("tenant", "settings", "set", "acme", *wrong)).exit_code == 2, wrong


async def test_the_life_of_a_tenant(run: Run, admin: Service) -> None:
    """Named, suspended, opened, deleted, restored; what ends a service for people is asked about."""
    await admin.tenant("acme")
    named = await run("tenant", "update", "acme", "--name", "Acme Limited")
    assert "Acme Limited" in named.output
    assert (await run("tenant", "suspend", "acme")).exit_code == 2
    assert (await run("tenant", "delete", "acme")).exit_code == 2
    for command, status in (("suspend", "suspended"), ("reactivate", "active"), ("delete", "deleting")):
        yes = () if command == "reactivate" else ("--yes",)
        done = await run("tenant", command, "acme", "--reason", "why", "--output", "json", *yes)
        assert json.loads(done.stdout)["status"] == status
        listed = await run("tenant", "list", "--status", status, "--search", "limited")
        assert "acme" in listed.output
    assert "removed after" in (await run("tenant", "show", "acme")).output
    assert (await run("tenant", "reactivate", "acme")).exit_code == 5
    assert json.loads((await run("tenant", "restore", "acme", "--output", "json")).stdout)["purge_after"] is None
    assert (await run("tenant", "show", "nobody")).exit_code == 5


async def test_isolation_of_a_running_service(run: Run, admin: Service, monkeypatch) -> None:
    """Two tenants are made, asked about and deleted; a leak is named, and is the exit code."""
    await admin.tenant("acme")
    before = (await admin.get("/v1/tenants/acme")).json
    done = await run("isolation-check", "--output", "json")
    report = json.loads(done.stdout)
    assert (done.exit_code, report["isolated"], report["faults"]) == (0, True, [])
    assert report["operations"] > 60
    deleting = (await admin.get("/v1/tenants?status=deleting")).json["tenants"]
    assert [tenant["display_name"] for tenant in deleting] == ["isolation check"] * 2
    assert (await admin.get("/v1/tenants/acme")).json == before
    monkeypatch.setattr("service.isolation_check.fault_of", lambda *_: "told")
    leaking = await run("isolation-check")
    assert leaking.exit_code == 1
    assert "LEAK GET /v1/users/{user_id}: the other tenant's `user_id` in the path: told" in leaking.output
    weak = (await admin.post("/v1/keys", {"name": "weak"})).json["token"]
    assert (await run("isolation-check", key=weak)).exit_code == 5
    assert (await run("isolation-check", key=await admin.tenant("beta"))).exit_code == 5
