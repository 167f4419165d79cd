"""Reset of a forgotten password: by a link to the verified address of the account, and by nothing else.

A reset never signs anybody in and takes no second factor away. Whoever asks, the person or an administrator, sees
and chooses nothing: the link goes to the account's own address.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from uuid import UUID

from authn.account_flows import (
    AccountFlows,
    Done,
    LinkRefused,
    by_link,
    can_be_mailed,
    factors_reset_lately,
    holder_of,
    home_of,
    lock_active,
    mark_password_reset,
    tell,
)
from authn.known_devices import remember_device
from authn.links import LinkPurpose, hash_link_token, issue_link, peek_link, spend_link
from authn.mails import MailKind
from authn.new_passwords import NewPasswords
from authn.password_storage import PasswordRules, read_password_rules, replace_password
from authn.passwords import PasswordRefused
from authn.throttles import Limit, count_attempt
from authn.user_reads import UserReader
from authn.user_rows import lock_user, read_user
from authn.users import StoredUser, subject_ref
from tenancy.audit import AuditEntry, AuditOutcome
from tenancy.audit_log import append_audit
from tenancy.heads import find_head, raise_head, record_change
from tenancy.ids import TenantId, TenantStatus
from tenancy.tenant import ChangeMeta
from tenancy.unit_of_work import TenantUnitOfWork, tenant_unit_of_work

ACCOUNT_LIMIT = Limit("password-reset-account", 3, timedelta(hours=1))
TENANT_LIMIT = Limit("password-reset-tenant", 1000, timedelta(hours=1))
STARTED_LIFETIME = timedelta(hours=24)
"""Of a link that an administrator had sent: the person did not wait for it."""


class NoReset(StrEnum):
    """Why no link was sent. Told to the audit and, where they may read the account, to administrators."""

    UNVERIFIED = "no_verified_address"
    FACTORS = "factors_were_reset_within_a_day"
    THROTTLED = "throttled"


@dataclass(frozen=True, slots=True)
class LinkSent:
    """A link is on its way to the account's own address."""


@dataclass(frozen=True, slots=True)
class NotSent:
    """None is."""

    reason: NoReset


async def request_reset(
    flows: AccountFlows, users: UserReader, tenant_id: TenantId, identifier: str, *, meta: ChangeMeta
) -> None:
    """Mail a link to whoever forgot their password, if there is such an account. Never tells whether there is.

    SECURITY: the caller has its answer already; nothing that happens here reaches it.
    """
    user = await users.find_by_identifier(tenant_id, identifier)
    if user is None:
        return
    async with tenant_unit_of_work(flows.sessions, tenant_id) as work:
        head = await find_head(work.session, tenant_id)
        if head is None or head.status is not TenantStatus.ACTIVE:
            return
        stored = await lock_user(work, user.id)
        if stored is None or await count_attempt(work, ACCOUNT_LIMIT, str(user.id)) is not None:
            return
        # SECURITY: only what would be mailed uses up the tenant's share, or strangers with made-up names would.
        if can_be_mailed(stored) and await count_attempt(work, TENANT_LIMIT, "") is not None:
            return
        sent = await _send(work, flows, stored, meta=meta)
        if sent == NotSent(NoReset.FACTORS):
            await tell(work, flows.ring, MailKind.RESET_NOT_YET, stored)


async def start_reset(
    flows: AccountFlows, tenant_id: TenantId, user_id: UUID, *, meta: ChangeMeta
) -> LinkSent | NotSent | None:
    """Have a link sent for somebody else; None when there is no such account. Whoever starts it sees nothing of it."""
    async with tenant_unit_of_work(flows.sessions, tenant_id) as work:
        stored = await lock_user(work, user_id)
        if stored is None or stored.user.username is None:
            return None
        if await count_attempt(work, ACCOUNT_LIMIT, f"started {user_id}") is not None:
            return NotSent(NoReset.THROTTLED)
        return await _send(work, flows, stored, meta=meta, lifetime=STARTED_LIFETIME)


