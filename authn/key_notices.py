"""Tell people of personal keys that were made or ended for them, by whomever (NIST SP 800-63B-4 section 4.1)."""

from uuid import UUID

from sqlalchemy import text

from authn.account_flows import can_be_mailed, tell
from authn.mails import MailKind
from authn.user_rows import read_user
from tenancy.key_ring import KeyRing
from tenancy.unit_of_work import TenantUnitOfWork

MAX_WAITING = 10
"""Notices of one account that wait at once: who makes and ends keys in a circle fills no queue, and is told already."""

_WAITING = text(
    "SELECT count(*) FROM mails WHERE tenant_id = :tenant_id AND user_id = :user_id AND state = 'queued' "
    "AND kind = :kind"
)


async def tell_of_keys(work: TenantUnitOfWork, ring: KeyRing, owner_id: UUID) -> None:
    """Queue a notice in the transaction of the change, for the owner's verified address."""
    owner = await read_user(work, owner_id)
    if owner is None or not can_be_mailed(owner):
        return
    named = {"tenant_id": work.tenant_id, "user_id": owner_id, "kind": MailKind.KEY_CHANGED.value}
    if (await work.session.scalar(_WAITING, named) or 0) < MAX_WAITING:
        await tell(work, ring, MailKind.KEY_CHANGED, owner)
