"""Records of other directories: what comes in, and what is told of the rest."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authn.user_import import FIELDS, BadLine, ImportedUser, read_record, without_repeats
from service.edge_errors import InvalidRequestError
from service.http.admin_user_import import MAX_LINE_BYTES, read_lines

BCRYPT = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"


def test_a_record_becomes_an_account_that_nobody_verified():
    """Names are normalised as in every other way in; the hash is kept as it came."""
    found = read_record(
        7, {"username": "Ada", "email": "Ada@Example.com", "display_name": " Ada L ", "password_hash": BCRYPT}
    )
    assert isinstance(found, ImportedUser)
    assert found.line == 7
    assert found.new.username == ("Ada", "ada")
    assert found.new.email is not None
    assert found.new.email[1] == "ada@example.com"
    assert found.new.email_verified_at is None
    assert (found.new.password_hash, found.new.password_set_by) == (BCRYPT, "import")
    bare = read_record(1, {"username": "bob", "email": None, "mfa_required": True})
    assert isinstance(bare, ImportedUser)
    assert bare.new.mfa_required
    assert bare.new.password_set_by is None


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ([], None),
        ("ada", None),
        (None, None),
        ({}, "username"),
        ({"username": None}, "username"),
        ({"username": 5}, "username"),
        ({"username": "a@b"}, "username"),
        ({"username": "ada", "email": "nobody"}, "email"),
        ({"username": "ada", "email": ["a@example.com"]}, "email"),
        ({"username": "ada", "display_name": "\u202e"}, "display_name"),
        ({"username": "ada", "mfa_required": "yes"}, "mfa_required"),
        ({"username": "ada", "mfa_required": 1}, "mfa_required"),
        ({"username": "ada", "password_hash": "hunter2hunter2"}, "password_hash"),
        ({"username": "ada", "password_hash": "$2b$15$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"}, "password_hash"),
        ({"username": "ada", "password_hash": "$argon2id$v=19$m=4194304,t=3,p=1$c2l4dGVlbiBieXRlcyBvaw$" + "A" * 43}, "password_hash"),
        ({"username": "ada", "password_hash": "$pepper$k=k1$argon2id$v=19$m=65536,t=3,p=1$c2l4dGVlbiBieXRlcyBvaw$" + "A" * 43}, "password_hash"),
        ({"username": "ada", "password": "hunter2hunter2"}, "password"),
        ({"username": "ada", "email_verified": True}, "email_verified"),
        ({"username": "ada", "verified": True}, "verified"),
        ({"username": "ada", "email_verified_at": "2020-01-01T00:00:00Z"}, "email_verified_at"),
        ({"username": "ada", "roles": ["role:tenant-admin"]}, "roles"),
        ({"username": "ada", "id": "0190c4a4-0000-7000-8000-000000000000"}, "id"),
        ({"username": "ada", "tenant": "globex"}, "tenant"),
        ({"username": "ada", "status": "active"}, "status"),
        ({"username": "ada", "auth_epoch": 7}, "auth_epoch"),
        ({"username": "ada", "created_by": "system"}, "created_by"),
    ],
)  # fmt: skip
def test_what_may_not_come_in_is_told_by_field(value, field):
    """Passwords as text, verified addresses, roles, ids: each with what to do instead, never with what stood there."""
    found = read_record(3, value)
    assert isinstance(found, BadLine)
    assert (found.line, found.field) == (3, field)
    assert found.reason
    assert "hunter2" not in found.reason


def test_names_that_come_twice_in_a_batch_are_told():
    """The first one counts; spelled otherwise it is the same."""
    records = [
        read_record(line, value)
        for line, value in enumerate(
            [
                {"username": "ada", "email": "ada@example.com"},
                {"username": "ADA"},
                {"username": "bob", "email": "ADA@example.com"},
                {"username": "carol"},
            ],
            1,
        )
    ]
    kept, bad = without_repeats([record for record in records if isinstance(record, ImportedUser)])
    assert [record.line for record in kept] == [1, 4]
    assert [(fault.line, fault.field) for fault in bad] == [(2, "username"), (3, "email")]
    assert all("line 1" in fault.reason for fault in bad)


def test_lines_are_judged_each_on_its_own():
    """Half a line, a repeated member, a huge one; empty lines count; the last line feed may be there or not."""
    body = b"\n".join(
        [
            b'{"username": "ada"}',
            b"",
            b'{"username": "bob", "username": "root"}',
            b'{"username": "secret-in-line',
            b'{"username": "carol", "display_name": "' + b"x" * MAX_LINE_BYTES + b'"}',
            b'{"username": "\\ud800"}',
            b"\xff\xfe",
            b'{"username": "dave"}\r',
        ]
    )
    for more in (b"", b"\n"):
        records, bad = read_lines(body + more)
        assert [record.line for record in records] == [1, 8]
        assert [fault.line for fault in bad] == [3, 4, 5, 6, 7]
        assert "secret-in-line" not in str(bad)
    assert read_lines(b"") == ([], [])
    assert read_lines(b"\n") == ([], [])


def test_a_batch_is_bounded():
    """5,000 lines and no more."""
    line = b'{"username": "x"}\n'
    assert len(read_lines(line * 5000)[0]) == 5000
    with pytest.raises(InvalidRequestError, match="5000"):
        read_lines(line * 5001)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=10), inner),
    max_leaves=5,
)


@given(JSON | st.dictionaries(st.sampled_from([*FIELDS, "password", "roles"]), JSON))
def test_any_value_is_an_account_or_a_bad_line(value):
    """Whatever stands in a file, no line breaks an import."""
    assert isinstance(read_record(1, value), ImportedUser | BadLine)
    read_lines(json.dumps(value).encode())
