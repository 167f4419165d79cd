"""Puts the edge together: routes behind their guards, one middleware, and the parts that live as long as the server."""

import asyncio
import itertools
import logging
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence

import structlog
from aiohttp import web

from authn.errors import PasswordHashingBusyError
from service import problems
from service.answer_headers import add_headers
from service.caller import Caller, bearer_token
from service.edge_errors import OtherTenantError, TenantSuspendedError
from service.fresh_sign_in import require_fresh, require_sign_in
from service.hashing_places import require_room
from service.http.revisions import likely_min_revision
from service.http_settings import HttpSettings
from service.jobs import Jobs
from service.keys import (
    BULK,
    CALLER,
    CALLERS,
    DRAINING,
    HTTP_SETTINGS,
    JOBS,
    METRICS,
    NODE,
    READMIT,
    REQUEST_ID,
    ROUTE,
    ROUTES,
    TENANT,
    TENANTS,
)
from service.refusals import CROSS_USE, ESCALATION, told_of
from service.rights import DECISIONS, judged
from service.routes import Handler, Needs, Route, add_routes
from service.tenant_of_request import TENANT_HEADER, TENANT_PARAMETER, named_tenant, own_tenant_of, tenant_of
from service.time_limits import answered_in_time

Part = Callable[[web.Application], AsyncIterator[None]]
"""A cleanup context: acquire, yield, release."""

_REQUEST_ID_PATTERN = re.compile(r"[ -~]{1,200}\Z")
REFUSED_METHODS = frozenset({"TRACE", "CONNECT"})
"""Not even where a route takes any method: TRACE echoes credentials, CONNECT asks for a tunnel."""

UNMATCHED = "unmatched"
"""Route of requests that no line of the table takes, as a metric's label."""

_request_prefix = ""
_request_numbers = itertools.count(1)
_log = structlog.get_logger()
_root_log = logging.getLogger()


def _renew_request_prefix() -> None:
    global _request_prefix  # noqa: PLW0603  # one per process
    _request_prefix = os.urandom(6).hex()


_renew_request_prefix()
# Workers are forked after this module was imported: with one prefix for all, their ids would meet.
os.register_at_fork(after_in_child=_renew_request_prefix)


def build_app(settings: HttpSettings, parts: Sequence[Part], routes: Sequence[Route]) -> web.Application:
    """Return the application. Nothing is opened before it starts.

    Args:
        settings: Limits and names of the edge.
        parts: Open in order when the application starts, close in reverse; they fill the keys of `service/keys.py`.
        routes: What is served.
    """
    app = web.Application(middlewares=[answer], client_max_size=max(route.body_limit for route in routes))
    app[HTTP_SETTINGS] = settings
    app[ROUTES] = tuple(routes)
    app[DRAINING] = asyncio.Event()
    app[JOBS] = Jobs()
    app.cleanup_ctx.extend(parts)
    add_routes(app, routes, guarded)
    return app


def new_request_id() -> str:
    """Return an id that no other request of any node has."""
    return f"{_request_prefix}{next(_request_numbers):x}"


def request_id_of(values: Sequence[str]) -> str:
    """Return the caller's `X-Request-ID` when it is one header of 1 to 200 printable ASCII characters, or a new one."""
    if len(values) == 1 and _REQUEST_ID_PATTERN.match(values[0]) is not None:
        return values[0]
    return new_request_id()


@web.middleware
async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give every request an id, every failure its problem, and every answer its headers."""
    request_id = request_id_of(request.headers.getall("X-Request-ID", []))
    request[REQUEST_ID] = request_id
    started = time.perf_counter()
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=request_id)
    try:
        response = await (_refuse_method if request.method in REFUSED_METHODS else handler)(request)
    except web.HTTPException as refusal:
        headers = {"Allow": refusal.headers["Allow"]} if "Allow" in refusal.headers else {}
        response = response_of(problems.render(problems.of_status(refusal.status), headers=headers))
    except Exception as error:  # noqa: BLE001  # the last resort: whatever it is, it becomes a problem
        rendered = problems.render_error(error)
        # What a full pool refuses is counted (`password_hashes_refused`): a flood of passwords is no flood of lines.
        if rendered.status >= 500 and not isinstance(error, PasswordHashingBusyError):  # noqa: PLR2004  # server's fault
            _log_failure(request, error, rendered.status)
        response = response_of(rendered)
    if not response.prepared:
        add_headers(request, response)
        if request.app[DRAINING].is_set():
            # Told to end between two requests, a client loses none; told by a closed connection, perhaps the next.
            response.force_close()
    request.app[METRICS].count_request(request[ROUTE].label if ROUTE in request else UNMATCHED, response.status)
    if _root_log.isEnabledFor(logging.DEBUG):  # much cheaper than a record that is thrown away
        _log.debug(
            "http.answered",
            method=request.method,
            path=request.path,
            status=response.status,
            seconds=round(time.perf_counter() - started, 6),
        )
    return response


async def _refuse_method(request: web.Request) -> web.StreamResponse:
    raise web.HTTPMethodNotAllowed(request.method, ())


def _log_failure(request: web.Request, error: Exception, status: int) -> None:
    """Say what failed; a traceback only for what nobody expected, since an outage fails every request."""
    expected = problems.problem_of(error) is not problems.INTERNAL
    log = _log.warning if expected else _log.error
    more = {"error": str(error)} if expected else {"exc_info": error}
    log("http.failed", method=request.method, path=request.path, status=status, **more)


def response_of(rendered: problems.RenderedProblem) -> web.Response:
    """Return a rendered problem as aiohttp's response."""
    return web.Response(
        status=rendered.status,
        headers=rendered.headers,
        body=rendered.body,
        content_type=problems.PROBLEM_JSON,
    )


