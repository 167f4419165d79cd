"""Reading `policy.csv`: what each malformed row is told, at its exact place, and what is read all the same."""

from datetime import UTC, datetime

import pytest

from authz.policy_files import PolicyColumns, parse_policy, read_columns
from authz.rules import Effect
from tests.support.paths import ROOT

GOOD = "p, role:a, acme, record:1, read"

MALFORMED = [
    # text, line, column, code
    ('p, "role:a, acme, record:1, read', 1, 4, "csv"),
    ('p, role:a, acme, "record:1" x, read', 1, 29, "csv"),
    ('p, role:a, acme, record:"1", read', 1, 25, "csv"),
    ("p, role:a, acme, record:1", 1, 18, "column-count"),
    ("p", 1, 1, "column-count"),
    ("p, role:a, acme, record:1, read, allow, true, extra", 1, 47, "column-count"),
    ("p, role:a, acme, record:1, read, allow, action.name in ['a', 'b']", 1, 62, "column-count"),
    ("g, user:x, role:a", 1, 12, "column-count"),
    ("g, user:x, role:a, acme, 2030-01-01T00:00:00Z, more", 1, 48, "column-count"),
    ("P, role:a, acme, record:1, read", 1, 1, "unknown-kind"),
    ("p2, role:a, acme, record:1, read", 1, 1, "unknown-kind"),
    ("g2, record:1, folder:a, acme", 1, 1, "unknown-kind"),
    ("  , role:a", 1, 3, "unknown-kind"),
    ("p, role:a, acme, record:1, read, Allow", 1, 34, "unknown-effect"),
    ("p, role:a, acme, record:1, read, dney", 1, 34, "unknown-effect"),
    ('p, role:a, acme, record:1, read, " deny"', 1, 34, "unknown-effect"),
    ("p, alice, acme, record:1, read", 1, 4, "bad-name"),
    ("p, , acme, record:1, read", 1, 4, "bad-name"),
    ("p, role:, acme, record:1, read", 1, 4, "bad-name"),
    ("p, 1role:a, acme, record:1, read", 1, 4, "bad-name"),
    ("p, role:a, acme, record 1, read", 1, 18, "bad-name"),
    ("p, role:a, acme, record:1,", 1, 27, "bad-name"),
    ('p, role:a, acme, "record:a\nb", read', 1, 18, "bad-name"),
    ("g, user:x, user:y, acme", 1, 12, "bad-name"),
    ("p, role:a, acme, record:" + "x" * 2049 + ", read", 1, 18, "bad-name"),
    ("p, us*r:x, acme, record:1, read", 1, 6, "misplaced-star"),
    ("p, us*, acme, record:1, read", 1, 6, "misplaced-star"),
    ("p, role:a, acme, record:*/x, read", 1, 25, "misplaced-star"),
    ('p, role:a, acme, "record:""x""*y", read', 1, 31, "misplaced-star"),
    ("p, role:a, acme, record:**, read", 1, 25, "misplaced-star"),
    ("p, role:a, acme, record:1, re*", 1, 30, "misplaced-star"),
    ("g, user:*, role:a, acme", 1, 9, "misplaced-star"),
    ("g, user:x, role:*, acme", 1, 17, "misplaced-star"),
    ("p, role:a, other, record:1, read", 1, 12, "tenant-mismatch"),
    ("p, role:a, ACME, record:1, read", 1, 12, "tenant-mismatch"),
    ("g, user:x, role:a, other", 1, 20, "tenant-mismatch"),
    ("p, role:a, , record:1, read", 1, 12, "tenant-mismatch"),
    ("p, role:a, *, record:1, read", 1, 12, "star-domain"),
    ("g, role:a, role:b, *", 1, 20, "star-domain"),
    ("p, role:a, acme, kasbah:policy, write", 1, 18, "platform-resource"),
    ("p, role:a, acme, kasbah:*, write", 1, 18, "platform-resource"),
    ("p, role:platform-admin, acme, record:1, write", 1, 4, "platform-role"),
    ("g, user:x, role:platform-admin, acme", 1, 12, "platform-role"),
    ("g, user:x, role:a, acme, tomorrow", 1, 26, "bad-time"),
    ("g, user:x, role:a, acme, 2030-01-01", 1, 26, "bad-time"),
    ("g, user:x, role:a, acme, 2030-01-01T00:00:00", 1, 26, "bad-time"),
    ("g, user:x, role:a, acme, 2030-02-30T00:00:00Z", 1, 26, "bad-time"),
    ("g, user:x, role:a, acme, 2030-01-01T00:00:00.1234567Z", 1, 26, "bad-time"),
    ("p, role:a\x00, acme, record:1, read", 1, 10, "control-character"),
    ("p, role:a, acme, record:1\u2028, read", 1, 26, "control-character"),
    ("# hidden\rp, role:a, acme, record:1, read", 1, 9, "control-character"),
    ("p, role:a, acme, record:\u202e1, read", 1, 25, "bidirectional-text"),
    ("# \u2066comment", 1, 3, "bidirectional-text"),
]


@pytest.mark.parametrize(("text", "line", "column", "code"), MALFORMED)
def test_a_malformed_row_is_reported_at_its_place(text, line, column, code):
    """One fault, one finding, at the exact column; the rows around it are read."""
    parsed = parse_policy(f"{GOOD}\n{text}\n{GOOD}, allow\n", "acme", PolicyColumns())
    assert [(f.line, f.column, f.code, f.file) for f in parsed.findings] == [
        (line + 1, column, code, "acme/policy.csv")
    ]
    extra = text.count("\n")
    if not text.startswith("#") and "\r" not in text:
        kept = [rule.source.line for rule in parsed.rules]
        assert kept == [1, 3 + extra]
        assert parsed.links == []


