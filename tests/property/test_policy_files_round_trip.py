"""What policy files say survives writing and reading, for every value that a row can hold; the rest is refused."""

from datetime import UTC, datetime

import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from authz.policy_files import (
    PolicyColumns,
    UnwritableRowError,
    parse_entities,
    parse_policy,
    write_entities,
    write_policy_csv,
)
from authz.policy_files.csv_text import (
    CsvFault,
    CsvRecord,
    field_positions,
    format_record,
    offset_position,
    scan,
    split_lines,
)
from authz.request import CONTROL_PATTERN
from authz.rules import BASE_SLUG, Effect, EntityKind, RoleLink, Rule, StoredEntity
from authz.served_names import BIDIRECTIONAL, is_platform_resource, is_platform_role

HOSTILE = st.text(
    alphabet=st.sampled_from(" \t,\"'#\n\r\x00[](){}|\\:;*/?&!%@=абaа́Åİı\u00a0\u2028\u202e\ufeff\uffff😀"), max_size=12
)
ANY_TEXT = st.one_of(HOSTILE, st.text(max_size=12))


def storable(text: str) -> str:
    """What is left of `text` without control characters, turned text and stars, which names never hold."""
    return BIDIRECTIONAL.sub("", CONTROL_PATTERN.sub("", text)).replace("*", "") or "x"


def sayable(text: str) -> str:
    """What is left of `text` without the characters that conditions never hold."""
    kept = "".join(part if part in "\n\t" else CONTROL_PATTERN.sub("", part) for part in text)
    return BIDIRECTIONAL.sub("", kept) or "true"


IDS = ANY_TEXT.map(storable)
TYPES = st.sampled_from(["user", "role", "group", "record", "A.b-c_9"])
NAMES = st.builds("{}:{}".format, TYPES, IDS)
ROLES = st.builds("{}:{}".format, st.sampled_from(["role", "group"]), IDS).filter(
    lambda name: not is_platform_role(name)
)
MEMBERS = NAMES.filter(lambda name: not is_platform_role(name))
PATTERNS = st.one_of(
    MEMBERS,
    st.just("*"),
    st.builds("{}:{}*".format, TYPES, st.one_of(st.just(""), IDS)).filter(lambda p: not is_platform_role(p)),
)
ACTIONS = st.one_of(st.just("*"), IDS)
CONDITIONS = st.one_of(st.none(), ANY_TEXT.map(sayable))
TIMES = st.one_of(
    st.none(),
    st.datetimes(
        timezones=st.just(UTC),
        min_value=datetime(1000, 1, 1),  # noqa: DTZ001 - as Hypothesis wants it
    ),
)
RULES = st.builds(Rule, PATTERNS, PATTERNS, ACTIONS, st.sampled_from(Effect), CONDITIONS)
LINKS = st.builds(RoleLink, MEMBERS, ROLES, st.just("g"), TIMES)


def bare(rows):
    """Rows without their place: what a round trip keeps."""
    return [(row.key, getattr(row, "expires_at", None)) for row in rows]


@given(st.lists(RULES, max_size=4), st.lists(LINKS, max_size=4))
def test_rules_and_links_survive_writing_and_reading(rules, links):
    """read(write(rows)) == rows, with nothing reported."""
    parsed = parse_policy(write_policy_csv(rules, links, slug="acme"), "acme", PolicyColumns())
    assert parsed.findings == []
    assert bare(parsed.rules) == bare(rules)
    assert bare(parsed.links) == bare(links)


@given(st.lists(RULES, max_size=3), st.integers(0, 2**31 - 1))
def test_priorities_and_other_column_orders_survive(rules, priority):
    """The order of columns is the model's, written and read alike; rows of the base carry `*`."""
    columns = PolicyColumns(("priority", "sub", "obj", "act", "dom", "cond", "eft"))
    ranked = [Rule(r.subject, r.resource, r.action, r.effect, r.condition, priority, base=True) for r in rules]
    text = write_policy_csv(ranked, [], slug=BASE_SLUG, columns=columns)
    parsed = parse_policy(text, BASE_SLUG, columns)
    assert parsed.findings == []
    assert bare(parsed.rules) == bare(ranked)
    assert all(rule.base for rule in parsed.rules)


