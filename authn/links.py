"""Links that work once: who holds one proves that they read the mails of an address.

A token is 256 random bits in base64url; what is stored is its SHA-256, as with API keys. A link belongs to one tenant,
one purpose and one account (or invitation), to the address that the account had and to the `auth_epoch` that it had:
whatever ends sign-ins, ends links too. The one exception is taking back a change of address, which must still work
after whoever stole the account changed everything else.
"""

import base64
import hashlib
import re
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncSession

from tenancy.ids import Slug, TenantId, TenantStatus
from tenancy.unit_of_work import TenantUnitOfWork
from tenancy.uuid7 import make_uuid7

TOKEN_BYTES = 32
TOKEN_PATTERN = re.compile(r"[A-Za-z0-9_-]{43}\Z")


class LinkPurpose(StrEnum):
    """What a link does. Its value is the last part of the page's path; enrolment has no page, its token is a ticket."""

    INVITATION = "invitation"
    VERIFY = "verify"
    PASSWORD_RESET = "password-reset"  # noqa: S105 - a purpose
    CONFIRM_ADDRESS = "confirm-address"
    UNDO_ADDRESS = "undo-address"
    ENROLMENT = "enrolment"
    FACTOR_RESET = "factor-reset"


LIFETIMES = {
    LinkPurpose.INVITATION: timedelta(days=7),
    LinkPurpose.VERIFY: timedelta(days=1),
    LinkPurpose.PASSWORD_RESET: timedelta(hours=1),
    LinkPurpose.CONFIRM_ADDRESS: timedelta(days=1),
    LinkPurpose.UNDO_ADDRESS: timedelta(hours=72),
    LinkPurpose.ENROLMENT: timedelta(hours=24),
    LinkPurpose.FACTOR_RESET: timedelta(hours=24),
}


@dataclass(frozen=True, slots=True)
class Link:
    """A link that was good when it was looked at, or spent. `about_id`: the invitation or the change of address."""

    link_id: UUID
    purpose: LinkPurpose
    user_id: UUID | None
    about_id: UUID | None
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class IssuedLink:
    """A new link; `token` is known to nobody else, and is not stored."""

    token: str = field(repr=False)
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class LinkHome:
    """Where a token belongs, found before its tenant is known."""

    tenant_id: TenantId
    slug: Slug
    status: TenantStatus


@dataclass(frozen=True, slots=True)
class Holder:
    """The account that a link is for, as it stands: its address's key and its epoch.

    `email_key` None: the link outlives a change of address; `auth_epoch` None: it outlives all other changes.
    """

    user_id: UUID
    email_key: str | None
    auth_epoch: int | None


_ISSUE = text(
    "INSERT INTO links (tenant_id, link_id, token_hash, purpose, user_id, about_id, email_hash, auth_epoch, "
    "expires_at) VALUES (:tenant_id, :link_id, :token_hash, :purpose, :user_id, :about_id, :email_hash, :auth_epoch, "
    "clock_timestamp() + :lifetime) RETURNING expires_at"
)
# Rows that another transaction removes at the same time are left to it: two of them never wait for each other.
_FORGET_OLD = text(
    "DELETE FROM links WHERE (tenant_id, link_id) IN (SELECT tenant_id, link_id FROM links WHERE "
    "tenant_id = :tenant_id AND expires_at < clock_timestamp() - interval '1 day' LIMIT 100 FOR UPDATE SKIP LOCKED)"
)
_GOOD = (
    "l.tenant_id = :tenant_id AND l.token_hash = :token_hash AND l.purpose = :purpose AND l.spent_at IS NULL "
    "AND l.expires_at > clock_timestamp() AND (l.user_id IS NULL OR EXISTS ("
    "SELECT 1 FROM users AS u WHERE u.tenant_id = l.tenant_id AND u.user_id = l.user_id "
    "AND (u.status = 'active' OR (u.status = 'disabled' AND l.auth_epoch IS NULL)) "
    "AND (l.auth_epoch IS NULL OR l.auth_epoch = u.auth_epoch) "
    "AND (l.email_hash IS NULL OR l.email_hash = sha256(convert_to(u.email_key, 'UTF8')))))"
)
_COLUMNS = "l.link_id, l.purpose, l.user_id, l.about_id, l.expires_at"
_PEEK = text(f"SELECT {_COLUMNS} FROM links AS l WHERE {_GOOD}")  # noqa: S608 - constants of this file
_SPEND = text(f"UPDATE links AS l SET spent_at = clock_timestamp() WHERE {_GOOD} RETURNING {_COLUMNS}")  # noqa: S608
_VOID = text(
    "DELETE FROM links WHERE tenant_id = :tenant_id AND purpose = :purpose AND about_id = :about_id "
    "AND spent_at IS NULL"
)
_DROP = text("DELETE FROM links WHERE tenant_id = :tenant_id AND user_id = :user_id")


