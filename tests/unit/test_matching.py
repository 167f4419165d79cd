"""Matching functions: PyCasbin's answers, in linear time."""

import warnings

import pytest
from casbin import util
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.casbin_oracle import PYCASBIN_FUNCTIONS
from authz.linear_regex import compile_pattern
from authz.matching import MATCHING_FUNCTIONS, PatternError, glob_match, ip_match, key_match4, regex_match
from authz.pattern_machine import UnsupportedPatternError

NAMES = st.text(st.sampled_from("abc/.*:?-_1\n é"), max_size=6)
PIECES = [
    *["a", "b", "c", "/", ".", "*", ":", "{", "}", "{id}", "{id}", ":x", "?", "[", "]", "^", "$", "+", "|", "(", ")"],
    *["\\", "-", "\\d", "\\w", "\\s", "\\b", "/*", "**", "[ab]", "(?i)", "é", "1", "{1,2}", "!", ",", "(?=a)", "(?!b)"],
    *["\\Z", "[^a]", "(?:", "\\B"],
]
PATTERNS = st.lists(st.sampled_from([*PIECES, "\n", "a", "/"]), max_size=7).map("".join)


def answer(function, name, pattern):
    """Return the decision, or None for an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return bool(function(name, pattern))
        except Exception:  # noqa: BLE001 - PyCasbin raises plain Exception
            return None


@pytest.mark.parametrize("function", [name for name in PYCASBIN_FUNCTIONS if name != "ipMatch"])
@settings(max_examples=150, deadline=None)
@given(name=NAMES, pattern=PATTERNS)
def test_matches_as_pycasbin(function, name, pattern):
    """Equal answers; errors where PyCasbin raises; a pattern that is not regular is refused, never guessed."""
    expected = answer(PYCASBIN_FUNCTIONS[function], name, pattern)
    try:
        found = MATCHING_FUNCTIONS[function](name, pattern)
    except UnsupportedPatternError:
        return
    except PatternError:
        found = None
    assert found is expected


@pytest.mark.parametrize(
    ("address", "pattern"),
    [
        ("192.168.2.123", "192.168.2.0/24"),
        ("192.168.3.1", "192.168.2.0/24"),
        ("192.168.2.1", "192.168.2.1"),
        ("192.168.2.1", "nonsense"),
        ("::1", "::/0"),
        ("::1", "0.0.0.0/0"),
        ("nonsense", "192.168.2.0/24"),
        ("192.168.2.1", "192.168.2.9/24"),
        ("", ""),
    ],
)
def test_addresses_match_as_in_pycasbin(address, pattern):
    """Networks, single addresses, both versions; a bad address raises, a bad network matches nothing."""
    assert answer(ip_match, address, pattern) is answer(util.ip_match, address, pattern)


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("a" * 5000 + "!", "(a+)+$"),
        ("a" * 5000 + "!", "(a|a)*$"),
        ("a" * 5000 + "!", "(a|aa)+$"),
        ("a" * 5000 + "!", "(.*)*x"),
        ("\n" + "a" * 2000 + "!", "\\n(a+)+$"),
        ("é" + "a" * 2000 + "!", "é(a+)+$"),
    ],
)
def test_catastrophic_patterns_answer_at_once(name, pattern):
    """With backtracking none of these would ever return."""
    assert not regex_match(name, pattern)


@pytest.mark.parametrize("pattern", ["*a*a*a*a*a*a*a*b", "**/a*/**/a*/**/a*/**/b", "[!b]*[!b]*[!b]*[!b]*[!b]*b"])
def test_catastrophic_globs_answer_at_once(pattern):
    """Its translator alone is wcmatch's: its matching would backtrack."""
    assert not glob_match("a" * 300, pattern)
    assert not glob_match("/".join(["a"] * 300), pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        "(a)\\1",
        "a++b",
        "(?>a)b",
        "(a)?(?(1)b|c)",
        "(?<=aa*)b",
        "(?=" + "a" * 100 + ")",
        "(?m)^a",
        "(a)" * 2000,
        "(" * 500 + ")" * 500,
        "((a{1,100}){1,100}){1,100}",
        "{a,b}" * 20,
    ],
)
def test_what_is_not_regular_or_too_big_is_refused(pattern):
    """A refusal says so; it is neither a match nor a mismatch."""
    with pytest.raises(PatternError):
        (glob_match if pattern.startswith("{a,b}") else regex_match)("aab", pattern)


def test_huge_repeats_of_braces_are_refused():
    """Braces multiply: the number of expansions is bounded."""
    with pytest.raises(PatternError):
        glob_match("x", "{1..100000}")


@pytest.mark.parametrize("function", sorted(set(MATCHING_FUNCTIONS) - {"keyMatch", "ipMatch"}))
def test_values_that_are_no_text_raise(function):
    """A number or an object in a request never matches by accident."""
    with pytest.raises(TypeError):
        MATCHING_FUNCTIONS[function](5, "[0-9]*")  # type: ignore[arg-type]


def test_key_match4_binds_equal_names_to_equal_parts():
    """`{id}` twice stands for the same part."""
    assert key_match4("/parent/1/child/1", "/parent/{id}/child/{id}")
    assert not key_match4("/parent/1/child/2", "/parent/{id}/child/{id}")
    assert key_match4("/parent/1/child/2", "/parent/{id}/child/{other}")


def test_unicode_classes_are_pythons():
    r"""`\w` and `\d` know letters and digits beyond ASCII, as Python's do."""
    assert regex_match("jörg", r"\w+$")
    assert regex_match("٣", r"\d$")
    assert not regex_match("٣", r"(?a)\d$")
    assert not compile_pattern(r"\s").matches("é")
