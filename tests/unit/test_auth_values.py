"""A sign-in as a golden case or a caller writes it: what is read, what is not known, what is refused."""

from datetime import UTC, datetime

import pytest

from authz.auth_values import MAX_AMR, InvalidAuthError, read_auth
from authz.request import Auth

TIME = datetime(2026, 6, 1, tzinfo=UTC)


def read(value, **more):
    return read_auth(value, datetime.fromisoformat, **more)


@pytest.mark.parametrize(
    ("written", "known"),
    [
        ({}, Auth()),
        ({"acr": None, "amr": None, "time": None}, Auth()),
        ({"acr": "aal1"}, Auth("aal1")),
        (
            {"acr": "aal2", "amr": ["pwd", "urn:x_1.2-3"], "time": TIME.isoformat()},
            Auth("aal2", ("pwd", "urn:x_1.2-3"), TIME),
        ),
        ({"amr": []}, Auth(amr=())),
        ({"time": TIME}, Auth(time=TIME)),
        ({"amr": ["a" * 64] * MAX_AMR}, Auth(amr=("a" * 64,) * MAX_AMR)),
    ],
)
def test_what_is_written_is_known_and_nothing_else(written, known):
    """A time may come as YAML read it; who says so is taken down."""
    assert read(written) == known
    assert not read(written).asserted
    assert read(written, asserted=True).asserted


@pytest.mark.parametrize(
    ("written", "member", "message"),
    [
        (None, "", "not an object"),
        ("aal2", "", "not an object"),
        ({"level": "aal2"}, "", "`level` is unknown here"),
        ({"acr": "aal3"}, "acr", "one of aal1, aal2"),
        ({"acr": 2}, "acr", "one of aal1, aal2"),
        ({"acr": ""}, "acr", "one of aal1, aal2"),
        ({"amr": "pwd"}, "amr", "a list of at most 16 names"),
        ({"amr": {"pwd": 1}}, "amr", "a list"),
        ({"amr": ["pwd"] * (MAX_AMR + 1)}, "amr", "a list of at most 16 names"),
        ({"amr": [1]}, "amr", "names of methods"),
        ({"amr": ["pwd", ""]}, "amr", "names of methods"),
        ({"amr": ["-pwd"]}, "amr", "names of methods"),
        ({"amr": ["a" * 65]}, "amr", "names of methods"),
        ({"amr": ["pwd\n"]}, "amr", "names of methods"),
        ({"amr": ["\N{LATIN SMALL LETTER E WITH ACUTE}"]}, "amr", "names of methods"),
        ({"time": "yesterday"}, "time", "yesterday"),
        ({"time": 7}, "time", "7"),
    ],
)
def test_what_is_none_is_refused_by_its_member(written, member, message):
    """The part that is wrong is named, so that its place in a file or body can be."""
    with pytest.raises(InvalidAuthError, match=message) as raised:
        read(written)
    assert raised.value.member == member
