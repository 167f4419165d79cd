"""`POST /v1/users/import`, `GET /v1/users/export`, and the commands: nothing lost, nothing twice, nobody taken over."""

import asyncio
import csv
import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result

from service.cli import user_import
from service.cli.user_files import Progress, file_digest, save_progress
from service.client import UnavailableError
from tests.support.administration import Answer, Service
from tests.support.commands import kasbah

IMPORT, EXPORT = "/v1/users/import", "/v1/users/export"
BCRYPT = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"
LINES = {"Content-Type": "application/x-ndjson"}


async def send(admin: Service, key: str, *records: Any, body: bytes | None = None, **more: Any) -> Answer:
    lines = body if body is not None else b"\n".join(json.dumps(record).encode() for record in records)
    return await admin.ask("POST", IMPORT, lines, key=key, headers=LINES, **more)


async def exported(admin: Service, key: str) -> list[Any]:
    answer = await admin.get(EXPORT, key=key)
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.body.splitlines()]


async def events(admin: Service, key: str, **wanted: str) -> list[Any]:
    query = "&".join(f"{name}={value}" for name, value in wanted.items())
    return list((await admin.get(f"/v1/audit?{query}", key=key)).json["events"])


async def test_what_is_new_comes_in_and_the_same_again_does_not(admin: Service) -> None:
    """Once, with unverified addresses and the hash; a second time nothing changes, not even the revision."""
    key = await admin.tenant("acme")
    records = [
        {"username": "Ada", "email": "ada@example.com", "display_name": "Ada L", "mfa_required": True},
        {"username": "bob", "password_hash": BCRYPT},
    ]
    first = await send(admin, key, *records)
    assert (first.status, first.json) == (200, {"created": 2, "existing": 0, "bad": []})
    again = await send(admin, key, *records)
    assert again.json == {"created": 0, "existing": 2, "bad": []}
    assert again.headers["Kasbah-Revision"] == first.headers["Kasbah-Revision"]
    ada, bob = sorted(await exported(admin, key), key=lambda user: user["username"])  # of one moment
    assert (ada["username"], ada["email"], ada["email_verified_at"], ada["mfa_required"]) == (
        "Ada",
        "ada@example.com",
        None,
        True,
    )
    assert (bob["password_set"], ada["password_set"]) == (True, False)
    assert BCRYPT not in json.dumps([ada, bob])
    assert (await admin.get(f"/v1/users/{bob['id']}", key=key)).json["username"] == "bob"


async def test_every_account_is_found_in_the_audit(admin: Service) -> None:
    """One event for the batch and one for each account, at the revision that made them; nothing secret in any."""
    key = await admin.tenant("acme")
    done = await send(
        admin, key, {"username": "ada", "password_hash": BCRYPT}, {"username": "bob"}, {"username": "a b"}
    )
    assert (done.json["created"], len(done.json["bad"])) == (2, 1)
    (batch,) = await events(admin, key, action="user.import")
    assert batch["detail"] == {"created": 2, "existing": 0, "bad": 1}
    for user in await exported(admin, key):
        (found,) = await events(admin, key, action="user.create", target=user["subject"])
        assert found["revision"] == batch["revision"] == int(done.headers["Kasbah-Revision"])
        assert BCRYPT not in json.dumps(found)
    assert len(await events(admin, key, action="user.export")) == 1


async def test_nobody_is_taken_over(admin: Service) -> None:
    """A record that names an account gives it no password, no address and no state, whoever sends it."""
    key = await admin.tenant("acme")
    made = (await admin.post("/v1/users", {"username": "root", "email": "root@example.com"}, key=key)).json
    answer = await send(
        admin,
        key,
        {"username": "ROOT", "password_hash": BCRYPT},
        {"username": "root2", "email": "Root@Example.com", "password_hash": BCRYPT},
        {"username": "Root", "email": "evil@example.com", "password_hash": BCRYPT},
    )
    assert (answer.json["created"], answer.json["existing"]) == (0, 1)
    assert [(fault["line"], fault["field"]) for fault in answer.json["bad"]] == [(2, "email"), (3, "username")]
    alone = await send(admin, key, {"username": "Root", "email": "evil@example.com", "password_hash": BCRYPT})
    assert [(fault["line"], fault["field"]) for fault in alone.json["bad"]] == [(1, "email")]
    assert (await admin.get(f"/v1/users/{made['id']}", key=key)).json == made | {"roles": []}
    assert "root@example.com" not in json.dumps(answer.json)


