"""The running service, driven from `docs/openapi.yaml`: no status, content type or shape that is not written there."""

import asyncio
import os

import pytest
import schemathesis
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from tests.support.paths import ROOT
from tests.support.policies import rows
from tests.support.seeding import seed

pytestmark = [pytest.mark.integration, pytest.mark.process, pytest.mark.slow]

EXAMPLES = int(os.environ.get("KASBAH_FUZZ_EXAMPLES", "8"))
"""Requests for each operation and mode; the nightly run asks for more."""

POLICY = """
p role:editor record:* read
p role:editor record:* write
g user:alice role:editor
p user:* record:secret read deny
p user:alice doc:1 open allow if context.ip == "10.0.0.1"
base p role:auditor record:* read
"""

DOCUMENT = yaml.safe_load((ROOT / "docs" / "openapi.yaml").read_text("utf-8"))
METHODS = ("get", "head", "options", "post", "put", "patch", "delete")
OPERATIONS = [(path, method) for path, item in DOCUMENT["paths"].items() for method in METHODS if method in item]

load_all_checks()


@schemathesis.serializer("application/x-ndjson", "text/csv")
def as_text(_context, value):
    """Send the bodies that are text as they were drawn."""
    return value if isinstance(value, bytes) else str(value).encode()


CHECKED = CHECKS.get_by_names(
    [
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
    ]
)


@pytest.fixture(scope="module")
def seeded(database_url):
    """Two tenants and their keys."""
    written = rows(POLICY)
    base = [row for row in written if row.base]
    return asyncio.run(seed(database_url, {"acme": [row for row in written if not row.base], "other": []}, base))


@pytest.fixture(scope="module")
def schema():
    """The file, as schemathesis reads it."""
    return schemathesis.openapi.from_dict(DOCUMENT)


def credentials(path, seeded):
    """Return the headers of a caller who may use an operation."""
    if path.startswith("/v1/forward-auth"):
        return {"X-Kasbah-Key": seeded.keys["acme"]}
    key = seeded.platform_key if path.startswith(("/v1/", "/metrics")) else seeded.keys["acme"]
    return {"Authorization": f"Bearer {key}"}


def tame(case):
    """Name a tenant that is there, and a revision that was reached, so that most requests come through."""
    if "tenant" in (case.path_parameters or {}):
        case.path_parameters["tenant"] = "acme"
    (case.query or {}).pop("tenant", None)
    for name in list(case.headers or {}):
        if name.lower() == "x-tenant-id":
            del case.headers[name]
        elif name.lower() == "kasbah-min-revision":
            case.headers[name] = "1"


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(("path", "method"), OPERATIONS, ids=[f"{method} {path}" for path, method in OPERATIONS])
def test_answers_are_as_documented(seeded, service, schema, path, method, mode):  # noqa: PLR0917
    """For requests that fit the file, and for such that do not; with a good key, and with none."""
    operation = schema[path][method.upper()]

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def drive(case):
        if mode is GenerationMode.POSITIVE:
            tame(case)
        response = case.call_and_validate(
            base_url=service.base_url, headers=credentials(path, seeded), checks=CHECKED, timeout=60
        )
        # 503 is documented, and right for a revision that is not there yet; any other server's fault is ours.
        assert response.status_code < 500 or response.status_code == 503, response.text

    try:
        drive()
    except Unsatisfiable:
        # An operation that takes nothing, or only text, cannot be asked wrongly.
        assert mode is GenerationMode.NEGATIVE
        assert "requestBody" not in operation.definition.raw
    case = operation.Case()
    response = case.call(base_url=service.base_url, timeout=60) if "{" not in path else None
    if response is not None and operation.definition.raw.get("security") != []:
        assert response.status_code in {400, 401}