def is_link_token(token: str) -> bool:
    """Whether `token` has the shape of one: anything else needs no look-up."""
    return TOKEN_PATTERN.match(token) is not None


def hash_link_token(token: str) -> bytes:
    """Return what is stored of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def email_hash(email_key: str) -> bytes:
    """Return how a link remembers the address that it was sent to."""
    return hashlib.sha256(email_key.encode()).digest()


async def issue_link(
    work: TenantUnitOfWork,
    purpose: LinkPurpose,
    *,
    holder: Holder | None = None,
    about_id: UUID | None = None,
    lifetime: timedelta | None = None,
) -> IssuedLink:
    """Make a link; it works once the transaction commits.

    Args:
        work: Bound to the tenant.
        purpose: What it does.
        holder: The account; None for an invitation, whose account is not made yet.
        about_id: The invitation or the change of address.
        lifetime: Other than the purpose's own.
    """
    token = base64.urlsafe_b64encode(secrets.token_bytes(TOKEN_BYTES)).rstrip(b"=").decode()
    await work.session.execute(_FORGET_OLD, {"tenant_id": work.tenant_id})
    issued = await work.session.execute(
        _ISSUE,
        {
            "tenant_id": work.tenant_id,
            "link_id": make_uuid7(datetime.now(UTC), secrets.token_bytes(10)),
            "token_hash": hash_link_token(token),
            "purpose": purpose.value,
            "user_id": None if holder is None else holder.user_id,
            "about_id": about_id,
            "email_hash": None if holder is None or holder.email_key is None else email_hash(holder.email_key),
            "auth_epoch": None if holder is None else holder.auth_epoch,
            "lifetime": lifetime or LIFETIMES[purpose],
        },
    )
    return IssuedLink(token, issued.scalar_one())


async def find_link_home(session: AsyncSession, token: str) -> LinkHome | None:
    """Return the tenant of a token, whether it is still good or not; no tenant need be bound."""
    if not is_link_token(token):
        return None
    found = await session.execute(text("SELECT * FROM find_link(:wanted)"), {"wanted": hash_link_token(token)})
    row = found.one_or_none()
    return None if row is None else LinkHome(TenantId(row.tenant_id), Slug(row.slug), TenantStatus(row.status))


async def peek_link(work: TenantUnitOfWork, token_hash: bytes, purpose: LinkPurpose) -> Link | None:
    """Return a link that could be spent, and do not spend it."""
    return _link((await work.session.execute(_PEEK, _named(work, token_hash, purpose))).one_or_none())


async def spend_link(work: TenantUnitOfWork, token_hash: bytes, purpose: LinkPurpose) -> Link | None:
    """Spend a link; None when it cannot be, for whatever reason.

    INVARIANT: one statement decides and writes, so that of any number at once one succeeds. The caller holds the
    tenant's lock: what a link is bound to cannot change between this statement and the commit.
    """
    return _link((await work.session.execute(_SPEND, _named(work, token_hash, purpose))).one_or_none())


async def void_links(work: TenantUnitOfWork, purpose: LinkPurpose, about_id: UUID) -> None:
    """End what was sent for an invitation or a change of address, because it is sent anew or revoked."""
    named = {"tenant_id": work.tenant_id, "purpose": purpose.value, "about_id": about_id}
    await work.session.execute(_VOID, named)


async def drop_links(work: TenantUnitOfWork, user_id: UUID) -> None:
    """Forget every link of an account: it is going."""
    await work.session.execute(_DROP, {"tenant_id": work.tenant_id, "user_id": user_id})


def _named(work: TenantUnitOfWork, token_hash: bytes, purpose: LinkPurpose) -> dict[str, Any]:
    return {"tenant_id": work.tenant_id, "token_hash": token_hash, "purpose": purpose.value}


def _link(row: Row[Any] | None) -> Link | None:
    if row is None:
        return None
    return Link(row.link_id, LinkPurpose(row.purpose), row.user_id, row.about_id, row.expires_at)
