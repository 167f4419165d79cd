"""Somebody chooses a password: judged, and hashed if it may be chosen. Every way to set one goes through here."""

from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from authn.password_hashing import PasswordHasher, Verified
from authn.password_text import normalize_password
from authn.passwords import Advice, PasswordAccepted, PasswordRefused, Refusal, check_password, reason_for
from tenancy.tenant_settings import PasswordSettings as PasswordPolicy


class KnownBreaches(Protocol):
    """Whether a password is known to have been breached."""

    async def is_breached(self, password: str) -> bool:
        """Ask for one, in NFC."""


class Adviser(Protocol):
    """Says how strong a password is; slow."""

    def __call__(self, password: str, context_words: Sequence[str], /) -> Advice: ...


@dataclass(frozen=True, slots=True)
class ChosenPassword:
    """A password that was accepted, as it is stored."""

    stored: str = field(repr=False)
    advice: Advice | None = None


class NewPasswords:
    """Judges and hashes new passwords; one for each process."""

    def __init__(
        self,
        hasher: PasswordHasher,
        breaches: KnownBreaches,
        *,
        blocklist: Container[str],
        advise: Adviser | None = None,
    ) -> None:
        self.hasher = hasher
        self._breaches = breaches
        self._blocklist = blocklist
        self._advise = advise

    async def judge(
        self,
        typed: str,
        *,
        policy: PasswordPolicy,
        context_words: Sequence[str],
        mfa_required: bool,
        previous: Sequence[str] = (),
    ) -> PasswordAccepted | PasswordRefused:
        """Say whether a password may be chosen, every reason against it, and how strong it is.

        Args:
            typed: As it came.
            policy: The tenant's.
            context_words: Of the account, the tenant and the service: `context_words_of`.
            mfa_required: Whether the account cannot sign in with the password alone.
            previous: Stored hashes of passwords that may not come again (the deviation `history`).

        Raises:
            UnusablePasswordError: it cannot be a password at all.
            PasswordHashingBusyError: too many are under way.
        """
        password = normalize_password(typed)

        def look() -> PasswordAccepted | PasswordRefused:
            found = check_password(
                password,
                policy=policy,
                context_words=context_words,
                blocklist=self._blocklist,
                mfa_required=mfa_required,
            )
            advice = None if self._advise is None else self._advise(password, context_words)
            return (
                PasswordAccepted(advice)
                if isinstance(found, PasswordAccepted)
                else PasswordRefused(found.reasons, advice)
            )

        found = await self.hasher.beside(look)
        reasons = list(found.reasons) if isinstance(found, PasswordRefused) else []
        if policy.check_breached and await self._breaches.is_breached(password):
            reasons.append(reason_for(Refusal.BREACHED, "it is in a list of breached passwords"))
        if not reasons and await self._was_used(password, previous):
            reasons.append(reason_for(Refusal.REUSED, f"it is among the last {len(previous)}"))
        return PasswordRefused(tuple(reasons), found.advice) if reasons else found

    async def choose(
        self,
        typed: str,
        *,
        policy: PasswordPolicy,
        context_words: Sequence[str],
        mfa_required: bool,
        previous: Sequence[str] = (),
    ) -> ChosenPassword | PasswordRefused:
        """Judge as `judge` does, and hash what may be chosen. Outside of any transaction: it takes long."""
        found = await self.judge(
            typed, policy=policy, context_words=context_words, mfa_required=mfa_required, previous=previous
        )
        if isinstance(found, PasswordRefused):
            return found
        return ChosenPassword(await self.hasher.hash(typed), found.advice)

    async def _was_used(self, password: str, previous: Sequence[str]) -> bool:
        for stored in previous:
            if isinstance(await self.hasher.verify(password, stored), Verified):
                return True
        return False
