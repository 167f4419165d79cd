"""People who are signed in: sessions that begin as they do in service, without asking for a password."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from aiohttp import web

from authn.begin_session import Client, begin_session
from authn.sessions import Acr, NewSession, Proof, Session
from authn.user_rows import read_user
from service.keys import KEY_RING, SESSION_STORE, SESSIONS
from tenancy.ids import TenantId
from tenancy.settings_storage import read_settings
from tenancy.tenant import ChangeMeta
from tenancy.unit_of_work import tenant_unit_of_work

AMR = {Acr.AAL1: ("pwd",), Acr.AAL2: ("pwd", "otp", "mfa")}


async def signed_in(
    app: web.Application,
    tenant_id: TenantId,
    user_id: UUID,
    acr: Acr = Acr.AAL1,
    *,
    ago: timedelta = timedelta(0),
    must_enrol: bool = False,
    client: Client | None = None,
) -> NewSession:
    """Sign an account in, and return its session with its token.

    Args:
        app: A running application.
        tenant_id: The account's tenant.
        user_id: The account.
        acr: How well it proved who it is.
        ago: How long ago the last proof was given.
        must_enrol: Whether a recovery code was used.
        client: From where.
    """
    proof = Proof(acr, AMR[acr], datetime.now(UTC) - ago, must_enrol)
    async with tenant_unit_of_work(app[SESSIONS], tenant_id) as work:
        held = await read_user(work, user_id)
        assert held is not None
        settings = (await read_settings(work)).sessions
        session = await begin_session(
            work,
            held,
            proof,
            settings=settings,
            ring=app[KEY_RING],
            meta=ChangeMeta(f"user:{user_id}"),
            client=client or Client("a browser", "192.0.2.7"),
        )
    assert isinstance(session, Session), session
    return await app[SESSION_STORE].put(session)
