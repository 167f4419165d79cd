"""Invitations as administrators make, renew and revoke them."""

from collections.abc import Sequence
from uuid import UUID

from authn.account_flows import AccountFlows, new_id
from authn.errors import InvitationLimitExceededError, InvitationNotFoundError, UserTenantNotFoundError
from authn.invitation_rows import (
    StoredInvitation,
    count_open,
    extend_invitation,
    find_invitation,
    forget_persons,
    insert_invitation,
    list_invitations,
    revoke_invitation,
    revoke_others,
)
from authn.invitations import MAX_OPEN_INVITATIONS, Invitation, InvitationId, NewInvitation
from authn.links import LIFETIMES, LinkPurpose, issue_link, void_links
from authn.mail_queue import queue_mail
from authn.mail_texts import moment_text
from authn.mails import Mail, MailKind
from authn.user_rows import find_by_email_key
from authn.users import UserId, subject_ref
from tenancy.audit import AuditEntry
from tenancy.heads import lock_head, raise_head, record_change
from tenancy.ids import TenantId
from tenancy.kept_answers import claim, keep
from tenancy.once import Once
from tenancy.tenant import ChangeMeta, TenantHead
from tenancy.unit_of_work import TenantUnitOfWork, tenant_unit_of_work

Invited = tuple[TenantHead, Invitation]


async def invite(
    flows: AccountFlows,
    tenant_id: TenantId,
    new: NewInvitation,
    *,
    meta: ChangeMeta,
    once: Once[Invited] | None = None,
) -> Invited:
    """Invite a person by mail. Earlier invitations of the same address are over.

    That the address has an account already is told by mail alone: the invitation looks like any other.

    Args:
        flows: What it works with.
        tenant_id: Whose account it becomes.
        new: Address, names and roles; that the inviter may grant them was asked before.
        meta: Who invites.
        once: Has it act once for a request that may be sent twice.

    Raises:
        UserTenantNotFoundError: no such tenant.
        InvitationLimitExceededError: too many are open.
    """
    async with tenant_unit_of_work(flows.sessions, tenant_id) as work:
        await claim(work, once)
        if await lock_head(work) is None:
            raise UserTenantNotFoundError(f"no tenant has the id `{tenant_id}`")
        for subject_id in await forget_persons(work):
            await flows.ring.destroy_subject_key(work, subject_id)
        if await count_open(work) >= MAX_OPEN_INVITATIONS:
            raise InvitationLimitExceededError(f"the tenant has {MAX_OPEN_INVITATIONS} open invitations")
        stored = await insert_invitation(
            work,
            InvitationId(new_id()),
            UserId(new_id()),
            new,
            created_by=meta.actor,
            lifetime=LIFETIMES[LinkPurpose.INVITATION],
        )
        for earlier in await revoke_others(work, stored.invitation.id, new.email[1]):
            await void_links(work, LinkPurpose.INVITATION, earlier)
        await _send(work, flows, stored)
        head = await _record(work, flows, stored, "invitation.create", meta=meta, after={"roles": list(new.roles)})
        await keep(work, once, (head, stored.invitation))
        return head, stored.invitation


async def resend_invitation(
    flows: AccountFlows, tenant_id: TenantId, invitation_id: UUID, *, meta: ChangeMeta
) -> Invited:
    """Send an invitation anew: its time begins again, and the link that was sent before is void.

    Raises:
        InvitationNotFoundError: none that is open or expired.
    """
    async with tenant_unit_of_work(flows.sessions, tenant_id) as work:
        await lock_head(work)
        stored = await extend_invitation(work, invitation_id, LIFETIMES[LinkPurpose.INVITATION])
        if stored is None or stored.email is None:
            raise InvitationNotFoundError(f"the tenant has no open invitation `{invitation_id}`")
        for earlier in await revoke_others(work, stored.invitation.id, stored.email[1]):
            await void_links(work, LinkPurpose.INVITATION, earlier)
        await void_links(work, LinkPurpose.INVITATION, invitation_id)
        await _send(work, flows, stored)
        return await _record(work, flows, stored, "invitation.resend", meta=meta), stored.invitation


async def end_invitation(
    flows: AccountFlows, tenant_id: TenantId, invitation_id: UUID, *, meta: ChangeMeta
) -> TenantHead:
    """Revoke an invitation; one that is over stays as it is, and nothing changes.

    Raises:
        InvitationNotFoundError: no such invitation.
    """
    async with tenant_unit_of_work(flows.sessions, tenant_id) as work:
        locked = await lock_head(work)
        stored = await find_invitation(work, invitation_id)
        if locked is None or stored is None:
            raise InvitationNotFoundError(f"the tenant has no invitation `{invitation_id}`")
        if not await revoke_invitation(work, invitation_id):
            return locked[0]
        await void_links(work, LinkPurpose.INVITATION, invitation_id)
        return await _record(work, flows, stored, "invitation.revoke", meta=meta)


async def get_invitation(flows: AccountFlows, tenant_id: TenantId, invitation_id: UUID) -> Invitation:
    """Return an invitation, whatever became of it; raises `InvitationNotFoundError`."""
    async with tenant_unit_of_work(flows.sessions, tenant_id) as work:
        stored = await find_invitation(work, invitation_id)
    if stored is None:
        raise InvitationNotFoundError(f"the tenant has no invitation `{invitation_id}`")
    return stored.invitation


async def page_of_invitations(
    flows: AccountFlows, tenant_id: TenantId, after: str | None, limit: int
) -> tuple[Sequence[Invitation], str | None]:
    """Return a page of invitations, oldest first, and where the next one begins."""
    async with tenant_unit_of_work(flows.sessions, tenant_id) as work:
        found = await list_invitations(work, after, limit + 1)
    page = found[:limit]
    return page, str(page[-1].id) if len(found) > limit else None


async def _send(work: TenantUnitOfWork, flows: AccountFlows, stored: StoredInvitation) -> None:
    invitation = stored.invitation
    if stored.email is None:
        return
    owner = await find_by_email_key(work, stored.email[1])
    if owner is not None:
        if owner.email is not None:
            values = {"username": owner.username or ""}
            await queue_mail(work, flows.ring, Mail(MailKind.INVITATION_TAKEN, owner.email, values, owner.id))
        return
    link = await issue_link(work, LinkPurpose.INVITATION, about_id=invitation.id)
    values = {"token": link.token, "until": moment_text(link.expires_at)}
    mail = Mail(MailKind.INVITATION, stored.email[0], values, invitation.user_id, link.expires_at)
    await queue_mail(work, flows.ring, mail)


async def _record(
    work: TenantUnitOfWork,
    flows: AccountFlows,
    stored: StoredInvitation,
    action: str,
    *,
    meta: ChangeMeta,
    after: dict[str, object] | None = None,
) -> TenantHead:
    """Write it down. Whose address it was is sealed under the key of the account that it becomes."""
    invitation = stored.invitation
    fields = {name: text for name, text in (("email", invitation.email), ("name", invitation.display_name)) if text}
    personal = await flows.ring.seal_personal(work, invitation.user_id, fields)
    head = await raise_head(work)
    detail = {"account": subject_ref(invitation.user_id)}
    entry = AuditEntry(action, f"invitation:{invitation.id}", after=after, personal=personal, detail=detail)
    await record_change(work.session, head, "user", meta, audit=[entry])
    return head
