"""What lint finds across rows: each finding at its place, and nothing where nothing is wrong."""

from dataclasses import replace

import pytest

from authz.errors import InvalidRowError, ModelError
from authz.findings import Severity
from authz.lint import LintLimits, lint
from authz.lint.nearest import Nearest
from authz.policy_files import PolicyColumns, PolicyDirectory
from authz.request import Ref
from authz.role_chains import MAX_CHAIN
from authz.row_checks import check_hierarchy
from authz.rules import RoleLink
from authz.served_model import ColumnMatch, PolicyEffect
from tests.support.policies import DEFAULT_MODEL, NOW
from tests.support.policy_texts import tenant_files

MODEL_TEXT = """[request_definition]
r = sub, dom, obj, act
[policy_definition]
p = sub, dom, obj, act, eft, cond
[matchers]
m = g(r.sub, p.sub, r.dom)
"""
PRIORITY = PolicyColumns(("priority", "sub", "dom", "obj", "act", "eft"))


def run(text, *, base="", model=DEFAULT_MODEL, columns=None, limits=None, **more):
    """Return the findings for tenant `acme` with `text` as policy.csv."""
    columns = columns or PolicyColumns()
    tenant = tenant_files("acme", text, columns, **more)
    directory = PolicyDirectory(MODEL_TEXT, tenant_files("_base", base, columns), {"acme": tenant}, columns=columns)
    return lint(directory, now=NOW, compile_model=lambda _text: model, limits=limits)


def places(findings, *codes):
    return [(f.file, f.line, f.column, f.code) for f in findings if not codes or f.code in codes]


def at(line, column, code, file="acme/policy.csv"):
    return (file, line, column, code)


CLEAN = """\
p, role:viewer, acme, record:*, read
p, role:editor, acme, record:*, write
p, role:editor, acme, record:1, delete, deny
g, role:editor, role:viewer, acme
g, user:alice, role:editor, acme
"""


def test_a_good_policy_has_no_findings():
    """Nothing is said where nothing is wrong."""
    assert run(CLEAN, base="p, role:member, *, kasbah:tenant, read\n") == []


