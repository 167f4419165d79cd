"""The security checklist says of every requirement how it stands, once, and names tests that exist."""

import re
import tomllib

import pytest

from tests.support.paths import ROOT

PAGE = (ROOT / "docs/security-checklist.md").read_text()
ROWS = [
    tuple(cell.strip() for cell in line.strip("|").split(" | "))
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith(("| requirement |", "| ---"))
]
TEST = re.compile(r"`((?:\w+/)+test_\w+\.py)(?:::(\w+))?`")
IDS = re.compile(r"N?\d+(\.\d+)+|RFC \d+|[RF]\d+|F-slow|[a-z ]+")


def test_every_requirement_stands_in_one_row():
    """Whoever looks one up finds one answer."""
    ids = [one for row in ROWS for one in row[0].split(", ")]
    assert len(ids) > 200
    assert sorted(ids) == sorted(set(ids))
    assert [one for one in ids if not IDS.fullmatch(one)] == []


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:20])
def test_a_row_says_how_it_stands(row):
    """What is done names its test; what is not says when, or why not."""
    _, short, state = row
    assert short
    parts = re.findall(r"(?:^|\. )(done|next|deviation)\b[^:.]*: (.+?)(?=\. (?:done|next|deviation)\b|$)", state)
    assert parts, state
    assert len({name for name, _ in parts}) == len(parts)
    for name, text in parts:
        assert name != "done" or TEST.search(text), text


@pytest.mark.parametrize(("file", "test"), sorted(set(TEST.findall(PAGE))))
def test_what_the_checklist_names_exists(file, test):
    """A control without its test is a claim."""
    text = (ROOT / "tests" / file).read_text()
    assert not test or re.search(rf"^(?:async )?def {test}\(", text, re.MULTILINE)


def test_an_installed_package_has_no_tests():
    """Nor benchmarks nor load: what is installed is what serves."""
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert set(wheel["packages"]) == {"authn", "authz", "migrations", "service", "tenancy"}
    assert not [
        source for source in wheel.get("force-include", {}) if source.startswith(("tests", "benchmarks", "loadtests"))
    ]
    assert not [path for name in wheel["packages"] for path in (ROOT / name).rglob("test_*.py")]
