"""Reading `entities.yaml` and `cases.yaml`: plain data only, every fault at its place, bombs defused."""

import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from authz.policy_files import parse_cases, parse_entities
from authz.policy_files.yaml_text import read_yaml
from authz.request import Auth
from authz.rules import Effect, EntityKind

FAULTS = [
    # text, line, column, code
    ("a: [1", 1, 6, "yaml"),
    ("a: 1\n b: 2", 2, 3, "yaml"),
    ("a: 1\n---\nb: 2", 2, 1, "yaml"),
    ("a: &x 1", 1, 4, "yaml-alias"),
    ("a: *x", 1, 4, "yaml-alias"),
    ("a: {<<: 1}", 1, 5, "yaml-alias"),
    ("a: !!python/object/apply:os.system [ls]", 1, 4, "yaml-tag"),
    ("a: !!str 1", 1, 4, "yaml-tag"),
    ("a: !custom {}", 1, 4, "yaml-tag"),
    ("a: 1\nb: 2\na: 3", 3, 1, "duplicate-key"),
    ("x: {a: 1, 'a': 2}", 1, 11, "duplicate-key"),
    ("1: a", 1, 1, "yaml-key"),
    ("true: a", 1, 1, "yaml-key"),
    ("? [a]\n: b", 1, 3, "yaml-key"),
    ("a: yes", 1, 4, "ambiguous-scalar"),
    ("a: Off", 1, 4, "ambiguous-scalar"),
    ("a: 010", 1, 4, "ambiguous-scalar"),
    ("a: 0x1F", 1, 4, "ambiguous-scalar"),
    ("a: 1_000", 1, 4, "ambiguous-scalar"),
    ("a: 12:30:00", 1, 4, "ambiguous-scalar"),
    ("a: .nan", 1, 4, "ambiguous-scalar"),
    ("a: -.inf", 1, 4, "ambiguous-scalar"),
    ("a: 9223372036854775808", 1, 4, "number-range"),
    ("a: 1" + "0" * 5000, 1, 4, "number-range"),
    ("a: 1e999", 1, 4, "number-range"),
    ('a: "x\\0"', 1, 4, "control-character"),
    ('a: "\\ud800"', 1, 7, "yaml"),
    ("# seen\u2028a: 1", 1, 7, "control-character"),
    ("# seen\ra: 1", 1, 7, "control-character"),
    ("a: \x07", 1, 4, "control-character"),
    ("# \u202e", 1, 3, "bidirectional-text"),
]


@pytest.mark.parametrize(("text", "line", "column", "code"), FAULTS)
def test_what_is_not_plain_data_is_reported_at_its_place(text, line, column, code):
    """Nothing is constructed, repaired or guessed."""
    _, faults = read_yaml(text)
    assert (line, column, code) in [(f.line, f.column, f.code) for f in faults]
    parsed = parse_entities(text, "acme")
    assert parsed.entities == []
    assert parsed.findings


def test_scalars_are_what_json_would_have():
    """The core schema of YAML 1.2, without what JSON cannot say."""
    text = "a: [null, ~, true, False, 0, -7, 1.5, 1e3, 2024-01-01, '010', \"yes\", y, 1.2.3, a b, '']"
    node, faults = read_yaml(text)
    assert faults == []
    value = node.plain()["a"]
    assert value == [None, None, True, False, 0, -7, 1.5, 1000.0, "2024-01-01", "010", "yes", "y", "1.2.3", "a b", ""]
    assert [type(each) for each in value[2:8]] == [bool, bool, int, int, float, float]


