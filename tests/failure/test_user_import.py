"""An import of accounts while PostgreSQL, a node or the command itself is killed: nobody is lost, nobody comes twice."""

import json
import subprocess
import sys
import time

import psycopg
import pytest

from tests.support.outside_checker import wait_until
from tests.support.paths import ROOT
from tests.support.running_service import clean_environment

pytestmark = [pytest.mark.integration, pytest.mark.process]

PEOPLE = 1200
BATCH = 100


def importing(installation, tenant, people, *more):
    """Begin the command."""
    environment = clean_environment(KASBAH_URL=installation.first.base_url, KASBAH_API_KEY=installation.platform_key)
    command = [sys.executable, "-m", "service", "user", "import", str(people), "--tenant", tenant.slug]
    return subprocess.Popen(
        [*command, "--batch", str(BATCH), "--report", str(people.with_name("bad.jsonl")), *more],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def accounts(installation, tenant):
    """Count the tenant's accounts, and how many names they have."""
    with psycopg.connect(installation.postgres.url) as owner:
        return owner.execute(
            "SELECT count(*), count(DISTINCT username_key), count(DISTINCT email_key) FROM users "
            "JOIN tenants USING (tenant_id) WHERE slug = %s",
            (tenant.slug,),
        ).fetchone()


def audited(installation, tenant):
    """Count the events that say that an account was made."""
    with psycopg.connect(installation.postgres.url) as owner:
        return owner.execute(
            "SELECT count(DISTINCT event->>'target') FROM audit_events JOIN tenants USING (tenant_id) "
            "WHERE slug = %s AND event->>'action' = 'user.create'",
            (tenant.slug,),
        ).fetchone()[0]


@pytest.fixture
def people(tmp_path):
    """A file with a bad line here and there."""
    path = tmp_path / "people.jsonl"
    names = (f"user{n}" if n % 100 else "bad name" for n in range(PEOPLE))
    lines = (json.dumps({"username": name, "email": f"person{n}@example.com"}) for n, name in enumerate(names))
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("victim", ["postgres", "command", "node"])
def test_nobody_is_lost_and_nobody_comes_twice(installation, tenant, people, victim):
    """Killed in the middle: the command goes on when PostgreSQL or the node is back, or where it was begun again."""
    running = importing(installation, tenant, people)
    wait_until(lambda: accounts(installation, tenant)[0] > BATCH)
    if victim == "command":
        running.kill()
        running.communicate(timeout=60)
        running = importing(installation, tenant, people, "--resume")
    elif victim == "postgres":
        installation.postgres.kill()
        time.sleep(1)
        installation.postgres.start_again()
    else:
        installation.first.kill()
        time.sleep(0.5)
        installation.mend()
    said, _ = running.communicate(timeout=300)
    assert running.returncode == 1, said
    assert "Traceback" not in said
    good = PEOPLE - PEOPLE // 100
    assert accounts(installation, tenant) == (good, good, good)
    assert audited(installation, tenant) == good
    report = [json.loads(line)["line"] for line in people.with_name("bad.jsonl").read_text().splitlines()]
    assert report == list(range(1, PEOPLE, 100))
    assert not list(people.parent.glob("*.progress*"))
