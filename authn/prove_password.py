"""Somebody proves that they know an account's password: throttled, counted, and its hash renewed when it is old."""

from dataclasses import dataclass, replace
from uuid import UUID

from authn.credential_failures import forgive_tries, give_back_try, take_try_now
from authn.errors import PasswordHashingBusyError
from authn.password_hashing import PasswordHasher, Verified
from authn.password_text import normalize_password
from authn.tries import LockedOut, MustWait, TryTaken
from authn.user_rows import read_account, read_user, set_password_hash
from authn.users import StoredUser, UserStatus
from tenancy.audit import AuditEntry, AuditOutcome
from tenancy.audit_log import append_audit
from tenancy.ids import TenantId
from tenancy.tenant import ChangeMeta
from tenancy.tenant_settings import TenantLimits
from tenancy.unit_of_work import Sessions, tenant_unit_of_work


@dataclass(frozen=True, slots=True)
class Proven:
    """The password is right; `held` is the account as it is stored now, without its lock."""

    held: StoredUser


@dataclass(frozen=True, slots=True)
class PresentWrong:
    """It is not; the try stays counted."""


@dataclass(frozen=True, slots=True)
class NoPassword:
    """There is no account that has one: unknown, disabled, deleted, or not yet set. A reset sets one."""


Proof = Proven | PresentWrong | NoPassword | MustWait | LockedOut


class PasswordProofs:
    """Judges passwords of accounts. Hashing is done between transactions, never inside of one."""

    def __init__(self, sessions: Sessions, hasher: PasswordHasher, *, limits: TenantLimits | None = None) -> None:
        """Keep where units of work come from, who computes hashes, and the platform's bounds on settings."""
        self._sessions = sessions
        self._hasher = hasher
        self._limits = limits

    async def prove(
        self, tenant_id: TenantId, user_id: UUID, password: str, *, slug: str, meta: ChangeMeta, action: str
    ) -> Proof:
        """Judge a password.

        Args:
            tenant_id: Whose account.
            user_id: Which.
            password: As it was typed.
            slug: The name of its tenant, whose places of the pool it takes.
            meta: Who, from where.
            action: What the audit calls a wrong one (of `AUDIT_ACTIONS`).

        Raises:
            UnusablePasswordError: nothing that can be a password; nothing is counted.
            PasswordHashingBusyError: too many are being hashed; nothing is counted.
        """
        normalize_password(password)
        with self._hasher.place(slug) as place:  # SECURITY: a flood costs no query of the database
            read = await read_account(self._sessions, tenant_id, user_id, self._limits)
            if read is None or read[0].user.status is not UserStatus.ACTIVE or read[0].password_hash is None:
                # SECURITY: takes as long as a real one.
                await self._hasher.verify(password, None, place=place)
                return NoPassword()
            held, settings = read
            taken = await take_try_now(self._sessions, tenant_id, user_id, settings.sign_in)
            if not isinstance(taken, TryTaken):
                return taken
            try:
                found = await self._hasher.verify(password, held.password_hash, place=place)
            except PasswordHashingBusyError:
                async with tenant_unit_of_work(self._sessions, tenant_id) as work:
                    await give_back_try(work, user_id)
                raise
        async with tenant_unit_of_work(self._sessions, tenant_id) as work:
            if not isinstance(found, Verified):
                await append_audit(work, meta, [AuditEntry(action, held.user.ref, AuditOutcome.REFUSED)])
                return PresentWrong()
            await forgive_tries(work, user_id)
        if not found.needs_rehash:
            return Proven(held)
        return Proven(await renewed(self._sessions, self._hasher, held, password))


async def renewed(sessions: Sessions, hasher: PasswordHasher, held: StoredUser, password: str) -> StoredUser:
    """Return the account with a hash of today's cost, if there was room to compute one and nobody was faster.

    Args:
        sessions: Where units of work come from.
        hasher: What computes it.
        held: The account as it was when this password was right.
        password: As it was typed.
    """
    try:
        fresh = await hasher.hash(password)
    except PasswordHashingBusyError:
        return held
    async with tenant_unit_of_work(sessions, held.user.tenant_id) as work:
        # SECURITY: only over the hash that was read, so that a password changed meanwhile is never put back.
        if await set_password_hash(work, held.user.id, fresh, read=held.password_hash, rehash=True):
            return replace(held, password_hash=fresh)
        present = await read_user(work, held.user.id)
    # Another password raises the epoch: in the same one, somebody else made a new hash of this very password.
    return held if present is None or present.auth_epoch != held.auth_epoch else present
