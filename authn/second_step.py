"""The second step of a sign-in: a challenge takes the proof of a second factor, a few times, from whoever began it.

What limits guessing is the counter of the authenticator, over all challenges; that a challenge takes five proofs bounds
what one right password gives.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from authn.begin_session import SignInLost
from authn.challenge_storage import ChallengeStore
from authn.challenges import Challenge, ChallengeStep
from authn.errors import ChallengeExpiredError
from authn.factors import FactorMethod, FactorOutcome, FactorProven, SecondFactor
from authn.finish_sign_in import SignedIn, SignInEnd
from authn.sessions import Acr, Amr, Proof
from authn.sign_in import Reason, SignInRefused, Whence
from authn.tries import LockedOut, MustWait
from authn.user_rows import read_user
from tenancy.tenant import ChangeMeta
from tenancy.unit_of_work import Sessions, tenant_unit_of_work


@dataclass(frozen=True, slots=True)
class NotOffered:
    """The challenge does not take this method."""


@dataclass(frozen=True, slots=True)
class FactorLocked:
    """So many proofs failed that no further one of this method is judged; another method may do."""

    refused: SignInRefused


FactorAnswer = SignedIn | SignInRefused | FactorLocked | MustWait | NotOffered


class SecondSteps:
    """Takes proofs of second factors; one per node."""

    def __init__(
        self,
        sessions: Sessions,
        challenges: ChallengeStore,
        factors: Mapping[FactorMethod, SecondFactor],
        end: SignInEnd,
        now: Callable[[], datetime],
    ) -> None:
        """Keep where rows and challenges are, what judges each method, and what lets sessions begin."""
        self._sessions = sessions
        self._challenges = challenges
        self._factors = factors
        self._end = end
        self._now = now

    async def options(self, token: str, method: FactorMethod, whence: Whence) -> Mapping[str, Any] | NotOffered:
        """Return what a client needs to prove a factor, and keep what its answer is judged by.

        Raises:
            ChallengeExpiredError: the challenge takes nothing any more, or not from this client.
            VolatileStoreUnavailableError, DatabaseUnavailableError: not known.
        """
        challenge = await self._challenges.find(token, whence.client, named=whence.named)
        factor = self._offered(challenge, method)
        if factor is None:
            return NotOffered()
        shown, kept = await factor.options(challenge)
        await self._challenges.keep(token, kept)
        return shown

    async def prove(
        self,
        token: str,
        method: FactorMethod,
        given: str | Mapping[str, Any],
        whence: Whence,
        *,
        remember_device: bool = False,
        meta: ChangeMeta,
    ) -> FactorAnswer:
        """Judge a proof; a right one ends the challenge and begins a session.

        Raises:
            ChallengeExpiredError: as in `options`; or somebody else finished it while this was judged.
            VolatileStoreUnavailableError, DatabaseUnavailableError: not known; nobody is signed in.
        """
        challenge = await self._challenges.find(token, whence.client, named=whence.named)
        factor = self._offered(challenge, method)
        if factor is None:
            return NotOffered()
        # SECURITY: counted before it is judged, so that many at once are judged five times at most.
        if not await self._challenges.take_try(token):
            raise ChallengeExpiredError
        outcome = await factor.prove(challenge, given, meta=meta)
        if isinstance(outcome, MustWait):
            return outcome
        if not isinstance(outcome, FactorProven):
            return await self._failed(challenge, method, outcome)
        if not await self._challenges.finish(token):
            raise ChallengeExpiredError
        amr = (Amr.PASSWORD.value, *outcome.amr)
        proof = Proof(Acr.AAL2, amr, self._now(), outcome.must_enrol)
        done = await self._end.challenge_met(
            challenge, proof, method.value, whence.shown, remember_device=remember_device, meta=meta
        )
        if isinstance(done, SignInLost):
            return SignInRefused(challenge.tenant_id, Reason.CHANGED, method.value)
        return done

    def _offered(self, challenge: Challenge, method: FactorMethod) -> SecondFactor | None:
        if challenge.step is not ChallengeStep.MFA or method.value not in challenge.methods:
            return None
        return self._factors.get(method)

    async def _failed(
        self, challenge: Challenge, method: FactorMethod, outcome: FactorOutcome
    ) -> SignInRefused | FactorLocked:
        async with tenant_unit_of_work(self._sessions, challenge.tenant_id) as work:
            held = await read_user(work, challenge.user_id)
        locked = isinstance(outcome, LockedOut)
        refused = SignInRefused(
            challenge.tenant_id,
            Reason.LOCKED if locked else Reason.WRONG_FACTOR,
            method.value,
            held,
            known_device=challenge.device_id is not None,
        )
        return FactorLocked(refused) if locked else refused