BOMBS = {
    "billion laughs": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(
        f"{n}: &{n} [*{p},*{p},*{p},*{p},*{p},*{p},*{p},*{p}]\n" for p, n in zip("abcdefgh", "bcdefghi", strict=True)
    ),
    "deep flow": "[" * 200_000,
    "deep mappings": "{a: " * 200_000,
    "deep blocks": "".join(" " * depth + "a:\n" for depth in range(2000)),
    "deep sequences": "- " * 100_000,
    "quoted keys": "? " * 100_000,
    "self reference": "a: &a {b: *a}",
    "many documents": "--- 1\n" * 100_000,
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_at_once(name):
    """A small file cannot take much memory, time or stack."""
    started = time.perf_counter()
    node, faults = read_yaml(BOMBS[name])
    assert faults
    assert time.perf_counter() - started < 5
    assert node is None or name in {"billion laughs", "self reference"}


def test_entities_are_read():
    """Subjects and resources with their attributes; an entity without any is one all the same."""
    parsed = parse_entities(
        "subjects:\n  user:bob: {role: admin, n: 1}\n  user:eve:\nresources:\n  record:1: {a: {b: [1]}}\n", "acme"
    )
    assert parsed.findings == []
    assert [(e.kind, e.ref, e.properties, str(e.source)) for e in parsed.entities] == [
        (EntityKind.SUBJECT, "user:bob", {"role": "admin", "n": 1}, "entities.yaml:2"),
        (EntityKind.SUBJECT, "user:eve", {}, "entities.yaml:3"),
        (EntityKind.RESOURCE, "record:1", {"a": {"b": [1]}}, "entities.yaml:5"),
    ]


@pytest.mark.parametrize(
    ("text", "line", "column", "code"),
    [
        ("- a", 1, 1, "entities"),
        ("subject:\n  user:a: {}", 1, 1, "unknown-key"),
        ("subjects: [user:a]", 1, 11, "entities"),
        ("subjects:\n  bob: {}", 2, 3, "bad-name"),
        ("subjects:\n  user:*: {}", 2, 3, "bad-name"),
        ("subjects:\n  user:bob: admin", 2, 13, "entities"),
        ('subjects:\n  "user:a\\nb": {}', 2, 3, "bad-name"),
    ],
)
def test_malformed_entities_are_reported_at_their_place(text, line, column, code):
    """Shape and names are checked; the rest of the file is read."""
    parsed = parse_entities(text + "\n", "acme")
    assert [(f.file, f.line, f.column, f.code) for f in parsed.findings] == [("acme/entities.yaml", line, column, code)]
    assert parsed.entities == []


@pytest.mark.parametrize("text", ["", "# nothing\n", "subjects:\n", "~"])
def test_empty_entities_are_none(text):
    """An empty file, or section, is no fault."""
    parsed = parse_entities(text, "acme")
    assert (parsed.findings, parsed.entities) == ([], [])


CASE = "- name: n\n  subject: user:a\n  action: read\n  resource: record:1\n  decision: true\n"


def test_cases_are_read_in_both_forms():
    """Short texts and AuthZEN objects say the same."""
    text = (
        CASE + "- name: m\n"
        "  subject: {type: user, id: a, properties: {x: 1}}\n"
        "  action: {name: read, properties: {soft: true}}\n"
        "  resource: {type: record, id: '1'}\n"
        "  context: {ip: 10.0.0.1}\n"
        "  auth: {acr: aal2, amr: [pwd, otp], time: 2025-12-31T23:59:00Z}\n"
        "  now: 2026-01-01T00:00:00Z\n"
        "  decision: false\n"
        "  rules: [policy.csv:1, _base/policy.csv:2]\n"
        "  why: >\n    because\n    of this\n"
    )
    parsed = parse_cases(text, "acme")
    assert parsed.findings == []
    short, full = parsed.cases
    assert short.request == replace(full.request, auth=None)
    assert full.request.auth == Auth("aal2", ("pwd", "otp"), datetime(2025, 12, 31, 23, 59, tzinfo=UTC))
    assert (short.expected, short.rules, short.now, short.why, str(short.source)) == (
        Effect.ALLOW,
        None,
        None,
        None,
        "cases.yaml:1",
    )
    assert (full.expected, full.rules, full.why) == (
        Effect.DENY,
        ("policy.csv:1", "_base/policy.csv:2"),
        "because of this",
    )
    assert full.now == datetime(2026, 1, 1, tzinfo=UTC)
    assert full.request.subject.properties == {"x": 1}
    assert full.request.action.properties == {"soft": True}
    assert full.request.context == {"ip": "10.0.0.1"}
    assert full.rule_positions == ((14, 11), (14, 25))


@pytest.mark.parametrize(
    ("text", "line", "column", "code"),
    [
        ("a: 1", 1, 1, "cases"),
        ("- text", 1, 3, "case"),
        (CASE.replace("  decision: true\n", ""), 1, 3, "case"),
        (CASE.replace("true", "allow"), 5, 13, "case"),
        (CASE.replace("name: n", "name: ''"), 1, 9, "case"),
        (CASE.replace("user:a", "alice"), 2, 12, "bad-name"),
        (CASE.replace("user:a", "{type: user}"), 2, 12, "case"),
        (CASE.replace("user:a", "{type: user, id: a, role: x}"), 2, 32, "unknown-key"),
        (CASE.replace("user:a", "{type: user, id: a, properties: 1}"), 2, 12, "case"),
        (CASE.replace("user:a", "[user]"), 2, 12, "case"),
        (CASE.replace("read", "''"), 3, 11, "bad-name"),
        (CASE.replace("read", "{id: x}"), 3, 12, "unknown-key"),
        (CASE + "  now: tomorrow\n", 6, 8, "bad-time"),
        (CASE + "  rules: policy.csv:1\n", 6, 10, "case"),
        (CASE + "  rules: [1]\n", 6, 10, "case"),
        (CASE + "  context: []\n", 6, 12, "case"),
        (CASE + "  auth: aal2\n", 6, 9, "case"),
        (CASE + "  auth: {acr: aal3}\n", 6, 15, "case"),
        (CASE + "  auth: {level: aal2}\n", 6, 9, "case"),
        (CASE + "  auth: {acr: aal2, amr: pwd}\n", 6, 26, "case"),
        (CASE + "  auth: {amr: [pwd, 'a b']}\n", 6, 15, "case"),
        (CASE + "  auth: {time: yesterday}\n", 6, 16, "case"),
        (CASE + "  reason: x\n", 6, 3, "unknown-key"),
        (CASE + CASE, 6, 3, "duplicate-case"),
    ],
)
def test_malformed_cases_are_reported_at_their_place(text, line, column, code):
    """A case that cannot be asked is a fault of the file, not a case that passes."""
    parsed = parse_cases(text, "acme")
    assert ("acme/cases.yaml", line, column, code) in [(f.file, f.line, f.column, f.code) for f in parsed.findings]
    if code != "duplicate-case":
        assert parsed.cases == []
