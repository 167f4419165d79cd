"""Verification: the holder of an account shows that they read the mails of its address."""

from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import text

from authn.account_flows import AccountFlows, Done, LinkRefused, by_link, holder_of, home_of, lock_active, tell
from authn.errors import UserNotFoundError
from authn.links import LinkPurpose, hash_link_token, issue_link, spend_link
from authn.mails import MailKind
from authn.user_rows import lock_user
from authn.users import UserStatus, subject_ref
from tenancy.audit import AuditEntry
from tenancy.audit_log import append_audit
from tenancy.heads import raise_head, record_change
from tenancy.ids import TenantId
from tenancy.tenant import ChangeMeta
from tenancy.unit_of_work import TenantUnitOfWork, tenant_unit_of_work

_VERIFIED = text(
    "UPDATE users SET email_verified_at = :now, updated_at = :now WHERE tenant_id = :tenant_id AND user_id = :user_id"
)


async def ask_to_verify(flows: AccountFlows, tenant_id: TenantId, user_id: UUID, *, meta: ChangeMeta) -> None:
    """Mail a link to the address of an account, in a transaction of its own; nothing when it is verified.

    Raises:
        UserNotFoundError: no such account, or a deleted one.
    """
    async with tenant_unit_of_work(flows.sessions, tenant_id) as work:
        if not await queue_verification(work, flows, user_id, meta=meta):
            raise UserNotFoundError(f"the tenant has no account `{user_id}`")


async def queue_verification(work: TenantUnitOfWork, flows: AccountFlows, user_id: UUID, *, meta: ChangeMeta) -> bool:
    """Mail a link in the caller's transaction, for whoever made the account or set its address."""
    stored = await lock_user(work, user_id)
    if stored is None or stored.user.status is UserStatus.DELETED:
        return False
    if stored.user.email is None or stored.user.email_verified_at is not None:
        return True
    link = await issue_link(work, LinkPurpose.VERIFY, holder=holder_of(stored))
    await tell(work, flows.ring, MailKind.VERIFY, stored, link=link)
    await append_audit(work, meta, [AuditEntry("user.verification_request", target=subject_ref(user_id))])
    return True


async def verify_address(
    flows: AccountFlows, token: str, *, meta: ChangeMeta, named: str | None = None
) -> Done | LinkRefused:
    """Spend a link: the account's address is verified from now on."""
    home = await home_of(flows, token, named=named)
    if home is None:
        return LinkRefused()
    async with tenant_unit_of_work(flows.sessions, home.tenant_id) as work:
        if await lock_active(work) is None:
            return LinkRefused()
        link = await spend_link(work, hash_link_token(token), LinkPurpose.VERIFY)
        if link is None or link.user_id is None:
            return LinkRefused()
        named_row = {"tenant_id": home.tenant_id, "user_id": link.user_id, "now": datetime.now(UTC)}
        await work.session.execute(_VERIFIED, named_row)
        head = await raise_head(work)
        target = subject_ref(link.user_id)
        entry = AuditEntry("user.address_verify", target=target)
        meta = by_link(link.user_id, link.link_id, meta)
        await record_change(work.session, head, "user", meta, audit=[entry], touched=[target])
        return Done(head, link.user_id)
