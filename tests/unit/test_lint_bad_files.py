"""A bad file for every code that lint knows: found at its very place, and with a hint what to do."""

import re
from datetime import UTC, datetime

import pytest

from authz.compile_model import compile_model
from authz.default_model import DEFAULT_MODEL_TEXT
from authz.lint import lint
from authz.policy_files import read_directory
from tests.support.paths import ROOT

NOW = datetime(2026, 6, 1, tzinfo=UTC)
GOOD = "p, role:editor, acme, record:*, write\ng, user:ann, role:editor, acme\n"
CASE = "- name: n\n  subject: user:ann\n  action: write\n  resource: record:1\n  decision: true\n"
DEFAULT_EFFECT = "some(where (p.eft == allow)) && !some(where (p.eft == deny))"
ALLOW_ONLY = DEFAULT_MODEL_TEXT.replace(DEFAULT_EFFECT, "some(where (p.eft == allow))")
BY_PRIORITY = DEFAULT_MODEL_TEXT.replace(DEFAULT_EFFECT, "priority(p.eft) || deny").replace(
    "p = sub", "p = priority, sub"
)
CHAIN = "".join(f"g, role:r{n}, role:r{n + 1}, acme\n" for n in range(40))
MATCHER_LINE = 1 + DEFAULT_MODEL_TEXT[: DEFAULT_MODEL_TEXT.index("m = ")].count("\n")
EFFECT_LINE = 1 + DEFAULT_MODEL_TEXT[: DEFAULT_MODEL_TEXT.index("e = ")].count("\n")
POLICY, ENTITIES, CASES, BASE = "acme/policy.csv", "acme/entities.yaml", "acme/cases.yaml", "_base/policy.csv"


def of(code, place, content, *, file=POLICY, **files):
    """One expectation: `content` stands in `file` (other files are good), and `code` is found at `place`."""
    wanted = {
        POLICY: GOOD,
        file: content,
        **{name.replace("_of_", "/").replace("__", "."): text for name, text in files.items()},
    }
    return pytest.param(code, place, wanted, id=f"{code} {place}")


def row(code, column, text, *, line=1):
    return of(code, (POLICY, line, column), text)


def entities(code, line, column, text):
    return of(code, (ENTITIES, line, column), text, file=ENTITIES)


def cases(code, line, column, text):
    return of(code, (CASES, line, column), text, file=CASES)


def model(code, line, text, rows=GOOD):
    return pytest.param(code, ("model.conf", line, 1), {"model.conf": text, POLICY: rows}, id=f"{code} {line}")


