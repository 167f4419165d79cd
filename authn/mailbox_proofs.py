"""Who binds a first authenticator proves besides the password that the account's mails reach them.

SECURITY: otherwise whoever stole a password would enrol, and shut the owner out with the very thing that was to protect
them. Once any authenticator was bound, ever, nobody enrols on the way in by password and mailbox: that takes a ticket
that an administrator had sent. Who is signed in already, and has no authenticator any more since they removed it
themselves, may bind one again.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from authn.account_flows import can_be_mailed
from authn.address_changes import may_be_taken_back
from authn.enrolment_codes import MAIL_LIMIT, EnrolmentCode, issue_enrolment_code, spend_enrolment_code
from authn.factors import Factors
from authn.links import Link, LinkPurpose, hash_link_token, is_link_token, peek_link, spend_link
from authn.mail_queue import queue_mail
from authn.mail_texts import moment_text
from authn.mails import Mail, MailKind
from authn.throttles import count_attempt
from authn.users import StoredUser
from tenancy.audit import AuditEntry, AuditOutcome
from tenancy.audit_log import append_audit
from tenancy.key_ring import KeyRing
from tenancy.tenant import ChangeMeta
from tenancy.unit_of_work import TenantUnitOfWork

TICKETS = (LinkPurpose.FACTOR_RESET, LinkPurpose.ENROLMENT)
"""An administrator's reset, and an invitation's acceptance."""


@dataclass(frozen=True, slots=True)
class MailboxGiven:
    """What somebody gives to prove it: a code that was mailed now, or a ticket that was mailed, or answered, before."""

    code: str | None = None
    ticket: str | None = None

    def __repr__(self) -> str:
        """SECURITY: no log and no traceback shows either."""
        return "MailboxGiven(...)"


@dataclass(frozen=True, slots=True)
class MailboxProven:
    """They are right. A code is spent; a ticket is spent when the authenticator is bound, by `spend_ticket`."""

    ticket_hash: bytes | None = None
    purpose: LinkPurpose | None = None

    def kept(self) -> dict[str, Any]:
        """Return it as a challenge keeps it."""
        return {} if self.ticket_hash is None or self.purpose is None else {self.purpose.value: self.ticket_hash}

    @classmethod
    def of(cls, kept: dict[str, Any]) -> "MailboxProven":
        """Return what a challenge kept."""
        found = next(((kept[purpose.value], purpose) for purpose in TICKETS if purpose.value in kept), None)
        return cls() if found is None else cls(*found)


@dataclass(frozen=True, slots=True)
class MailboxWrong:
    """Neither proves anything: wrong, spent, expired, of another account, or not enough for this account."""


@dataclass(frozen=True, slots=True)
class CodeSent:
    """A code is on its way to the account's verified address."""


@dataclass(frozen=True, slots=True)
class NoMailbox:
    """The account has no address that was verified; an administrator can help."""


@dataclass(frozen=True, slots=True)
class NewMailbox:
    """The address took another one's place, and can still be taken back."""


@dataclass(frozen=True, slots=True)
class TicketNeeded:
    """Authenticators were bound before, or taken away: only a ticket of an administrator's reset binds one."""


CodeOutcome = CodeSent | NoMailbox | NewMailbox | TicketNeeded | timedelta
"""What comes of asking for a code; a time is how long to wait."""


async def send_code(
    work: TenantUnitOfWork,
    ring: KeyRing,
    held: StoredUser,
    factors: Factors,
    *,
    meta: ChangeMeta,
    signed_in: bool = False,
) -> CodeOutcome:
    """Mail a code to the account's own address; or say why not, or how long to wait. The caller commits either."""
    reason, outcome = await _mailed(work, ring, held, needs_ticket=_needs_ticket(factors, signed_in=signed_in))
    # SECURITY: whoever asks without end writes no event for each: the audit is for ever.
    if isinstance(outcome, timedelta):
        return outcome
    audit = AuditOutcome.SUCCESS if reason is None else AuditOutcome.REFUSED
    detail = None if reason is None else {"reason": reason}
    await append_audit(work, meta, [AuditEntry("factor.enrolment_code", held.user.ref, audit, detail=detail)])
    return outcome