async def test_a_deleted_name_is_free_again(admin: Service) -> None:
    """Its tombstone has no names; what comes in has another id."""
    key = await admin.tenant("acme")
    made = (await admin.post("/v1/users", {"username": "carol"}, key=key)).json
    gone = await admin.ask("DELETE", f"/v1/users/{made['id']}?reason=left", key=key)
    assert gone.status in {200, 204}
    assert (await send(admin, key, {"username": "carol"})).json["created"] == 1
    (carol,) = await exported(admin, key)
    assert carol["id"] != made["id"]


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"", 200), (b"\n\n", 200), (b'{"username": "x"}\n' * 5001, 400), (b"x" * (16 << 20) + b"y", 413)],
)
async def test_bodies_at_the_bounds(admin: Service, body: bytes, status: int) -> None:
    """Nothing is nothing; too many lines or bytes are refused whole."""
    key = await admin.tenant("acme")
    answer = await send(admin, key, body=body)
    assert answer.status == status
    if status == 200:
        assert answer.json == {"created": 0, "existing": 0, "bad": []}
    assert await exported(admin, key) == []


async def test_other_types_and_scopes_and_tenants_are_refused(admin: Service) -> None:
    """JSON lines alone; the scope alone; and the tenant of the key alone."""
    key = await admin.tenant("acme")
    await admin.tenant("globex")
    plain = await admin.ask("POST", IMPORT, b'{"username": "x"}', key=key)
    assert (plain.status, plain.problem) == (400, "invalid-request")
    weak = await admin.tenant("acme", "user:read", "user:write")
    assert (await send(admin, weak, {"username": "x"})).problem == "missing-scope"
    no_export = await admin.tenant("acme", "user:import", "user:write")
    assert (await admin.get(EXPORT, key=no_export)).problem == "missing-scope"
    foreign = await admin.ask("POST", f"{IMPORT}?tenant=globex", b"{}", key=key, headers=LINES)
    assert (foreign.status, foreign.problem) == (403, "other-tenant")
    assert (await admin.get(f"{EXPORT}?tenant=globex", key=key)).status == 403
    mine = await admin.ask("POST", f"{IMPORT}?tenant=globex", b'{"username": "x"}', headers=LINES)
    assert mine.json["created"] == 1
    assert await exported(admin, key) == []


async def test_batches_at_once_make_each_account_once(admin: Service) -> None:
    """Eight of the same at the same time, from wherever."""
    key = await admin.tenant("acme")
    records = [{"username": f"user{number}", "email": f"user{number}@example.com"} for number in range(50)]
    answers = await asyncio.gather(*(send(admin, key, *records) for _ in range(4)))
    assert sum(answer.json["created"] for answer in answers) == 50
    assert sum(answer.json["existing"] for answer in answers) == 150
    assert len({user["id"] for user in await exported(admin, key)}) == 50


@pytest.fixture
def run(admin: Service, monkeypatch, tmp_path) -> Callable[..., Any]:
    """Run one command in an empty folder."""
    monkeypatch.chdir(tmp_path)

    async def command(*arguments: str) -> Result:
        return await kasbah(admin.url, admin.platform, "user", *arguments)

    return command


async def test_a_csv_file_comes_in_with_a_report(admin: Service, run, tmp_path) -> None:
    """Quoted commas and line breaks, empty cells, a byte order mark; bad lines by their number in the file."""
    key = await admin.tenant("acme")
    with (tmp_path / "people.csv").open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerows(
            [
                ["username", "email", "display_name", "mfa_required"],
                ["ada", "ada@example.com", 'Ada, "the first"', "TRUE"],
                ["bob", "", "", ""],
                ["carol", "nobody", "", ""],
                ["dave", "dave@example.com"],
                ["eve", "eve@example.com", "Eve\nX", "perhaps"],
                ["frank", "", "Frank", "false"],
            ]
        )
    done = await run("import", "people.csv", "--tenant", "acme", "--report", "bad.jsonl")
    assert done.exit_code == 1, done.output
    assert "3 created, 0 there already, 3 refused" in done.output
    assert {user["username"] for user in await exported(admin, key)} == {"ada", "bob", "frank"}
    report = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert [(fault["line"], fault["field"]) for fault in report] == [(4, "email"), (5, "columns"), (7, "mfa_required")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.jsonl", "people.csv"]
    again = await run("import", "people.csv", "--tenant", "acme")
    assert "0 created, 3 there already, 3 refused" in again.output
    assert "line 4: `email`" in again.output


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("username,password\nada,hunter2\n", "password_hash"),
        ("username,email_verified\nada,true\n", "sent a link"),
        ("email\na@example.com\n", "username"),
        ("username,username\na,b\n", "once"),
        ('username\n"ada', "people.csv:2"),
    ],
)
async def test_a_csv_file_that_is_none_is_refused_at_once(admin: Service, run, tmp_path, text: str, said: str) -> None:
    """A column that cannot come in is told before anything does."""
    key = await admin.tenant("acme")
    (tmp_path / "people.csv").write_text(text)
    done = await run("import", "people.csv", "--tenant", "acme")
    assert (done.exit_code, said in done.output, "hunter2" in done.output) == (2, True, False), done.output
    assert await exported(admin, key) == []


