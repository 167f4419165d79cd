"""Security keys that somebody is about to add: the bytes that the new key must sign, kept for one answer.

One waits for each account, bound to the session that asked; a newer one takes its place. Whoever calls holds the locks.
"""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text

from authn.factors import PENDING_LIFETIME
from tenancy.unit_of_work import TenantUnitOfWork

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
