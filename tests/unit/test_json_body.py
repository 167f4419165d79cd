"""The one JSON parser refuses what parsers disagree about."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.edge_errors import InvalidRequestError
from service.http.authzen_wire import decode_evaluation
from service.json_body import MAX_DEPTH, check_depth, parse_json, parse_typed

REFUSED = [
    (b"", "empty", None),
    (b"  \n", "empty", None),
    (b'{"a":1', "not JSON", None),
    (b'{"a":1} x', "not JSON", None),
    (b'{"a":1}{"a":1}', "not JSON", None),
    (b'{"a":NaN}', "not JSON", None),
    (b'{"a":Infinity}', "not JSON", None),
    (b'{"a":-Infinity}', "not JSON", None),
    (b'{"a":1e999}', "out of range", None),
    (b'{"a":01}', "not JSON", None),
    (b"{'a':1}", "not JSON", None),
    (b'\xef\xbb\xbf{"a":1}', "not JSON", None),
    (b'{"a":"\xff"}', "UTF-8", None),
    (b'{"\xc0\xaf":1}', "UTF-8", None),
    (b'{"a":"\xed\xa0\x80"}', "UTF-8", None),
    (b'{"a":"\\ud800"}', "not JSON", None),
    (b'{"a":"\x01"}', "not JSON", None),
    (b'{"a":' + b"1" * 5000 + b"}", "out of range", None),
    (b'{"a":1,"a":1}', "`a` is repeated", "/a"),
    (b'{"a":1,"\\u0061":2}', "`a` is repeated", "/a"),
    (b'{"x":{"y":[0,{"b":1,"c":2,"b":3}]}}', "`b` is repeated", "/x/y/1/b"),
    (b'{"a/b~":{"c":1,"c":1}}', "`c` is repeated", "/a~1b~0/c"),
    (b'{"a":"\\u003a","b":1,"b":2}', "`b` is repeated", "/b"),
    (b'{"a":"\\\\u003a","b":1,"b":2}', "`b` is repeated", "/b"),
    (b'{"a":1,"a":{"b":":::"}}', "`a` is repeated", "/a"),
    (b'{"a":":","a":"\\u003A\\u003a"}', "`a` is repeated", "/a"),
    (b"[" * 65 + b"]" * 65, "nested", None),
    (b'{"a":' * 65 + b"1" + b"}" * 65, "nested", None),
    (b"[" * 100_000, "nested", None),
]


@pytest.mark.parametrize(("body", "detail", "pointer"), REFUSED)
def test_what_is_not_strict_json_is_refused(body, detail, pointer):
    """Each is refused with a reason, and with a pointer where there is a place."""
    with pytest.raises(InvalidRequestError) as caught:
        parse_json(body)
    assert detail in str(caught.value)
    assert caught.value.pointer == pointer


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":"::::","b":[":",{"c":":"}]}',
        b'{"a":"\\u003a","b":"\\\\u003a","c":"\\\\\\u003A"}',
        b'{"a":{"a":{"a":1}},"b":{"a":1}}',
        b'{"\\u003a":1,":x":2}',
        b"[" * 64 + b"]" * 64,
        b'[{"a":1},' + b'{"a":[{}]},' * 100 + b"0]",
        b" null ",
    ],
)
def test_strict_json_is_accepted_with_its_value(body):
    """Colons in strings, escaped or not, are no members."""
    assert parse_json(body) == json.loads(body)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(alphabet=st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(alphabet=':\\"au03é', max_size=4), inner),
    max_leaves=20,
)


@given(json_values, st.booleans())
def test_every_json_text_round_trips(value, ascii_only):
    """No text with distinct member names is refused, however its strings are escaped."""
    assert parse_json(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@given(json_values, st.text(alphabet=':\\"au03', max_size=3), json_values, json_values)
def test_every_repeated_member_is_found(inner, name, first, second):
    """A repeated name is found at any depth, whatever the values around it hold, also with `:` written as an escape."""
    twice = f"{{{json.dumps(name)}:{json.dumps(first)},{json.dumps(name)}:{json.dumps(second)}}}"
    for body in (f"[{json.dumps(inner)},{twice}]", f"[{json.dumps(inner)},{twice}]".replace(':"', ':"\\u003a')):
        with pytest.raises(InvalidRequestError):
            parse_json(body.encode())


class Inner(msgspec.Struct, omit_defaults=True):
    """A shape to parse into."""

    id: str
    free: dict | msgspec.UnsetType = msgspec.UNSET


class Outer(msgspec.Struct, omit_defaults=True):
    """A shape around it."""

    inner: Inner
    items: list[Inner] | msgspec.UnsetType = msgspec.UNSET


DECODER = msgspec.json.Decoder(Outer)
ENCODER = msgspec.json.Encoder()


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (b"[]", ""),
        (b"{}", "/inner"),
        (b'{"inner":{}}', "/inner/id"),
        (b'{"inner":{"id":1}}', "/inner/id"),
        (b'{"inner":null}', "/inner"),
        (b'{"inner":{"id":"a","free":[]}}', "/inner/free"),
        (b'{"inner":{"id":"a"},"items":[{"id":"a"},{"id":2}]}', "/items/1/id"),
        (b'{"inner":{"id":"a","id":"a"}}', "/inner/id"),
        (b'{"inner":{"id":1,"id":"a"}}', "/inner/id"),
        (b'{"inner":{"id":"a"},"x":{"y":1,"y":2}}', "/x/y"),
        (b'{"inner":{"id":"a","free":{"y":1,"y":2}}}', "/inner/free/y"),
    ],
)
def test_a_wrong_shape_is_refused_with_its_place(body, pointer):
    """Wrong types, missing and repeated members point to where they are."""
    with pytest.raises(InvalidRequestError) as caught:
        parse_typed(body, DECODER, ENCODER)
    assert caught.value.pointer == pointer


@pytest.mark.parametrize("body", [b'{"inner":{"id":"a"},"x":"\xff"}', b'{"inner":{"id":"a"},"x":1e999}'])
def test_unknown_members_are_ignored_but_must_be_json(body):
    """What the Struct skips is checked all the same."""
    with pytest.raises(InvalidRequestError):
        parse_typed(body, DECODER, ENCODER)
    assert parse_typed(b'{"inner":{"id":"a","z":[1]},"x":"y"}', DECODER, ENCODER).inner.id == "a"


def test_a_refusal_uses_jsons_words_and_says_where():
    """Callers need not know Python's names for types, and find the byte."""
    said = {}
    for body in (
        b'{"inner":5}',
        b'{"inner":{"id":true}}',
        b'{"inner":{"id":1.5}}',
        b'{"inner":{"id":"a"},}',
        b'{"inner":',
    ):
        with pytest.raises(InvalidRequestError) as caught:
            parse_typed(body, DECODER, ENCODER)
        said[body] = caught.value.detail
    assert list(said.values()) == [
        "expected `object`, got `integer`",
        "expected `string`, got `boolean`",
        "expected `string`, got `number`",
        "the body is not JSON: trailing comma in object (byte 20)",
        "the body is not JSON: it ends too early, or holds half of a surrogate pair",
    ]


