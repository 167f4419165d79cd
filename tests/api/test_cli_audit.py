"""`kasbah audit` against a server whose tables a superuser changed by hand: verify names the row."""

import json
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from service.keys import JOBS
from tests.api.test_audit import changed
from tests.api.test_cli_server import run as run  # noqa: PLC0414 - a fixture
from tests.support.administration import Service

pytestmark = pytest.mark.integration

Run = Callable[..., Any]
ROW = "tenant_id = (SELECT tenant_id FROM tenants WHERE slug = 'acme') AND chain = 'tenant'"


@pytest.fixture
def superuser(own_database_url):
    """Connect as one who may do anything, past triggers and row-level security."""
    with psycopg.connect(own_database_url, autocommit=True) as connection:
        yield connection


async def test_the_audit_is_listed_exported_and_verified(run: Run, admin: Service, tmp_path) -> None:
    """As text and JSON, by a tenant's key and by the platform's; a file is verified without a server."""
    key = await admin.tenant("acme")
    await changed(admin, key, 2)
    listed = await run("audit", "list", key=key)
    assert listed.exit_code == 0, listed.output
    assert listed.output.splitlines()[1].split()[:1] == ["4"]
    assert "reason 1" in listed.output
    found = await run("audit", "list", "--tenant", "acme", "--action", "key.create", "--output", "json")
    assert [event["action"] for event in json.loads(found.stdout)["events"]] == ["key.create"]
    assert (await run("audit", "list", "--limit", "1", "--oldest-first", key=key)).output.count("tenant.create") == 1
    written = await run("audit", "export", "--tenant", "acme", "-o", "acme.jsonl")
    assert (written.exit_code, written.output) == (0, "4 events in acme.jsonl\n")
    piped = await run("audit", "export", key=key)
    assert piped.stdout_bytes == (tmp_path / "acme.jsonl").read_bytes()
    verified = await run("audit", "verify", key=key)
    assert (verified.exit_code, verified.output.splitlines()[0]) == (0, "acme/tenant: 4 events hold, 1 to 4")
    from_file = await run("audit", "verify", "acme.jsonl", "--output", "json")
    [report] = json.loads(from_file.stdout)["chains"]
    assert (report["rows"], report["faults"]) == (4, [])
    everything = await run("audit", "verify", "--all")
    assert everything.exit_code == 0
    assert [line.split(":")[0] for line in everything.output.splitlines()] == [
        f"{slug}/{chain}" for slug in ("_platform", "_base", "acme") for chain in ("tenant", "sign_in")
    ]


async def test_what_cannot_be_verified_is_said(run: Run, admin: Service, tmp_path) -> None:
    """No export, half an export, a damaged line, an unknown tenant; each with its exit code."""
    key = await admin.tenant("acme")
    await run("audit", "export", "-o", "whole.jsonl", key=key)
    lines = (tmp_path / "whole.jsonl").read_bytes().splitlines(keepends=True)
    assert len(lines) == 4
    cases = {
        "empty": (b"", 2),
        "none": (b"hello\n", 2),
        "headless": (b"".join(lines[1:]), 2),
        "half": (b"".join(lines[:-1]), 1),
        "cut": (b"".join(lines)[:-40], 1),
        "damaged": (b"".join([lines[0], b"{}\n", *lines[2:]]), 1),
        "reordered": (b"".join([lines[0], lines[2], lines[1], lines[3]]), 1),
        "twice": (b"".join(lines * 2), 0),
    }
    for name, (data, code) in cases.items():
        (tmp_path / name).write_bytes(data)
        assert (await run("audit", "verify", name)).exit_code == code, name
    assert (await run("audit", "verify", "--tenant", "nobody")).exit_code == 5
    assert (await run("audit", "verify", "--tenant", "acme", "--all")).exit_code == 2
    assert (await run("audit", "verify", "whole.jsonl", "--all")).exit_code == 2
    assert (await run("audit", "export", "--tenant", "nobody", "-o", "new.jsonl")).exit_code == 5
    assert not (tmp_path / "new.jsonl").exists()
    assert not (tmp_path / "new.jsonl.part").exists()


