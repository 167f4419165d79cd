"""What a new user would try: a tenant and its people from the first invitation to the audit that names a forged row."""

import asyncio
import json
import re
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from service.bootstrap import create_platform_key
from tests.support.paths import ROOT
from tests.support.post import Post
from tests.support.running_service import clean_environment

pytestmark = [pytest.mark.integration, pytest.mark.process, pytest.mark.slow]

PASSWORD = "mild otters borrow seven umbrellas"
IMPORTED = 1000


@pytest.fixture
def post() -> Iterator[Post]:
    with Post().open() as opened:
        yield opened


@pytest.fixture
def running(start_service, post):
    """A service that sends its mails to `post`."""
    return start_service(KASBAH_WORKERS="2", **post.settings())


@pytest.fixture
def kasbah(running, database_url, tmp_path):
    """Run `kasbah …` as an operator does; returns what it printed."""
    environment = clean_environment(
        KASBAH_URL=running.base_url, KASBAH_API_KEY=asyncio.run(create_platform_key(database_url, "operator"))
    )

    def run(*arguments: str, status: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "service", *arguments],
            cwd=tmp_path,
            env=environment | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == status, (arguments, done.returncode, done.stdout, done.stderr)
        return done.stdout

    return run


def submit(page: str, base_url: str, **fields: str) -> int:
    """Fill in the form of a page and send it, as a browser does; returns the status."""
    hidden = dict(re.findall(r'<input[^>]*type="hidden"[^>]*name="([^"]+)"[^>]*value="([^"]*)"', page))
    action = re.search(r'<form[^>]*action="([^"]+)"', page)
    address = urllib.parse.urljoin(base_url, action.group(1).replace("&amp;", "&") if action else "")
    data = urllib.parse.urlencode(hidden | fields).encode()
    request = urllib.request.Request(address, data, {"Origin": base_url}, method="POST")
    with urllib.request.urlopen(request, timeout=60) as response:
        return int(response.status)


def users_csv(path: Path) -> Path:
    """Write a thousand people, one of whom nobody could be."""
    lines = ["username,email,display_name"]
    lines += [f"person{number},person{number}@globex.example,Person {number}" for number in range(IMPORTED)]
    lines.append("person@name,nobody@globex.example,Nobody")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_tenant_and_its_people_from_the_first_invitation_to_a_forged_row(
    kasbah, running, post, database_url, tmp_path
) -> None:
    """Every step as printed in the documents; at the end the audit tells it all, and names the row that was edited."""
    kasbah("tenant", "create", "globex", "--name", "Globex Corporation")
    kasbah("invitation", "create", "grace@globex.example", "--tenant", "globex", "--role", "role:user-admin")
    mail = post.to("grace@globex.example")
    with urllib.request.urlopen(mail.link.replace("https://", "http://"), timeout=60) as page:
        assert "Referrer-Policy" in page.headers
        shown = page.read().decode()
    assert (
        submit(shown, running.base_url, username="grace", display_name="Grace", password=PASSWORD, again=PASSWORD)
        == 200
    )
    grace = json.loads(kasbah("user", "show", "grace", "--tenant", "globex", "--output", "json"))
    assert (grace["status"], grace["password_set"]) == ("active", True)
    assert [each["role"] for each in grace["roles"]] == ["role:user-admin"]

    report = tmp_path / "refused.jsonl"
    kasbah(
        "user", "import", str(users_csv(tmp_path / "people.csv")), "--tenant", "globex", "--report", str(report),
        status=1,
    )  # fmt: skip
    refused = [json.loads(line) for line in report.read_text().splitlines()]
    assert [(each["line"], each["field"]) for each in refused] == [(IMPORTED + 2, "username")]
    listed = json.loads(kasbah("user", "list", "--tenant", "globex", "--output", "json"))
    assert len(listed["users"]) == IMPORTED + 1

    kasbah("user", "update", "person7", "--username", "seven", "--tenant", "globex", "--reason", "married")
    kasbah("user", "disable", "seven", "--tenant", "globex", "--reason", "on leave")
    gone = json.loads(kasbah("user", "show", "person8", "--tenant", "globex", "--output", "json"))
    kasbah("user", "delete", "person8", "--tenant", "globex", "--reason", "left", "--yes")
    seven = json.loads(kasbah("user", "show", "seven", "--tenant", "globex", "--output", "json"))
    assert denied(kasbah, running, seven["id"]) == "account_disabled"
    assert denied(kasbah, running, gone["id"]) == "account_deleted"

    story = json.loads(
        kasbah("audit", "list", "--tenant", "globex", "--oldest-first", "--limit", "5000", "--output", "json")
    )["events"]
    told = [(event["action"], event.get("target")) for event in story]
    for expected in (
        ("user.update", f"user:{seven['id']}"),
        ("user.disable", f"user:{seven['id']}"),
        ("user.delete", f"user:{gone['id']}"),
    ):
        assert expected in told
    assert "tenant.create" in dict(told)
    assert "person8" not in json.dumps(story)
    assert f"user:{grace['id']}" in {target for _, target in told}
    kasbah("audit", "verify", "--tenant", "globex")

    edited = next(event for event in story if event["action"] == "user.disable")
    with psycopg.connect(database_url, autocommit=True) as superuser:
        changed = superuser.execute(
            "UPDATE audit_events SET event = replace(event::text, 'on leave', 'retired')::json "
            "WHERE seq = %s AND tenant_id = (SELECT tenant_id FROM tenants WHERE slug = 'globex')",
            (edited["seq"],),
        )
        assert changed.rowcount == 1
    assert str(edited["seq"]) in kasbah("audit", "verify", "--tenant", "globex", status=1)


def denied(kasbah, running, user_id: str) -> str:
    """Return why an account may not read a record, once it may not; a fresh key of the tenant asks."""
    made = json.loads(kasbah("key", "create", "asks", "--tenant", "globex", "--output", "json"))
    question = {
        "subject": {"type": "user", "id": user_id},
        "action": {"name": "read"},
        "resource": {"type": "record", "id": "1"},
    }
    answer = running.request("POST", "/access/v1/evaluation", question, key=made["token"])
    assert (answer.status, answer.json()["decision"]) == (200, False)
    return str(answer.json()["context"]["kasbah"]["reason"])
