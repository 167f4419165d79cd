"""Whether one tenant reaches another: questions made from the description of the routes, and how answers are judged.

Each case is asked twice: with what is the other tenant's (its name, the ids of its objects), and with what nobody has.
Isolated is an answer that refuses (400, 401, 403 or 404) and tells nothing of the other tenant, or that is the same
both times. Every operation has cases, because every one can be asked with the other tenant's name; an id in a path
that `service/isolation_objects.py` cannot make stops the whole check, so that no new route is left out.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from service.openapi import METHODS

REFUSALS = frozenset({400, 401, 403, 404})
BUSY = frozenset({429, 503})
"""Nothing was judged: the caller asked too often, or the service cannot answer now."""

IGNORED_HEADERS = frozenset({"date", "x-request-id", "kasbah-request-id", "connection", "keep-alive", "content-length"})
"""What differs between two answers that say the same. The length is compared with the body."""

GATEWAY_HEADERS = {
    "X-Kasbah-Subject": "alice",
    "X-Original-Method": "GET",
    "X-Original-Host": "app.example",
    "X-Original-URI": "/records/1",
}
"""What a gateway says beside its key."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of the description. `path_names` are its variables, `query_names` its documented parameters."""

    name: str
    method: str
    path: str
    path_names: tuple[str, ...]
    query_names: tuple[str, ...]
    body: Any = None
    gateway: bool = False


