"""Names as weapons, over HTTP: none adds a rule, none matches another's, and what is stored comes back as it was."""

import itertools
import subprocess
import sys

import pytest

from tests.support.outside_checker import Question
from tests.support.paths import ROOT
from tests.support.running_service import clean_environment

pytestmark = [pytest.mark.integration, pytest.mark.process]

LEGAL = (
    'a","user:mallory","acme","+","+"',
    "a, user:mallory, acme, record:1, allow",
    "a, allow # comment",
    "a,allow",
    "a;b",
    'quo"te',
    '"',
    '""',
    "'",
    "# comment",
    "#",
    "back\\slash\\n",
    "per%cent%0a",
    "{{template}}",
    "$(id)",
    "`id`",
    "'; DROP TABLE rules; --",
    "role:admin",
    "user:alice",
    "a:b:c",
    "role:editor,role:admin",
    "=cmd|'/c calc'!A0",
    "[brackets]",
    "ß",
    "zoe\u0308",
    "Alice",
    "ALICE",
    "😀",
    "..",
    "/../x",
    "a b",
    "x" * 1500,
)
"""Strange, but names: code point by code point, each is itself and no other."""

LOOK_ALIKES = (
    "ａｌｉｃｅ",
    "аlice",
    "ali\u200bce",
    "\ufeffalice",
)
"""Names too, and none is alice; policy files refuse them, since whoever reads the file could not tell them apart."""

NAMES = (*LEGAL, *LOOK_ALIKES)

UNWRITABLE = ("\u202ealice",)
"""May be asked about, and is nobody; no rule may hold it, since it would show as another name."""

ILLEGAL = (
    "",
    *UNWRITABLE,
    "a\nb",
    "a\rb",
    "a\0b",
    "\n",
    "\x1b[31m",
    "a\u2028b",
    "\ud800",
    "x" * 3000,
    "a\x7f",
    "a\x85",
)


@pytest.fixture
def bare(installation):
    """A tenant in which only `user:alice` may do anything, and only by one rule."""
    made = installation.new_tenant(barred=1)
    rules = [
        {"type": "rule", "subject": "role:editor", "resource": "record:*", "action": "write"},
        {"type": "rule", "subject": "user:*", "resource": "record:*", "action": "read"},
        {"type": "rule", "subject": "role:barred", "resource": "record:*", "action": "read", "effect": "deny"},
    ]
    alice = {"type": "rule", "subject": "user:alice", "resource": "secret:alice", "action": "open"}
    answer = made.change(installation.first, "rules", {"remove": rules, "add": [alice]})
    assert answer.status == 200, answer.body
    made.revision = answer.json()["revision"]
    return made


def export(installation, tenant, directory):
    """Export a tenant's policy with the command line; return the directory."""
    environment = clean_environment(KASBAH_URL=installation.first.base_url, KASBAH_API_KEY=installation.platform_key)

    def kasbah(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "service", *arguments],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return kasbah


def rows_of(installation, tenant, part):
    """Return every row that the API lists."""
    answer = installation.first.request(
        "GET", f"/v1/tenants/{tenant.slug}/{part}?limit=1000", key=installation.platform_key
    )
    assert answer.status == 200, answer.body
    return answer.json()[part]


def test_a_name_is_itself_and_no_other(installation, bare):
    """Every legal name gets a rule of its own: it may do that, and nobody else may."""
    rules = [
        {"type": "rule", "subject": f"user:{name}", "resource": f"box:{number}", "action": "open"}
        for number, name in enumerate(NAMES)
    ]
    answer = bare.change(installation.first, "rules", {"add": rules})
    assert answer.status == 200, answer.body
    assert answer.json()["added"] == len(NAMES)
    revision = answer.json()["revision"]
    asked = [
        {
            "subject": {"type": "user", "id": name},
            "action": {"name": "open"},
            "resource": {"type": "box", "id": str(number)},
        }
        for name, number in itertools.product(NAMES, range(len(NAMES)))
    ]
    decisions = []
    for start in range(0, len(asked), 500):
        answer = installation.second.request(
            "POST",
            "/access/v1/evaluations",
            {"evaluations": asked[start : start + 500]},
            key=bare.key,
            headers={"Kasbah-Min-Revision": str(revision)},
        )
        assert answer.status == 200, answer.body
        decisions += [item["decision"] for item in answer.json()["evaluations"]]
    expected = [name == NAMES[number] for name, number in itertools.product(NAMES, range(len(NAMES)))]
    wrong = [question for question, found, right in zip(asked, decisions, expected, strict=True) if found is not right]
    assert wrong == []
    assert {rule["subject"] for rule in rows_of(installation, bare, "rules")} >= {f"user:{name}" for name in NAMES}


