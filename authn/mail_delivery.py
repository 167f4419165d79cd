"""Sends what waits in the queue: at least once, and not by two nodes while both live.

A mail is claimed for a lease. Who claimed it sends it outside of any transaction and then writes what came of it, under
the same claim. A node that dies in between leaves it to the next one after the lease; the receiver may then get it
twice, with one `Message-ID`.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, timedelta
from email.message import EmailMessage
from typing import assert_never
from uuid import UUID

import structlog
from sqlalchemy import text

from authn.errors import InvalidMailboxError
from authn.mail_links import link_of
from authn.mail_message import build_message
from authn.mail_queue import QueuedMail, Seals, end_mail, put_back, read_claimed
from authn.mail_settings import MailSettings, sender_of
from authn.mail_texts import Brand, text_of
from authn.mail_transport import OutboxTransport, PutOff, Refused, Send, SmtpTransport, Taken, Unreachable
from authn.mails import Mailbox, parse_mailbox
from tenancy.errors import EncryptionUnavailableError, UnsealError
from tenancy.ids import TenantId
from tenancy.settings_storage import read_settings
from tenancy.unit_of_work import Sessions, TenantUnitOfWork, tenant_unit_of_work, unbound_session

LEASE_SECONDS = 300.0
BATCH = 20
BATCH_SECONDS = 120.0
"""A batch begins no mail after so long: with one more attempt it stays well within the lease."""

UNREACHABLE_WAIT = timedelta(seconds=15)
"""Wait while the server cannot be reached; that is no attempt of any mail."""

_CLAIM = text("SELECT * FROM claim_mails(:lease, :most, :per_minute, :tenant_per_minute)")
_TENANT = text("SELECT slug, display_name FROM tenants WHERE tenant_id = :tenant_id")

_log = structlog.get_logger()

Claimed = tuple[TenantId, UUID, UUID]
"""Tenant, mail, claim."""


@dataclass(frozen=True, slots=True)
class _Tenant:
    slug: str
    brand: Brand


class MailDelivery:
    """One per node; `run` is a job."""

    def __init__(
        self,
        sessions: Sessions,
        ring: Seals,
        transport: SmtpTransport | OutboxTransport,
        settings: MailSettings,
        *,
        public_url: str,
        count: Callable[[str], None] = lambda _: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keep what it works with.

        Args:
            sessions: Where units of work come from.
            ring: Opens what is sealed.
            transport: Where mails go.
            settings: Throttles, waits, the sender.
            public_url: Where links lead; without a slash at its end.
            count: Told `mails_sent`, `mails_put_off` or `mails_failed`.
            monotonic: A clock that never steps back, in seconds.
        """
        self._sessions = sessions
        self._ring = ring
        self._transport = transport
        self._settings = settings
        self._give_up = timedelta(seconds=settings.give_up_seconds)
        self._sender = sender_of(settings.sender)
        self._public_url = public_url
        self._monotonic = monotonic
        self._count = count

    async def run(self) -> None:
        """Send everything that is due, as far as throttles and the server let it."""
        give_up_at = self._monotonic() + BATCH_SECONDS
        going = True
        while going and self._monotonic() < give_up_at:
            async with unbound_session(self._sessions) as session:
                found = await session.execute(
                    _CLAIM,
                    {
                        "lease": LEASE_SECONDS,
                        "most": BATCH,
                        "per_minute": self._settings.per_minute,
                        "tenant_per_minute": self._settings.tenant_per_minute,
                    },
                )
                batch = [(TenantId(row.tenant_id), row.mail_id, row.claim) for row in found]
            going = bool(batch) and await self._send_batch(batch)

    async def _send_batch(self, batch: list[Claimed]) -> bool:
        """Send what was claimed; return whether the server can be reached."""
        give_up_at = self._monotonic() + BATCH_SECONDS
        reached = True
        async with self._transport.open() as send:
            for claimed in batch:
                if reached and self._monotonic() < give_up_at:
                    reached = await self._send_one(claimed, send)
                else:
                    await self._leave(claimed, "unreachable" if not reached else "slow")
        return reached

    async def _send_one(self, claimed: Claimed, send: Send) -> bool:
        tenant_id, mail_id, claim = claimed
        try:
            async with tenant_unit_of_work(self._sessions, tenant_id) as work:
                mail = await read_claimed(work, self._ring, mail_id, claim, give_up=self._give_up)
                tenant = await _tenant_of(work)
            if mail is None:
                return True
            if mail.is_expired:
                await self._fail(claimed, "expired")
                return True
            to, message = self._message(mail, tenant)
        except EncryptionUnavailableError as error:
            # The keys of one tenant cannot be had now: that is no attempt, and nothing to those behind it.
            _log.warning("mail.no_key", mail=str(mail_id), tenant=str(tenant_id), error=str(error))
            await self._leave(claimed, "no key")
            return True
        except (UnsealError, LookupError, ValueError, InvalidMailboxError) as error:
            # One mail that cannot be read must not hold up those behind it.
            await self._fail(claimed, type(error).__name__)
            return True
        outcome = await send(mail_id, message, to)
        match outcome:
            case Taken():
                await self._end(claimed, "sent", None)
                self._count("mails_sent")
                _log.info("mail.sent", mail=str(mail_id), kind=mail.kind.value, tenant=str(tenant_id))
            case PutOff(reason=reason):
                self._count("mails_put_off")
                _log.warning("mail.put_off", mail=str(mail_id), reason=reason, attempts=mail.attempts)
                wait = self._settings.retry_wait(mail.attempts)
                async with tenant_unit_of_work(self._sessions, tenant_id) as work:
                    await put_back(work, mail_id, claim, wait=wait, reason=reason, counted=True)
            case Refused(reason=reason):
                await self._fail(claimed, reason)
            case Unreachable(reason=reason):
                _log.warning("mail.server_unreachable", reason=reason)
                await self._leave(claimed, f"unreachable: {reason}")
                return False
            case _:
                assert_never(outcome)
        return True

    def _message(self, mail: QueuedMail, tenant: _Tenant) -> tuple[Mailbox, EmailMessage]:
        link = link_of(mail.kind, mail.values, public_url=self._public_url, slug=tenant.slug)
        values = mail.values if link is None else mail.values | {"link": link}
        to = parse_mailbox(mail.to)
        text_shown = text_of(mail.kind, values, tenant.brand)
        return to, build_message(mail.mail_id, to, text_shown, self._sender, date=mail.created_at.astimezone(UTC))

    async def _leave(self, claimed: Claimed, reason: str) -> None:
        tenant_id, mail_id, claim = claimed
        async with tenant_unit_of_work(self._sessions, tenant_id) as work:
            await put_back(work, mail_id, claim, wait=UNREACHABLE_WAIT, reason=reason, counted=False)

    async def _fail(self, claimed: Claimed, reason: str) -> None:
        """Give up on a mail: nobody is told but the operator, who sees a count and a line without an address."""
        await self._end(claimed, "failed", reason)
        self._count("mails_failed")
        tenant_id, mail_id, _ = claimed
        _log.error("mail.failed", mail=str(mail_id), tenant=str(tenant_id), reason=reason)

    async def _end(self, claimed: Claimed, state: str, reason: str | None) -> None:
        tenant_id, mail_id, claim = claimed
        async with tenant_unit_of_work(self._sessions, tenant_id) as work:
            await end_mail(work, mail_id, claim, state=state, reason=reason)


async def _tenant_of(work: TenantUnitOfWork) -> _Tenant:
    row = (await work.session.execute(_TENANT, {"tenant_id": work.tenant_id})).one()
    branding = (await read_settings(work)).branding
    return _Tenant(row.slug, Brand(branding.name or row.display_name, branding.support_url))
