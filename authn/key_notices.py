"""Tell people of personal keys that were made or ended for them, by whomever (NIST SP 800-63B-4 section 4.1)."""

from uuid import UUID

from authn.account_flows import can_be_mailed, tell
from authn.mail_queue import waiting_mails
from authn.mails import MailKind
from authn.user_rows import read_user
from tenancy.key_ring import KeyRing
from tenancy.unit_of_work import TenantUnitOfWork

MAX_WAITING = 10
"""Notices of one account that wait at once: who makes and ends keys in a circle fills no queue, and is told already."""


async def tell_of_keys(work: TenantUnitOfWork, ring: KeyRing, owner_id: UUID) -> None:
    """Queue a notice in the transaction of the change, for the owner's verified address."""
    owner = await read_user(work, owner_id)
    if owner is None or not can_be_mailed(owner):
        return
    if await waiting_mails(work, owner_id, MailKind.KEY_CHANGED) < MAX_WAITING:
        await tell(work, ring, MailKind.KEY_CHANGED, owner)
