"""Which passwords may be chosen: length, known words, and nothing else (NIST SP 800-63B-4 section 3.1.1.2).

No classes of characters, no expiry, no history, unless the tenant's settings mark that as a deviation.
"""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from authn.password_blocklist import is_common, is_made_of
from tenancy.password_deviations import PasswordDeviations, read_deviations
from tenancy.tenant_settings import SHORTEST_ALONE
from tenancy.tenant_settings import PasswordSettings as PasswordPolicy

SERVICE_WORDS = ("kasbah",)


class Refusal(StrEnum):
    """Why a password may not be chosen."""

    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    COMMON = "common"
    CONTEXT = "context"
    BREACHED = "breached"
    COMPOSITION = "composition"
    REUSED = "reused"


GUIDANCE: Mapping[Refusal, str] = {
    Refusal.TOO_SHORT: "use more characters; a few words that do not belong together are easy to remember",
    Refusal.TOO_LONG: "use fewer characters",
    Refusal.COMMON: "many people choose this, so it is tried first; use a few words that do not belong together",
    Refusal.CONTEXT: "names of you, your organization or this service are tried first; use words of something else",
    Refusal.BREACHED: "it became known in a breach of some service, so it is tried first; use another one",
    Refusal.COMPOSITION: "your organization asks for further kinds of characters",
    Refusal.REUSED: "you used it before; your organization asks for one that is new",
}
"""What a person may do about it; the reason's own text says the numbers."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason: its code, what is wrong, and what helps. Never the password."""

    code: Refusal
    message: str
    guidance: str


@dataclass(frozen=True, slots=True)
class Advice:
    """What zxcvbn thinks of a password: `score` 0 (guessed at once) to 4. It refuses nothing."""

    score: int
    warning: str
    suggestions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PasswordAccepted:
    """It may be chosen."""

    advice: Advice | None = None


@dataclass(frozen=True, slots=True)
class PasswordRefused:
    """It may not, and why: every reason at once."""

    reasons: tuple[Reason, ...]
    advice: Advice | None = None


def check_password(
    password: str,
    *,
    policy: PasswordPolicy,
    context_words: Iterable[str],
    blocklist: Container[str],
    mfa_required: bool,
) -> PasswordAccepted | PasswordRefused:
    """Judge a password that somebody wants to choose.

    Args:
        password: In NFC, as `normalize_password` returns it.
        policy: The tenant's.
        context_words: See `context_words_of`.
        blocklist: Common words and passwords, lower case.
        mfa_required: Whether this account cannot sign in with the password alone.
    """
    deviations = read_deviations(policy.deviations)
    reasons = [
        *_length(password, policy, mfa_required=mfa_required),
        *_words(password, [*context_words, *policy.blocked_words], blocklist),
        *_composition(password, deviations),
    ]
    return PasswordRefused(tuple(reasons)) if reasons else PasswordAccepted()


def reason_for(code: Refusal, message: str) -> Reason:
    """Return a reason with its guidance."""
    return Reason(code, message, GUIDANCE[code])


def context_words_of(
    *,
    slug: str = "",
    tenant_names: Iterable[str | None] = (),
    username: str | None = None,
    email: str | None = None,
    display_name: str | None = None,
) -> tuple[str, ...]:
    """Return the words that a guesser of this account's password begins with."""
    whole = [*SERVICE_WORDS, slug, *tenant_names, username, display_name]
    found = [word for text in whole if text for word in (text, *_split(text))]
    if email:
        local, _, domain = email.rpartition("@")
        found += [local, domain, *_split(local), *_split(domain)[:-1]]  # the last label is `com` or its like
    return tuple(dict.fromkeys(word for word in found if word))


def must_be_replaced(changed_at: datetime, policy: PasswordPolicy, *, now: datetime) -> bool:
    """Whether a tenant's marked deviation asks for another password after this time. Without one: never."""
    max_age = read_deviations(policy.deviations).max_age
    return max_age is not None and now - changed_at >= max_age


def is_too_short_alone(password: str) -> bool:
    """Whether a password, in NFC, may not sign anybody in alone; what a tenant asks for beyond that is for new ones."""
    return len(password) < SHORTEST_ALONE


def _length(password: str, policy: PasswordPolicy, *, mfa_required: bool) -> Iterable[Reason]:
    least = policy.min_length_with_mfa if mfa_required else policy.min_length
    if len(password) < least:
        yield reason_for(Refusal.TOO_SHORT, f"it has {len(password)} characters, and at least {least} are asked for")
    if len(password) > policy.max_length:
        yield reason_for(Refusal.TOO_LONG, f"it has {len(password)} characters, and at most {policy.max_length} count")


def _words(password: str, context: Iterable[str], blocklist: Container[str]) -> Iterable[Reason]:
    if is_made_of(password, context, blocklist):
        yield reason_for(Refusal.CONTEXT, "it is made of names that belong to this account")
    elif is_common(password, blocklist):
        yield reason_for(Refusal.COMMON, "it is a common password, or nearly one")


def _composition(password: str, deviations: PasswordDeviations) -> Iterable[Reason]:
    present = {
        "lower": any(character.islower() for character in password),
        "upper": any(character.isupper() for character in password),
        "digit": any(character.isdigit() for character in password),
        "symbol": any(not character.isalnum() for character in password),
    }
    missing = [name for name in present if name in deviations.classes and not present[name]]
    if missing:
        yield reason_for(Refusal.COMPOSITION, f"it has no {', no '.join(missing)}")


def _split(text: str) -> list[str]:
    return "".join(character if character.isalnum() else " " for character in text).split()
