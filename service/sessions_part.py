"""Opens what sessions need: the store, what ends them, and sessions among the callers."""

from collections.abc import AsyncIterator, Sequence

from aiohttp import web

from authn.end_sessions import SessionEnds
from authn.errors import UserNotFoundError
from authn.session_storage import ValkeySessionStore
from authn.sessions import Session
from service.keys import CALLERS, METRICS, NODE, SESSION_ENDS, SESSION_STORE, SESSIONS, VOLATILE
from service.signed_in import SignedIn
from tenancy.tenant import ChangeMeta

TOO_MANY = ChangeMeta("system", "the account has as many sessions as it may have")


async def sessions_part(app: web.Application) -> AsyncIterator[None]:
    """Make sessions count as callers; opens after the node, the callers and Valkey."""
    ends = app[SESSION_ENDS] = SessionEnds(app[SESSIONS])
    node = app[NODE]

    async def displace(displaced: Sequence[Session]) -> None:
        try:
            head = await ends.end(displaced, meta=TOO_MANY)
        except UserNotFoundError:
            return
        if head is not None:
            await node.note_write(head)

    store = app[SESSION_STORE] = ValkeySessionStore(app[VOLATILE], displace)
    signed_in = SignedIn(store, node)
    app[CALLERS].others.append(signed_in)
    node.on_reset.append(signed_in.forget_all)
    app[METRICS].add_source(signed_in.totals)
    app[METRICS].add_source(lambda: {"session_rejected": store.rejected})
    yield