COVERAGE = [
    # what, text, findings
    (
        "twice",
        "p, user:a, acme, record:1, read\np, user:a, acme, record:1, read, allow\n",
        [at(2, 4, "duplicate-rule")],
    ),
    (
        "wider resource",
        "p, user:a, acme, record:1, read\np, user:a, acme, record:*, read\n",
        [at(1, 4, "covered-rule"), at(2, 18, "shadowing-wildcard")],
    ),
    (
        "wider prefix",
        "p, user:a, acme, record:/x/*, read\np, user:a, acme, record:/*, read\n",
        [at(1, 4, "covered-rule"), at(2, 18, "shadowing-wildcard")],
    ),
    (
        "the prefix itself",
        "p, user:a, acme, record:/x, read\np, user:a, acme, record:/x*, read\n",
        [at(1, 4, "covered-rule"), at(2, 18, "shadowing-wildcard")],
    ),
    (
        "everything",
        "p, user:a, acme, *, read\np, user:a, acme, record:*, read\n",
        [at(1, 18, "shadowing-wildcard"), at(2, 4, "covered-rule")],
    ),
    (
        "wider action",
        "p, user:a, acme, record:1, *\np, user:a, acme, record:1, read\n",
        [at(1, 28, "shadowing-wildcard"), at(2, 4, "covered-rule")],
    ),
    (
        "wider subject",
        "p, user:*, acme, record:1, read\np, user:a, acme, record:1, read\np, user:a*, acme, record:1, read\n",
        [at(1, 4, "shadowing-wildcard"), at(2, 4, "covered-rule"), at(3, 4, "covered-rule")],
    ),
    (
        "every subject",
        "p, *, acme, record:1, read\np, group:a, acme, record:1, read\n",
        [at(1, 4, "shadowing-wildcard"), at(2, 4, "covered-rule")],
    ),
    (
        "inherited",
        "p, role:view, acme, record:1, read\np, role:edit, acme, record:1, read\ng, role:edit, role:view, acme\n",
        [at(2, 4, "covered-rule")],
    ),
    (
        "inherited over two links",
        "p, role:a, acme, r:1, read\ng, role:b, role:a, acme\ng, role:c, role:b, acme\np, role:c, acme, r:1, read\n",
        [at(4, 4, "covered-rule")],
    ),
    (
        "conditional by unconditional",
        "p, user:a, acme, record:1, read\np, user:a, acme, record:1, read, allow, true\n",
        [at(2, 4, "covered-rule")],
    ),
    (
        "conditional by the same condition",
        "p, user:a, acme, record:*, read, allow, context.x == 1\np, user:a, acme, record:1, read, allow, context.x == 1\n",
        [at(1, 18, "shadowing-wildcard"), at(2, 4, "covered-rule")],
    ),
    (
        "deny by wider deny",
        "p, user:a, acme, record:*, read, deny\np, user:a, acme, record:1, read, deny\n",
        [at(1, 18, "shadowing-wildcard"), at(2, 4, "covered-rule")],
    ),
    (
        "allow by wider deny",
        "p, user:a, acme, record:*, *, deny\np, user:a, acme, record:1, read\n",
        [at(1, 18, "shadowing-wildcard"), at(2, 4, "overruled-rule")],
    ),
    (
        "allow by the same deny",
        "p, user:a, acme, record:1, read, deny\np, user:a, acme, record:1, read\n",
        [at(2, 4, "overruled-rule")],
    ),
    # what must not be said
    ("another action", "p, user:a, acme, record:*, read\np, user:a, acme, record:1, write\n", []),
    ("another type", "p, user:a, acme, record:*, read\np, user:a, acme, records:1, read\n", []),
    ("narrower deny", "p, user:a, acme, record:*, read\np, user:a, acme, record:1, read, deny\n", []),
    (
        "conditional deny",
        "p, user:a, acme, record:*, read, deny, context.x == 1\np, user:a, acme, record:1, read\n",
        [],
    ),
    (
        "conditional cover",
        "p, user:a, acme, record:*, read, allow, context.x == 1\np, user:a, acme, record:1, read\n",
        [],
    ),
    (
        "another condition",
        "p, user:a, acme, r:*, read, allow, context.x == 1\np, user:a, acme, r:1, read, allow, context.x == 2\n",
        [],
    ),
    ("a pattern is not for members", "p, user:*, acme, record:1, read\np, role:admin, acme, record:1, read\n", []),
    (
        "an expiring link",
        "p, role:a, acme, r:1, read\np, role:b, acme, r:1, read\ng, role:b, role:a, acme, 2030-01-01T00:00:00Z\n",
        [],
    ),
    (
        "the other way",
        "p, role:a, acme, r:1, read\np, role:b, acme, r:1, read\ng, role:a, role:b, acme\np, role:b, acme, r:2, read\n",
        [at(1, 4, "covered-rule")],
    ),
]


@pytest.mark.parametrize(("text", "expected"), [row[1:] for row in COVERAGE], ids=[row[0] for row in COVERAGE])
def test_rules_that_change_nothing_are_found(text, expected):
    """A rule is called idle exactly when another one provably does all it does."""
    found = run(text)
    codes = {"duplicate-rule", "covered-rule", "overruled-rule", "shadowing-wildcard", "idle-deny"}
    assert places(found, *codes) == expected


def test_rules_of_the_base_cover_those_of_tenants():
    """What every tenant inherits need not be said again; the base itself is not blamed."""
    base = "p, role:member, *, note:*, read\n"
    found = run("p, role:member, acme, note:1, read\np, role:member, acme, note:*, read\n", base=base)
    assert places(found, "covered-rule", "shadowing-wildcard", "duplicate-rule") == [
        at(1, 4, "covered-rule"),
        at(2, 4, "covered-rule"),
    ]


