"""Security keys that somebody is about to add: the bytes that the new key must sign, kept for one answer.

One waits for each account, bound to the session that asked; a newer one takes its place. Whoever calls holds the locks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import text

from authn.errors import SessionEndedError, UserStorageUnavailableError
from authn.factors import PENDING_LIFETIME
from authn.sessions import Session
from authn.user_rows import lock_user
from tenancy.errors import DatabaseUnavailableError
from tenancy.unit_of_work import Sessions, TenantUnitOfWork, tenant_unit_of_work

_OPEN = text(
    "INSERT INTO webauthn_registrations (tenant_id, user_id, registration_id, session_id, name, nonce) "
    "VALUES (:tenant_id, :user_id, :registration_id, :session_id, :name, :nonce) "
    "ON CONFLICT (tenant_id, user_id) DO UPDATE SET registration_id = excluded.registration_id, "
    "session_id = excluded.session_id, name = excluded.name, nonce = excluded.nonce, created_at = clock_timestamp()"
)
_TAKE = text(
    "DELETE FROM webauthn_registrations WHERE tenant_id = :tenant_id AND user_id = :user_id "
    "AND registration_id = :registration_id AND session_id = :session_id "
    "RETURNING name, nonce, created_at > clock_timestamp() - :life AS alive"
)


@dataclass(frozen=True, slots=True)
class Registration:
    """A key that is awaited. `nonce` are the bytes that it must sign; `id` becomes the authenticator's."""

    id: UUID
    name: str
    nonce: bytes


async def open_registration(
    work: TenantUnitOfWork, user_id: UUID, session_id: UUID, registration: Registration
) -> None:
    """Await a key from a session."""
    parameters = {
        "tenant_id": work.tenant_id,
        "user_id": user_id,
        "registration_id": registration.id,
        "session_id": session_id,
        "name": registration.name,
        "nonce": registration.nonce,
    }
    await work.session.execute(_OPEN, parameters)


async def take_registration(
    work: TenantUnitOfWork, user_id: UUID, session_id: UUID, registration_id: UUID
) -> Registration | None:
    """Return what is awaited, once, to the session that asked; None when it is not (any more).

    SECURITY: it is gone whether the answer is good or not, so that the bytes are signed for once.
    """
    parameters = {
        "tenant_id": work.tenant_id,
        "user_id": user_id,
        "registration_id": registration_id,
        "session_id": session_id,
        "life": PENDING_LIFETIME,
    }
    row = (await work.session.execute(_TAKE, parameters)).one_or_none()
    return None if row is None or not row.alive else Registration(registration_id, row.name, bytes(row.nonce))


class KeyRegistrations:
    """Keeps, between the two requests that add a key, what `NewSecurityKey.begin` says is to be kept."""

    def __init__(self, sessions: Sessions) -> None:
        """Keep where units of work come from."""
        self._sessions = sessions

    async def keep(self, session: Session, kept: Mapping[str, Any]) -> None:
        """Await the key that a session asked for; raises `SessionEndedError`, `UserStorageUnavailableError`."""
        registration = Registration(UUID(kept["authenticator"]), kept["name"], kept["nonce"])
        try:
            async with tenant_unit_of_work(self._sessions, session.tenant_id) as work:
                held = await lock_user(work, session.user_id)
                # What a person calls their key is personal: nothing of it is left behind an account that is deleted.
                if held is None or held.auth_epoch != session.auth_epoch:
                    raise SessionEndedError("the session was ended meanwhile")
                await open_registration(work, session.user_id, session.session_id, registration)
        except DatabaseUnavailableError as error:
            raise UserStorageUnavailableError(str(error)) from error

    async def take(self, session: Session, registration_id: UUID) -> Mapping[str, Any] | None:
        """Return what was kept, once, in a transaction of its own; raises `UserStorageUnavailableError`."""
        try:
            async with tenant_unit_of_work(self._sessions, session.tenant_id) as work:
                found = await take_registration(work, session.user_id, session.session_id, registration_id)
        except DatabaseUnavailableError as error:
            raise UserStorageUnavailableError(str(error)) from error
        if found is None:
            return None
        return {"authenticator": str(found.id), "name": found.name, "nonce": found.nonce}