async def test_an_import_that_was_broken_off_goes_on(admin: Service, run, tmp_path, monkeypatch) -> None:
    """Killed after the third batch was written but before that was noted: it comes again and makes nobody twice."""
    key = await admin.tenant("acme")
    people = tmp_path / "people.jsonl"
    people.write_text("".join(f'{{"username": "{"bad name" if n % 10 == 3 else f"user{n}"}"}}\n' for n in range(50)))
    real = user_import.save_progress
    saved = []

    def killed(path, progress):
        if len(saved) == 2:
            raise KeyboardInterrupt
        saved.append(progress)
        real(path, progress)

    monkeypatch.setattr(user_import, "save_progress", killed)
    arguments = ("import", "people.jsonl", "--tenant", "acme", "--report", "bad.jsonl", "--batch", "10")
    assert (await run(*arguments)).exit_code != 0
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert len(await exported(admin, key)) == 27
    refused = await run(*arguments)
    assert (refused.exit_code, "--resume" in refused.output) == (2, True)
    with (tmp_path / "bad.jsonl").open("a") as file:
        file.write('{"line": 9')  # of the batch that was not noted
    done = await run(*arguments, "--resume")
    assert done.exit_code == 1
    assert "36 created, 9 there already, 5 refused" in done.output
    assert len(await exported(admin, key)) == 45
    report = [json.loads(line)["line"] for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert report == [4, 14, 24, 34, 44]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.jsonl", "people.jsonl"]


async def test_a_report_that_is_gone_begins_anew(admin: Service, run, tmp_path) -> None:
    """It was moved away between two runs: no hole is left in its place."""
    await admin.tenant("acme")
    people = tmp_path / "people.jsonl"
    people.write_text('{"username": "ada"}\n{"username": "bad name"}\n')
    state = Progress(file_digest(people), "jsonl", "acme", records=1, created=1, report_bytes=500)
    save_progress(tmp_path / "people.jsonl.acme.progress", state)
    done = await run("import", "people.jsonl", "--tenant", "acme", "--resume", "--report", "bad.jsonl")
    assert "1 created, 0 there already, 1 refused" in done.output
    assert json.loads((tmp_path / "bad.jsonl").read_text())["line"] == 2


async def test_another_file_does_not_go_on_where_this_one_ended(admin: Service, run, tmp_path, monkeypatch) -> None:
    """It was changed meanwhile, so nobody knows where it stands."""
    await admin.tenant("acme")
    people = tmp_path / "people.jsonl"
    people.write_text('{"username": "ada"}\n')

    async def down(*_, **__):
        raise UnavailableError("down")

    monkeypatch.setattr(user_import.Client, "post", down)
    done = await run("import", "people.jsonl", "--tenant", "acme", "--wait", "1")
    assert (done.exit_code, "--resume" in done.output) == (3, True)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "people.jsonl.acme.progress").write_text(
        json.dumps({"digest": "x", "form": "jsonl", "tenant": "acme", "records": 1})
    )
    done = await run("import", "people.jsonl", "--tenant", "acme", "--resume")
    assert (done.exit_code, "start over" in done.output) == (2, True)


async def test_everyone_is_exported(admin: Service, run, tmp_path) -> None:
    """More than one page, as files have it, without secrets; a tenant without people has none."""
    key = await admin.tenant("acme")
    assert (await run("export", "--tenant", "acme")).stdout == ""
    records = [{"username": f"user{number}", "password_hash": BCRYPT} for number in range(1200)]
    assert (await send(admin, key, *records)).json["created"] == 1200
    done = await run("export", "--tenant", "acme", "-o", "out.jsonl")
    assert done.exit_code == 0, done.output
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert len({json.loads(line)["username"] for line in lines}) == 1200
    assert "$2a$" not in "".join(lines)
