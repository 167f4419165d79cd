"""Holds answers against `docs/openapi.yaml`: an undocumented status or shape fails the test that met it."""

import json
import re
from functools import cache
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from tests.support.paths import ROOT

_DOCUMENT = "urn:kasbah:openapi"


@cache
def _document() -> tuple[dict[str, Any], Registry[Any]]:
    document = yaml.safe_load((ROOT / "docs" / "openapi.yaml").read_text("utf-8"))
    resource = Resource.from_contents(document, default_specification=DRAFT202012)
    return document, Registry().with_resource(_DOCUMENT, resource)


@cache
def _operation(method: str, path: str) -> tuple[str, dict[str, Any]] | None:
    document, _ = _document()
    for template, item in sorted(document["paths"].items(), key=lambda entry: entry[0].count("{")):
        pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(template))
        if re.fullmatch(pattern, path) and method.lower() in item:
            return template, item[method.lower()]
    return None


def check_documented(method: str, path: str, status: int, content_type: str, body: bytes) -> None:
    """Fail unless the document has this status for the operation, and the body has its shape."""
    found = _operation(method, path.partition("?")[0])
    assert found is not None, f"{method} {path} is not documented"
    template, operation = found
    responses = operation["responses"]
    assert str(status) in responses, f"{method} {template} answered {status}, which is not documented: {body[:300]!r}"
    document, _ = _document()
    response = responses[str(status)]
    if "$ref" in response:
        response = document["components"]["responses"][response["$ref"].rpartition("/")[2]]
    kind = content_type.partition(";")[0]
    if "content" not in response:
        assert not body, f"{method} {template} {status} has a body that is not documented"
        return
    assert kind in response["content"], f"{method} {template} {status} answered {kind}"
    if kind.endswith(("/json", "+json")):
        faults = faults_of(response["content"][kind]["schema"], json.loads(body))
        assert not faults, f"{method} {template} {status}: {faults[0]}"


def faults_of(schema: Any, value: Any) -> list[str]:
    """Return what of a value is not as a schema of the document says."""
    _, registry = _document()
    found = Draft202012Validator(_local(schema), registry=registry).iter_errors(value)
    return [f"{fault.message} at {fault.json_path}" for fault in found]


def _local(schema: Any) -> Any:
    """Return a schema whose references name the document."""
    if isinstance(schema, dict):
        return {
            name: f"{_DOCUMENT}{value}" if name == "$ref" and value.startswith("#") else _local(value)
            for name, value in schema.items()
        }
    return [_local(item) for item in schema] if isinstance(schema, list) else schema
