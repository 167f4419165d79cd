"""Devices that a person signed in from before, and chose to have remembered (the device cookies of OWASP).

A known device proves nothing about who uses it: its token only says whose failures are counted apart, so that strangers
who guess at an account cannot keep its owner out.
"""

import secrets
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import text

from authn.credential_failures import PASSWORD
from authn.tries import counter_from
from authn.volatile_values import token_hash
from tenancy.unit_of_work import TenantUnitOfWork
from tenancy.uuid7 import make_uuid7

DEVICE_PREFIX = "kasbah_device_"
MAX_DEVICES = 20
"""Of one account; the one that was used longest ago makes room for the next."""

_ENTER = text(
    "INSERT INTO known_devices (tenant_id, user_id, device_id, token_hash, expires_at, signed_in) "
    "VALUES (:tenant_id, :user_id, :device_id, :token_hash, clock_timestamp() + :life, :signed_in) RETURNING expires_at"
)
_MAKE_ROOM = text(
    "DELETE FROM known_devices WHERE tenant_id = :tenant_id AND user_id = :user_id AND device_id IN (SELECT device_id "
    "FROM known_devices WHERE tenant_id = :tenant_id AND user_id = :user_id "
    "ORDER BY expires_at > clock_timestamp() DESC, last_used_at DESC OFFSET :kept) RETURNING device_id"
)
_ANY = text(
    "SELECT EXISTS (SELECT FROM known_devices WHERE tenant_id = :tenant_id AND user_id = :user_id "
    "AND expires_at > clock_timestamp())"
)
_USED = text(
    "UPDATE known_devices AS d SET last_used_at = clock_timestamp(), expires_at = clock_timestamp() + :life, "
    "signed_in = true FROM (SELECT tenant_id, user_id, device_id, last_used_at FROM known_devices "
    "WHERE tenant_id = :tenant_id AND user_id = :user_id AND device_id = :device_id FOR UPDATE) AS before "
    "WHERE (d.tenant_id, d.user_id, d.device_id) = (before.tenant_id, before.user_id, before.device_id) "
    "RETURNING before.last_used_at"
)
_INHERIT = text(
    "INSERT INTO credential_failures (tenant_id, user_id, authenticator, failures, blocked_until) "
    "SELECT f.tenant_id, f.user_id, split_part(f.authenticator, '@', 1) || '@' || CAST(:device_id AS text), "
    "max(f.failures), max(f.blocked_until) FROM credential_failures AS f JOIN known_devices AS d "
    "ON d.tenant_id = f.tenant_id AND d.user_id = f.user_id "
    "AND split_part(f.authenticator, '@', 2) = CAST(d.device_id AS text) "
    "WHERE f.tenant_id = :tenant_id AND f.user_id = :user_id AND NOT d.signed_in "
    "GROUP BY f.tenant_id, f.user_id, split_part(f.authenticator, '@', 1)"
)
_REPLACE = text(
    "DELETE FROM known_devices WHERE tenant_id = :tenant_id AND user_id = :user_id AND NOT signed_in "
    "RETURNING device_id"
)
_LIST = text(
    "SELECT device_id, created_at, last_used_at, expires_at, signed_in FROM known_devices "
    "WHERE tenant_id = :tenant_id AND user_id = :user_id AND expires_at > clock_timestamp() "
    "ORDER BY last_used_at DESC, device_id"
)
_FORGET = text("DELETE FROM known_devices WHERE tenant_id = :tenant_id AND user_id = :user_id RETURNING device_id")
_FORGET_ONE = text(
    "DELETE FROM known_devices WHERE tenant_id = :tenant_id AND user_id = :user_id AND device_id = :device_id "
    "RETURNING device_id"
)
_FORGET_SIGNED_IN = text(
    "DELETE FROM known_devices WHERE tenant_id = :tenant_id AND user_id = :user_id AND signed_in RETURNING device_id"
)
_FORGET_FAILURES = text(
    "DELETE FROM credential_failures WHERE tenant_id = :tenant_id AND user_id = :user_id "
    "AND split_part(authenticator, '@', 2) = ANY(:devices)"
)


@dataclass(frozen=True, slots=True)
class KnownDevice:
    """A device that an account knows; what it is, nobody told. `signed_in` is false until somebody signs in from it."""

    device_id: UUID
    created_at: datetime
    last_used_at: datetime
    expires_at: datetime
    signed_in: bool


@dataclass(frozen=True, slots=True)
class NewDevice:
    """A device that is known from now on; nobody can read its token again."""

    token: str
    device_id: UUID
    expires_at: datetime

    def __repr__(self) -> str:
        """SECURITY: no log and no traceback shows a token."""
        return f"NewDevice({self.device_id})"


