"""People who are signed in: sessions that begin as they do in service, without asking for a password."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from aiohttp import web

from authn.begin_session import Client, begin_session
from authn.session_storage import ValkeySessionStore
from authn.sessions import Acr, NewSession, Proof, Session
from authn.user_rows import read_user
from authn.volatile_values import VolatileValues
from service.keys import KEY_RING, SESSION_STORE, SESSIONS
from tenancy.audit import SealedPersonal
from tenancy.database import open_engine, open_sessions
from tenancy.ids import TenantId
from tenancy.settings_storage import read_settings
from tenancy.tenant import ChangeMeta
from tenancy.tenant_settings import SessionSettings
from tenancy.unit_of_work import TenantUnitOfWork, tenant_unit_of_work
from tests.support.servers import patient

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


async def sign_in_outside(
    database_url: str, redis_url: str, secret: str, tenant_id: TenantId, user_id: UUID, **settings: int
) -> NewSession:
    """Sign an account in beside running services, as one of their nodes would.

    Args:
        database_url: Of the owner of the tables.
        redis_url: The Valkey that the services use.
        secret: Their secret key.
        tenant_id: The account's tenant.
        user_id: The account.
        settings: Other lifetimes than the tenant's.
    """
    engine = open_engine(database_url, patient(pool_size=1))
    values = VolatileValues(redis_url, secret.encode())
    try:
        sessions = open_sessions(engine)
        async with tenant_unit_of_work(sessions, tenant_id) as work:
            held = await read_user(work, user_id)
            assert held is not None
            session = await begin_session(
                work,
                held,
                Proof(Acr.AAL1, AMR[Acr.AAL1], datetime.now(UTC)),
                settings=replace(SessionSettings(), **settings),
                ring=NoSealer(),
                meta=ChangeMeta(f"user:{user_id}"),
                client=Client(),
            )
        assert isinstance(session, Session), session
        return await ValkeySessionStore(values).put(session)
    finally:
        await values.close()
        await engine.dispose()


class NoSealer:
    """Seals nothing: a client without a name tells nothing of its person."""

    async def seal_personal(
        self, work: TenantUnitOfWork, subject_id: UUID, fields: Mapping[str, str]
    ) -> SealedPersonal:
        raise NotImplementedError
