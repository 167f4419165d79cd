"""An invitation becomes an account: the person chose names and password, the inviter the roles; one transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from authn.account_flows import AccountFlows, LinkRefused, by_link, holder_of, home_of, lock_active, tell
from authn.errors import EmailTakenError
from authn.invitation_rows import StoredInvitation, accept_invitation, find_open_invitation
from authn.invitations import Invitation, Inviter
from authn.key_rows import created_entry, insert_personal_key
from authn.links import IssuedLink, LinkPurpose, hash_link_token, issue_link, peek_link, spend_link
from authn.mails import MailKind
from authn.new_passwords import NewPasswords
from authn.password_storage import PasswordRules, read_password_rules
from authn.passwords import PasswordRefused
from authn.user_rows import insert_user, lock_user
from authn.users import NewUser, User, UserStatus, normalize_display_name, normalize_username
from tenancy.audit import AuditEntry, AuditOutcome
from tenancy.audit_log import append_audit
from tenancy.heads import raise_head, record_change
from tenancy.ids import TenantId
from tenancy.tenant import ChangeMeta, TenantHead
from tenancy.unit_of_work import TenantUnitOfWork, tenant_unit_of_work


class PreparedRoles(Protocol):
    """Roles that can be written in the transaction that checked them."""

    @property
    def growth(self) -> Mapping[str, int]:
        """How many rows of each kind the tenant gains, as `tenancy.heads.raise_head` takes it."""

    @property
    def count(self) -> int:
        """How many roles are new."""

    async def write(self, work: TenantUnitOfWork, revision: int) -> None:
        """Write them, and that into the history of `revision`, whose entry is there."""


class RoleGrants(Protocol):
    """Grants of roles, as the policy decides them. Implementation: `service/role_grants.py`."""

    async def may_grant(self, tenant_id: TenantId, inviter: Inviter, roles: Sequence[str]) -> bool:
        """Whether the inviter may grant these roles now."""

    async def prepare(self, work: TenantUnitOfWork, subject: str, roles: Sequence[str]) -> PreparedRoles:
        """Return the grants that a subject lacks, to be written in this transaction."""


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What the person says. Names are as typed."""

    username: str
    password: str = field(repr=False)
    display_name: str | None = None
    key_name: str | None = None
    """Of a first personal key, if one is wanted."""


@dataclass(frozen=True, slots=True)
class FirstKey:
    """A personal key that came with the account; its token is told once, now."""

    token: str = field(repr=False)
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class Accepted:
    """The account was made."""

    head: TenantHead
    user: User
    key: FirstKey | None = None
    ticket: IssuedLink | None = None
    """Stands for the mailed code when a second factor is enrolled: who accepted an invitation reads that mailbox."""


@dataclass(frozen=True, slots=True)
class GrantLapsed:
    """The inviter may not grant the roles any more: no account was made, and the link still works if that changes."""


async def accept(
    flows: AccountFlows,
    passwords: NewPasswords,
    grants: RoleGrants,
    token: str,
    said: Acceptance,
    *,
    meta: ChangeMeta,
    named: str | None = None,
) -> Accepted | LinkRefused | PasswordRefused | GrantLapsed:
    """Spend an invitation: its account is made with its roles and a verified address.

    Whatever is refused but the link itself spends nothing, so that the person can try again.

    Raises:
        InvalidUsernameError, InvalidPersonNameError: a name that cannot be.
        UsernameTakenError: another account has the name.
        UnusablePasswordError, PasswordHashingBusyError: as `NewPasswords.choose`.
    """
    home = await home_of(flows, token, named=named)
    if home is None:
        return LinkRefused()
    async with tenant_unit_of_work(flows.sessions, home.tenant_id) as work:
        stored = await find_open(work, token)
    if stored is None or stored.email is None:
        return LinkRefused()
    username = normalize_username(said.username)
    display_name = normalize_display_name(said.display_name) if said.display_name else stored.display_name
    invitation = stored.invitation
    if not await _may_grant(flows, grants, invitation, meta):
        return GrantLapsed()
    new = NewUser(username, stored.email, display_name, email_verified_at=datetime.now(UTC))
    rules = await _rules(flows, invitation, new)
    chosen = await passwords.choose(
        said.password, policy=rules.policy, context_words=rules.context_words, mfa_required=rules.mfa_required
    )
    if isinstance(chosen, PasswordRefused):
        return chosen
    # SECURITY: asked again, since a hash takes long enough for the right to have been taken away meanwhile.
    if not await _may_grant(flows, grants, invitation, meta):
        return GrantLapsed()
    try:
        made = _with_password(new, chosen.stored)
        return await _make(flows, grants, stored, made, token=token, key_name=said.key_name, meta=meta)
    except EmailTakenError:
        # Since the invitation was sent another account took the address; its holder is told when they are invited.
        return LinkRefused()