@given(ANY_TEXT, ANY_TEXT, ANY_TEXT)
def test_no_name_writes_a_second_row_or_another_name(subject, resource, action):
    """Whatever a row holds, its text reads back as exactly this row, or cannot be written at all."""
    rule = Rule(subject, resource, action, Effect.ALLOW)
    try:
        text = write_policy_csv([rule], [], slug="acme")
    except UnwritableRowError:
        return
    parsed = parse_policy(text, "acme", PolicyColumns())
    refused = is_platform_resource(resource) or is_platform_role(subject)
    assert bare(parsed.rules) == ([] if refused else bare([rule]))


@given(st.lists(st.lists(ANY_TEXT.map(lambda text: text.replace("\r", "")), min_size=1, max_size=4), max_size=4))
def test_records_survive_and_their_fields_are_where_positions_say(records):
    """Fields come back, and each stands at its position in the text."""
    records = [["p", *fields] for fields in records]
    lines = split_lines("\n".join(format_record(fields) for fields in records))
    found = list(scan(lines))
    assert [record.fields for record in found] == records
    for record in found:
        positions = field_positions(lines, record.line)
        assert len(positions) == len(record.fields)
        for (line, column), value in zip(positions, record.fields, strict=True):
            rest = "\n".join([lines[line - 1][column - 1 :], *lines[line:]])
            quoted = '"' + value.replace('"', '""') + '"'
            assert rest.startswith((value, quoted))
            for offset, character in enumerate(value):
                inner_line, inner_column = offset_position(lines, (line, column), offset)
                assert lines[inner_line - 1][inner_column - 1 : inner_column] == character.replace("\n", "")


@given(st.text(alphabet=' ,"#\n\rpx\t', max_size=60))
def test_any_text_is_read_to_its_end(text):
    """Reading ends, and reports places inside the text; a fault of one line leaves the other lines alone."""
    lines = split_lines(text)
    for item in scan(lines):
        assert isinstance(item, CsvRecord | CsvFault)
        assert 1 <= item.line <= len(lines)
        if isinstance(item, CsvFault):
            assert 1 <= item.column <= len(lines[item.line - 1]) + 1


JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False, allow_infinity=False),
        ANY_TEXT,
        st.sampled_from(
            ["yes", "no", "010", "0x1f", "1:30", "1e5", "2024-01-01", "~", "", "null", "<<", "=", "- a", "k: v"]
        ),
    ),
    lambda values: st.one_of(st.lists(values, max_size=3), st.dictionaries(ANY_TEXT, values, max_size=3)),
    max_leaves=8,
)
ENTITIES = st.builds(
    StoredEntity,
    st.sampled_from(EntityKind),
    NAMES,
    st.dictionaries(st.one_of(ANY_TEXT, st.just("k" * 1500)), JSON, max_size=3),
)


@given(st.lists(ENTITIES, max_size=3, unique_by=lambda entity: entity.key))
def test_attributes_survive_or_are_refused(entities):
    """Stored attributes come back with their types, or cannot be written."""
    try:
        text = write_entities(entities)
    except UnwritableRowError:
        reject()
    parsed = parse_entities(text, "acme")
    assert parsed.findings == []
    by_kind = sorted(entities, key=lambda entity: entity.kind is EntityKind.RESOURCE)
    assert [(e.key, e.properties) for e in parsed.entities] == [(e.key, e.properties) for e in by_kind]
    for mine, theirs in zip(parsed.entities, by_kind, strict=True):
        assert repr(mine.properties) == repr(theirs.properties)  # 1 is not True, 1.0 is not 1


@pytest.mark.parametrize(
    "rule",
    [
        Rule("role:a\nb", "record:1", "read"),
        Rule("role:a", "record:\x00", "read"),
        Rule("role:a", "record:1", "re\rad"),
        Rule("role:a", "rec*rd:1", "read"),
        Rule("alice", "record:1", "read"),
        Rule("role:a", "record:1", ""),
        Rule("role:a", "record:\u202e1", "read"),
        Rule("role:a", "record:1", "read", condition="true\r\n|| true"),
        Rule("role:a", "record:1", "read", priority=1),
    ],
)
def test_what_a_file_cannot_say_is_refused(rule):
    """Nothing is dropped or repaired on the way out."""
    with pytest.raises(UnwritableRowError):
        write_policy_csv([rule], [], slug="acme")


def test_a_link_of_a_kind_without_definition_is_refused():
    """`g2` needs a definition in the model."""
    with pytest.raises(UnwritableRowError, match="g2"):
        write_policy_csv([], [RoleLink("record:1", "folder:a", "g2")], slug="acme")