def password_counter(device_id: UUID | None) -> str:
    """Return under which name failed passwords are counted."""
    return counter_from(device_id, PASSWORD)


def device_hash(token: str | None) -> bytes:
    """Return what is stored of a device's token; of none, what no device has."""
    return token_hash(token or "")


async def remember_device(
    work: TenantUnitOfWork, user_id: UUID, *, now: datetime, life: timedelta, signed_in: bool = True
) -> NewDevice:
    """Enter a device, in the transaction of what its holder proved; the account's lock is held.

    Args:
        work: Bound to the account's tenant.
        user_id: Whose device.
        now: For its id.
        life: How long it is known.
        signed_in: Whether its holder signed in; one that did not proved their mailbox alone.
    """
    token = DEVICE_PREFIX + urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode()
    device_id = make_uuid7(now, secrets.token_bytes(10))
    named = {"tenant_id": work.tenant_id, "user_id": user_id}
    gone: list[UUID] = []
    if not signed_in:
        # SECURITY: it takes the place of the one before it, with what failed from there; else each mail would be worth
        # a hundred more guesses at a second factor.
        await work.session.execute(_INHERIT, named | {"device_id": str(device_id)})
        gone += (await work.session.execute(_REPLACE, named)).scalars()
    gone += (await work.session.execute(_MAKE_ROOM, named | {"kept": MAX_DEVICES - 1})).scalars()
    await _forget_failures(work, user_id, gone)
    entered = {"device_id": device_id, "token_hash": token_hash(token), "life": life, "signed_in": signed_in}
    expires_at: datetime = (await work.session.execute(_ENTER, named | entered)).scalar_one()
    return NewDevice(token, device_id, expires_at)


async def knows_devices(work: TenantUnitOfWork, user_id: UUID) -> bool:
    """Whether an account has a device that it knows."""
    return bool((await work.session.execute(_ANY, {"tenant_id": work.tenant_id, "user_id": user_id})).scalar_one())


async def note_device_used(
    work: TenantUnitOfWork, user_id: UUID, device_id: UUID, *, life: timedelta
) -> datetime | None:
    """Let a known device stay known from now on as long as a new one.

    Returns:
        When it was used before that; None where it was forgotten meanwhile.
    """
    named = {"tenant_id": work.tenant_id, "user_id": user_id, "device_id": device_id, "life": life}
    used_at: datetime | None = (await work.session.execute(_USED, named)).scalar_one_or_none()
    return used_at


async def list_devices(work: TenantUnitOfWork, user_id: UUID) -> Sequence[KnownDevice]:
    """Return the devices that an account knows now, the one that was used last first."""
    rows = await work.session.execute(_LIST, {"tenant_id": work.tenant_id, "user_id": user_id})
    return [KnownDevice(*row) for row in rows]


async def forget_device(work: TenantUnitOfWork, user_id: UUID, device_id: UUID) -> bool:
    """Forget one device and what failed from there; whether the account knew it."""
    named = {"tenant_id": work.tenant_id, "user_id": user_id, "device_id": device_id}
    gone = (await work.session.execute(_FORGET_ONE, named)).scalars().all()
    await _forget_failures(work, user_id, gone)
    return bool(gone)


async def forget_devices(work: TenantUnitOfWork, user_id: UUID) -> int:
    """Know no device of an account any more; return how many there were."""
    gone = (await work.session.execute(_FORGET, {"tenant_id": work.tenant_id, "user_id": user_id})).scalars().all()
    await _forget_failures(work, user_id, gone)
    return len(gone)


async def forget_trusted_devices(work: TenantUnitOfWork, user_id: UUID) -> None:
    """Forget every device that somebody signed in from: one of them may be a thief's, for whom all this is done.

    SECURITY: a thief's device would keep tries of its own, and be signed in from without a notice. One that a reset of
    the password made known stays until the next one replaces it, or its failures would be forgotten with it.
    """
    named = {"tenant_id": work.tenant_id, "user_id": user_id}
    gone = (await work.session.execute(_FORGET_SIGNED_IN, named)).scalars().all()
    await _forget_failures(work, user_id, gone)


async def _forget_failures(work: TenantUnitOfWork, user_id: UUID, gone: Sequence[UUID]) -> None:
    if gone:
        named = {"tenant_id": work.tenant_id, "user_id": user_id, "devices": [str(device) for device in gone]}
        await work.session.execute(_FORGET_FAILURES, named)
