"""`python -m tools.core_coverage`: which branches of the authentication core tests take; all must be."""

import sys
from collections.abc import Sequence

import pytest
from coverage import Coverage

from tools.auth_core import MODULES, ROOT, TESTS

WANTED = 100
"""Percent of statements and branches."""


def main(arguments: Sequence[str] = ()) -> int:
    """Run the tests of the core (or those that are named), print the table; returns 1 when something was not taken."""
    measured = Coverage(
        data_file=None,
        config_file=str(ROOT / "pyproject.toml"),
        include=[str(ROOT / module) for module in MODULES],
    )
    measured.start()
    ended = pytest.main(["-q", *(arguments or TESTS)])
    measured.stop()
    covered = measured.report(show_missing=True, skip_empty=True)
    return int(ended) or int(covered < WANTED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
