"""The route table: what is served where, and who may call it. Access is said for every route, never implied."""

import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta

from aiohttp import web

from authn.sessions import Acr
from service.time_limits import ANSWER_SECONDS

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

DEFAULT_BODY_LIMIT = 1 << 20
ANY_METHOD = "*"

_PATTERN = re.compile(r"\{(\w+):[^}]*\}")


@dataclass(frozen=True, slots=True)
class Fresh:
    """How lately, and how well, whoever uses a route with a session must have proven who they are (RFC 9470).

    `full_level`: as well as the account can; who has a second factor must have proven it. `acr`: at least so well.
    """

    max_age: timedelta
    full_level: bool = True
    acr: Acr | None = None


FRESH = Fresh(timedelta(minutes=5))
"""For changes of one's own credentials (ASVS 5.0, 7.5.1)."""

STEP_UP = Fresh(timedelta(minutes=15))
"""For administration: whatever changes something (ASVS 5.0, 7.5.3)."""

HARMLESS = frozenset({"assert", "check", "explain", "plan", "read", "read-sessions"})
"""Actions that change nothing; all others ask a session for `STEP_UP`."""


@dataclass(frozen=True, slots=True)
class Needs:
    """A caller that may do `action` on `resource`: its key's scopes allow it, and its owner's rights if it has one.

    Decided by Kasbah's own engine (`service/rights.py`); `scope` is the one scope that stands for it. A route that is
    not decided so says why in `by_scope`.
    `tenant`: the route acts on one tenant, found as `service/tenant_of_request.py` says (a path variable `tenant`
    counts as one more place that names it) and left in `request[TENANT]`. `platform`: only platform keys.
    `base`: the path may name `_base`, whose rows every tenant inherits. `home`: a platform key may name `_platform`,
    which has people and an audit as a tenant has. `gone`: a platform key may name a deleted tenant.
    `own`: the route acts on the tenant of the caller, or on the platform for its people, and no other can be named.
    `interactive`: only whoever signed in, no key. `fresh`: of a session, how fresh it must be; administration that
    changes something demands `STEP_UP` without saying so. `enrolling`: also with a session that a recovery code made.
    """

    scope: str
    resource: str = ""
    action: str = ""
    tenant: bool = True
    platform: bool = False
    base: bool = False
    home: bool = False
    gone: bool = False
    own: bool = False
    by_scope: str = ""
    interactive: bool = False
    fresh: Fresh | None = None
    enrolling: bool = False

    @property
    def freshness(self) -> Fresh | None:
        """How fresh a session must be."""
        if self.fresh is None and self.action and self.action not in HARMLESS:
            return STEP_UP
        return self.fresh

    def __post_init__(self) -> None:
        stated = bool(self.resource) and bool(self.action)
        if stated == bool(self.by_scope):
            raise ValueError(f"a route for `{self.scope}` says resource and action, or why its scope alone decides")


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

    `path` is aiohttp's pattern, `body_limit` is in bytes. `seconds` bounds what the service waits for; None where
    the work is large, lasts by nature, or writes and must not be broken off. `bulk`: decisions would wait for it, so
    the bulk worker answers it where there is one (`service/bulk.py`). `hashes`: it computes a password hash, so it is
    refused before anything else is done for it while there is no place for one (`service/hashing_places.py`).
    `signs_in`: by a password; of these places the tenant that it names has half at most.
    """

    method: str
    path: str
    handler: Handler
    access: Access
    body_limit: int = DEFAULT_BODY_LIMIT
    seconds: float | None = ANSWER_SECONDS
    bulk: bool = False
    hashes: bool = False
    signs_in: bool = False
    label: str = field(init=False, compare=False)
    """The path without regular expressions: OpenAPI's, and a metric's label."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", _PATTERN.sub(r"{\1}", self.path))


def add_routes(app: web.Application, routes: Iterable[Route], guard: Callable[[Route], Handler]) -> None:
    """Register every route behind its guard. HEAD is not implied by GET."""
    for route in routes:
        app.router.add_route(route.method, route.path, guard(route))
