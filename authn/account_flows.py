"""What the flows about accounts share: where they work, whom they tell, and what a link that is not good comes to."""

import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import text

from authn.address_changes import drop_changes
from authn.known_devices import NewDevice
from authn.links import (
    Holder,
    IssuedLink,
    Link,
    LinkHome,
    LinkPurpose,
    drop_links,
    find_link_home,
    hash_link_token,
    spend_link,
)
from authn.mail_queue import drop_mails, queue_mail
from authn.mail_texts import moment_text
from authn.mails import Mail, MailKind
from authn.session_rows import drop_ended
from authn.users import StoredUser, UserStatus
from tenancy.heads import lock_head
from tenancy.ids import TenantStatus
from tenancy.key_ring import KeyRing
from tenancy.tenant import ChangeMeta, TenantHead
from tenancy.tenant_settings import TenantLimits
from tenancy.unit_of_work import Sessions, TenantUnitOfWork, tenant_unit_of_work, unbound_session
from tenancy.uuid7 import make_uuid7

BOTH_FACTORS_WAIT = timedelta(hours=24)
"""Within so long of a reset of second factors the password is not reset, and the other way round."""


@dataclass(frozen=True, slots=True)
class AccountFlows:
    """What every flow works with."""

    sessions: Sessions
    ring: KeyRing
    limits: TenantLimits | None = None
    """The platform's bounds on settings; None for the defaults."""


@dataclass(frozen=True, slots=True)
class LinkRefused:
    """The link does nothing: unknown, spent, expired, void, of another purpose or tenant. They look alike."""


@dataclass(frozen=True, slots=True)
class Done:
    """It was done; `head` is where the tenant stands, `user_id` whose account it was, `device` is known from now on."""

    head: TenantHead
    user_id: UUID
    device: NewDevice | None = None


def new_id() -> UUID:
    """Return a fresh identifier, in the order of time."""
    return make_uuid7(datetime.now(UTC), secrets.token_bytes(10))


async def home_of(flows: AccountFlows, token: str, *, named: str | None = None) -> LinkHome | None:
    """Return the tenant of a token, if people of that tenant may use links.

    Args:
        flows: Where to look.
        token: What a link carries.
        named: The tenant that the request names besides; a link of another one is no link.
    """
    async with unbound_session(flows.sessions) as session:
        home = await find_link_home(session, token)
    if home is None or home.status is not TenantStatus.ACTIVE or named not in {None, home.slug}:
        return None
    return home


@dataclass(frozen=True, slots=True)
class Spent:
    """A link that was good, spent in a transaction that holds the tenant's lock."""

    work: TenantUnitOfWork
    link: Link


@asynccontextmanager
async def spending(
    flows: AccountFlows, token: str, purpose: LinkPurpose, *, named: str | None = None
) -> AsyncIterator[Spent | None]:
    """Open the transaction of what a link does; None stands for a link that does nothing.

    Args:
        flows: Where to look.
        token: What the link carries.
        purpose: What it has to be for.
        named: As in `home_of`.
    """
    home = await home_of(flows, token, named=named)
    if home is None:
        yield None
        return
    async with tenant_unit_of_work(flows.sessions, home.tenant_id) as work:
        locked = await lock_active(work)
        link = None if locked is None else await spend_link(work, hash_link_token(token), purpose)
        yield None if link is None else Spent(work, link)


async def lock_active(work: TenantUnitOfWork) -> TenantHead | None:
    """Lock the tenant for a change of one of its accounts; None when it is not active (any more)."""
    locked = await lock_head(work)
    return None if locked is None or locked[0].status is not TenantStatus.ACTIVE else locked[0]


def holder_of(stored: StoredUser) -> Holder:
    """Return what a link to an account's own address is bound to."""
    return Holder(stored.user.id, stored.email_key, stored.auth_epoch)


def can_be_mailed(stored: StoredUser) -> bool:
    """Whether mail to the account reaches the person who has it: nobody but they proved the address."""
    user = stored.user
    return user.status is UserStatus.ACTIVE and user.email is not None and user.email_verified_at is not None


async def tell(
    work: TenantUnitOfWork,
    ring: KeyRing,
    kind: MailKind,
    stored: StoredUser,
    *,
    to: str | None = None,
    link: IssuedLink | None = None,
    more: Mapping[str, str] | None = None,
) -> None:
    """Queue a mail about an account, to its own address unless `to` says another; without an address nothing is sent.

    A notice goes to an address that was never verified, too: there is no better one.
    """
    address = to or stored.user.email
    if address is None:
        return
    values = {"username": stored.user.username or "", "when": moment_text(datetime.now(UTC)), **(more or {})}
    if link is not None:
        values |= {"token": link.token, "until": moment_text(link.expires_at)}
    expires_at = None if link is None else link.expires_at
    await queue_mail(work, ring, Mail(kind, address, values, stored.user.id, expires_at))


async def forget_flows(work: TenantUnitOfWork, user_id: UUID) -> None:
    """Forget links, changes of address, mails and ended sessions of an account that is being deleted."""
    await drop_links(work, user_id)
    await drop_changes(work, user_id)
    await drop_mails(work, user_id)
    await drop_ended(work, user_id)


_MARK_RESET = text(
    "UPDATE users SET password_reset_at = clock_timestamp() WHERE tenant_id = :tenant_id AND user_id = :user_id"
)
_FACTORS_RESET_LATELY = text(
    "SELECT factors_reset_at > clock_timestamp() - :wait FROM users WHERE tenant_id = :tenant_id AND user_id = :user_id"
)


async def factors_reset_lately(work: TenantUnitOfWork, user_id: UUID) -> bool:
    """Whether second factors were reset so lately that the password must not be, by the database's time."""
    named = {"tenant_id": work.tenant_id, "user_id": user_id, "wait": BOTH_FACTORS_WAIT}
    return bool((await work.session.execute(_FACTORS_RESET_LATELY, named)).scalar_one_or_none())


async def mark_password_reset(work: TenantUnitOfWork, user_id: UUID) -> None:
    """Remember when the password was reset."""
    await work.session.execute(_MARK_RESET, {"tenant_id": work.tenant_id, "user_id": user_id})


def by_link(user_id: UUID, link_id: UUID, meta: ChangeMeta) -> ChangeMeta:
    """Return who acts: the person of an account, who proved it by a link."""
    return ChangeMeta(
        f"user:{user_id}", meta.reason, None, meta.request_id, credential=f"link:{link_id}", address=meta.address
    )