def test_a_row_reports_all_its_faults():
    """A row is not given up at its first fault."""
    parsed = parse_policy("p, alice, other, rec*rd:1, re*d, alow\n", "acme", PolicyColumns())
    assert [(f.column, f.code) for f in parsed.findings] == [
        (4, "bad-name"),
        (11, "tenant-mismatch"),
        (21, "misplaced-star"),
        (30, "misplaced-star"),
        (34, "unknown-effect"),
    ]
    assert parsed.rules == []


def test_the_base_has_its_own_domain_and_may_speak_of_the_platform():
    """Rows of `_base` carry `*`, may name `kasbah:` resources, and say where they stand."""
    parsed = parse_policy("p, role:admin, *, kasbah:*, *\ng, role:admin, role:member, *\n", "_base", PolicyColumns())
    assert parsed.findings == []
    assert parsed.rules[0].base
    assert parsed.links[0].base
    assert str(parsed.rules[0].source) == "_base/policy.csv:1"


@pytest.mark.parametrize(
    ("text", "column", "code"),
    [
        ("p, role:a, acme, record:1, read", 12, "tenant-mismatch"),
        ("g, user:x, role:a, *", 4, "base-member"),
    ],
)
def test_the_base_speaks_for_every_tenant_only(text, column, code):
    """A row of the base for one tenant, or for a person, is refused."""
    parsed = parse_policy(text, "_base", PolicyColumns())
    assert [(f.file, f.line, f.column, f.code) for f in parsed.findings] == [("_base/policy.csv", 1, column, code)]
    assert parsed.rules == parsed.links == []


def test_what_casbin_reads_is_read():
    """Comments, blank lines, blanks around fields, quoted fields, CRLF, a byte order mark's absence: all as in Casbin."""
    text = (
        "# comment\r\n"
        "\r\n"
        "   # indented comment\r\n"
        "p,role:a,acme,record:1,read\r\n"
        '  p ,  "role:b, the ""best""" ,\tacme , record:#2 , read it , deny , \r\n'
        'p, role:a, acme, record:1, write, , "true ||\r\n  false"\r\n'
        "g, user:x, role:a, acme, 2030-01-01T02:00:00+02:00"
    )
    parsed = parse_policy(text, "acme", PolicyColumns())
    assert parsed.findings == []
    first, second, third = parsed.rules
    assert (first.subject, first.effect, first.condition, str(first.source)) == (
        "role:a",
        Effect.ALLOW,
        None,
        "policy.csv:4",
    )
    assert (second.subject, second.resource, second.action) == ('role:b, the "best"', "record:#2", "read it")
    assert (second.effect, second.source.line) == (Effect.DENY, 5)
    assert (third.condition, third.effect) == ("true ||\n  false", Effect.ALLOW)
    (link,) = parsed.links
    assert link.source.line == 8
    assert link.expires_at == datetime(2030, 1, 1, tzinfo=UTC)


PRIORITY = PolicyColumns(("priority", "sub", "dom", "obj", "act", "eft"))


@pytest.mark.parametrize("priority", ["", "-1", "1.5", "٣", "2147483648", "99999999999", "high", "+1"])
def test_a_priority_is_a_whole_number(priority):
    """Anything but a non-negative integer that the database holds is refused."""
    parsed = parse_policy(f"p, {priority}, role:a, acme, record:1, read, allow", "acme", PRIORITY)
    assert [(f.line, f.column, f.code) for f in parsed.findings] == [(1, 4, "bad-priority")]
    assert parsed.rules == []


def test_priorities_are_read():
    """The priority column stands where the model has it."""
    parsed = parse_policy("p, 10, role:a, acme, record:1, read, deny", "acme", PRIORITY)
    assert [(r.priority, r.effect) for r in parsed.rules] == [(10, Effect.DENY)]


def test_a_model_without_conditions_takes_none():
    """A `cond` without a column is one column too many, never ignored."""
    columns = PolicyColumns(("sub", "dom", "obj", "act", "eft"))
    parsed = parse_policy("p, role:a, acme, record:1, read, deny, true", "acme", columns)
    assert [f.code for f in parsed.findings] == ["column-count"]


def test_resource_roles_are_read_when_the_model_has_them():
    """`g2` groups resources; without a domain in its definition its rows have none."""
    columns = PolicyColumns(links={"g": True, "g2": False})
    parsed = parse_policy("g2, record:1, folder:a\ng2, record:1, kasbah:x\n", "acme", columns)
    assert [(link.kind, link.member, link.role) for link in parsed.links] == [("g2", "record:1", "folder:a")]
    assert [(f.line, f.column, f.code) for f in parsed.findings] == [(2, 15, "platform-resource")]


def test_columns_come_from_the_model():
    """The definitions of `model.conf` say which columns rows have."""
    assert read_columns((ROOT / "policies" / "model.conf").read_text()) == PolicyColumns()
    text = "[policy_definition]\n# p = x\np = priority, sub, \\\n  dom, obj, act, eft\n[role_definition]\ng = _, _, _\ng2 = _, _\n"
    columns = read_columns(text)
    assert columns == PolicyColumns(("priority", "sub", "dom", "obj", "act", "eft"), {"g": True, "g2": False})
    assert columns.required == 5


@pytest.mark.parametrize(
    "text",
    ["", "[policy_definition]\np = sub, obj\n", "[policy_definition]\np = sub, obj, act, sub\n", "p = sub, obj, act\n"],
)
def test_other_models_have_no_columns(text):
    """A model whose rows cannot be typed is said to be one."""
    assert read_columns(text) is None
