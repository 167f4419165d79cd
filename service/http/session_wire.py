"""Sessions as answers show them, and the one that a request came with."""

from typing import Any

import structlog
from aiohttp import web

from authn.errors import VolatileStoreUnavailableError
from authn.known_devices import NewDevice
from authn.sessions import NewSession, Session
from service.edge_errors import InteractiveOnlyError
from service.keys import CALLER, SESSION_STORE
from tenancy.errors import DatabaseUnavailableError

_log = structlog.get_logger(__name__)


def own_session(request: web.Request) -> Session:
    """Return the session that a request to an interactive route came with."""
    session = request[CALLER].session
    if session is None:
        raise InteractiveOnlyError("this needs somebody who signed in, and no key stands for that")
    return session


def shown_new(new: NewSession) -> dict[str, Any]:
    """Return a session for whom it is, once: with its token."""
    session = new.session
    return {
        "token": new.token,
        "id": session.session_id,
        "expires_at": session.expires_at,
        "acr": session.acr,
        "amr": list(session.amr),
        "auth_time": session.auth_time,
        "enrolment_required": session.must_enrol,
    }


def shown_device(device: NewDevice) -> dict[str, Any]:
    """Return a device that is known from now on, once: with its token."""
    return {"token": device.token, "expires_at": device.expires_at}


def shown(session: Session) -> dict[str, Any]:
    """Return a session as lists have it: without anything that could be used in its place."""
    return {
        "id": session.session_id,
        "acr": session.acr,
        "amr": list(session.amr),
        "auth_time": session.auth_time,
        "enrolment_required": session.must_enrol,
        "created_at": session.created_at,
        "last_seen_at": session.last_seen_at,
        "expires_at": session.expires_at,
        "device": session.device,
        "address": session.address,
    }


async def shown_renewed(request: web.Request, session: Session | None) -> dict[str, Any] | None:
    """Put the session in which a person goes on into the store, and return it with its new token.

    What they changed is committed. When that cannot be done there is none, and they sign in again: codes that are
    told once must not be lost with an answer.
    """
    if session is None:
        return None
    try:
        return shown_new(await request.app[SESSION_STORE].put(session))
    except (VolatileStoreUnavailableError, DatabaseUnavailableError):
        _log.warning("sessions.not_renewed", session=str(session.session_id))
        return None
