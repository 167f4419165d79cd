"""Somebody signs in: the password first, then what else is demanded; a session begins only when all was proven.

What is answered for a wrong password, an unknown or disabled account, one without a password, a tenant that is unknown
or closed, and a locked account is one outcome, and costs the same: two trips to the database and one hash. Why it was
refused is for the audit alone.
"""

import secrets
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from authn.begin_session import Client
from authn.challenge_storage import ChallengeStore
from authn.challenges import CHALLENGE_LIFE, Challenge, ChallengeStep, digest_of_hash
from authn.errors import PasswordExpiredError, PasswordHashingBusyError, PasswordTooShortError
from authn.factor_storage import read_factors
from authn.factors import FactorKind, FactorMethod, Factors
from authn.finish_sign_in import Finished, SignedIn, SignInEnd
from authn.known_devices import password_counter
from authn.password_hashing import PasswordHasher, Verified
from authn.password_text import normalize_password
from authn.passwords import is_too_short_alone, must_be_replaced
from authn.prove_password import renewed
from authn.sessions import Acr, Amr, Proof
from authn.sign_in_rows import FoundAccount, find_account, possible_slug
from authn.sign_in_throttles import Attempt, SignInThrottles, Taken, forgive, give_back
from authn.tries import LockedOut, MustWait
from authn.user_import import IMPORTED
from authn.users import StoredUser, User, UserStatus
from tenancy.audit import AuditEntry, AuditOutcome
from tenancy.audit_log import append_audit
from tenancy.ids import TenantId
from tenancy.tenant import ChangeMeta
from tenancy.tenant_settings import TenantLimits, TenantSettings
from tenancy.unit_of_work import Sessions, tenant_unit_of_work
from tenancy.uuid7 import make_uuid7

PASSWORD_METHOD = "password"  # noqa: S105 - the name of a method


class Reason(StrEnum):
    """Why somebody was not signed in. For the audit and metrics; whoever asked is told nothing of it."""

    NO_TENANT = "no-tenant"
    NO_ACCOUNT = "no-account"
    NOT_ACTIVE = "not-active"
    NO_PASSWORD = "no-password"  # noqa: S105 - a reason
    LOCKED = "locked"
    WRONG_PASSWORD = "wrong-password"  # noqa: S105 - a reason
    WRONG_FACTOR = "wrong-factor"
    CHANGED = "changed"
    """The account or its tenant became another one while this was judged."""


@dataclass(frozen=True, slots=True)
class Whence:
    """Where a sign-in comes from: as it is throttled, as a challenge is bound, and as it is shown to the person.

    `named` is the tenant that the request names, if it does.
    """

    network: str
    client: bytes
    shown: Client
    named: str | None = None


@dataclass(frozen=True, slots=True)
class PasswordGiven:
    """What somebody signs in with. `device` is a known device's token; `remember_device` asks for one."""

    slug: str
    identifier: str
    password: str = field(repr=False)
    device: str | None = field(default=None, repr=False)
    remember_device: bool = False


@dataclass(frozen=True, slots=True)
class SignInRefused:
    """Not signed in.

    `held` is whom it was about, if there is such an account; `locked` says that this failure was the last one that is
    judged, `wait_until` is the wait that it began.
    """

    tenant_id: TenantId
    reason: Reason
    method: str = PASSWORD_METHOD
    held: StoredUser | None = None
    known_device: bool = False
    locked: bool = False
    wait_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class MoreNeeded:
    """The password was right; the challenge says what comes next, and its token is shown once."""

    token: str = field(repr=False)
    challenge: Challenge


PasswordOutcome = SignedIn | MoreNeeded | SignInRefused | MustWait


class MfaDemands(Protocol):
    """Whether an account must prove a second factor: by its own entry, its tenant, the platform, or a role it has."""

    async def demanded(self, user: User, settings: TenantSettings, revision: int) -> bool:
        """Answer by the roles that the account has at this revision of its tenant, or a later one.

        Raises:
            StaleError, StorageUnavailableError: not known, so nobody is signed in.
        """


