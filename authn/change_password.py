"""Somebody changes their own password: the present one proves who they are, the new one is judged."""

from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from authn.begin_session import renew_session
from authn.errors import UserStorageUnavailableError
from authn.mail_queue import Seals, queue_mail
from authn.mail_texts import moment_text
from authn.mails import Mail, MailKind
from authn.new_passwords import ChosenPassword, NewPasswords
from authn.password_storage import PasswordRules, read_password_rules, replace_password
from authn.password_text import normalize_password
from authn.passwords import Advice, PasswordRefused
from authn.prove_password import NoPassword, PasswordProofs, PresentWrong, Proven
from authn.sessions import Session
from authn.tries import LockedOut, MustWait
from authn.user_rows import lock_user
from authn.users import StoredUser, UserStatus
from tenancy.audit import AuditEntry
from tenancy.errors import DatabaseUnavailableError
from tenancy.heads import lock_head, raise_head, record_change
from tenancy.ids import TenantId, TenantStatus
from tenancy.tenant import ChangeMeta, TenantHead
from tenancy.tenant_settings import TenantLimits
from tenancy.unit_of_work import Sessions, TenantUnitOfWork, tenant_unit_of_work

_ACTION = "password.change"


@dataclass(frozen=True, slots=True)
class PasswordChanged:
    """Done: all sign-ins ended."""

    head: TenantHead
    advice: Advice | None
    session: Session | None
    """The one in which the person goes on, not put into the store yet."""


@dataclass(frozen=True, slots=True)
class ChangedMeanwhile:
    """The password was replaced, or sign-ins were ended, while this was judged."""


PasswordChange = PasswordChanged | PasswordRefused | PresentWrong | NoPassword | ChangedMeanwhile | MustWait | LockedOut


class PasswordChanges:
    """Replaces people's own passwords.

    What takes long (hashing) is done between transactions; the last one writes only what is still based on what the
    first one read.
    """

    def __init__(
        self, sessions: Sessions, passwords: NewPasswords, ring: Seals, *, limits: TenantLimits | None = None
    ) -> None:
        """Keep where units of work come from, who judges, what seals notices, and the platform's bounds."""
        self._sessions = sessions
        self._passwords = passwords
        self._ring = ring
        self._limits = limits
        self._proofs = PasswordProofs(sessions, passwords.hasher, limits=limits)

    async def change(
        self,
        tenant_id: TenantId,
        user_id: UUID,
        present: str,
        wanted: str,
        *,
        slug: str,
        meta: ChangeMeta,
        session: Session | None = None,
    ) -> PasswordChange:
        """Replace a password.

        Args:
            tenant_id: Whose account.
            user_id: The caller's own account.
            present: Proves who asks.
            wanted: Is judged by the tenant's rules, once the present one was right.
            slug: The name of its tenant.
            meta: Who, from where.
            session: The one that asks; another takes its place, and all others end.

        Raises:
            UnusablePasswordError: one of both cannot be a password at all; nothing is counted.
            PasswordHashingBusyError: too many are being hashed; nothing is counted.
            SessionEndedError: the session that asks has ended meanwhile; nothing changed.
            UserStorageUnavailableError: PostgreSQL did not answer.
        """
        normalize_password(wanted)
        try:
            proof = await self._proofs.prove(tenant_id, user_id, present, slug=slug, meta=meta, action=_ACTION)
            if not isinstance(proof, Proven):
                return proof
            async with tenant_unit_of_work(self._sessions, tenant_id) as work:
                stored = proof.held.password_hash
                rules = await read_password_rules(work, proof.held.user, limits=self._limits, present=stored)
            chosen = await self._passwords.choose(
                wanted,
                policy=rules.policy,
                context_words=rules.context_words,
                mfa_required=rules.mfa_required,
                previous=rules.previous,
            )
            if isinstance(chosen, PasswordRefused):
                return chosen
            async with tenant_unit_of_work(self._sessions, tenant_id) as work:
                return await self._write(work, proof.held, chosen, rules, meta=meta, session=session)
        except DatabaseUnavailableError as error:
            raise UserStorageUnavailableError(str(error)) from error

    async def _write(
        self,
        work: TenantUnitOfWork,
        proven: StoredUser,
        chosen: ChosenPassword,
        rules: PasswordRules,
        *,
        meta: ChangeMeta,
        session: Session | None,
    ) -> PasswordChanged | ChangedMeanwhile | NoPassword:
        locked = await lock_head(work)
        held = await lock_user(work, proven.user.id)
        if locked is None or locked[0].status is not TenantStatus.ACTIVE:
            return NoPassword()
        if held is None or held.user.status is not UserStatus.ACTIVE:
            return NoPassword()
        # SECURITY: what ended sign-ins meanwhile (a reset, an administrator) was meant to end this request, too.
        if (held.auth_epoch, held.password_hash) != (proven.auth_epoch, proven.password_hash):
            return ChangedMeanwhile()
        if not await replace_password(work, held, chosen.stored, policy=rules.policy):
            return ChangedMeanwhile()
        if held.user.email is not None:
            values = {"username": held.user.username or "", "when": moment_text(datetime.now(UTC))}
            notice = Mail(MailKind.PASSWORD_CHANGED, held.user.email, values, user_id=held.user.id)
            await queue_mail(work, self._ring, notice)
        head = await raise_head(work)
        entry = AuditEntry(_ACTION, target=held.user.ref)
        await record_change(work.session, head, "user", meta, audit=[entry], touched=[held.user.ref])
        fresh = None if session is None else await renew_session(work, session, held, meta=meta)
        return PasswordChanged(head, chosen.advice, fresh)