def test_under_allow_override_denies_change_nothing():
    """An effect that ignores denies makes every deny rule idle; it overrules nothing."""
    model = replace(DEFAULT_MODEL, effect=PolicyEffect.ALLOW_OVERRIDE)
    found = run("p, user:a, acme, r:*, read, deny\np, user:a, acme, r:1, read\n", model=model)
    assert places(found) == [at(1, 29, "idle-deny")]


def test_under_priority_the_first_rule_decides():
    """Whatever its effect, a rule is idle when one before it matches all of it; order is priority, base, line."""
    model = replace(DEFAULT_MODEL, effect=PolicyEffect.PRIORITY, columns=PRIORITY.rule)
    text = (
        "p, 10, user:a, acme, r:*, read, deny\n"
        "p, 20, user:a, acme, r:1, read, allow\n"
        "p, 5, user:a, acme, r:2, read, allow\n"
        "p, 10, user:b, acme, r:1, read, allow\n"
        "p, 10, user:b, acme, r:1, read, deny\n"
    )
    found = run(text, model=model, columns=PRIORITY)
    assert places(found) == [
        at(1, 22, "shadowing-wildcard"),
        at(2, 8, "covered-rule"),
        at(5, 8, "covered-rule"),
    ]


def test_a_residual_keeps_lint_from_guessing():
    """Where Python code decides a part of the match, only equal rules are known to match alike."""
    model = replace(DEFAULT_MODEL, residual=lambda *_: True)
    found = run(
        "p, user:a, acme, r:*, read\np, user:a, acme, r:1, read\np, user:a, acme, r:1, read, deny\n", model=model
    )
    assert places(found) == [at(2, 4, "overruled-rule")]


def test_without_prefix_matching_a_star_covers_nothing():
    """A model that compares resources exactly has no wildcards."""
    model = replace(DEFAULT_MODEL, resource=ColumnMatch(exact=True), subject=ColumnMatch(exact=True))
    assert (
        places(run("p, user:a, acme, r:*, read\np, user:a, acme, r:1, read\np, *, acme, r:1, read\n", model=model))
        == []
    )


def test_a_cycle_is_reported_once_with_its_path():
    """Also one that only closes together with the base, and a role that inherits itself."""
    (cycle, alone) = [
        f
        for f in run(
            "g, role:a, role:b, acme\ng, role:b, role:c, acme\ng, role:c, role:a, acme\ng, role:d, role:d, acme\n"
        )
        if f.code == "role-cycle"
    ]
    assert (cycle.line, cycle.column, cycle.severity) == (3, 4, Severity.ERROR)
    assert cycle.message.endswith("`role:c` → `role:a` → `role:b` → `role:c`")
    assert alone.line == 4
    found = run("g, role:b, role:a, acme\n", base="g, role:a, role:b, *\n")
    assert places(found, "role-cycle") == [at(1, 4, "role-cycle")]
    found = run("", base="g, role:a, role:b, *\ng, role:b, role:a, *\n")
    assert places(found, "role-cycle") == [at(2, 4, "role-cycle", "_base/policy.csv")]


def chain(length):
    return "".join(f"g, role:r{n}, role:r{n + 1}, acme\n" for n in range(length))


def test_chains_have_a_limit():
    """Links between roles count, memberships do not; the link that makes the chain too long is named."""
    assert places(run(chain(MAX_CHAIN) + "g, user:a, role:r0, acme\n"), "deep-chain") == []
    assert places(run(chain(MAX_CHAIN + 1)), "deep-chain") == [at(1, 4, "deep-chain")]
    assert places(run(chain(MAX_CHAIN + 5)), "deep-chain") == [at(5, 4, "deep-chain")]
    assert places(run(chain(3), limits=LintLimits(max_role_depth=2)), "deep-chain") == [at(1, 4, "deep-chain")]


