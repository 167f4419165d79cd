"""The threat model names tests that exist."""

import re

import pytest

from tests.support.paths import ROOT

NAMED = sorted(set(re.findall(r"`((?:\w+/)+test_\w+\.py)(?:::(\w+))?`", (ROOT / "docs/threat-model.md").read_text())))


def test_tests_are_named():
    """The page's form is the one that is read here."""
    assert len(NAMED) > 30


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_what_the_threat_model_names_exists(file, test):
    """A control without its test is a claim."""
    text = (ROOT / "tests" / file).read_text()
    assert not test or re.search(rf"^(?:async )?def {test}\(", text, re.MULTILINE)
