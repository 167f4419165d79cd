"""A value that is none of a closed list: the answer names the list."""

from enum import StrEnum
from typing import Literal

import msgspec
import pytest

from service.choices import choices_at
from service.edge_errors import InvalidRequestError
from service.http.policy_wire import read_struct
from service.http.sign_in import Options


class Size(StrEnum):
    """A list."""

    SMALL = "small"
    LARGE = "large"


class Inner(msgspec.Struct, tag_field="type", tag="inner"):
    """A part with a tag."""

    size: Size | None = None


class Other(msgspec.Struct, tag_field="type", tag="other"):
    """Another one."""

    sizes: list[Literal["a", "b"]] = msgspec.field(name="of", default_factory=list)


class Body(msgspec.Struct):
    """A body with lists at several places."""

    parts: list[Inner | Other] = []
    by_name: dict[str, Size] = {}
    text: str = ""


@pytest.mark.parametrize(
    ("path", "choices"),
    [
        ("$.parts[0].size", ("small", "large")),
        ("$.parts[3].of[0]", ("a", "b")),
        ("$.parts[0].type", ("inner", "other")),
        ("$.by_name[...]", ("small", "large")),
        ("$.text", ()),
        ("$.nothing.here", ()),
        ("$", ()),
    ],
)
def test_what_may_stand_at_a_place_is_found(path: str, choices: tuple[str, ...]) -> None:
    """In members under their names on the wire, items, values, and either of several shapes."""
    assert choices_at(Body, path) == choices


@pytest.mark.parametrize("body", [b'{"parts": [{"type": "inner", "size": "big"}]}', b'{"by_name": {"x": "big"}}'])
def test_msgspec_still_says_where_a_value_is_none_of_them(body: bytes) -> None:
    """In the words that are read for it."""
    with pytest.raises(InvalidRequestError, match=r"is one of small, large\Z"):
        read_struct(body, msgspec.json.Decoder(Body))


def test_a_body_with_such_a_value_is_told_its_list() -> None:
    """With a pointer to it; what was sent is not repeated."""
    with pytest.raises(InvalidRequestError) as refused:
        read_struct(b'{"challenge": "x", "method": "sms"}', msgspec.json.Decoder(Options))
    assert (refused.value.detail, refused.value.pointer) == (
        "`method` is one of totp, webauthn, recovery_code",
        "/method",
    )