@pytest.mark.parametrize("length", [9, 10, 11, MAX_CHAIN, MAX_CHAIN + 1])
@pytest.mark.parametrize("kind", ["g", "g2"])
def test_lint_and_the_server_refuse_the_same_chains(kind, length):
    """What lint lets through, the server takes; what the server would refuse, lint has said before."""
    name = "role" if kind == "g" else "folder"
    links = [RoleLink(Ref(f"{name}:r{n}"), Ref(f"{name}:r{n + 1}"), kind) for n in range(length)]
    text = "".join(f"{kind}, {row.member}, {row.role}, acme\n" for row in links)
    refused = False
    try:
        check_hierarchy(links)
    except InvalidRowError:
        refused = True
    found = run(text, columns=PolicyColumns(links={"g": True, "g2": True}))
    assert not [one for one in found if one.is_error and one.code != "deep-chain"]
    assert bool(places(found, "deep-chain")) is refused is (length > MAX_CHAIN)


def test_a_chain_of_any_length_is_followed():
    """No recursion: a hierarchy cannot end the lint."""
    found = run(chain(20_000))
    assert len(places(found, "deep-chain")) == 1
    cycle = "".join(f"g, role:r{n}, role:r{(n + 1) % 5000}, acme\n" for n in range(5000))
    assert len(places(run(cycle), "role-cycle")) == 1


def test_roles_that_nobody_has_are_found_with_what_was_meant():
    """A rule for a misspelt role, and the role that no rule knows: each points at the other."""
    found = run("p, role:editor, acme, r:1, read\ng, user:a, role:editr, acme\n")
    assert places(found) == [at(1, 4, "unknown-role"), at(2, 12, "role-without-rules")]
    assert [f.hint for f in found] == ["did you mean `role:editr`?", "did you mean `role:editor`?"]
    assert {f.severity for f in found} == {Severity.WARNING}


def test_members_may_come_through_the_api():
    """Files that give no role to anyone do not say that nobody has it."""
    assert run("p, role:editor, acme, r:1, read\n") == []
    assert places(run("p, role:editor, acme, r:1, read\ng, user:a, role:x, acme\n"), "unknown-role") == [
        at(1, 4, "unknown-role")
    ]


def test_a_role_may_lead_to_rules_through_others():
    """Inheritance, the base and rules for everybody count."""
    base = "p, role:member, *, kasbah:x, read\ng, role:boss, role:member, *\n"
    assert run("g, user:a, role:boss, acme\ng, group:g, role:boss, acme\ng, user:b, group:g, acme\n", base=base) == []
    assert run("p, *, acme, r:1, read\ng, user:a, role:x, acme\n") == []


LINKS = [
    ("g, user:a, role:x, acme\ng, user:a, role:x, acme\n", [at(2, 4, "duplicate-link")]),
    (
        "g, user:a, role:x, acme\ng, user:a, role:x, acme, 2030-01-01T00:00:00Z\n",
        [at(2, 26, "conflicting-expiry")],
    ),
    ("g, user:a, role:x, acme, 2026-06-01T12:00:00Z\n", [at(1, 26, "expired-grant")]),
    ("g, user:a, role:x, acme, 2026-06-01T12:00:01Z\n", []),
]


@pytest.mark.parametrize(("text", "expected"), LINKS)
def test_grants_that_are_over_or_contradict_each_other_are_found(text, expected):
    """A grant is over in the very second it ends."""
    assert places(run("p, role:x, acme, r:1, read\n" + text)) == [
        (f, line + 1, c, code) for f, line, c, code in expected
    ]


CONDITIONS = [
    ("context.x ==", 1, 53),
    ("context.x && )", 1, 54),
    ("1 + 1", 1, 41),
    ("'text'", 1, 41),
    ("subject.nme == 'x'", 1, 48),
    ('"resource.id == ""x"" && subject.nme == \'x\'"', 1, 73),
    ('"context.a &&\n  subject.nme == 1"', 2, 10),
]


