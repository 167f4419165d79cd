"""A session begins: in one transaction with what proves that it may, so that a sign-in slower than a disable loses."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from sqlalchemy import text

from authn.errors import SessionEndedError
from authn.session_rows import is_ended
from authn.sessions import Proof, Session, lifetimes, renewed, strengthened
from authn.user_rows import lock_user
from authn.users import StoredUser, UserStatus
from tenancy.audit import AuditEntry, SealedPersonal
from tenancy.audit_log import append_audit
from tenancy.heads import lock_head
from tenancy.ids import TenantStatus
from tenancy.tenant import ChangeMeta
from tenancy.tenant_settings import SessionSettings
from tenancy.unit_of_work import TenantUnitOfWork
from tenancy.uuid7 import make_uuid7

SPENT_FOR = timedelta(days=1)
"""How long a spent challenge is remembered; none lives longer than minutes."""

_SIGNED_IN = text(
    "UPDATE users SET last_sign_in_at = clock_timestamp() WHERE tenant_id = :tenant_id AND user_id = :user_id "
    "RETURNING last_sign_in_at"
)
_NOW = text(
    "SELECT auth_epoch, clock_timestamp() AS now FROM users WHERE tenant_id = :tenant_id AND user_id = :user_id"
)
_SPEND = text(
    "INSERT INTO spent_challenges (tenant_id, challenge_id) VALUES (:tenant_id, :challenge_id) "
    "ON CONFLICT DO NOTHING RETURNING 1"
)
_SWEEP = text(
    "DELETE FROM spent_challenges WHERE (tenant_id, challenge_id) IN (SELECT tenant_id, challenge_id "
    "FROM spent_challenges WHERE tenant_id = :tenant_id AND spent_at < clock_timestamp() - :spent_for LIMIT 100)"
)


@dataclass(frozen=True, slots=True)
class SignInLost:
    """What was proven does not hold any more: the account, its tenant or its credentials are others by now."""


class PersonalSealer(Protocol):
    """What of the key ring is needed."""

    async def seal_personal(
        self, work: TenantUnitOfWork, subject_id: UUID, fields: Mapping[str, str]
    ) -> SealedPersonal:
        """Return fields sealed under the subject's own key."""


@dataclass(frozen=True, slots=True)
class Client:
    """Where somebody signs in from, as it is shown to them: a device's name, and an address."""

    device: str = ""
    address: str | None = None


async def begin_session(
    work: TenantUnitOfWork,
    held: StoredUser,
    proof: Proof,
    *,
    settings: SessionSettings,
    ring: PersonalSealer,
    meta: ChangeMeta,
    client: Client,
    method: str = "password",
    challenge_id: UUID | None = None,
) -> Session | SignInLost:
    """Let a session begin, in the caller's transaction; after the commit the caller puts it into the `SessionStore`.

    INVARIANT: it begins only if nothing that ends sign-ins happened since the account was read to prove the password.

    Args:
        work: Bound to the account's tenant.
        held: The account as it was when its password was proven.
        proof: What was proven, with which outcome.
        settings: How long sessions of the tenant last.
        ring: Seals what tells of a person.
        meta: From where and in which request; the actor is the account.
        client: Where the person is.
        method: What completed the proof, for the audit.
        challenge_id: The challenge that this finishes; one that was finished before begins nothing.
    """
    user = held.user
    locked = await lock_head(work)
    present = await lock_user(work, user.id)
    if locked is None or locked[0].status is not TenantStatus.ACTIVE:
        return SignInLost()
    if present is None or present.user.status is not UserStatus.ACTIVE:
        return SignInLost()
    if (present.auth_epoch, present.password_hash) != (held.auth_epoch, held.password_hash):
        return SignInLost()
    if challenge_id is not None and not await _spend(work, challenge_id):
        return SignInLost()
    named = {"tenant_id": work.tenant_id, "user_id": user.id}
    now: datetime = (await work.session.execute(_SIGNED_IN, named)).scalar_one()
    idle_seconds, life = lifetimes(settings, proof.acr)
    session = Session(
        session_id=make_uuid7(now, secrets.token_bytes(10)),
        tenant_id=work.tenant_id,
        user_id=user.id,
        auth_epoch=present.auth_epoch,
        acr=proof.acr,
        amr=proof.amr,
        auth_time=min(proof.auth_time, now),
        created_at=now,
        expires_at=now + life,
        idle_seconds=idle_seconds,
        last_seen_at=now,
        device=client.device,
        address=client.address,
        must_enrol=proof.must_enrol,
    )
    where = {"device": client.device} if client.device else {}
    personal = await ring.seal_personal(work, user.id, where) if where else None
    said = {"session": str(session.session_id), "acr": session.acr.value, "amr": list(session.amr), "method": method}
    entry = AuditEntry("session.begin", user.ref, personal=personal, detail=said)
    await append_audit(work, by_session(meta, session), [entry])
    return session


async def renew_session(
    work: TenantUnitOfWork,
    session: Session,
    held: StoredUser,
    *,
    meta: ChangeMeta,
    must_enrol: bool | None = None,
    proven: tuple[str, ...] = (),
) -> Session:
    """Let a session that changed its account's credentials go on as a new one, when all others end.

    Called in the transaction of the change, after it raised the epoch; the new session is put into the `SessionStore`
    after the commit, under a new token.

    Args:
        work: Holds the locks of the tenant and the account.
        session: The caller's.
        held: The account as it was when its lock was taken, before the change.
        meta: Who and why.
        must_enrol: Whether the new one is good for enrolment alone; as before when None.
        proven: What the change proved besides what the session did: a second factor, by its first use.

    Raises:
        SessionEndedError: it ended since its request was admitted, and so nothing that it asked for is to stay.
    """
    # SECURITY: whoever holds a stolen session could else outrun its end by changing credentials without pause.
    if held.user.id != session.user_id or held.auth_epoch != session.auth_epoch or await is_ended(work, session):
        raise SessionEndedError("the session was ended meanwhile")
    row = (await work.session.execute(_NOW, {"tenant_id": work.tenant_id, "user_id": session.user_id})).one()
    fresh = renewed(
        session, session_id=make_uuid7(row.now, secrets.token_bytes(10)), auth_epoch=row.auth_epoch, now=row.now
    )
    if must_enrol is not None:
        fresh = replace(fresh, must_enrol=must_enrol)
    if proven:
        fresh = strengthened(fresh, proven)
    said = {"session": str(fresh.session_id), "before": str(session.session_id)}
    await append_audit(work, meta, [AuditEntry("session.renew", held.user.ref, detail=said)])
    return fresh


def by_session(meta: ChangeMeta, session: Session) -> ChangeMeta:
    """Return who acts: the person whose session it is."""
    return replace(meta, actor=f"user:{session.user_id}", credential=f"session:{session.session_id}")


async def _spend(work: TenantUnitOfWork, challenge_id: UUID) -> bool:
    named = {"tenant_id": work.tenant_id}
    await work.session.execute(_SWEEP, named | {"spent_for": SPENT_FOR})
    spent = await work.session.execute(_SPEND, named | {"challenge_id": challenge_id})
    return spent.one_or_none() is not None