BAD = [
    row("account-name", 4, "p, user:name=a*, acme, record:1, read\n"),
    row("account-name", 4, "g, user:name=, role:editor, acme\n"),
    row("account-name", 4, "g, service:name=, role:editor, acme\n"),
    entities("ambiguous-scalar", 2, 17, "subjects:\n  user:ann: {x: yes}\n"),
    row("bad-name", 4, "p, editor, acme, record:1, write\n"),
    row("bad-name", 4, "p, , acme, record:1, write\n"),
    row("bad-name", 18, "p, user:a, acme, record, write\n"),
    row("bad-name", 4, 'p, "user:ann, acme, record:1, read\np, user:b", acme, record:1, read\n'),
    row("bad-name", 4, f"p, role:{'a' * 3000}, acme, record:1, read\n"),
    row("bad-name", 14, "g, user:ann, user:bob, acme\n"),
    of("bad-priority", (POLICY, 1, 4), "p, -1, user:ann, acme, record:1, read\n", model__conf=BY_PRIORITY),
    of("bad-priority", (POLICY, 1, 4), "p, , user:ann, acme, record:1, read\n", model__conf=BY_PRIORITY),
    of("bad-slug", ("Acme Corp", 1, 1), GOOD, file="Acme Corp/policy.csv"),
    row("bad-time", 33, "g, user:ann, role:editor, acme, 2031-01-01\n"),
    cases("bad-time", 6, 8, CASE + "  now: yesterday\n"),
    of("base-entities", ("_base/entities.yaml", 1, 1), "subjects: {}\n", file="_base/entities.yaml", _base_of_policy__csv=""),
    of("base-member", (BASE, 1, 4), "g, user:ann, role:editor, *\n", file=BASE),
    row("bidirectional-text", 10, "p, user:a\u202eb, acme, record:1, read\n"),
    entities("bidirectional-text", 1, 4, "# a\u202eb\n"),
    row("blank-at-end", 4, 'p, "user:ann ", acme, record:1, read\n'),
    row("blank-at-end", 4, "p, user: ånn, acme, record:1, read\n"),
    cases("case", 1, 3, "- name: a\n  subject: user:ann\n"),
    cases("case", 2, 12, CASE.replace("user:ann", "[]")),
    cases("cases", 1, 1, "name: a\n"),
    row("column-count", 23, "p, role:editor, acme, record:1\n"),
    row("column-count", 1, "p\n"),
    row("comment-in-value", 33, "p, role:editor, acme, record:1, write # why\n"),
    row("comment-in-value", 33, "p, role:editor, acme, record:1, wríte # why\n"),
    row("condition", 47, "p, role:editor, acme, record:1, write, allow, foo == 1\n"),
    row("condition", 58, "p, role:editor, acme, record:1, write, allow, subject.id = 'a'\n"),
    row("conflicting-expiry", 33, GOOD + "g, user:ann, role:editor, acme, 2031-01-01T00:00:00Z\n", line=3),
    row("control-character", 10, "p, user:a\x07b, acme, record:1, read\n"),
    row("control-character", 34, "p, user:ann, acme, record:1, read\r# not a comment\n"),
    entities("control-character", 2, 3, "subjects:\n  \x01user:ann: {}\n"),
    row("covered-rule", 4, "p, user:ann, acme, record:*, *\np, user:ann, acme, record:1, read\n", line=2),
    row("csv", 12, 'p, "user:c"x, acme, record:1, read\n'),
    row("csv", 4, 'p, "user:c, acme, record:1, read\n'),
    row("deep-chain", 4, "p, role:r40, acme, record:1, read\n" + CHAIN, line=9),
    cases("duplicate-case", 6, 3, CASE + CASE),
    entities("duplicate-key", 2, 20, "subjects:\n  user:ann: {x: 1, x: 2}\n"),
    row("duplicate-link", 4, GOOD + "g, user:ann, role:editor, acme\n", line=3),
    row("duplicate-rule", 4, GOOD + "p, role:editor, acme, record:*, write, allow\n", line=3),
    row("encoding", 12, b"p, user:caf\xe9, acme, record:1, read\n"),
    row("encoding", 1, GOOD.encode("utf-16-le")),
    entities("entities", 1, 1, "- x\n"),
    entities("entity-size", 2, 3, f"subjects:\n  user:ann: {{x: {'a' * 70000}}}\n"),
    row("expired-grant", 33, GOOD + "g, user:bob, role:editor, acme, 2020-01-01T00:00:00Z\n", line=3),
    of("idle-deny", (POLICY, 1, 36), "p, user:ann, acme, record:1, read, deny\n", model__conf=ALLOW_ONLY),
    row("invisible-character", 4, "p, user:a\u200bb, acme, record:1, read\n"),
    row("key-scope", 4, "p, scope:key:read, acme, record:1, read\n"),
    row("look-alike", 4, "p, user:ann, acme, record:1, read\np, user:Ann, acme, record:2, read\n", line=2),
    row("look-alike", 4, "p, user:ann, acme, record:1, read\np, user:аnn, acme, record:2, read\n", line=2),
    row("misplaced-star", 9, "p, user:*a, acme, record:1, read\n"),
    pytest.param("missing-file", (POLICY, 1, 1), {CASES: CASE}, id="missing-file"),
    model("model", EFFECT_LINE, DEFAULT_MODEL_TEXT.replace("some(where (p.eft == allow)) && ", "")),
    model("model", MATCHER_LINE, DEFAULT_MODEL_TEXT.replace("keyMatch(r.obj", "keyMatsch(r.obj")),
    model("model", 1, "nonsense\n"),
    row("never-matches", 41, "p, user:a, acme, record:1, read, allow, false\n"),
    of("not-a-tenant", ("notes", 1, 1), "x", file="notes/readme.md"),
    entities("number-range", 2, 17, "subjects:\n  user:ann: {x: 99999999999999999999999}\n"),
    row("overruled-rule", 4, "p, user:ann, acme, record:1, read\np, user:*, acme, record:*, *, deny\n"),
    row("pattern-on-roles", 4, "p, role:*, acme, record:1, read\n"),
    row("platform-resource", 20, "p, user:ann, acme, kasbah:x, read\n"),
    row("platform-role", 14, "g, user:ann, role:platform-admin, acme\n"),
    row("role-cycle", 4, "p, role:a, acme, record:1, read\ng, role:a, role:b, acme\ng, role:b, role:a, acme\n", line=3),
    row("role-without-rules", 14, GOOD + "g, user:bob, role:nobody, acme\n", line=3),
    row("shadowing-wildcard", 20, "p, user:ann, acme, record:1, read\np, user:ann, acme, *, read\n", line=2),
    row("star-domain", 14, "p, user:ann, *, record:1, read\n"),
    row("tenant-mismatch", 14, "p, user:ann, globex, record:1, read\n"),
    entities("too-large", 1, 1, "#" * (16 * 1024 * 1024 + 1)),
    row("unicode-form", 4, "p, user:cafe\u0301, acme, record:1, read\n"),
    row("unicode-space", 4, "p, user:ann\u00a0, acme, record:1, read\n"),
    model("unindexed-matcher", MATCHER_LINE, DEFAULT_MODEL_TEXT.rstrip() + " && r.sub != r.obj\n"),
    row("unknown-effect", 36, "p, user:ann, acme, record:1, read, dney\n"),
    of("unknown-file", ("acme/polcy.csv", 1, 1), GOOD, file="acme/polcy.csv"),
    of("unknown-file", ("policy.csv", 1, 1), GOOD, file="policy.csv"),
    of("unknown-file", ("Model.conf", 1, 1), DEFAULT_MODEL_TEXT, file="Model.conf"),
    cases("unknown-key", 6, 3, CASE + "  descision: true\n"),
    entities("unknown-key", 1, 1, "subject: {}\n"),
    row("unknown-kind", 1, "P, user:ann, acme, record:1, read\n"),
    row("unknown-kind", 1, "p;user:ann;acme;record:1;read\n"),
    row("unknown-role", 4, GOOD + "p, role:edtor, acme, record:1, delete\n", line=3),
    cases("unknown-rule", 6, 11, CASE + "  rules: [policy.csv:9]\n"),
    pytest.param("unreadable", (ENTITIES, 1, 1), {POLICY: GOOD, f"{ENTITIES}/x": ""}, id="unreadable"),
    cases("yaml", 2, 1, "- name: [\n"),
    entities("yaml", 2, 1, "subjects:\n\tuser:ann: {}\n"),
    entities("yaml-alias", 1, 4, "a: &a [x]\n"),
    entities("yaml-depth", 1, 33, "[" * 100_000),
    entities("yaml-key", 2, 3, "subjects:\n  1: {}\n"),
    entities("yaml-tag", 2, 13, "subjects:\n  user:ann: !!python/object/apply:os.system [id]\n"),
]  # fmt: skip