def guarded(route: Route) -> Handler:
    """Return the route's handler behind what its access says."""
    access = route.access

    async def open_handler(request: web.Request) -> web.StreamResponse:
        request[ROUTE] = route
        if route.hashes:
            require_room(request)
        async with answered_in_time(request, route.seconds):
            return await answering(request, route)

    if not isinstance(access, Needs):
        return open_handler

    async def keyed_handler(request: web.Request) -> web.StreamResponse:
        request[ROUTE] = route
        if route.hashes:
            require_room(request)
        async with answered_in_time(request, route.seconds):
            await authenticate_and_admit(request, access)
            request[READMIT] = lambda: authenticate_and_admit(request, access)
            async with told_of(request, ESCALATION):
                return await answering(request, route)

    return keyed_handler


async def answering(request: web.Request, route: Route) -> web.StreamResponse:
    """Answer a request that was admitted: here, or in the bulk worker."""
    forwarder = request.app.get(BULK) if route.bulk else None
    if forwarder is None:
        return await route.handler(request)
    return await forwarder.forward(request, route.handler, hashes=route.hashes)


async def authenticate_and_admit(request: web.Request, access: Needs) -> None:
    """Find who calls, and refuse whoever may not use the route, or asks too often.

    Raises what `Callers.authenticate`, `Callers.spend` and `admit` do.
    """
    token = bearer_token(request.headers.getall("Authorization", []))
    callers = request.app[CALLERS]
    caller = await callers.authenticate(token, likely_min_revision(request.headers))
    if CALLER not in request:  # asked anew when the body is there, it is the same request
        callers.spend(caller)
    request[CALLER] = caller
    if request[ROUTE].hashes:
        require_room(request)
    structlog.contextvars.bind_contextvars(caller=caller.actor)
    async with told_of(request, CROSS_USE):
        await admit(request, caller, access)


async def admit(request: web.Request, caller: Caller, access: Needs) -> None:
    """Refuse a caller that may not use the route; leave it in `request[CALLER]`, its tenant in `request[TENANT]`.

    Raises:
        TenantSuspendedError: the key's tenant is suspended, and the route is not about a decision.
        InteractiveOnlyError, EnrolmentRequiredError: as `require_sign_in`.
        InsufficientAuthenticationError: a session, or a person's access token, that is not fresh enough.
        MissingScopeError: the key lacks the scope.
        MissingRightError: its owner lacks the right.
        StaleError, StorageUnavailableError: what the owner may do is not known.
        OtherTenantError: a tenant-bound key on a platform route, or another tenant's name.
        InvalidRequestError, TenantRequiredError, NoSuchTenantError: as in `service/tenant_of_request.py`.
    """
    # A decision says itself that its tenant is suspended; an account of that tenant may not even ask for one.
    if (access.resource != DECISIONS or caller.owner is not None) and request.app[CALLERS].is_suspended(caller):
        raise TenantSuspendedError
    require_sign_in(caller, access)
    caller = request[CALLER] = await judged(request, caller, access)
    if caller.session is not None or caller.sign_in is not None:
        require_fresh(caller, access.freshness, request.app[NODE].now())
    if access.platform and caller.tenant_id is not None:
        raise OtherTenantError("this needs a platform key, and yours is bound to a tenant")
    if not access.tenant and not access.own:
        return
    name = named_tenant(
        headers=request.headers.getall(TENANT_HEADER, []),
        parameters=request.query.getall(TENANT_PARAMETER, []),
        host=request.headers.getall("Host", []),
        base_domain=request.app[HTTP_SETTINGS].base_domain,
        path=request.match_info.get("tenant"),
    )
    if access.own:
        tenant_id = own_tenant_of(caller, name)
    else:
        tenant_id = await tenant_of(
            caller, name, request.app[TENANTS], base=access.base, home=access.home, gone=access.gone
        )
    request[TENANT] = tenant_id
    structlog.contextvars.bind_contextvars(tenant=str(tenant_id))