@dataclass(frozen=True, slots=True)
class Side:
    """What a tenant has: its name, a key, and what its objects are called, by the variable or parameter that takes it.

    `secrets` are words that stand in its rows alone.
    """

    slug: str
    key: str = field(repr=False)
    objects: Mapping[str, str]
    secrets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Question:
    """One request."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Case:
    """The same request about the other tenant's and about nobody's; `given` and `instead` are what differs in them."""

    operation: Operation
    what: str
    foreign: Question
    unknown: Question
    given: tuple[str, ...]
    instead: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.operation.method} {self.operation.path}: {self.what}"


def operations_of(document: Mapping[str, Any]) -> Iterator[Operation]:
    """Yield every operation of an OpenAPI document."""
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                yield _operation(document, path, method, item)


def cases_of(operation: Operation, own: Side, other: Side, nobody: Side, base_domain: str | None) -> Iterator[Case]:
    """Yield the cases of one operation, asked with the key of `own`.

    Args:
        operation: What is asked.
        own: Who asks.
        other: Whose name and ids they try.
        nobody: A name and ids that no tenant has, of the same shape.
        base_domain: Of which subdomains name tenants, if any.
    """
    asking = _Asking(operation, own, base_domain)
    ids = [name for name in operation.path_names if name != "tenant"]
    for place in _places(operation, base_domain):
        yield asking.case(f"the other tenant's name in the {place}", other, nobody, names=(place,), ids=tuple(ids))
    for name in ids:
        yield asking.case(f"the other tenant's `{name}` in the path", other, nobody, ids=(name,))
    for name in operation.query_names:
        if name in other.objects:
            yield asking.case(f"the other tenant's `{name}` in the query", other, nobody, parameters=(name,))


def fault_of(case: Case, foreign: Reply, unknown: Reply, secrets: tuple[str, ...]) -> str | None:
    """Return how the answers show that the tenants are not isolated, or None.

    Args:
        case: What was asked.
        foreign: The answer to `case.foreign`.
        unknown: The answer to `case.unknown`.
        secrets: Words that only the other tenant's rows hold.
    """
    for secret in secrets:
        if secret.encode() in foreign.body or any(secret in value for value in foreign.headers.values()):
            return f"answered {foreign.status} with `{secret}`, which stands in rows of the other tenant alone"
    if foreign.status in REFUSALS:
        return None
    if foreign.status != unknown.status:
        return f"answered {foreign.status}, and {unknown.status} for what nobody has"
    if _said(foreign, case.given) != _said(unknown, case.instead):
        return f"answered {foreign.status} with another text than for what nobody has"
    return None


def _operation(document: Mapping[str, Any], path: str, method: str, item: Mapping[str, Any]) -> Operation:
    described = item[method]
    parameters = [
        _resolved(document, found) for found in [*item.get("parameters", []), *described.get("parameters", [])]
    ]
    content = described.get("requestBody", {}).get("content", {}).get("application/json", {})
    examples = list(content.get("examples", {}).values())
    return Operation(
        described.get("operationId", f"{method} {path}"),
        method.upper(),
        path,
        tuple(part[1:-1] for part in path.split("/") if part.startswith("{")),
        tuple(found["name"] for found in parameters if found["in"] == "query" and found["name"] != "tenant"),
        examples[0]["value"] if examples else None,
        gateway="gateway" in str(described.get("x-kasbah-access", {}).get("credential", "")),
    )


def _resolved(document: Mapping[str, Any], parameter: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = parameter.get("$ref")
    if reference is None:
        return parameter
    found: Mapping[str, Any] = document["components"]["parameters"][reference.rpartition("/")[2]]
    return found


def _places(operation: Operation, base_domain: str | None) -> Iterator[str]:
    if "tenant" in operation.path_names:
        yield "path"
    yield "header"
    yield "query"
    if base_domain is not None:
        yield "subdomain"


class _Asking:
    """Builds the requests of one operation."""

    def __init__(self, operation: Operation, own: Side, base_domain: str | None) -> None:
        self._operation = operation
        self._own = own
        self._base_domain = base_domain

    def case(
        self,
        what: str,
        other: Side,
        nobody: Side,
        *,
        names: tuple[str, ...] = (),
        ids: tuple[str, ...] = (),
        parameters: tuple[str, ...] = (),
    ) -> Case:
        foreign, given = self._question(other, names, ids, parameters)
        unknown, instead = self._question(nobody, names, ids, parameters)
        return Case(self._operation, what, foreign, unknown, given, instead)

    def _question(
        self, whose: Side, names: tuple[str, ...], ids: tuple[str, ...], parameters: tuple[str, ...]
    ) -> tuple[Question, tuple[str, ...]]:
        operation, own = self._operation, self._own
        used = [whose.slug] if names else []
        path = operation.path
        for name in operation.path_names:
            if name == "tenant":
                value = whose.slug if "path" in names else own.slug
            else:
                value = (whose if name in ids else own).objects[name]
                used.append(value)
            path = path.replace("{" + name + "}", quote(value, safe=""))
        query = {name: whose.objects[name] for name in parameters}
        used += query.values()
        headers = dict(GATEWAY_HEADERS) | {"X-Kasbah-Key": own.key} if operation.gateway else {}
        headers["Authorization"] = f"Bearer {own.key}"
        if "header" in names:
            headers["X-Tenant-ID"] = whose.slug
        if "query" in names:
            query["tenant"] = whose.slug
        if "subdomain" in names and self._base_domain is not None:
            headers["Host"] = f"{whose.slug}.{self._base_domain}"
        body = None if operation.body is None else json.dumps(operation.body).encode()
        if body is not None:
            headers["Content-Type"] = "application/json"
        text = "&".join(f"{name}={quote(value, safe='')}" for name, value in query.items())
        return Question(operation.method, f"{path}?{text}" if text else path, headers, body), tuple(used)


def _said(reply: Reply, given: tuple[str, ...]) -> tuple[dict[str, str], bytes]:
    """Return an answer without what differs between any two, and without what was asked with."""
    headers = {name.lower(): value for name, value in reply.headers.items() if name.lower() not in IGNORED_HEADERS}
    body = reply.body
    for value in given:
        body = body.replace(value.encode(), b"*")
        headers = {name: text.replace(value, "*") for name, text in headers.items()}
    return headers, body
