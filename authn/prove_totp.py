"""Somebody proves with a code that they hold an authenticator of an account."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from authn.challenges import Challenge
from authn.credential_failures import forgive_tries, give_back_try, take_try
from authn.errors import UserStorageUnavailableError
from authn.factor_storage import StoredTotp, list_totps, spend_step
from authn.factors import FactorKind, FactorMethod, FactorOutcome, FactorProven, FactorWrong, counter_of
from authn.mail_queue import Seals
from authn.totp import matching_step, read_code
from authn.tries import LockedOut, MustWait, TryTaken
from tenancy.encrypted_columns import TOTP_SECRETS
from tenancy.errors import DatabaseUnavailableError
from tenancy.settings_storage import read_settings
from tenancy.tenant import ChangeMeta
from tenancy.tenant_settings import SignInSettings, TenantLimits
from tenancy.unit_of_work import Sessions, TenantUnitOfWork, tenant_unit_of_work

AMR = ("otp", "mfa")


class TotpProofs:
    """Judges codes of time-based authenticators: a `SecondFactor`."""

    method = FactorMethod.TOTP

    def __init__(self, sessions: Sessions, ring: Seals, *, limits: TenantLimits | None = None) -> None:
        """Keep where units of work come from, what opens secrets, and the platform's bounds on settings."""
        self._sessions = sessions
        self._ring = ring
        self._limits = limits

    async def options(self, challenge: Challenge) -> tuple[Mapping[str, Any], Mapping[str, Any]]:  # noqa: ARG002 - port
        """Return nothing: a code is typed."""
        return {}, {}

    async def prove(
        self,
        challenge: Challenge,
        given: str | Mapping[str, Any],
        *,
        meta: ChangeMeta,  # noqa: ARG002 - port
    ) -> FactorOutcome:
        """Judge a code against every authenticator of the account; see `SecondFactor`.

        Trying, judging and spending are one transaction: a refusal is returned, so that it commits.
        """
        code = read_code(given) if isinstance(given, str) else None
        try:
            async with tenant_unit_of_work(self._sessions, challenge.tenant_id) as work:
                limits = (await read_settings(work, self._limits)).sign_in
                stored = await list_totps(work, challenge.user_id)
                judge = TotpJudge(work, self._ring, challenge.user_id, limits, challenge.device_id)
                return await judge.judge(stored, code)
        except DatabaseUnavailableError as error:
            raise UserStorageUnavailableError(str(error)) from error


@dataclass(frozen=True, slots=True)
class TotpJudge:
    """Judges codes of one account within a transaction that commits also what is refused.

    SECURITY: a try is counted under a row lock that lasts until the commit, so guesses at one account are judged one
    after the other, on however many nodes they arrive.
    """

    work: TenantUnitOfWork
    ring: Seals
    user_id: UUID
    limits: SignInSettings
    device_id: UUID | None = None

    async def judge(self, stored: Sequence[StoredTotp], code: str | None) -> FactorOutcome:
        """Judge a code against authenticators, each with its own count of failures, and spend the step that it proves.

        Args:
            stored: In the order of their ids, so that two of these never wait for each other.
            code: As `read_code` returned it; None is a wrong one.
        """
        taken: list[StoredTotp] = []
        refusals: list[MustWait | LockedOut] = []
        for one in stored:
            outcome = await take_try(self.work, self.user_id, self.limits, authenticator=self._counter(one))
            if isinstance(outcome, TryTaken):
                taken.append(one)
            else:
                refusals.append(outcome)
        if not taken:
            return _refusal(refusals)
        proven = await self._proven(taken, code)
        if proven is None:
            return FactorWrong()
        # The right code of one authenticator is no guess at another.
        for one in taken:
            settle = forgive_tries if one is proven else give_back_try
            await settle(self.work, self.user_id, authenticator=self._counter(one))
        return FactorProven(AMR, self._counter(proven))

    async def _proven(self, stored: Sequence[StoredTotp], code: str | None) -> StoredTotp | None:
        if code is None:
            return None
        for one in stored:
            secret = await self.ring.open(self.work, TOTP_SECRETS.place([self.user_id, one.id]), one.sealed)
            after = -1 if one.last_step is None else one.last_step
            step = matching_step(secret, code, now=one.now, after=after)
            if step is not None and await spend_step(self.work, self.user_id, one.id, step):
                return one
        return None

    def _counter(self, one: StoredTotp) -> str:
        return counter_of(FactorKind.TOTP, one.id, self.device_id)


def _refusal(refusals: Sequence[MustWait | LockedOut]) -> FactorWrong | MustWait | LockedOut:
    """Return the shortest wait; locked out only when every authenticator is."""
    waits = [refusal.seconds for refusal in refusals if isinstance(refusal, MustWait)]
    if waits:
        return MustWait(min(waits))
    return LockedOut() if refusals else FactorWrong()
