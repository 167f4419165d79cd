"""Rows survive the way over the wire: domain to JSON and back is the same row, and a place in a list is its own."""

from datetime import UTC

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.request import Ref
from authz.rules import Effect, EntityKind, Owner, RoleLink, Row, Rule, Source, StoredEntity
from service.edge_errors import InvalidRequestError
from service.http.policy_wire import read_rows, sent_row

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SOURCES = st.builds(
    Source,
    file=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9),
    line=st.integers(1, 2**31 - 1),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
RULES = st.builds(
    Rule,
    subject=TEXT,
    resource=TEXT,
    action=TEXT,
    effect=st.sampled_from(Effect),
    condition=st.none() | TEXT.filter(bool),
    priority=st.none() | st.integers(0, 2**31 - 1),
    source=SOURCES,
)
LINKS = st.builds(
    RoleLink,
    member=TEXT.map(Ref),
    role=TEXT.map(Ref),
    kind=st.sampled_from(["g", "g2"]),
    expires_at=st.none() | st.datetimes(timezones=st.just(UTC)),
    source=SOURCES,
)
ENTITIES = st.builds(
    StoredEntity,
    kind=st.sampled_from(EntityKind),
    ref=TEXT.filter(bool)
    .filter(lambda text: not any(not c.isprintable() for c in text))
    .map(lambda text: Ref(f"user:{text}")),
    properties=st.dictionaries(TEXT, JSON, max_size=4),
    source=SOURCES,
)


def read(rows: list[bytes]) -> list[Row]:
    """Read rows as `apply` does."""
    return read_rows(
        [msgspec.Raw(row) for row in rows],
        "/rows",
        owner=Owner.FILES,
        base=False,
        allowed=(Rule, RoleLink, StoredEntity),
    )


@settings(max_examples=100, deadline=None)
@given(st.lists(RULES | LINKS | ENTITIES, max_size=4))
def test_rows_survive_the_wire(rows: list[Row]) -> None:
    """Colons, escapes, times and nested attributes included."""
    assert read([msgspec.json.encode(sent_row(row)) for row in rows]) == rows


@settings(max_examples=60, deadline=None)
@given(RULES | LINKS | ENTITIES, st.data())
def test_a_repeated_member_is_always_found(row: Row, data: st.DataObject) -> None:
    """Whichever member is named twice, and whatever it says the second time, the row is refused with its place."""
    text = msgspec.json.encode(sent_row(row))
    name = data.draw(st.sampled_from(sorted(msgspec.json.decode(text))))
    value = msgspec.json.encode(msgspec.json.decode(text)[name])
    twice = b'{"' + name.encode() + b'":' + value + b"," + text[1:]
    with pytest.raises(InvalidRequestError) as caught:
        read([msgspec.json.encode(sent_row(Rule("user:a", "doc:1", "read"))), twice])
    assert str(caught.value.pointer).startswith("/rows/1")


@pytest.mark.parametrize("moment", ["2030-01-01T00:00:00-0800", "2030-01-01T00:00:00Z", "2030-01-01 00:00:00+0100"])
def test_a_time_in_another_spelling_does_not_hide_a_repeated_member(moment):
    """Repeats are found by counting colons, and a time may be written again with more of them."""
    once = '"type":"link","member":"user:a","role":"role:b","kind":"g","expires_at":"' + moment + '"'
    assert read([f"{{{once}}}".encode()])
    with pytest.raises(InvalidRequestError, match="repeated"):
        read([f'{{"kind":"g2",{once}}}'.encode()])
