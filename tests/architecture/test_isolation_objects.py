"""No route is left out of the check that one tenant is kept from another."""

import tomllib

import yaml

from service.isolation_check import described, variables_of
from service.isolation_objects import MAKERS, UNKNOWN
from service.openapi import read_openapi
from tests.support.paths import ROOT


def test_every_variable_of_a_path_has_a_maker():
    """A route whose path has a new kind of id comes with what makes one, in service/isolation_objects.py."""
    assert variables_of(described()) <= {*MAKERS}
    assert {*MAKERS} == {*UNKNOWN}


def test_an_installed_package_has_the_description_of_the_routes():
    """`kasbah isolation-check` asks what stands there; in a checkout it is the file itself."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert included["docs/openapi.yaml"] == "service/openapi.yaml"
    assert read_openapi() == yaml.safe_load((ROOT / "docs" / "openapi.yaml").read_text("utf-8"))
