"""`/v1/users/{user_id}/sessions`: administrators see where an account is signed in, and end it."""

from aiohttp import web

from authn.users import UserId
from service.http.admin import json_answer, meta_of, no_content
from service.http.admin_users import USERS
from service.http.ids import user_id_in
from service.http.reasons import reason_in_query
from service.http.session_wire import shown
from service.keys import TENANT
from service.live_sessions import end_all_sessions, end_session, live_session, live_sessions
from service.rights import require_power_over
from service.routes import Needs, Route
from tenancy.tenant import ChangeMeta

_PATH = "/v1/users/{user_id}/sessions"


async def list_of(request: web.Request) -> web.Response:
    """GET where an account is signed in, the newest first."""
    user_id = user_id_in(request)
    head, _ = await request.app[USERS].read(request[TENANT], user_id)
    found = await live_sessions(request, request[TENANT], user_id)
    return json_answer({"sessions": [shown(session) for session in found]}, head=head)


async def end_one(request: web.Request) -> web.Response:
    """DELETE one of an account's sessions."""
    user_id, meta = await _about_to_end(request)
    session = await live_session(request, request[TENANT], user_id, request.match_info["session_id"])
    return no_content(await end_session(request, session, meta=meta))


async def end_all(request: web.Request) -> web.Response:
    """DELETE every sign-in of an account, its personal keys too."""
    user_id, meta = await _about_to_end(request)
    return no_content(await end_all_sessions(request, request[TENANT], user_id, meta=meta))


async def _about_to_end(request: web.Request) -> tuple[UserId, ChangeMeta]:
    """Return whose sessions are to end, and why; refuse whoever has no power over the account."""
    meta = meta_of(request, reason_in_query(request))
    user_id = user_id_in(request)
    await require_power_over(request, user_id)
    return user_id, meta


_READ = Needs("user:read", "kasbah:user", "read-sessions", home=True)
_END = Needs("user:write", "kasbah:user", "end-sessions", home=True)

ROUTES: tuple[Route, ...] = (
    Route("GET", _PATH, list_of, _READ),
    Route("DELETE", _PATH, end_all, _END, seconds=None),
    Route("DELETE", f"{_PATH}/{{session_id}}", end_one, _END, seconds=None),
)
