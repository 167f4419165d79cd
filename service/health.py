"""Liveness, readiness and metrics."""

import hmac
from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from authn.access_tokens import is_jwt
from service.caller import OWN_PREFIX, bearer_token
from service.edge_errors import MissingScopeError, NotAuthenticatedError
from service.fresh_sign_in import require_sign_in
from service.keys import CALLERS, DRAINING, HTTP_SETTINGS, METRICS, READINESS
from service.metrics import CONTENT_TYPE
from service.rights import judged
from service.routes import Needs, OwnCredential, Public, Route

METRICS_ACCESS = Needs("metrics:read", "kasbah:metrics", "read", tenant=False, platform=True)

Probe = Callable[[], Awaitable[bool]]
"""Whether one part is ready; must not raise and must answer soon."""


class Readiness:
    """What must be ready before this process takes traffic, by name."""

    def __init__(self) -> None:
        self._probes: dict[str, Probe] = {}
        self._optional: set[str] = set()

    def add(self, name: str, probe: Probe, *, required: bool = True) -> None:
        """Add a part. One that is not required is reported, and does not make the process unready."""
        self._probes[name] = probe
        if not required:
            self._optional.add(name)

    async def parts(self) -> tuple[bool, dict[str, str]]:
        """Return whether the process is ready, and the state of each part: `ready` or `not ready`."""
        states = {name: await probe() for name, probe in self._probes.items()}
        ready = all(state for name, state in states.items() if name not in self._optional)
        return ready, {name: "ready" if state else "not ready" for name, state in states.items()}


async def healthz(_request: web.Request) -> web.Response:
    """`GET /healthz`: the process answers."""
    return web.Response(body=b'{"status":"ok"}', content_type="application/json")


async def readyz(request: web.Request) -> web.Response:
    """`GET /readyz`: whether the process can decide, and which part is not ready; names only."""
    if request.app[DRAINING].is_set():
        ready, parts = False, {"process": "stopping"}
    else:
        ready, parts = await request.app[READINESS].parts()
    body = msgspec.json.encode({"status": "ready" if ready else "not ready", "parts": parts})
    headers = {} if ready else {"Retry-After": "1"}
    return web.Response(status=200 if ready else 503, body=body, content_type="application/json", headers=headers)


async def metrics(request: web.Request) -> web.Response:
    """`GET /metrics`, for the metrics token or a platform key with the scope `metrics:read`."""
    token = bearer_token(request.headers.getall("Authorization", []))
    expected = request.app[HTTP_SETTINGS].metrics_token
    # SECURITY: compared in constant time; the token works while PostgreSQL is down, when metrics are needed most.
    if expected is None or not hmac.compare_digest(
        token.encode("utf-8", "surrogateescape"), expected.get_secret_value().encode()
    ):
        # SECURITY: a metrics token of yesterday is nobody's, and no issuer of opaque tokens is asked whose it might be.
        if not (token.startswith(OWN_PREFIX) or is_jwt(token)):
            raise NotAuthenticatedError
        caller = await request.app[CALLERS].authenticate(token)
        if caller.tenant_id is not None:
            raise MissingScopeError(f"this needs a platform key with the scope `{METRICS_ACCESS.scope}`")
        await judged(request, caller, METRICS_ACCESS)
        require_sign_in(caller, METRICS_ACCESS)
    return web.Response(body=request.app[METRICS].render(), headers={"Content-Type": CONTENT_TYPE})


ROUTES: tuple[Route, ...] = (
    Route("GET", "/healthz", healthz, Public("a process supervisor has no key; it tells nothing")),
    Route("GET", "/readyz", readyz, Public("a balancer has no key; it names parts, no details")),
    Route("GET", "/metrics", metrics, OwnCredential("the metrics token, or a platform key with `metrics:read`")),
)
