"""The sessions of an account: what Valkey remembers, as far as PostgreSQL says that it counts; and their end."""

from collections.abc import Sequence
from uuid import UUID

import structlog
from aiohttp import web

from authn.errors import VolatileStoreUnavailableError
from authn.sessions import Session
from authn.users import subject_ref
from authz.request import Ref
from service.edge_errors import NoSuchResourceError
from service.http.admin import written
from service.keys import NODE, SESSION_ENDS, SESSION_STORE
from service.signed_in import counts
from tenancy.ids import TenantId
from tenancy.tenant import ChangeMeta, TenantHead

_log = structlog.get_logger(__name__)


async def live_sessions(request: web.Request, tenant_id: TenantId, user_id: UUID) -> list[Session]:
    """Return an account's sessions that count now, the newest first.

    Raises:
        VolatileStoreUnavailableError: Valkey does not answer, so which there are is not known.
        StaleError, StorageUnavailableError: what became of the account is not known.
    """
    node = request.app[NODE]
    ref = Ref(subject_ref(user_id))
    remembered = await request.app[SESSION_STORE].list_of(tenant_id, user_id)
    loaded = await node.load(tenant_id, [ref], [])
    account, now = loaded.subjects[ref].record.account, node.now()
    if account is None:
        return []
    return [session for session in remembered if counts(session, account) and not session.is_over(now)]


async def live_session(request: web.Request, tenant_id: TenantId, user_id: UUID, session_id: str) -> Session:
    """Return one of them; raises `NoSuchResourceError` for every other id, and as `live_sessions`."""
    for session in await live_sessions(request, tenant_id, user_id):
        if str(session.session_id) == session_id:
            return session
    raise NoSuchResourceError


async def end_session(request: web.Request, session: Session, *, meta: ChangeMeta) -> TenantHead | None:
    """End a session on every node; return where its tenant stands, or None when it had ended before."""
    head = await request.app[SESSION_ENDS].end([session], meta=meta)
    if head is not None:
        await written(request, head)
    await forget_sessions(request, session.tenant_id, session.user_id, [session.session_id])
    return head


async def end_all_sessions(request: web.Request, tenant_id: TenantId, user_id: UUID, *, meta: ChangeMeta) -> TenantHead:
    """End every sign-in of an account on every node, its personal keys with them.

    Raises:
        UserNotFoundError: the tenant has no such account.
    """
    head = await request.app[SESSION_ENDS].end_all(tenant_id, user_id, meta=meta)
    await written(request, head)
    await forget_sessions(request, tenant_id, user_id)
    return head


async def forget_sessions(
    request: web.Request, tenant_id: TenantId, user_id: UUID, ids: Sequence[UUID] | None = None
) -> None:
    """Let Valkey forget what ended. They are over whether it does or not: PostgreSQL says so."""
    try:
        await request.app[SESSION_STORE].forget(tenant_id, user_id, ids)
    except VolatileStoreUnavailableError:
        _log.warning("sessions.not_forgotten", user=str(user_id))