async def find_open(work: TenantUnitOfWork, token: str) -> StoredInvitation | None:
    """Return the invitation of a token that could be accepted, and spend nothing."""
    link = await peek_link(work, hash_link_token(token), LinkPurpose.INVITATION)
    return None if link is None or link.about_id is None else await find_open_invitation(work, link.about_id)


async def _make(
    flows: AccountFlows,
    grants: RoleGrants,
    stored: StoredInvitation,
    new: NewUser,
    *,
    token: str,
    key_name: str | None,
    meta: ChangeMeta,
) -> Accepted | LinkRefused:
    invitation = stored.invitation
    async with tenant_unit_of_work(flows.sessions, invitation.tenant_id) as work:
        if await lock_active(work) is None:
            return LinkRefused()
        link = await spend_link(work, hash_link_token(token), LinkPurpose.INVITATION)
        if link is None or link.about_id != invitation.id or not await accept_invitation(work, invitation.id):
            return LinkRefused()
        user = await insert_user(work, new, created_by=invitation.created_by, user_id=invitation.user_id)
        roles = await grants.prepare(work, user.ref, invitation.roles)
        head = await raise_head(work, keys=key_name is not None, counts={**roles.growth, "users": 1})
        held = await lock_user(work, user.id)
        ticket = None
        if held is not None:
            await tell(work, flows.ring, MailKind.WELCOME, held)
            ticket = await issue_link(work, LinkPurpose.ENROLMENT, holder=holder_of(held))
        fields = {"username": new.username[0]} | ({"email": new.email[0]} if new.email else {})
        personal = await flows.ring.seal_personal(work, user.id, fields)
        entry = AuditEntry(
            "invitation.accept",
            user.ref,
            after={"roles": list(invitation.roles)},
            personal=personal,
            detail={"invitation": str(invitation.id), "inviter": invitation.inviter.subject},
        )
        by = by_link(user.id, link.link_id, meta)
        entries, first_key = [entry], None
        if key_name is not None:
            token, key = await insert_personal_key(work, user.id, key_name, now=user.created_at, created_by=user.ref)
            first_key = FirstKey(token, key.expires_at)
            entries.append(created_entry(key))
        await record_change(work.session, head, "user", by, added=roles.count, audit=entries, touched=[user.ref])
        await roles.write(work, head.revision)
        return Accepted(head, user, first_key, ticket)


async def _rules(flows: AccountFlows, invitation: Invitation, new: NewUser) -> PasswordRules:
    now = datetime.now(UTC)
    account = User(
        id=invitation.user_id,
        tenant_id=invitation.tenant_id,
        username=new.username[0],
        email=None if new.email is None else new.email[0],
        email_verified_at=now,
        display_name=None if new.display_name is None else new.display_name[0],
        status=UserStatus.ACTIVE,
        status_reason=None,
        mfa_required=False,
        password_set=False,
        password_changed_at=None,
        created_at=now,
        updated_at=now,
        created_by=invitation.created_by,
    )
    async with tenant_unit_of_work(flows.sessions, invitation.tenant_id) as work:
        return await read_password_rules(work, account, limits=flows.limits)


def _with_password(new: NewUser, stored: str) -> NewUser:
    return NewUser(
        new.username,
        new.email,
        new.display_name,
        email_verified_at=new.email_verified_at,
        password_hash=stored,
        password_set_by="user",  # noqa: S106 - who, not what
    )


async def _may_grant(flows: AccountFlows, grants: RoleGrants, invitation: Invitation, meta: ChangeMeta) -> bool:
    """Whether the inviter may grant the roles now; the audit is told when not."""
    if await grants.may_grant(invitation.tenant_id, invitation.inviter, invitation.roles):
        return True
    entry = AuditEntry(
        "invitation.accept",
        f"invitation:{invitation.id}",
        AuditOutcome.REFUSED,
        detail={
            "reason": "inviter_may_not_grant",
            "inviter": invitation.inviter.subject,
            "roles": list(invitation.roles),
        },
    )
    async with tenant_unit_of_work(flows.sessions, invitation.tenant_id) as work:
        await append_audit(work, meta, [entry])
    return False