ATTACKS = {
    "edited text": (
        f"UPDATE audit_events SET event = replace(event::text, 'reason 1', 'reason 9')::json WHERE {ROW} AND seq = 4",
        ["row 4 edited: its hash is of something else"],
    ),
    "edited time": (
        f"UPDATE audit_events SET at = at + interval '1 s' WHERE {ROW} AND seq = 4",
        ["row 4 edited: its hash is of something else"],
    ),
    "edited with its hash": (
        f"UPDATE audit_events SET hash = sha256('x') WHERE {ROW} AND seq = 7",
        ["row 7 edited: its hash is of something else", "row 7 rewritten: the chain's head knows another hash"],
    ),
    "removed": (
        f"DELETE FROM audit_events WHERE {ROW} AND seq IN (3, 4)",
        ["rows 3 to 4 removed: what comes behind is there"],
    ),
    "removed beginning": (
        f"DELETE FROM audit_events WHERE {ROW} AND seq = 1",
        ["row 1 removed: what comes behind is there"],
    ),
    "truncated": (
        f"DELETE FROM audit_events WHERE {ROW} AND seq > 5",
        ["rows 6 to 7 truncated: the chain's head tells of them"],
    ),
    "inserted": (
        (
            "INSERT INTO audit_events (tenant_id, chain, seq, at, previous, hash, event) "
            f"SELECT tenant_id, chain, seq, at + interval '1 us', previous, hash, event FROM audit_events WHERE {ROW} AND seq = 5"
        ),
        ["row 5 inserted: a second row has this number"],
    ),
    "appended": (
        (
            "INSERT INTO audit_events (tenant_id, chain, seq, at, previous, hash, event) "
            f"SELECT tenant_id, chain, 8, at, hash, hash, event FROM audit_events WHERE {ROW} AND seq = 7"
        ),
        ["row 8 edited: its hash is of something else", "row 8 inserted: behind the chain's head"],
    ),
    "swapped": (
        (
            f"UPDATE audit_events SET event = (SELECT event FROM audit_events WHERE {ROW} AND seq = 9 - s.seq) "
            f"FROM (SELECT seq FROM audit_events WHERE {ROW}) s "
            f"WHERE audit_events.seq = s.seq AND audit_events.{ROW} AND s.seq IN (4, 5)"
        ),
        ["row 4 moved: row 5 holds what this row said", "row 5 moved: row 4 holds what this row said"],
    ),
    "all removed": (
        "TRUNCATE audit_events",
        ["rows 1 to 7 truncated: the chain's head tells of them"],
    ),
}


async def test_verify_names_what_a_superuser_did(run: Run, admin: Service, superuser) -> None:
    """Before it all holds; afterwards the exit code says so, and these rows are named and no others."""
    for number, (attack, (statement, sentences)) in enumerate(ATTACKS.items()):
        slug = f"t{number}"
        await changed(admin, await admin.tenant(slug), 5, slug)
        assert (await run("audit", "verify", "--tenant", slug)).exit_code == 0
        superuser.execute(statement.replace("'acme'", f"'{slug}'"))
        verified = await run("audit", "verify", "--tenant", slug, "--chain", "tenant")
        assert verified.exit_code == 1, attack
        said = [line.strip() for line in verified.output.splitlines()]
        assert said[0].startswith(f"{slug}/tenant: "), attack
        assert said[1:] == sentences, attack


async def signed(admin: Service) -> None:
    """Have every chain signed now, whatever its time."""
    await admin.app[JOBS].run_once("audit-checkpoints")