def write(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def found_in(root):
    return lint(read_directory(root), now=NOW, compile_model=compile_model)


@pytest.mark.parametrize(("code", "place", "files"), BAD)
def test_each_fault_is_found_at_its_place_with_a_hint(tmp_path, code, place, files):
    """File, line and column are the fault's own; nothing is reported without saying what to do."""
    write(tmp_path, files)
    findings = found_in(tmp_path)
    assert (code, place) in {(each.code, (each.file, each.line, each.column)) for each in findings}
    assert [each for each in findings if not each.hint.strip() or not each.message.strip()] == []


def test_every_code_has_a_bad_file_here():
    """A code without one would be a promise nobody tried; `symlink` has tests of its own below."""
    table = (ROOT / "docs" / "policy-files.md").read_text().partition("## What lint finds")[2]
    rows = [re.findall(r"`([a-z-]+)`", line.split("|")[1]) for line in table.splitlines() if line.startswith("| `")]
    assert {code for row_ in rows for code in row_} == {parameter.values[0] for parameter in BAD} | {"symlink"}


HINTS = {
    "p;user:ann;acme;record:1;read\n": "fields are separated by commas",
    "p\tuser:ann\tacme\trecord:1\tread\n": "fields are separated by commas",
    "// a comment\n": "comments start with `#`",
    "ptype,v0,v1,v2,v3\n": "policy files have no header: remove the line, or make it a comment with `#`",
    "p, editor, acme, record:1, read\n": "write `user:…`, `role:…`, `user:*`",
    "p, user:ann, acme, record, read\n": "write `record:…`, `record:*`, `*`",
    "p,\u00a0user:ann, acme, record:1, read\n": "a no-break space stands at its end: type a plain blank instead, or none",
    "p, “user:ann”, acme, record:1, read\n": 'fields are quoted with `"` alone',
    'p, "user:ann, acme, x:1, read\np, user:b", acme, x:1, read\n': "close the quote on the line where it was opened",
    GOOD.replace("\n", "\r"): "end lines with a line feed (LF, or CR LF)",
    GOOD + "g, user:bob, role:edtor, acme\n": "did you mean `role:editor`?",
    GOOD + "p, role:edtor, acme, record:1, read\n": "did you mean `role:editor`?",
    "p, user:ann, acme, record:1, read, allow, subject.id = 'a'\n": "`==` compares",
    "p, user:ann, acme, record:1, read, allow, subject.id == “a”\n": "texts stand in plain quotes, as in `'draft'`",
    "p, user:ann, acme, record:1, read, allow, subject.id == draft\n": (
        "for the text write `'draft'`; names are subject, action, resource, context, auth and now"
    ),
}


@pytest.mark.parametrize(("text", "hint"), HINTS.items(), ids=range(len(HINTS)))
def test_hints_say_what_was_meant(tmp_path, text, hint):
    """The slips that people make most are named as such."""
    write(tmp_path, {POLICY: text})
    assert hint in [each.hint for each in found_in(tmp_path)]


def test_letters_that_look_the_same_are_told_apart(tmp_path):
    """A message with the same name twice would help nobody."""
    write(tmp_path, {POLICY: "p, user:ann, acme, x:1, read\np, user:\u0430nn, acme, x:2, read\n"})
    messages = [each.message for each in found_in(tmp_path) if each.code == "look-alike"]
    assert messages == [
        "`user:\u0430nn` and `user:ann` (policy.csv:1) look alike: U+0430 CYRILLIC SMALL LETTER A in one of them"
    ]


def test_a_fault_of_one_value_hides_no_other(tmp_path):
    """All findings in one go: an unquoted `yes` does not keep the rest of its file from being looked at."""
    text = CASE.replace("decision: true", "decision: yes") + "  descision: true\n- name: second\n"
    write(tmp_path, {POLICY: GOOD, CASES: text})
    assert [(each.line, each.code) for each in found_in(tmp_path)] == [
        (5, "ambiguous-scalar"),
        (6, "unknown-key"),
        *[(7, "case")] * 4,
    ]


def test_links_that_lead_nowhere_are_reported(tmp_path):
    """A tenant whose directory is a broken link would be left out without a word."""
    write(tmp_path, {POLICY: GOOD})
    (tmp_path / "globex").symlink_to("moved-away")
    (tmp_path / "loop").symlink_to("loop")
    assert [(each.file, each.code, bool(each.hint)) for each in found_in(tmp_path)] == [
        ("globex", "symlink", True),
        ("loop", "symlink", True),
    ]


def test_a_file_full_of_control_characters_is_read_in_linear_time(tmp_path):
    """Neither is every one of millions reported, nor is the file read again for each of them."""
    write(tmp_path, {POLICY: b"a\x01" * 1_000_000, ENTITIES: b"a\x01" * 1_000_000})
    places = [each for each in found_in(tmp_path) if each.code == "control-character"]
    assert {each.file for each in places} == {POLICY, ENTITIES}
    assert len(places) < 3000


def test_the_table_is_in_order_of_codes():
    """So that a missing one is seen."""
    codes = [parameter.values[0] for parameter in BAD]
    assert codes == sorted(codes)