def test_no_name_reaches_anothers_rule(installation, bare):
    """Asked as subject, resource and action: only alice opens alice's secret."""
    for name in (*NAMES, "alice ", " alice", "alice*", "*", "alic*", "alice,", "%61lice", "alice\\u0000"):
        for question in (
            Question(f"user:{name}", "open", "secret:alice"),
            Question("user:alice", "open", f"secret:{name}"),
            Question("user:mallory", name, "secret:alice"),
        ):
            right = question == Question("user:alice", "open", "secret:alice")
            assert bare.ask(installation.second, question, bare.revision).decision is right, question
    for subject in ("role:admin", "group:everyone", "user", "USER:alice", "user:role:admin"):
        seen = bare.ask(installation.second, Question(subject, "open", "secret:alice"), bare.revision)
        assert seen.decision is not True


@pytest.mark.parametrize("place", ["subject", "resource", "action", "member", "role", "ref"])
def test_what_is_no_name_is_refused_whole(installation, bare, place):
    """A batch with one such row changes nothing, and is answered with a problem that points at it."""
    before = bare.head(installation.first)
    good = {"type": "rule", "subject": "user:good", "resource": "record:1", "action": "read"}
    for name in ILLEGAL:
        value = (
            name if place == "action" else f"user:{name}" if place in {"subject", "member", "ref"} else f"role:{name}"
        )
        row = {
            "subject": {"type": "rule", "subject": value, "resource": "record:1", "action": "read"},
            "resource": {"type": "rule", "subject": "user:x", "resource": value, "action": "read"},
            "action": {"type": "rule", "subject": "user:x", "resource": "record:1", "action": value},
            "member": {"type": "link", "member": value, "role": "role:editor"},
            "role": {"type": "link", "member": "user:x", "role": value},
            "ref": {"type": "entity", "kind": "subject", "ref": value, "properties": {}},
        }[place]
        part = {"member": "memberships", "role": "memberships", "ref": "entities"}.get(place, "rules")
        added = [good, row] if part == "rules" else [row]
        answer = bare.change(installation.first, part, {"add": added})
        assert answer.status in {400, 422}, (name, answer.status, answer.body)
        assert answer.headers["content-type"] == "application/problem+json"
        asked = bare.ask(installation.second, Question(f"user:{name}", "open", "secret:alice"))
        assert asked.decision is (False if name in UNWRITABLE else None), asked
        assert name in UNWRITABLE or asked.fault.startswith("status 400"), asked
    assert bare.head(installation.first) == before


def test_a_star_inside_a_name_is_refused_not_widened(installation, bare):
    """`*` stands last, in rules alone; a role or member is never a pattern."""
    for row, part in (
        ({"type": "rule", "subject": "user:a*b", "resource": "record:1", "action": "read"}, "rules"),
        ({"type": "rule", "subject": "user:**", "resource": "record:1", "action": "read"}, "rules"),
        ({"type": "rule", "subject": "us*:a", "resource": "record:1", "action": "read"}, "rules"),
        ({"type": "rule", "subject": "user:a", "resource": "record:1", "action": "re*"}, "rules"),
        ({"type": "link", "member": "user:*", "role": "role:editor"}, "memberships"),
        ({"type": "link", "member": "user:a", "role": "role:*"}, "memberships"),
        ({"type": "link", "member": "user:a", "role": "*"}, "memberships"),
    ):
        answer = bare.change(installation.first, part, {"add": [row]})
        assert answer.status in {400, 422}, (row, answer.status)


def test_strange_names_survive_apply_export_lint_and_plan(installation, bare, tmp_path):
    """Files to server and back: the plan of what was exported says that nothing would change."""
    kasbah = export(installation, bare, tmp_path)
    source = tmp_path / "source" / bare.slug
    source.mkdir(parents=True)
    (tmp_path / "source" / "model.conf").write_bytes((ROOT / "policies" / "model.conf").read_bytes())
    names = [name for name in LEGAL if name not in {"user:alice", "role:admin"}]
    lines = []
    for number, name in enumerate(names):
        quoted = '"' + f"user:{name}".replace('"', '""') + '"'
        lines.append(f"p,{quoted},{bare.slug},box:{number},open,allow")
        lines.append(f"g,{quoted},role:strange,{bare.slug}")
    (source / "policy.csv").write_text("\n".join(lines) + "\n", "utf-8")
    applied = kasbah("policy", "apply", str(tmp_path / "source"), "--yes")
    assert applied.returncode == 0, applied.stdout + applied.stderr
    stored = {row["subject"] for row in rows_of(installation, bare, "rules") if row["owner"] == "files"}
    assert stored == {f"user:{name}" for name in names}
    out = tmp_path / "out"
    exported = kasbah("policy", "export", "--tenant", bare.slug, str(out))
    assert exported.returncode == 0, exported.stdout + exported.stderr
    linted = kasbah("policy", "lint", str(out))
    assert linted.returncode in {0, 1}, linted.stdout + linted.stderr
    assert "0 errors" in linted.stdout, linted.stdout
    planned = kasbah("policy", "plan", str(out), "--detailed-exitcode")
    assert planned.returncode == 0, planned.stdout + planned.stderr


