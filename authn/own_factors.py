"""People look after their own second factors, signed in. Every change ends all other sign-ins and is told by mail.

The edge sees to it that the session is fresh and at the account's full level; here it must still be good.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from authn.account_flows import AccountFlows, lock_active, tell
from authn.begin_session import renew_session
from authn.enrol_factor import PROVES, bind, factor_entry
from authn.errors import SessionEndedError, UserStorageUnavailableError
from authn.factor_storage import (
    find_authenticator,
    list_authenticators,
    read_factors,
    remove_authenticator,
    rename_authenticator,
)
from authn.factors import Authenticator, FactorKind, Factors, FactorWrong
from authn.mailbox_proofs import (
    CodeOutcome,
    MailboxGiven,
    MailboxProven,
    MailboxWrong,
    prove_mailbox,
    send_code,
    spend_ticket,
)
from authn.mails import MailKind
from authn.new_factors import NewFactor
from authn.recovery_code_storage import drop_codes, renew_codes
from authn.session_rows import end_all_rows, is_ended
from authn.sessions import Session
from authn.sign_in import MfaDemands
from authn.tries import LockedOut, MustWait
from authn.user_rows import lock_user
from authn.users import StoredUser, UserStatus
from tenancy.audit import AuditEntry
from tenancy.errors import DatabaseUnavailableError
from tenancy.heads import find_head, raise_head, record_change
from tenancy.settings_storage import read_settings
from tenancy.tenant import ChangeMeta, TenantHead
from tenancy.unit_of_work import TenantUnitOfWork, tenant_unit_of_work


@dataclass(frozen=True, slots=True)
class FactorChanged:
    """Done. `session` goes on in place of the one that asked; it is to be put into the store.

    `recovery_codes` are new ones, told once.
    """

    head: TenantHead
    session: Session
    authenticator: Authenticator | None = None
    recovery_codes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """SECURITY: no log and no traceback shows a code."""
        return "FactorChanged(...)"


@dataclass(frozen=True, slots=True)
class FactorBegun:
    """What the client needs to prove the new authenticator, told once; and what is to be kept until then."""

    shown: Mapping[str, Any]
    kept: Mapping[str, Any]

    def __repr__(self) -> str:
        """SECURITY: no log and no traceback shows a secret."""
        return "FactorBegun(...)"


@dataclass(frozen=True, slots=True)
class LastFactor:
    """It is the last one, and the account must have one."""


@dataclass(frozen=True, slots=True)
class NoSuchFactor:
    """The account has no such authenticator."""


class OwnFactors:
    """Changes the factors of whoever is signed in.

    Every method raises `SessionEndedError` when the session is over, and `UserStorageUnavailableError`.
    """

    def __init__(self, flows: AccountFlows, demands: MfaDemands) -> None:
        """Keep where units of work come from, what seals, and who must have a factor."""
        self._flows = flows
        self._demands = demands

    async def look(self, session: Session) -> tuple[Sequence[Authenticator], Factors]:
        """Return what is bound, and what that can prove."""
        async with self._account(session) as (work, _):
            return await list_authenticators(work, session.user_id), await read_factors(work, session.user_id)

    async def mail_code(self, session: Session, *, meta: ChangeMeta) -> CodeOutcome:
        """Mail the code that a first authenticator needs."""
        async with self._account(session) as (work, held):
            factors = await read_factors(work, session.user_id)
            return await send_code(work, self._flows.ring, held, factors, meta=meta, signed_in=True)

    async def begin(
        self, session: Session, new: NewFactor, name: str, given: MailboxGiven
    ) -> FactorBegun | MailboxWrong:
        """Begin to bind an authenticator; the first one needs a proof of the mailbox besides.

        Raises:
            FactorLimitExceededError: the account has as many as it may.
        """
        async with self._account(session) as (work, held):
            factors = await read_factors(work, session.user_id)
            if not factors.enrolled:
                proven = await prove_mailbox(work, self._flows.ring, held, factors, given, signed_in=True)
                if not isinstance(proven, MailboxProven):
                    return proven
                if not await spend_ticket(work, held, factors, proven, signed_in=True):
                    return MailboxWrong()
            shown, kept = await new.begin(work, held, name)
            return FactorBegun(shown, kept)

    async def finish(
        self,
        session: Session,
        new: NewFactor,
        kept: Mapping[str, Any],
        given: str | Mapping[str, Any],
        *,
        meta: ChangeMeta,
    ) -> FactorChanged | FactorWrong | MustWait | LockedOut:
        """Bind an authenticator by a first proof with it. After a recovery this is what lets its person go on."""
        async with self._account(session) as (work, held):
            return await self._finished(work, session, held, await new.finish(work, held, kept, given), meta)

    async def confirm(
        self, session: Session, totp: NewFactor, authenticator_id: UUID, code: str, *, meta: ChangeMeta
    ) -> FactorChanged | FactorWrong | MustWait | LockedOut | NoSuchFactor:
        """Bind a time-based authenticator by its first code; after a recovery, also prove again one that is bound."""
        async with self._account(session) as (work, held):
            found = await find_authenticator(work, session.user_id, authenticator_id)
            waits = found is not None and found.confirmed_at is None
            if found is None or found.kind is not FactorKind.TOTP or not (waits or session.must_enrol):
                return NoSuchFactor()
            outcome = await totp.finish(work, held, {"authenticator": str(found.id)}, code)
            return await self._finished(work, session, held, outcome, meta)

    async def rename(
        self, session: Session, authenticator_id: UUID, name: str, *, meta: ChangeMeta
    ) -> tuple[TenantHead, Authenticator] | NoSuchFactor:
        """Give an authenticator another name; nobody is signed out by that."""
        async with self._account(session) as (work, held):
            renamed = await rename_authenticator(work, session.user_id, authenticator_id, name)
            if renamed is None:
                return NoSuchFactor()
            head = await raise_head(work)
            entry = await factor_entry(work, self._flows, "factor.rename", held, renamed)
            await record_change(work.session, head, "user", meta, audit=[entry])
            return head, renamed

    async def remove(
        self, session: Session, authenticator_id: UUID, *, meta: ChangeMeta
    ) -> FactorChanged | LastFactor | NoSuchFactor:
        """End an authenticator, also one that waits for its confirmation.

        The last one goes only where none is demanded, and takes the recovery codes with it.
        """
        demanded = await self._demanded(session)
        async with self._account(session) as (work, held):
            found = await find_authenticator(work, session.user_id, authenticator_id)
            if found is None:
                return NoSuchFactor()
            bound = await list_authenticators(work, session.user_id)
            last = [one.id for one in bound] == [authenticator_id]
            # SECURITY: a recovery code must not become the way to an account without a second factor.
            if last and (demanded or session.must_enrol):
                return LastFactor()
            await remove_authenticator(work, session.user_id, authenticator_id)
            if last:
                await drop_codes(work, session.user_id)
            entry = await factor_entry(work, self._flows, "factor.remove", held, found)
            return await self._changed(work, session, held, entry, meta, authenticator=found)

    async def renew_codes(self, session: Session, *, meta: ChangeMeta) -> FactorChanged | NoSuchFactor:
        """Give ten new recovery codes in place of all there were; an account without authenticators needs none."""
        async with self._account(session) as (work, held):
            if not (await read_factors(work, session.user_id)).enrolled:
                return NoSuchFactor()
            codes = await renew_codes(work, session.user_id)
            entry = AuditEntry("factor.recovery_codes", held.user.ref)
            return await self._changed(work, session, held, entry, meta, recovery_codes=codes)

    async def _demanded(self, session: Session) -> bool:
        async with self._account(session) as (work, held):
            settings = await read_settings(work, self._flows.limits)
            head = await find_head(work.session, session.tenant_id)
        # The node may look things up of its own, so no lock is held while it is asked.
        return await self._demands.demanded(held.user, settings, 0 if head is None else head.revision)

    @asynccontextmanager
    async def _account(self, session: Session) -> AsyncIterator[tuple[TenantUnitOfWork, StoredUser]]:
        """Open a transaction with the tenant and the account locked, for a session that is still good."""
        try:
            async with tenant_unit_of_work(self._flows.sessions, session.tenant_id) as work:
                held = None if await lock_active(work) is None else await lock_user(work, session.user_id)
                if held is None or held.user.status is not UserStatus.ACTIVE:
                    raise SessionEndedError
                if held.auth_epoch != session.auth_epoch or await is_ended(work, session):
                    raise SessionEndedError
                yield work, held
        except DatabaseUnavailableError as error:
            raise UserStorageUnavailableError(str(error)) from error

    async def _finished(
        self,
        work: TenantUnitOfWork,
        session: Session,
        held: StoredUser,
        outcome: Authenticator | FactorWrong | MustWait | LockedOut,
        meta: ChangeMeta,
    ) -> FactorChanged | FactorWrong | MustWait | LockedOut:
        if not isinstance(outcome, Authenticator):
            return outcome
        bound = await bind(work, self._flows, held, outcome, meta=meta, renew=session.must_enrol)
        fresh = await renew_session(work, session, held, meta=meta, must_enrol=False, proven=PROVES[outcome.kind])
        return FactorChanged(bound.head, fresh, bound.authenticator, bound.recovery_codes)

    async def _changed(
        self,
        work: TenantUnitOfWork,
        session: Session,
        held: StoredUser,
        entry: AuditEntry,
        meta: ChangeMeta,
        **more: Any,
    ) -> FactorChanged:
        await end_all_rows(work, session.user_id)
        await tell(work, self._flows.ring, MailKind.FACTOR_CHANGED, held)
        head = await raise_head(work)
        await record_change(work.session, head, "user", meta, audit=[entry], touched=[held.user.ref])
        return FactorChanged(head, await renew_session(work, session, held, meta=meta), **more)
