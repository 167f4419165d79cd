"""Verification: the holder of an account shows that they read the mails of its address."""

from uuid import UUID

from sqlalchemy import text

from authn.account_flows import AccountFlows, Done, LinkRefused, by_link, holder_of, spending, tell
from authn.errors import UserNotFoundError
from authn.links import LinkPurpose, issue_link
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
    "UPDATE users SET email_verified_at = clock_timestamp(), updated_at = clock_timestamp() "
    "WHERE tenant_id = :tenant_id AND user_id = :user_id"
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
    async with spending(flows, token, LinkPurpose.VERIFY, named=named) as spent:
        if spent is None or spent.link.user_id is None:
            return LinkRefused()
        work, user_id = spent.work, spent.link.user_id
        await work.session.execute(_VERIFIED, {"tenant_id": work.tenant_id, "user_id": user_id})
        head = await raise_head(work)
        target = subject_ref(user_id)
        entry = AuditEntry("user.address_verify", target=target)
        by = by_link(user_id, spent.link.link_id, meta)
        await record_change(work.session, head, "user", by, audit=[entry], touched=[target])
        return Done(head, user_id)