async def _mailed(
    work: TenantUnitOfWork, ring: KeyRing, held: StoredUser, *, needs_ticket: bool
) -> tuple[str | None, CodeOutcome]:
    refused = await _why_not(work, held, needs_ticket=needs_ticket)
    if refused is not None or held.user.email is None:
        wait = await count_attempt(work, MAIL_LIMIT, f"refused {held.user.id}")
        return (None, wait) if wait is not None else refused or ("no_verified_address", NoMailbox())
    issued = await issue_enrolment_code(work, ring, held)
    if not isinstance(issued, EnrolmentCode):
        return None, issued
    values = {
        "username": held.user.username or "",
        "code": issued.code,
        "until": moment_text(issued.expires_at),
    }
    mail = Mail(MailKind.ENROLMENT_CODE, held.user.email, values, held.user.id, issued.expires_at)
    await queue_mail(work, ring, mail)
    return None, CodeSent()


async def _why_not(work: TenantUnitOfWork, held: StoredUser, *, needs_ticket: bool) -> tuple[str, CodeOutcome] | None:
    if needs_ticket:
        return "ticket_needed", TicketNeeded()
    if not can_be_mailed(held):
        return "no_verified_address", NoMailbox()
    # SECURITY: whoever stole a password could else give the account an address of theirs, and bind a factor that the
    # owner, who takes the address back, would be left without.
    if await may_be_taken_back(work, held.user.id):
        return "address_changed_lately", NewMailbox()
    return None


async def prove_mailbox(
    work: TenantUnitOfWork,
    ring: KeyRing,
    held: StoredUser,
    factors: Factors,
    given: MailboxGiven,
    *,
    signed_in: bool = False,
) -> MailboxProven | MailboxWrong:
    """Judge what was given for a first authenticator; the caller commits also what is refused.

    Args:
        work: Holds the account's lock.
        ring: Opens codes.
        held: As the lock was taken.
        factors: Of the account, read under the lock.
        given: A code, or a ticket.
        signed_in: Somebody with a session asks, not somebody on the way in.
    """
    needs_ticket = _needs_ticket(factors, signed_in=signed_in)
    if given.ticket is not None and is_link_token(given.ticket):
        token_hash = hash_link_token(given.ticket)
        for purpose in TICKETS[:1] if needs_ticket else TICKETS:
            if _is_for(await peek_link(work, token_hash, purpose), held):
                return MailboxProven(token_hash, purpose)
        return MailboxWrong()
    if given.code is None or needs_ticket:
        return MailboxWrong()
    return MailboxProven() if await spend_enrolment_code(work, ring, held, given.code) else MailboxWrong()


async def spend_ticket(
    work: TenantUnitOfWork, held: StoredUser, factors: Factors, proven: MailboxProven, *, signed_in: bool = False
) -> bool:
    """Spend the ticket of a proof, if it was one, in the transaction that binds the authenticator.

    The caller holds the tenant's lock, and rolls back when it is not good (any more).
    """
    needs_ticket = _needs_ticket(factors, signed_in=signed_in)
    if proven.ticket_hash is None or proven.purpose is None:
        return not needs_ticket
    if needs_ticket and proven.purpose is not LinkPurpose.FACTOR_RESET:
        return False
    return _is_for(await spend_link(work, proven.ticket_hash, proven.purpose), held)


def _needs_ticket(factors: Factors, *, signed_in: bool) -> bool:
    return factors.enrolment_demanded or (factors.ever_bound and not signed_in)


def _is_for(link: Link | None, held: StoredUser) -> bool:
    """SECURITY: a ticket of another account is no ticket, whoever holds it."""
    return link is not None and link.user_id == held.user.id