@pytest.mark.parametrize(("condition", "line", "column"), CONDITIONS)
def test_conditions_are_type_checked_at_their_place(condition, line, column):
    """The column is the one inside the condition, in the file's own text."""
    (finding,) = run(f"p, user:alice, acme, r:1, read, allow,  {condition}\n")
    assert (finding.line, finding.code, finding.severity) == (line, "condition", Severity.ERROR)
    assert finding.column == column


def test_a_condition_that_is_never_true_is_found():
    """`false` is no way to comment a rule out."""
    assert places(run("p, user:a, acme, r:1, read, allow, false\n")) == [at(1, 36, "never-matches")]


def test_patterns_on_roles_are_found():
    """`role:*` means roles as subjects, not their members."""
    found = run("p, role:*, acme, r:1, read\np, group:a*, acme, r:1, read\np, user:*, acme, r:2, read\n")
    assert places(found) == [at(1, 4, "pattern-on-roles"), at(2, 4, "pattern-on-roles")]


@pytest.mark.parametrize("pattern", ["role:*", "role:ed*"])
def test_a_pattern_on_roles_covers_no_rule_of_a_role(pattern):
    """The rule of the role reaches its members, whom the pattern does not."""
    rows = f"p, {pattern}, acme, r:1, read\np, role:editor, acme, r:1, read\ng, user:alice, role:editor, acme\n"
    assert places(run(rows), "covered-rule", "overruled-rule", "shadowing-wildcard") == []


NAMES = [
    # second name, code, severity
    ("user:Anna", "look-alike", Severity.WARNING),
    ("user:аnna", "look-alike", Severity.ERROR),  # Cyrillic
    ("user:ａnna", "look-alike", Severity.ERROR),  # full width
    ("user:an\u200bna", "look-alike", Severity.ERROR),
]


@pytest.mark.parametrize(("name", "code", "severity"), NAMES)
def test_names_that_look_alike_are_found(name, code, severity):
    """By case a warning, by Unicode an error; the first spelling is named."""
    found = [f for f in run(f"p, user:anna, acme, r:1, read\np, {name}, acme, r:2, read\n") if f.code == code]
    assert [(f.line, f.column, f.severity) for f in found] == [(2, 4, severity)]
    assert "policy.csv:1" in found[0].message


def test_look_alikes_are_found_across_files_and_columns():
    """The base, links, entities and actions take part; other tenants do not."""
    base = "p, role:member, *, kasbah:x, Read\n"
    text = "p, role:Member, acme, r:1, read\ng, user:a, role:Member, acme\n"
    found = run(text, base=base, entities="subjects:\n  user:A: {}\n")
    assert places(found, "look-alike") == [
        at(2, 3, "look-alike", "acme/entities.yaml"),
        at(1, 4, "look-alike"),
        at(1, 28, "look-alike"),
    ]


ODD_NAMES = [
    ("user:zoe\u0308", "unicode-form"),
    ("user:x\u00ady", "invisible-character"),
    ("user:x\u3164", "invisible-character"),
    ('"user:x "', "blank-at-end"),
    ('"user: x"', "blank-at-end"),
    ('"user:x\u00a0"', "unicode-space"),
    ("user:x\u00a0", "unicode-space"),
    ("user:\u3000x", "unicode-space"),
    ("user:x\u2009", "unicode-space"),
    ("user:x # the boss", "comment-in-value"),
]


@pytest.mark.parametrize(("name", "code"), ODD_NAMES)
def test_odd_names_are_found(name, code):
    """What is not seen, or seen as something else, is said."""
    assert places(run(f"p, {name}, acme, r:1, read\n")) == [at(1, 4, code)]