def test_files_refuse_names_that_look_like_others(installation, bare, tmp_path):
    """Nothing is sent, and every one of them is named."""
    kasbah = export(installation, bare, tmp_path)
    for number, name in enumerate(LOOK_ALIKES):
        source = tmp_path / str(number) / bare.slug
        source.mkdir(parents=True)
        rows = [f'p,"user:{one}",{bare.slug},box:1,open,allow' for one in ("alice", name)]
        (source / "policy.csv").write_text("\n".join(rows) + "\n", "utf-8")
        applied = kasbah("policy", "apply", str(source.parent), "--yes")
        assert applied.returncode in {1, 5}, (name, applied.stdout)
    assert {row["owner"] for row in rows_of(installation, bare, "rules")} == {"api"}


NUL_TEXTS = ("a\0b", "\0", "\ud800")


def test_text_that_no_database_takes_is_refused_or_kept_whole(installation, bare):
    """NUL and lone surrogates in everything that is no name: 4xx, or stored and told as they were; never 5xx."""
    first, path = installation.first, f"/v1/tenants/{bare.slug}"
    rule = {"type": "rule", "subject": "user:n", "resource": "record:n", "action": "read"}
    for text in NUL_TEXTS:
        entity = {"type": "entity", "kind": "subject", "ref": "user:n"}
        for where, body in (
            (f"{path}/entities", {"add": [entity | {"properties": {"note": text}}]}),
            (f"{path}/entities", {"add": [entity | {"properties": {text: 1}}]}),
            (f"{path}/entities", {"add": [entity | {"properties": {"deep": [{"er": [text]}]}}]}),
            (f"{path}/rules", {"add": [rule | {"condition": f'subject.id == "{text}"'}]}),
            (f"{path}/rules", {"add": [rule], "reason": text}),
            (f"{path}/keys", {"name": text}),
            (f"{path}/policy/plan", {"rows": [rule | {"source": {"file": text, "line": 1}}]}),
            (f"{path}/policy/plan", {"rows": [], "except_tenants": [text]}),
            (f"{path}/policy/plan", {"rows": [], "model": text}),
            ("/v1/tenants", {"slug": text}),
            ("/v1/tenants", {"slug": f"t-{len(text)}", "display_name": text}),
            ("/v1/tenants", {"slug": f"t-{len(text)}", "reason": text}),
        ):
            answer = first.request("POST", where, body, key=installation.platform_key)
            assert answer.status < 500, (where, body, answer.status, answer.body)
        for header in ("Idempotency-Key", "X-Request-ID"):
            answer = first.request(
                "POST", f"{path}/keys", {"name": "n"}, key=installation.platform_key, headers={header: "a%00b'"}
            )
            assert answer.status < 500


def test_names_in_paths_and_headers_lead_nowhere(installation, bare):
    """Slugs, cursors and headers with quotes, dots and line breaks are 4xx, never another tenant's and never a 500."""
    first = installation.first
    for slug in (
        "..",
        "%2e%2e",
        f"{bare.slug}%00",
        f"{bare.slug}%0a",
        "%27%20OR%201=1--",
        "_platform",
        "*",
        "%2a",
        "a" * 300,
    ):
        for part in ("", "/rules", "/policy/history", "/keys"):
            answer = first.request("GET", f"/v1/tenants/{slug}{part}", key=installation.platform_key)
            assert 400 <= answer.status < 500, (slug, part, answer.status)
    for header in ("' OR 1=1", "*", "_base", "_platform", f"{bare.slug},other", f" {bare.slug}x", bare.slug.upper()):
        answer = first.request(
            "POST", "/access/v1/evaluation", EDIT, key=installation.platform_key, headers={"X-Tenant-ID": header}
        )
        assert 400 <= answer.status < 500, (header, answer.status)


EDIT = {
    "subject": {"type": "user", "id": "alice"},
    "action": {"name": "open"},
    "resource": {"type": "secret", "id": "alice"},
}
