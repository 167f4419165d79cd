"""`/v1/users/me/sessions`: people see where they are signed in, and end it: here, there, or everywhere."""

from aiohttp import web

from service.http.admin import json_answer, meta_of, no_content
from service.http.session_wire import own_session, shown
from service.live_sessions import end_all_sessions, end_session, live_session, live_sessions
from service.routes import Needs, Route

_PATH = "/v1/users/me/sessions"
CURRENT = "current"
"""Stands for the session that asks."""


async def list_own(request: web.Request) -> web.Response:
    """GET where the caller is signed in, the newest first."""
    own = own_session(request)
    found = await live_sessions(request, own.tenant_id, own.user_id)
    said = [shown(session) | {"current": session.session_id == own.session_id} for session in found]
    return json_answer({"sessions": said})


async def end_own(request: web.Request) -> web.Response:
    """DELETE one of the caller's sessions; `current` signs out."""
    own = own_session(request)
    named = request.match_info["session_id"]
    # Signing out must work without Valkey: the session that asks is known.
    is_own = named in {CURRENT, str(own.session_id)}
    session = own if is_own else await live_session(request, own.tenant_id, own.user_id, named)
    return no_content(await end_session(request, session, meta=meta_of(request)))


async def end_all_own(request: web.Request) -> web.Response:
    """DELETE every sign-in of the caller, this one and personal keys too."""
    own = own_session(request)
    return no_content(await end_all_sessions(request, own.tenant_id, own.user_id, meta=meta_of(request)))


_OWN = Needs(
    "account:write",
    tenant=False,
    by_scope="it is about the caller's own sessions",
    interactive=True,
    enrolling=True,
)

ROUTES: tuple[Route, ...] = (
    Route("GET", _PATH, list_own, _OWN),
    Route("DELETE", _PATH, end_all_own, _OWN, seconds=None),
    Route("DELETE", f"{_PATH}/{{session_id}}", end_own, _OWN, seconds=None),
)