@pytest.mark.parametrize("value", ["[" * 17 + "]" * 17, '"' + "x" * 65_536 + '"'])
def test_attributes_that_cannot_be_stored_are_found(value):
    """What the server would refuse is said before."""
    found = run("", entities=f"subjects:\n  user:a:\n    x: {value}\n")
    assert places(found) == [at(2, 3, "entity-size", "acme/entities.yaml")]


CASE = "- {{name: n, subject: user:a, action: x, resource: r:1, decision: true, rules: [{}]}}\n"


@pytest.mark.parametrize(
    ("rule", "known"),
    [
        ("policy.csv:1", True),
        ("_base/policy.csv:1", True),
        ("policy.csv:2", False),
        ("policy.csv:3", False),
        ("_base/policy.csv:2", False),
        ("acme/policy.csv:1", False),
        ("policy.csv:0", False),
        ("policy.csv:٣", False),
        ("entities.yaml:1", False),
        ("policy.csv", False),
    ],
)
def test_cases_name_rules_that_exist(rule, known):
    """A link, a comment or an empty line is no rule."""
    text = "p, user:a, acme, r:1, read\ng, user:a, role:member, acme\n"
    found = run(text, base="p, role:member, *, kasbah:x, read\n", cases=CASE.format(rule))
    assert places(found) == ([] if known else [at(1, 80, "unknown-rule", "acme/cases.yaml")])


def test_a_rule_that_could_not_be_read_is_not_missed_twice():
    """Its row is reported; the case that names it is right."""
    assert places(run("p, user:a, acme, r:1, read, alow\n", cases=CASE.format("policy.csv:1"))) == [
        at(1, 29, "unknown-effect")
    ]


def test_a_model_that_cannot_be_served_is_an_error():
    """Its message is the compiler's; checks that need no model go on."""

    def refuse(_text):
        raise ModelError("no served effect")

    directory = PolicyDirectory(
        MODEL_TEXT,
        tenant_files("_base", "", PolicyColumns()),
        {"acme": tenant_files("acme", "p, u:a, acme, r:1, read, allow, 1\n", PolicyColumns())},
    )
    found = lint(directory, now=NOW, compile_model=refuse)
    assert places(found) == [at(1, 33, "condition"), at(1, 1, "model", "model.conf")]
    assert found[1].message == "no served effect"


def test_a_model_that_is_slow_is_a_warning():
    """At the line of the matcher."""
    model = replace(DEFAULT_MODEL, notes=("`r.obj` cannot be indexed",))
    (finding,) = run("", model=model)
    assert (finding.file, finding.line, finding.code, finding.severity) == (
        "model.conf",
        6,
        "unindexed-matcher",
        Severity.WARNING,
    )


def test_rows_are_read_as_the_model_is_compiled():
    """Two readings of the columns are an error, not a guess."""
    model = replace(DEFAULT_MODEL, columns=("sub", "obj", "dom", "act", "eft", "cond"))
    (finding,) = run("", model=model)
    assert (finding.file, finding.line, finding.code, finding.severity) == ("model.conf", 4, "model", Severity.ERROR)


def test_findings_of_reading_are_included_in_order():
    """One list, sorted by file, line and column."""
    found = run("p, role:*, acme, r:1, read\nbroken\n", entities="subjects: 1\n")
    assert places(found) == [
        at(1, 11, "entities", "acme/entities.yaml"),
        at(1, 4, "pattern-on-roles"),
        at(2, 1, "unknown-kind"),
    ]


@pytest.mark.parametrize(
    ("name", "other", "found"),
    [
        ("role:editr", "role:editor", True),
        ("role:editro", "role:editor", True),
        ("role:edotor", "role:editor", True),
        ("role:Editor", "role:editor", True),
        ("role:viewer", "role:editor", False),
        ("role:a", "role:b", False),
        ("role:editor", "role:editor", False),
    ],
)
def test_a_slip_finds_what_was_meant(name, other, found):
    """One character more, less, other, or swapped; not a short name, not itself."""
    assert (Nearest([other]).find(name) == other) is found