async def _send(
    work: TenantUnitOfWork,
    flows: AccountFlows,
    stored: StoredUser,
    *,
    meta: ChangeMeta,
    lifetime: timedelta | None = None,
) -> LinkSent | NotSent:
    reason: NoReset | None = None
    if not can_be_mailed(stored):
        reason = NoReset.UNVERIFIED
    elif await factors_reset_lately(work, stored.user.id):
        reason = NoReset.FACTORS
    target = subject_ref(stored.user.id)
    if reason is not None:
        refusal = AuditEntry(
            "user.password_reset_request", target, AuditOutcome.REFUSED, detail={"reason": reason.value}
        )
        await append_audit(work, meta, [refusal])
        return NotSent(reason)
    link = await issue_link(work, LinkPurpose.PASSWORD_RESET, holder=holder_of(stored), lifetime=lifetime)
    await tell(work, flows.ring, MailKind.RESET, stored, link=link)
    await append_audit(work, meta, [AuditEntry("user.password_reset_request", target)])
    return LinkSent()


async def complete_reset(
    flows: AccountFlows,
    passwords: NewPasswords,
    token: str,
    password: str,
    *,
    meta: ChangeMeta,
    named: str | None = None,
    device_life: timedelta | None = None,
) -> Done | LinkRefused | PasswordRefused:
    """Spend a link and set the password that its holder chose; a password that is refused spends nothing.

    All sign-ins end, all links of the account are void, and a notice is sent. With `device_life` the holder's device is
    known for so long from now on: whoever guesses at the account meanwhile does not keep its owner out.

    Raises:
        UnusablePasswordError, PasswordHashingBusyError: as `NewPasswords.choose`; nothing was spent.
    """
    home = await home_of(flows, token, named=named)
    if home is None:
        return LinkRefused()
    rules = await _rules(flows, home.tenant_id, token)
    if rules is None:
        return LinkRefused()
    chosen = await passwords.choose(
        password,
        policy=rules.policy,
        context_words=rules.context_words,
        mfa_required=rules.mfa_required,
        previous=rules.previous,
    )
    if isinstance(chosen, PasswordRefused):
        return chosen
    async with tenant_unit_of_work(flows.sessions, home.tenant_id) as work:
        if await lock_active(work) is None:
            return LinkRefused()
        link = await spend_link(work, hash_link_token(token), LinkPurpose.PASSWORD_RESET)
        stored = None if link is None or link.user_id is None else await lock_user(work, link.user_id)
        if link is None or stored is None:
            return LinkRefused()
        user_id = stored.user.id
        target = subject_ref(user_id)
        meta = by_link(user_id, link.link_id, meta)
        if await factors_reset_lately(work, user_id):
            refusal = AuditEntry(
                "user.password_reset", target, AuditOutcome.REFUSED, detail={"reason": NoReset.FACTORS.value}
            )
            await append_audit(work, meta, [refusal])
            return LinkRefused()
        if not await replace_password(work, stored, chosen.stored, policy=rules.policy, set_by="reset"):
            return LinkRefused()
        await mark_password_reset(work, user_id)
        await tell(work, flows.ring, MailKind.PASSWORD_CHANGED, stored)
        head = await raise_head(work)
        entry = AuditEntry("user.password_reset", target)
        await record_change(work.session, head, "user", meta, audit=[entry], touched=[target])
        device = None
        if device_life is not None:
            device = await remember_device(work, user_id, now=datetime.now(UTC), life=device_life, signed_in=False)
        return Done(head, user_id, device)


async def _rules(flows: AccountFlows, tenant_id: TenantId, token: str) -> PasswordRules | None:
    async with tenant_unit_of_work(flows.sessions, tenant_id) as work:
        link = await peek_link(work, hash_link_token(token), LinkPurpose.PASSWORD_RESET)
        stored = None if link is None or link.user_id is None else await read_user(work, link.user_id)
        if stored is None:
            return None
        return await read_password_rules(work, stored.user, limits=flows.limits, present=stored.password_hash)