class SignIns:
    """Signs people in; one per node."""

    def __init__(
        self,
        sessions: Sessions,
        hasher: PasswordHasher,
        throttles: SignInThrottles,
        challenges: ChallengeStore,
        *,
        end: SignInEnd,
        demands: MfaDemands,
        provable: Collection[FactorMethod],
        bindable: Collection[FactorKind],
        limits: TenantLimits | None = None,
    ) -> None:
        """Keep where rows are, what hashes, counts, remembers what is half done, lets sessions begin, and demands.

        `provable` and `bindable` are the second factors that this deployment offers: a challenge names no other one.
        """
        self._sessions = sessions
        self._hasher = hasher
        self._throttles = throttles
        self._challenges = challenges
        self._end = end
        self._demands = demands
        self._provable = provable
        self._bindable = bindable
        self._limits = limits

    async def begin(self, given: PasswordGiven, whence: Whence, *, meta: ChangeMeta) -> PasswordOutcome:
        """Judge a password, and sign in whom it is enough for.

        Raises:
            UnusablePasswordError: nothing that can be a password; nothing is looked up or counted.
            PasswordHashingBusyError: too many are being hashed; nothing is counted.
            PasswordExpiredError: it is right, and older than the tenant's marked deviation allows.
            PasswordTooShortError: it is right, and may not sign anybody in alone.
            DatabaseUnavailableError, VolatileStoreUnavailableError, StaleError: not known; nobody is signed in.
        """
        normalize_password(given.password)
        # SECURITY: a flood costs no query of the database; half of the places are one tenant's at most.
        with self._hasher.place(possible_slug(given.slug)) as place:
            found = await find_account(self._sessions, given.slug, given.identifier, given.device, self._limits)
            taken = await self._throttles.take(self._attempt(found, whence), found.settings.sign_in)
            if isinstance(taken, MustWait):
                return taken
            reason, held = _unusable(found, taken), found.held
            stored = held.password_hash if held is not None and reason is None else None
            try:
                verified = await self._hasher.verify(given.password, stored, place=place)
            except PasswordHashingBusyError:
                if isinstance(taken, Taken):
                    async with tenant_unit_of_work(self._sessions, found.tenant_id) as work:
                        await give_back(work, taken)
                raise
        if held is None or not isinstance(taken, Taken) or not isinstance(verified, Verified):
            return _refused(found, reason or Reason.WRONG_PASSWORD, taken)
        if verified.needs_rehash:
            held = await renewed(self._sessions, self._hasher, held, given.password)
        return await self._proven(found, held, taken, given=given, whence=whence, meta=meta)

    async def _proven(
        self,
        found: FoundAccount,
        held: StoredUser,
        taken: Taken,
        *,
        given: PasswordGiven,
        whence: Whence,
        meta: ChangeMeta,
    ) -> PasswordOutcome:
        """Go on with a right password: to a session, or to what must be proven besides."""
        async with tenant_unit_of_work(self._sessions, found.tenant_id) as work:
            # At once: what follows may not be known now, and a right password is no failure for that.
            await forgive(work, taken)
            factors = await read_factors(work, held.user.id)
        demanded = await self._demands.demanded(held.user, found.settings, found.revision)
        step = _next_step(factors, demanded=demanded)
        unfit = _unfit(found, held, given.password, alone=step is None)
        if unfit is not None:
            why = {"reason": "password-expired" if isinstance(unfit, PasswordExpiredError) else "password-too-short"}
            await self._note(found, meta, AuditEntry("session.begin", held.user.ref, AuditOutcome.REFUSED, detail=why))
            raise unfit
        if step is not None:
            # SECURITY: whoever stole a password and gets no further has been here, too.
            await self._note(found, meta, AuditEntry("sign_in.password", held.user.ref, detail={"step": step.value}))
            return await self._challenged(found, held, step, factors, whence, remember_device=given.remember_device)
        finished = Finished(
            held,
            Proof(Acr.AAL1, (Amr.PASSWORD.value,), found.now),
            PASSWORD_METHOD,
            found.settings.sessions,
            device_id=found.device_id,
        )
        done = await self._end.signed_in(finished, whence.shown, remember_device=given.remember_device, meta=meta)
        if isinstance(done, SignedIn):
            return done
        return SignInRefused(found.tenant_id, Reason.CHANGED, held=held, known_device=found.device_id is not None)

    async def _note(self, found: FoundAccount, meta: ChangeMeta, entry: AuditEntry) -> None:
        async with tenant_unit_of_work(self._sessions, found.tenant_id) as work:
            await append_audit(work, meta, [entry])

    async def _challenged(
        self,
        found: FoundAccount,
        held: StoredUser,
        step: ChallengeStep,
        factors: Factors,
        whence: Whence,
        *,
        remember_device: bool,
    ) -> MoreNeeded:
        if step is ChallengeStep.MFA:
            methods = tuple(method.value for method in factors.methods if method in self._provable)
        else:
            methods = tuple(kind.value for kind in self._bindable)
        challenge = Challenge(
            challenge_id=make_uuid7(found.now, secrets.token_bytes(10)),
            tenant_id=found.tenant_id,
            user_id=held.user.id,
            auth_epoch=held.auth_epoch,
            password_hash_digest=digest_of_hash(held.password_hash or ""),
            step=step,
            methods=methods,
            client=whence.client,
            issued_at=found.now,
            expires_at=found.now + CHALLENGE_LIFE,
            device_id=found.device_id,
            slug=found.slug,
            remember_device=remember_device,
        )
        return MoreNeeded(await self._challenges.open(challenge), challenge)

    def _attempt(self, found: FoundAccount, whence: Whence) -> Attempt:
        def bucket(kind: str, name: str) -> int:
            return self._throttles.bucket(found.tenant_id, kind, f"{found.slug}\0{name}")

        return Attempt(
            tenant_id=found.tenant_id,
            user_id=None if found.held is None else found.held.user.id,
            authenticator=password_counter(found.device_id),
            identifier=bucket("identifier", found.name),
            network=self._throttles.network_bucket(found.tenant_id, found.slug, whence.network),
            tenant=bucket("tenant", ""),
            known_device=found.device_id is not None,
        )


