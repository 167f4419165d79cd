"""Who must have a second factor and has none binds one on the way in: password, mailbox, and a first proof with it.

The challenge of the sign-in carries it: it names account and step, takes five tries in all, and keeps between the two
requests what the new authenticator needs. A pending authenticator is nothing before the second one.
"""

import hmac
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import structlog

from authn.account_flows import AccountFlows, lock_active
from authn.begin_session import SignInLost
from authn.challenge_storage import ChallengeStore
from authn.challenges import Challenge, ChallengeStep, digest_of_hash
from authn.enrol_factor import PROVES, Bound, bind
from authn.errors import ChallengeExpiredError, UserStorageUnavailableError, VolatileStoreUnavailableError
from authn.factor_storage import read_factors
from authn.factors import Authenticator, FactorKind, Factors, FactorWrong
from authn.finish_sign_in import Finished, SessionBegun, SignedIn, SignInEnd
from authn.mailbox_proofs import (
    CodeOutcome,
    MailboxGiven,
    MailboxProven,
    MailboxWrong,
    prove_mailbox,
    send_code,
    spend_ticket,
)
from authn.new_factors import NewFactor
from authn.own_factors import FactorBegun
from authn.sessions import Acr, Amr, Proof
from authn.sign_in import Reason, SignInRefused, Whence
from authn.tries import LockedOut, MustWait
from authn.user_rows import lock_user
from authn.users import StoredUser, UserStatus, subject_ref
from tenancy.errors import DatabaseUnavailableError
from tenancy.settings_storage import read_settings
from tenancy.tenant import ChangeMeta, TenantHead
from tenancy.unit_of_work import TenantUnitOfWork, tenant_unit_of_work

_log = structlog.get_logger(__name__)

ENROLMENT_METHOD = "enrolment"
"""How a refused enrolment is counted and told."""


@dataclass(frozen=True, slots=True)
class Enrolled:
    """The authenticator is bound, and its person signed in. The codes are told once.

    `signed_in` is None when Valkey did not take the session: what is bound stays, and its person signs in with it.
    """

    head: TenantHead
    signed_in: SignedIn | None
    recovery_codes: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class NotBegun:
    """Nothing waits to be finished, or the kind is not offered here."""


