"""Policy files of Casbin: RFC 4180 where fields are quoted, PyCasbin's splitting where not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.casbin_csv import PolicySyntaxError, read_policy
from authz.casbin_oracle import rows_as_casbin_reads
from authz.errors import ModelError


def read(text):
    return [(row.kind, *row.values, row.source) for row in read_policy(text, "p.csv")]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("p, alice, data1, read", [("p", "alice", "data1", "read", "p.csv:1")]),
        ("# comment\n\n  # too\np,a,b\r\n", [("p", "a", "b", "p.csv:4")]),
        ('p, "a,b", c', [("p", "a,b", "c", "p.csv:1")]),
        ('p, "a ""b""" , c', [("p", 'a "b"', "c", "p.csv:1")]),
        ('p, "a\nb", c\np, d, e', [("p", "a\nb", "c", "p.csv:1"), ("p", "d", "e", "p.csv:3")]),
        (
            "p, keyMatch(r.obj, '/a') && r.sub in ('x', 'y'), c",
            [("p", "keyMatch(r.obj, '/a') && r.sub in ('x', 'y')", "c", "p.csv:1")],
        ),
        ('p, r.sub == "a" && f(x, "y"), c', [("p", 'r.sub == "a" && f(x, "y")', "c", "p.csv:1")]),
        ('p, "a" == r.sub, c', [("p", '"a" == r.sub', "c", "p.csv:1")]),
        ('p, "open, c', [("p", '"open', "c", "p.csv:1")]),
        ("p, , c,", [("p", "", "c", "", "p.csv:1")]),
        ("p, a #b, c", [("p", "a #b", "c", "p.csv:1")]),
        ("\ufeffp, a", [("p", "a", "p.csv:1")]),
        ("", []),
    ],
)
def test_rows(text, rows):
    """With the line that each began on."""
    assert read(text) == rows


def test_a_bracket_that_was_not_opened_names_its_line():
    """PyCasbin cannot load such a file either."""
    with pytest.raises(PolicySyntaxError, match="p.csv:2: a bracket"):
        read("p, a\np, b) || (c, d")


@given(st.text(st.sampled_from("pg,[]() #ab\n\t"), max_size=20))
def test_lines_without_quotes_are_read_as_pycasbin_reads_them(text):
    """Brackets nest, fields are trimmed, comments are skipped."""
    try:
        rows = read_policy(text, "p.csv")
    except PolicySyntaxError:
        rows = None
    expected = None
    if rows is not None:
        try:
            expected = rows_as_casbin_reads(text, "p.csv")
        except ModelError:
            pytest.fail("PyCasbin cannot read what we read")
    assert rows == expected


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), min_size=1, max_size=4))
def test_quoted_fields_come_back_as_they_were(fields):
    """Any value, commas, quotes and line feeds included."""
    quoted = ",".join('"' + field.replace('"', '""') + '"' for field in fields)
    (row,) = read_policy(f"p,{quoted}", "p.csv")
    assert row.values == tuple(fields)
