"""`docs/openapi.yaml` is valid, describes every route, and says of each who may call it."""

import re
from typing import Any

import pytest
import yaml
from openapi_spec_validator import validate

from service.all_routes import all_routes
from service.routes import ANY_METHOD, Needs, OwnCredential, Public, Route
from tests.support.documented import faults_of
from tests.support.paths import ROOT

METHODS = ("get", "head", "options", "post", "put", "patch", "delete")


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """The file."""
    return yaml.safe_load((ROOT / "docs" / "openapi.yaml").read_text("utf-8"))


def operations_of(route: Route) -> list[tuple[str, str]]:
    """Return (path, method) of a route; a route for any method is described for each."""
    methods = METHODS if route.method == ANY_METHOD else (route.method.lower(),)
    return [(route.label, method) for method in methods]


def test_the_file_is_valid_openapi(document):
    """3.1, by an independent validator."""
    assert document["openapi"].startswith("3.1")
    validate(document)


def described(document: dict[str, Any]) -> set[tuple[str, str]]:
    """Return (path, method) of every operation in the file."""
    return {
        (path, method) for path, item in document["paths"].items() for method in item if method in (*METHODS, "trace")
    }


def routes() -> list[Any]:
    """Return every route as a parameter."""
    return [pytest.param(route, id=f"{route.method} {route.path}") for route in all_routes()]


def test_nothing_is_described_that_is_not_served(document):
    """A path that went away, or is misspelt."""
    assert described(document) <= {operation for route in all_routes() for operation in operations_of(route)}


@pytest.mark.parametrize("route", routes())
def test_every_route_is_described_with_its_access(document, route):
    """The scope of the route table, or the reason why none is needed."""
    for path, method in operations_of(route):
        assert (path, method) in described(document)
        operation = document["paths"][path][method]
        stated = operation["x-kasbah-access"]
        match route.access:
            case Needs() as needs:
                decided = {"resource": needs.resource, "action": needs.action}
                expected = {"scope": needs.scope} | ({"by_scope": needs.by_scope} if needs.by_scope else decided)
                assert stated == expected | ({"platform": True} if needs.platform else {}) | demanded(needs)
                assert "security" not in operation
            case Public(reason=reason):
                assert stated == {"public": reason}
                assert operation["security"] == []
            case OwnCredential(how=how):
                assert stated == {"credential": how}


def demanded(needs: Needs) -> dict[str, Any]:
    """Return what a route demands of a sign-in, beyond what all administration does."""
    found: dict[str, Any] = {"interactive": True} if needs.interactive else {}
    if needs.fresh is not None:
        found["max_age"] = int(needs.fresh.max_age.total_seconds())
        found |= {} if needs.fresh.acr is None else {"acr": needs.fresh.acr.value}
    return found


def test_every_reference_resolves_and_every_component_is_used(document):
    """No leftovers."""
    text = (ROOT / "docs" / "openapi.yaml").read_text("utf-8")
    used = set(re.findall(r'"?#/components/([a-z A-Z]+)/(\w+)"?', text))
    schemes = {name for item in [document, *operations(document)] for need in item.get("security", []) for name in need}
    present = {
        (kind, name)
        for kind, members in document["components"].items()
        for name in members
        if kind != "securitySchemes" or name not in schemes
    }
    assert used == present


def operations(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return every operation."""
    return [item[method] for item in document["paths"].values() for method in METHODS if method in item]


def test_every_operation_that_needs_a_key_says_what_a_refusal_looks_like(document):
    """401 and 403 where a key is needed, 503 where storage takes part."""
    for operation in operations(document):
        if operation.get("security") != []:
            assert {"401", "403", "503"} <= set(operation["responses"]), operation["summary"]
        for status, response in operation["responses"].items():
            if status.startswith("4") and "$ref" not in response:
                assert "application/problem+json" in response["content"]


def test_every_parameter_and_operation_says_what_it_is(document):
    """A name alone tells nobody what to write."""
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                assert item[method]["summary"], (method, path)
                for parameter in [*item.get("parameters", []), *item[method].get("parameters", [])]:
                    assert "$ref" in parameter or parameter["description"], (method, path, parameter["name"])
    for name, part in [*document["components"]["parameters"].items(), *document["components"]["schemas"].items()]:
        assert {"description", "$ref", "oneOf"} & part.keys(), name


def test_every_body_has_an_example_of_its_shape(document):
    """What a reader copies is what the service takes."""
    for operation in operations(document):
        if "requestBody" not in operation:
            continue
        for media in operation["requestBody"]["content"].values():
            assert media["examples"], operation["operationId"]
            for example in media["examples"].values():
                assert faults_of(media["schema"], example["value"]) == [], operation["operationId"]


def test_whoever_may_be_limited_is_told_so(document):
    """A key can have a limit, so every operation that takes one can answer 429 (`components/responses/TooOften`)."""
    for operation in operations(document):
        if "scope" in operation["x-kasbah-access"]:
            assert "429" in operation["responses"], operation["operationId"]


def test_no_scope_of_the_table_is_unknown():
    """The table can only name scopes that keys can carry."""
    from authn.api_keys import SCOPES

    assert {route.access.scope for route in all_routes() if isinstance(route.access, Needs)} <= SCOPES


def test_the_scopes_of_the_file_are_those_that_keys_can_carry(document):
    """In order, so that a missing one is seen."""
    from authn.api_keys import SCOPES

    assert document["components"]["schemas"]["Scope"]["enum"] == sorted(SCOPES)
