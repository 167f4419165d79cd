"""Mails wait in PostgreSQL, written by the transaction of what they tell: both happen or neither does.

Recipient and values are sealed while they wait, since a link's token is among them, and are gone when the mail is.
"""

import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol
from uuid import UUID

import msgspec
from sqlalchemy import text

from authn.mails import Mail, MailKind, parse_mailbox
from tenancy.encrypted_columns import MAILS
from tenancy.envelope import Place
from tenancy.unit_of_work import TenantUnitOfWork
from tenancy.uuid7 import make_uuid7

GIVE_UP = timedelta(days=1)
"""A mail that was not taken by then has failed, if its link does not end sooner or the settings do not say so."""

KEPT_DAYS = 30
"""How long it is known that a mail was sent or has failed; not what was in it."""

_INSERT = text(
    "INSERT INTO mails (tenant_id, mail_id, kind, user_id, sealed, expires_at) VALUES (:tenant_id, :mail_id, :kind, "
    ":user_id, :sealed, least(clock_timestamp() + :give_up, CAST(:expires_at AS timestamptz)))"
)
# Rows that another transaction removes at the same time are left to it: two of them never wait for each other.
_FORGET_OLD = text(
    "DELETE FROM mails WHERE (tenant_id, mail_id) IN (SELECT tenant_id, mail_id FROM mails WHERE "
    "tenant_id = :tenant_id AND ended_at < clock_timestamp() - :kept LIMIT 100 FOR UPDATE SKIP LOCKED)"
)
_WAITING = text(
    "SELECT count(*) FROM mails WHERE tenant_id = :tenant_id AND user_id = :user_id AND state = 'queued' "
    "AND kind = :kind"
)
_DROP = text("DELETE FROM mails WHERE tenant_id = :tenant_id AND user_id = :user_id AND state = 'queued'")


class Seals(Protocol):
    """What of the key ring a queue needs."""

    async def seal(self, work: TenantUnitOfWork, place: Place, plaintext: bytes) -> bytes:
        """Return `plaintext` as only this tenant's keys open it, at this place."""

    async def open(self, work: TenantUnitOfWork, place: Place, sealed: bytes) -> bytes:
        """Return what was sealed."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """What is sealed of a mail."""

    to: str
    values: dict[str, str] = field(repr=False)


async def queue_mail(work: TenantUnitOfWork, ring: Seals, mail: Mail) -> UUID:
    """Have a mail sent if, and only if, this transaction commits; return its id.

    Raises:
        InvalidMailboxError: the recipient is not one plain address.
    """
    parse_mailbox(mail.to)
    mail_id = make_uuid7(datetime.now(UTC), secrets.token_bytes(10))
    sealed = await ring.seal(work, MAILS.place([mail_id]), msgspec.msgpack.encode(Sealed(mail.to, dict(mail.values))))
    await work.session.execute(_FORGET_OLD, {"tenant_id": work.tenant_id, "kept": timedelta(days=KEPT_DAYS)})
    await work.session.execute(
        _INSERT,
        {
            "tenant_id": work.tenant_id,
            "mail_id": mail_id,
            "kind": mail.kind.value,
            "user_id": mail.user_id,
            "sealed": sealed,
            "give_up": GIVE_UP,
            "expires_at": mail.expires_at,
        },
    )
    return mail_id


async def waiting_mails(work: TenantUnitOfWork, user_id: UUID, kind: MailKind) -> int:
    """Return how many mails of a kind wait for an account: who is told already need not be told again."""
    named = {"tenant_id": work.tenant_id, "user_id": user_id, "kind": kind.value}
    return int(await work.session.scalar(_WAITING, named) or 0)


async def drop_mails(work: TenantUnitOfWork, user_id: UUID) -> None:
    """Forget what is still to be sent about an account: it is going."""
    await work.session.execute(_DROP, {"tenant_id": work.tenant_id, "user_id": user_id})


@dataclass(frozen=True, slots=True)
class QueuedMail:
    """A mail that was claimed, opened; one that is expired has neither recipient nor values."""

    mail_id: UUID
    kind: MailKind
    to: str
    values: dict[str, str] = field(repr=False)
    attempts: int
    created_at: datetime
    is_expired: bool


_READ = text(
    "SELECT kind, sealed, attempts, created_at, "
    "least(expires_at, created_at + :give_up) <= clock_timestamp() AS is_expired FROM mails "
    "WHERE tenant_id = :tenant_id AND mail_id = :mail_id AND claim = :claim AND state = 'queued'"
)
_OF_CLAIM = "WHERE tenant_id = :tenant_id AND mail_id = :mail_id AND claim = :claim AND state = 'queued'"
_END = text(
    "UPDATE mails SET state = :state, reason = :reason, sealed = NULL, claim = NULL, ended_at = clock_timestamp() "  # noqa: S608
    f"{_OF_CLAIM} RETURNING 1"
)
_AGAIN = text(
    "UPDATE mails SET reason = :reason, claim = NULL, attempts = attempts - :uncounted, "  # noqa: S608 - a constant
    f"next_attempt_at = clock_timestamp() + :wait {_OF_CLAIM} RETURNING 1"
)


async def read_claimed(
    work: TenantUnitOfWork, ring: Seals, mail_id: UUID, claim: UUID, *, give_up: timedelta = GIVE_UP
) -> QueuedMail | None:
    """Return a claimed mail, or None when the claim holds no more; one is expired that waited for `give_up`."""
    named = {"tenant_id": work.tenant_id, "mail_id": mail_id, "claim": claim, "give_up": give_up}
    row = (await work.session.execute(_READ, named)).one_or_none()
    if row is None:
        return None
    if row.is_expired:  # nobody reads it any more, so it needs no key
        return QueuedMail(mail_id, MailKind(row.kind), "", {}, row.attempts, row.created_at, is_expired=True)
    opened = msgspec.msgpack.decode(await ring.open(work, MAILS.place([mail_id]), bytes(row.sealed)), type=Sealed)
    return QueuedMail(
        mail_id, MailKind(row.kind), opened.to, opened.values, row.attempts, row.created_at, row.is_expired
    )


async def end_mail(work: TenantUnitOfWork, mail_id: UUID, claim: UUID, *, state: str, reason: str | None) -> bool:
    """Write that a mail was sent or has failed, and forget what was in it; false when the claim holds no more."""
    named = {"tenant_id": work.tenant_id, "mail_id": mail_id, "claim": claim, "state": state, "reason": reason}
    return (await work.session.execute(_END, named)).one_or_none() is not None


async def put_back(
    work: TenantUnitOfWork, mail_id: UUID, claim: UUID, *, wait: timedelta, reason: str, counted: bool
) -> bool:
    """Let a mail be tried again after `wait`; `counted` says whether this was an attempt of its own."""
    named = {"tenant_id": work.tenant_id, "mail_id": mail_id, "claim": claim, "reason": reason, "wait": wait}
    return (await work.session.execute(_AGAIN, named | {"uncounted": 0 if counted else 1})).one_or_none() is not None
