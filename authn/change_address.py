"""Change of an account's address: the new one confirms it, the old one can take it back for 72 hours."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from authn.account_flows import AccountFlows, Done, LinkRefused, by_link, holder_of, lock_active, new_id, spending, tell
from authn.address_changes import AddressChange, confirm_change, insert_change, undo_change
from authn.errors import EmailTakenError, UserNotFoundError
from authn.known_devices import forget_trusted_devices
from authn.links import Holder, LinkPurpose, issue_link
from authn.mail_queue import queue_mail
from authn.mails import Mail, MailKind
from authn.throttles import Limit, count_attempt
from authn.user_rows import find_by_email_key, lock_user, raise_auth_epoch, set_email
from authn.users import StoredUser, UserStatus, subject_ref
from tenancy.audit import AuditEntry
from tenancy.audit_log import append_audit
from tenancy.heads import raise_head, record_change
from tenancy.ids import TenantId
from tenancy.key_ring import KeyRing
from tenancy.tenant import ChangeMeta
from tenancy.unit_of_work import TenantUnitOfWork, tenant_unit_of_work

ACCOUNT_LIMIT = Limit("address-change-account", 10, timedelta(hours=1))
"""Requests of one account: each mails to an address of its choice."""


async def ask_to_change_address(
    flows: AccountFlows,
    tenant_id: TenantId,
    user_id: UUID,
    email: tuple[str, str],
    *,
    meta: ChangeMeta,
    auth_epoch: int | None = None,
) -> timedelta | None:
    """Mail a link to the new address and a notice with a way back to the old one; nothing changes yet.

    That the new address is another account's is told to that account alone. Returns how long to wait when the account
    asked too often, and nothing was sent: any address could be flooded by whoever has an account.

    Args:
        flows: What it works with.
        tenant_id: Whose account.
        user_id: Which account.
        email: The new address, (shown, key).
        meta: Who asks.
        auth_epoch: That of the account when it was proven who asks; with another one by now nothing is sent.

    Raises:
        UserNotFoundError: no such account, or one that is not active.
    """
    async with tenant_unit_of_work(flows.sessions, tenant_id) as work:
        # The tenant's lock first: who confirms or undoes a change has that one's row before the account's.
        locked = await lock_active(work)
        stored = None if locked is None else await lock_user(work, user_id)
        if stored is None or stored.user.status is not UserStatus.ACTIVE:
            raise UserNotFoundError(f"the tenant has no active account `{user_id}`")
        if stored.email_key == email[1] or auth_epoch not in {None, stored.auth_epoch}:
            return None
        wait = await count_attempt(work, ACCOUNT_LIMIT, str(user_id))
        if wait is not None:
            return wait
        personal = await flows.ring.seal_personal(work, user_id, {"email": email[0]})
        await append_audit(
            work,
            meta,
            [AuditEntry("user.address_change_request", target=subject_ref(user_id), personal=personal)],
        )
        owner = await find_by_email_key(work, email[1])
        if owner is not None:
            if owner.email is not None:  # as it is stored: another spelling may be another mailbox
                values = {"username": owner.username or ""}
                await queue_mail(work, flows.ring, Mail(MailKind.ADDRESS_TAKEN, owner.email, values, owner.id))
            return None
        await _send_both(work, flows, stored, email)
        return None


async def _send_both(work: TenantUnitOfWork, flows: AccountFlows, stored: StoredUser, email: tuple[str, str]) -> None:
    user = stored.user
    old = (user.email, stored.email_key)
    change_id = new_id()
    if old[0] is not None and old[1] is not None:
        change = AddressChange(change_id, user.id, (old[0], old[1]), user.email_verified_at, email)
        await insert_change(work, change)
        # It must still work when whoever stole the account has changed everything else: bound to the change alone.
        undo = await issue_link(work, LinkPurpose.UNDO_ADDRESS, holder=Holder(user.id, None, None), about_id=change_id)
        await tell(work, flows.ring, MailKind.ADDRESS_NOTICE, stored, link=undo)
    else:
        await insert_change(work, AddressChange(change_id, user.id, None, None, email))
    confirm = await issue_link(work, LinkPurpose.CONFIRM_ADDRESS, holder=holder_of(stored), about_id=change_id)
    await tell(work, flows.ring, MailKind.ADDRESS_CONFIRM, stored, to=email[0], link=confirm)


async def note_set_address(
    work: TenantUnitOfWork, ring: KeyRing, before: StoredUser, email: tuple[str, str] | None
) -> None:
    """Tell a verified address that an administrator gave its account another one, or none; with a way back."""
    user = before.user
    if user.email is None or before.email_key is None or user.email_verified_at is None:
        return
    change_id = new_id()
    old = (user.email, before.email_key)
    await insert_change(work, AddressChange(change_id, user.id, old, user.email_verified_at, email, was_made=True))
    undo = await issue_link(work, LinkPurpose.UNDO_ADDRESS, holder=Holder(user.id, None, None), about_id=change_id)
    await tell(work, ring, MailKind.ADDRESS_SET, before, link=undo)


async def confirm_address(
    flows: AccountFlows, token: str, *, meta: ChangeMeta, named: str | None = None
) -> Done | LinkRefused:
    """Spend the new address's link: it is the account's from now on, verified, and all sign-ins end."""
    try:
        async with spending(flows, token, LinkPurpose.CONFIRM_ADDRESS, named=named) as spent:
            if spent is None or spent.link.about_id is None:
                return LinkRefused()
            work = spent.work
            change = await confirm_change(work, spent.link.about_id)
            if change is None:
                return LinkRefused()
            await set_email(work, change.user_id, change.new, verified_at=datetime.now(UTC))
            by = by_link(change.user_id, spent.link.link_id, meta)
            return await _changed(work, flows, change, "user.address_change", by)
    except EmailTakenError:
        # Another account took the address since; its holder was told when this one asked, and nobody else is.
        return LinkRefused()


async def undo_address(
    flows: AccountFlows, token: str, *, meta: ChangeMeta, named: str | None = None
) -> Done | LinkRefused:
    """Spend the old address's link: it is the account's (again), what waited is dropped, and all sign-ins end."""
    try:
        async with spending(flows, token, LinkPurpose.UNDO_ADDRESS, named=named) as spent:
            if spent is None or spent.link.about_id is None:
                return LinkRefused()
            work = spent.work
            change = await undo_change(work, spent.link.about_id)
            if change is None:
                return LinkRefused()
            freed: list[AuditEntry] = []
            if change.was_made:
                freed = await _free(work, change)
                await set_email(work, change.user_id, change.old, verified_at=change.old_verified_at)
            else:
                await raise_auth_epoch(work, change.user_id)
            stored = await lock_user(work, change.user_id)
            if stored is not None:
                await forget_trusted_devices(work, change.user_id)
                await tell(work, flows.ring, MailKind.ADDRESS_UNDONE, stored)
            by = by_link(change.user_id, spent.link.link_id, meta)
            return await _changed(work, flows, change, "user.address_undo", by, more=freed)
    except EmailTakenError:
        return LinkRefused()


async def _free(work: TenantUnitOfWork, change: AddressChange) -> list[AuditEntry]:
    """Take the old address from an account that was given it meanwhile, and never proved it.

    SECURITY: whoever sets other people's addresses could else keep one from being taken back by giving it away.
    """
    owner = None if change.old is None else await find_by_email_key(work, change.old[1])
    if owner is None or owner.id == change.user_id or owner.email_verified_at is not None:
        return []
    await set_email(work, owner.id, None, verified_at=None)
    return [AuditEntry("user.update", owner.ref, detail={"fields": ["email"]})]


async def _changed(
    work: TenantUnitOfWork,
    flows: AccountFlows,
    change: AddressChange,
    action: str,
    meta: ChangeMeta,
    *,
    more: Sequence[AuditEntry] = (),
) -> Done:
    addresses = {"new_email": change.new, "old_email": change.old}
    fields = {name: address[0] for name, address in addresses.items() if address is not None}
    personal = await flows.ring.seal_personal(work, change.user_id, fields)
    head = await raise_head(work)
    target = subject_ref(change.user_id)
    entry = AuditEntry(action, target=target, personal=personal)
    touched = [target, *(other.target for other in more if other.target is not None)]
    await record_change(work.session, head, "user", meta, audit=[entry, *more], touched=touched)
    return Done(head, change.user_id)
