"""Every failure has its line in the problem table."""

import inspect
import re

import pytest

from authn import errors as authn_errors
from authz import errors as authz_errors
from service import edge_errors, problems
from tenancy import errors as tenancy_errors

MODULES = (authn_errors, authz_errors, edge_errors, tenancy_errors)
BASES = {"AuthnError", "AuthzError", "EdgeError", "TenancyError"}

LEAVES = [
    error
    for module in MODULES
    for _, error in inspect.getmembers(module, inspect.isclass)
    if issubclass(error, Exception) and error.__module__ == module.__name__ and error.__name__ not in BASES
]


@pytest.mark.parametrize("error", LEAVES, ids=lambda error: error.__name__)
def test_every_error_leaf_has_a_problem(error):
    """A failure that nobody thought of would be a 500."""
    assert error in problems.PROBLEMS


def test_slugs_are_words_and_mean_one_thing():
    """Slugs are API: lower case, and with one status each."""
    statuses: dict[str, set[int]] = {}
    for problem in (*problems.PROBLEMS.values(), *problems.HTTP_PROBLEMS.values(), problems.FORBIDDEN):
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", problem.slug)
        statuses.setdefault(problem.slug, set()).add(int(problem.status))
    assert all(len(found) == 1 for found in statuses.values())


def test_an_unknown_error_tells_nothing():
    """Not its type, not its message."""
    rendered = problems.render_error(ValueError("secret"))
    assert rendered.status == 500
    assert b"secret" not in rendered.body
    assert b"ValueError" not in rendered.body


def test_a_refused_key_says_how_to_authenticate_and_an_outage_when_to_come_back():
    """RFC 9110 sections 11.6.1 and 10.2.3."""
    assert "WWW-Authenticate" in problems.render_error(edge_errors.NotAuthenticatedError()).headers
    assert "Retry-After" in problems.render_error(authz_errors.StaleError()).headers
    assert "Retry-After" in problems.render_error(authz_errors.StorageUnavailableError("password=hunter2")).headers
    assert b"hunter2" not in problems.render_error(authz_errors.StorageUnavailableError("password=hunter2")).body
