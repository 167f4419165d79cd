"""No route is left out of the check that one tenant is kept from another."""

from service.isolation_check import described, variables_of
from service.isolation_objects import MAKERS, UNKNOWN


def test_every_variable_of_a_path_has_a_maker():
    """A route whose path has a new kind of id comes with what makes one, in service/isolation_objects.py."""
    assert variables_of(described()) <= {*MAKERS}
    assert {*MAKERS} == {*UNKNOWN}