def _unusable(found: FoundAccount, taken: Taken | LockedOut) -> Reason | None:
    """Return why no password can be right; then one is compared with nothing, which takes as long."""
    if not found.open:
        return Reason.NO_TENANT
    if found.held is None:
        return Reason.NO_ACCOUNT
    if found.held.user.status is not UserStatus.ACTIVE:
        return Reason.NOT_ACTIVE
    if found.held.password_hash is None:
        return Reason.NO_PASSWORD
    return Reason.LOCKED if isinstance(taken, LockedOut) else None


def _unfit(
    found: FoundAccount, held: StoredUser, password: str, *, alone: bool
) -> PasswordExpiredError | PasswordTooShortError | None:
    """Return why a right password must be replaced before it signs anybody in.

    SECURITY: one that was chosen while a second factor was demanded may be shorter; when the demand ends, it stays, and
    how long it is shows only here. An imported one keeps the rules of where it was chosen.
    """
    changed_at = held.user.password_changed_at
    if changed_at is not None and must_be_replaced(changed_at, found.settings.password, now=found.now):
        return PasswordExpiredError("it is too old by the rules of your organization: have a reset mailed to you")
    if alone and held.password_set_by != IMPORTED and is_too_short_alone(normalize_password(password)):
        return PasswordTooShortError("it is too short to sign in without a second factor: have a reset mailed to you")
    return None


def _next_step(factors: Factors, *, demanded: bool) -> ChallengeStep | None:
    """Return what a right password is not enough for."""
    if factors.enrolled:
        return ChallengeStep.MFA
    return ChallengeStep.ENROL if demanded or factors.enrolment_demanded else None


def _refused(found: FoundAccount, reason: Reason, taken: Taken | LockedOut) -> SignInRefused:
    return SignInRefused(
        found.tenant_id,
        reason,
        held=found.held,
        known_device=found.device_id is not None,
        locked=isinstance(taken, Taken) and taken.last and found.held is not None,
        wait_until=taken.wait_until if isinstance(taken, Taken) else None,
    )