class SignInEnrolments:
    """Enrols on the way in; one per node.

    Every method raises `ChallengeExpiredError` for a challenge that takes nothing (any more), not from this client, or
    whose account became another one since its password was proven; and `UserStorageUnavailableError`,
    `VolatileStoreUnavailableError`.
    """

    def __init__(
        self,
        flows: AccountFlows,
        challenges: ChallengeStore,
        kinds: Mapping[FactorKind, NewFactor],
        end: SignInEnd,
        now: Callable[[], datetime],
    ) -> None:
        """Keep what seals, where challenges are, what binds each kind, and what lets sessions begin."""
        self._flows = flows
        self._challenges = challenges
        self._kinds = kinds
        self._end = end
        self._now = now

    async def mail(self, token: str, whence: Whence, *, meta: ChangeMeta) -> CodeOutcome:
        """Mail a code to the account's verified address."""
        challenge = await self._find(token, whence)
        async with self._account(challenge) as (work, held, factors):
            return await send_code(work, self._flows.ring, held, factors, meta=_by(challenge, meta))

    async def begin(
        self, token: str, whence: Whence, kind: FactorKind, name: str, given: MailboxGiven
    ) -> FactorBegun | SignInRefused | NotBegun:
        """Prove the mailbox, and begin to bind an authenticator."""
        challenge = await self._find(token, whence)
        new = self._kinds.get(kind)
        if new is None:
            return NotBegun()
        # SECURITY: counted before it is judged, so that a challenge guesses at most five times, at once as well.
        if not await self._challenges.take_try(token):
            raise ChallengeExpiredError
        async with self._account(challenge) as (work, held, factors):
            proven = await prove_mailbox(work, self._flows.ring, held, factors, given)
            if isinstance(proven, MailboxWrong):
                return _refused(challenge, Reason.WRONG_FACTOR, held)
            shown, kept = await new.begin(work, held, name)
        await self._challenges.keep(token, {"kind": kind.value, "kept": dict(kept), "mailbox": proven.kept()})
        return FactorBegun(shown, kept)

    async def finish(
        self, token: str, whence: Whence, given: str | Mapping[str, Any], *, remember_device: bool, meta: ChangeMeta
    ) -> Enrolled | FactorWrong | MustWait | LockedOut | NotBegun:
        """Judge the first proof with the new authenticator: when it is right that is bound, and a session begins."""
        challenge = await self._find(token, whence)
        new = self._kinds.get(FactorKind(challenge.data["kind"])) if challenge.data else None
        if new is None:
            return NotBegun()
        if not await self._challenges.take_try(token):
            raise ChallengeExpiredError
        meta = _by(challenge, meta)
        async with self._account(challenge) as (work, held, factors):
            outcome = await new.finish(work, held, challenge.data["kept"], given)
            if not isinstance(outcome, Authenticator):
                return outcome
            # What was proven in the first step must still hold; else all of this is undone.
            if not await spend_ticket(work, held, factors, MailboxProven.of(challenge.data["mailbox"])):
                raise ChallengeExpiredError
            bound = await bind(work, self._flows, held, outcome, meta=meta)
            begun = await self._begun(work, challenge, bound, whence, remember_device=remember_device, meta=meta)
        return Enrolled(bound.head, await self._signed_in(token, begun), bound.recovery_codes)

    async def _begun(
        self,
        work: TenantUnitOfWork,
        challenge: Challenge,
        bound: Bound,
        whence: Whence,
        *,
        remember_device: bool,
        meta: ChangeMeta,
    ) -> SessionBegun:
        """Let the session begin in the transaction that binds: both are there afterwards, or neither."""
        settings = (await read_settings(work, self._flows.limits)).sessions
        kind = bound.authenticator.kind
        proof = Proof(Acr.AAL2, (Amr.PASSWORD.value, *PROVES[kind]), self._now())
        finished = Finished(
            bound.held,
            proof,
            kind.value,
            settings,
            device_id=challenge.device_id,
            challenge_id=challenge.challenge_id,
        )
        wanted = remember_device or challenge.remember_device
        begun = await self._end.begin(work, finished, whence.shown, remember_device=wanted, meta=meta)
        if isinstance(begun, SignInLost):
            raise ChallengeExpiredError
        return begun

    async def _signed_in(self, token: str, begun: SessionBegun) -> SignedIn | None:
        try:
            # Over since the commit: the account has an authenticator, and the challenge is spent in PostgreSQL.
            await self._challenges.finish(token)
            return await self._end.hand_out(begun)
        except (VolatileStoreUnavailableError, DatabaseUnavailableError):
            _log.warning("sign_in.session_lost", session=str(begun.session.session_id))
            return None

    async def _find(self, token: str, whence: Whence) -> Challenge:
        challenge = await self._challenges.find(token, whence.client, named=whence.named)
        if challenge.step is not ChallengeStep.ENROL:
            raise ChallengeExpiredError
        return challenge

    @asynccontextmanager
    async def _account(self, challenge: Challenge) -> AsyncIterator[tuple[TenantUnitOfWork, StoredUser, Factors]]:
        """Lock tenant and account, if that is still as its password was proven, and has no authenticator."""
        try:
            async with tenant_unit_of_work(self._flows.sessions, challenge.tenant_id) as work:
                held = None if await lock_active(work) is None else await lock_user(work, challenge.user_id)
                if held is None or not _is_same(held, challenge):
                    raise ChallengeExpiredError
                factors = await read_factors(work, challenge.user_id)
                # SECURITY: who has an authenticator proves that one; nobody enrols past it.
                if factors.enrolled:
                    raise ChallengeExpiredError
                yield work, held, factors
        except DatabaseUnavailableError as error:
            raise UserStorageUnavailableError(str(error)) from error


def _refused(challenge: Challenge, reason: Reason, held: StoredUser) -> SignInRefused:
    known = challenge.device_id is not None
    return SignInRefused(challenge.tenant_id, reason, ENROLMENT_METHOD, held, known_device=known)


def _is_same(held: StoredUser, challenge: Challenge) -> bool:
    return (
        held.user.status is UserStatus.ACTIVE
        and held.auth_epoch == challenge.auth_epoch
        and held.password_hash is not None
        and hmac.compare_digest(digest_of_hash(held.password_hash), challenge.password_hash_digest)
    )


def _by(challenge: Challenge, meta: ChangeMeta) -> ChangeMeta:
    """Return who acts: whoever proved the account's password."""
    return ChangeMeta(
        subject_ref(challenge.user_id),
        meta.reason,
        None,
        meta.request_id,
        credential=f"challenge:{challenge.challenge_id}",
        address=meta.address,
    )
