"""Makes the first administrator of the platform: account, role and personal key, in the transaction of the token."""

from dataclasses import dataclass, field
from datetime import datetime

from authn.account_flows import holder_of
from authn.bootstrap import ADMINISTRATOR, is_good, spend_bootstrap_token
from authn.key_rows import created_entry, insert_personal_key
from authn.links import IssuedLink, LinkPurpose, issue_link
from authn.new_passwords import NewPasswords
from authn.passwords import PasswordRefused, context_words_of
from authn.user_edits import personal_of
from authn.user_rows import insert_user, lock_user
from authn.users import NewUser, User, normalize_display_name, normalize_email, normalize_username
from authz.request import Ref
from authz.row_changes import RowChanges
from authz.rules import Owner, RoleLink
from authz.storage_tables import write_changes, write_items
from tenancy.audit import AuditEntry
from tenancy.heads import lock_head, raise_head, record_change
from tenancy.ids import PLATFORM_TENANT_ID
from tenancy.key_ring import KeyRing
from tenancy.settings_storage import read_settings
from tenancy.tenant import ChangeMeta, TenantHead
from tenancy.tenant_settings import TenantLimits
from tenancy.unit_of_work import Sessions, TenantUnitOfWork, tenant_unit_of_work

KEY_NAME = "first administrator"


@dataclass(frozen=True, slots=True)
class Candidate:
    """Who wants to be the first administrator, and what proves it; names are as typed."""

    token: str
    username: str
    email: str
    password: str
    display_name: str | None = None

    def __repr__(self) -> str:
        """SECURITY: no log and no traceback shows a token or a password."""
        return "Candidate(...)"


@dataclass(frozen=True, slots=True)
class Administrator:
    """The account that was made, with the token of its key, which nobody can read again."""

    head: TenantHead
    user: User
    key: str = field(repr=False)
    expires_at: datetime | None
    ticket: IssuedLink | None = None


class TokenRefused:
    """The token is unknown, spent, expired, or another administrator came first; they look alike."""


async def make_first_administrator(
    candidate: Candidate,
    *,
    sessions: Sessions,
    passwords: NewPasswords,
    ring: KeyRing,
    limits: TenantLimits | None,
    now: datetime,
    meta: ChangeMeta,
) -> Administrator | TokenRefused | PasswordRefused:
    """Spend a bootstrap token.

    Raises:
        InvalidUsernameError, InvalidEmailError, InvalidPersonNameError: a name that cannot be.
        UsernameTakenError, EmailTakenError: somebody of the platform has it.
        UnusablePasswordError, PasswordHashingBusyError: as `NewPasswords.choose`.
    """
    async with tenant_unit_of_work(sessions, PLATFORM_TENANT_ID) as work:
        # SECURITY: without a good token nobody makes this process hash passwords, or learns which names are taken.
        if not await is_good(work, candidate.token):
            return TokenRefused()
        settings = await read_settings(work, limits)
    username, email = normalize_username(candidate.username), normalize_email(candidate.email)
    shown = None if candidate.display_name is None else normalize_display_name(candidate.display_name)
    chosen = await passwords.choose(
        candidate.password,
        policy=settings.password,
        context_words=context_words_of(
            username=username[0], email=email[0], display_name=None if shown is None else shown[0]
        ),
        mfa_required=False,
    )
    if isinstance(chosen, PasswordRefused):
        return chosen
    new = NewUser(username, email, shown, password_hash=chosen.stored, password_set_by="user")  # noqa: S106 - who, not what
    async with tenant_unit_of_work(sessions, PLATFORM_TENANT_ID) as work:
        if await lock_head(work) is None or not await spend_bootstrap_token(work, candidate.token):
            return TokenRefused()
        return await _make(work, new, ring, now, meta)


async def _make(work: TenantUnitOfWork, new: NewUser, ring: KeyRing, now: datetime, meta: ChangeMeta) -> Administrator:
    user = await insert_user(work, new, created_by=meta.actor)
    role = RoleLink(Ref(user.ref), Ref(ADMINISTRATOR), owner=Owner.API)
    rows = RowChanges(added={role.id: role})
    # They may have to enrol a second factor before anybody can verify their address.
    held = await lock_user(work, user.id)
    ticket = None if held is None else await issue_link(work, LinkPurpose.ENROLMENT, holder=holder_of(held))
    token, key = await insert_personal_key(work, user.id, KEY_NAME, now=now, created_by=user.ref)
    personal = await ring.seal_personal(work, user.id, personal_of(new))
    head = await raise_head(work, keys=True, counts={**rows.growth(), "users": 1})
    entries = [
        AuditEntry("user.create", user.ref, after={"roles": [ADMINISTRATOR]}, personal=personal),
        created_entry(key),
    ]
    await record_change(work.session, head, "user", meta, added=1, audit=entries, touched=[user.ref])
    await write_changes(work, rows, head.revision)
    await write_items(work, rows, head.revision)
    return Administrator(head, user, token, key.expires_at, ticket)
