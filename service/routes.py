"""The route table: what is served where, and who may call it. Access is said for every route, never implied."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

DEFAULT_BODY_LIMIT = 1 << 20
ANY_METHOD = "*"


@dataclass(frozen=True, slots=True)
class Needs:
    """A key with this scope.

    `tenant`: the route acts on one tenant, found as `service/tenant_of_request.py` says (a path variable `tenant`
    counts as one more place that names it) and left in `request[TENANT]`. `platform`: only platform keys.
    `base`: the path may name `_base`, whose rows every tenant inherits.
    """

    scope: str
    tenant: bool = True
    platform: bool = False
    base: bool = False


@dataclass(frozen=True, slots=True)
class Public:
    """No credential, and why that is right."""

    reason: str


@dataclass(frozen=True, slots=True)
class OwnCredential:
    """The handler authenticates by itself, and how."""

    how: str


Access = Needs | Public | OwnCredential


@dataclass(frozen=True, slots=True)
class Route:
    """One line of the table.

    `path` is aiohttp's pattern and, without regular expressions, OpenAPI's. `body_limit` is in bytes.
    """

    method: str
    path: str
    handler: Handler
    access: Access
    body_limit: int = DEFAULT_BODY_LIMIT


def add_routes(app: web.Application, routes: Iterable[Route], guard: Callable[[Route], Handler]) -> None:
    """Register every route behind its guard. HEAD is not implied by GET."""
    for route in routes:
        app.router.add_route(route.method, route.path, guard(route))