async def test_checkpoints_find_what_hashes_cannot(run: Run, admin: Service, superuser, tmp_path) -> None:
    """A tail that went with the chain's head, a chain that was hashed anew, and a tenant that is gone altogether."""
    key = await admin.tenant("acme")
    await changed(admin, key, 5)
    await signed(admin)
    public = json.loads((await run("audit", "key", "--output", "json")).stdout)["keys"]
    assert len(public) == 1
    lines = (await admin.get("/v1/audit/checkpoints?tenant=acme")).json["checkpoints"]
    platform = (await admin.get("/v1/audit/checkpoints?tenant=_platform")).json["checkpoints"]
    kept = tmp_path / "kept"
    kept.write_text(
        "".join(f"<109>1 2026-03-01T12:00:00Z host kasbah 7 checkpoint - {line}\n" for line in lines + platform)
    )
    for source in ("latest", str(kept)):
        whole = await run("audit", "verify", "--tenant", "acme", "--checkpoint", source)
        assert whole.exit_code == 0, whole.output
        assert "and to the checkpoint at 7" in whole.output
    await run("audit", "export", "--tenant", "acme", "-o", "whole.jsonl")
    offline = ("--checkpoint", str(kept), "--key", public[0]["public_key"])
    assert (await run("audit", "verify", "whole.jsonl", *offline)).exit_code == 0
    assert (await run("audit", "verify", "whole.jsonl", *offline[:2])).exit_code == 2
    assert (await run("audit", "verify", "whole.jsonl", *offline[:3], "AAAA")).exit_code == 2

    superuser.execute(FORGED_TAIL)
    assert (await run("audit", "verify", "--tenant", "acme")).exit_code == 0
    for source in ("latest", str(kept)):
        cut = await run("audit", "verify", "--tenant", "acme", "--checkpoint", source)
        assert (cut.exit_code, "rows 6 to 7 truncated: a checkpoint tells of row 7" in cut.output) == (1, True)

    superuser.execute(REWRITTEN)
    assert (await run("audit", "verify", "--tenant", "acme")).exit_code == 0
    anew = await run("audit", "verify", "--tenant", "acme", "--checkpoint", str(kept))
    assert (anew.exit_code, "rows 1 to 7 rewritten: a checkpoint knows another hash of row 7" in anew.output) == (
        1,
        True,
    )

    other = json.loads(lines[0])
    kept.write_text(kept.read_text().replace(other["hash"], "00" * 32))
    forged = await run("audit", "verify", "--tenant", "_platform", "--checkpoint", str(kept))
    assert (forged.exit_code, "line 1 of the checkpoints: the signature does not hold" in forged.output) == (1, True)


async def test_a_tenant_that_is_gone_with_its_audit_is_told(run: Run, admin: Service, superuser, tmp_path) -> None:
    """Nobody has its chain, but the sink does."""
    await admin.tenant("acme")
    await admin.tenant("beta")
    await signed(admin)
    kept = tmp_path / "kept"
    slugs = ("_platform", "acme", "beta")
    pages = [(await admin.get(f"/v1/audit/checkpoints?tenant={slug}")).json["checkpoints"] for slug in slugs]
    kept.write_text("\n".join(line for page in pages for line in page))
    assert (await run("audit", "verify", "--all", "--checkpoint", str(kept))).exit_code == 0
    superuser.execute("SET session_replication_role = replica")
    superuser.execute("DELETE FROM tenants WHERE slug = 'beta'")
    superuser.execute("SET session_replication_role = origin")
    gone = await run("audit", "verify", "--all", "--checkpoint", str(kept))
    assert gone.exit_code == 1
    assert "rows 1 to 2 truncated: a checkpoint tells of row 2, and there is no such chain" in gone.output
    kept.write_text("\n".join(line for line in kept.read_text().splitlines() if '"number":2,' not in line))
    assert "checkpoints 2 to 2 are missing" in (await run("audit", "verify", "--all", "--checkpoint", str(kept))).output


FORGED_TAIL = f"""
DELETE FROM audit_events WHERE {ROW} AND seq > 5;
UPDATE audit_chains SET seq = 5, hash = (SELECT hash FROM audit_events WHERE {ROW} AND seq = 5) WHERE {ROW};
"""
"""What a superuser does who knows of the chain's head."""

REWRITTEN = f"""
DO $$
DECLARE
    row record;
    before bytea := decode(repeat('00', 32), 'hex');
    own bytea;
BEGIN
    INSERT INTO audit_events (tenant_id, chain, seq, at, previous, hash, event)
    SELECT tenant_id, chain, s, at, previous, hash, event FROM audit_events, generate_series(6, 7) AS s
    WHERE {ROW} AND seq = 5;
    FOR row IN SELECT * FROM audit_events WHERE {ROW} ORDER BY seq LOOP
        own := sha256(convert_to(concat_ws(E'\\n', 'kasbah-audit-1', row.tenant_id, row.chain, row.seq,
            to_char(row.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), encode(before, 'hex'),
            row.event::text), 'UTF8'));
        UPDATE audit_events SET previous = before, hash = own WHERE {ROW} AND seq = row.seq;
        before := own;
    END LOOP;
    UPDATE audit_chains SET seq = 7, hash = before WHERE {ROW};
END $$
"""
"""What one does who also knows how rows are hashed."""