def test_an_unknown_member_is_named_and_pointed_at():
    """Where unknown members are refused, the pointer is the member's own."""

    class Strict(msgspec.Struct, forbid_unknown_fields=True):
        a: int = 0

    class Outer(msgspec.Struct):
        rows: list[Strict]

    with pytest.raises(InvalidRequestError) as caught:
        parse_typed(b'{"rows":[{},{"b/c":1}]}', msgspec.json.Decoder(Outer), ENCODER)
    assert caught.value.detail == "`b/c` is not known here"
    assert caught.value.pointer == "/rows/1/b~1c"


def test_depth_is_counted_exactly():
    """64 levels pass, 65 do not, and siblings do not add up."""
    deep: object = []
    for _ in range(MAX_DEPTH - 1):
        deep = {"a": deep, "b": 1, "c": []}
    check_depth(deep)
    with pytest.raises(InvalidRequestError):
        check_depth([deep])


def test_an_escaped_colon_cannot_hide_a_repeated_member():
    """Dropping a repeated member and decoding an escaped colon would cancel out in a count of plain colons."""
    body = (
        rb'{"subject":{"type":"user","id":"a\u003ab"},"subject":{"type":"user","id":"a\u003ab"},'
        rb'"action":{"name":"r"},"resource":{"type":"t","id":"a\u003ab\u003Ac"}}'
    )
    for text in (body, body.replace(rb"\u003ab\u003Ac", b"x"), body.replace(rb"a\u003ab", b"x")):
        with pytest.raises(InvalidRequestError, match="repeated"):
            decode_evaluation(text)
