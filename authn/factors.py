"""Second factors: values, and the port behind which each method proves itself.

NIST SP 800-63B-4 calls what is bound to an account an authenticator. A recovery code (its section 4.2.1.1) is none: it
is for who lost theirs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

from authn.challenges import Challenge
from authn.errors import InvalidFactorNameError
from authn.tries import LockedOut, MustWait, counter_from
from tenancy.tenant import ChangeMeta

MAX_NAME = 64
"""Characters of the name that a person gives an authenticator."""

MAX_AUTHENTICATORS = 10
"""Of one account, those that wait for their confirmation among them."""

RECOVERY = "recovery"
"""Under which name failures with recovery codes are counted: all codes of an account are one authenticator."""

PENDING_LIFETIME = timedelta(minutes=10)
"""How long an authenticator waits for its confirmation."""


class FactorMethod(StrEnum):
    """How somebody proves more than a password."""

    TOTP = "totp"
    WEBAUTHN = "webauthn"
    RECOVERY_CODE = "recovery_code"


class FactorKind(StrEnum):
    """What can be bound to an account."""

    TOTP = "totp"
    WEBAUTHN = "webauthn"


@dataclass(frozen=True, slots=True)
class Authenticator:
    """One thing that is bound to an account, or waits to be; its secrets stay in storage. Times are aware, UTC."""

    id: UUID
    user_id: UUID
    kind: FactorKind
    name: str
    created_at: datetime
    confirmed_at: datetime | None
    last_used_at: datetime | None
    disabled_at: datetime | None


@dataclass(frozen=True, slots=True)
class Factors:
    """What an account can prove besides its password.

    `methods` are those that work now; an account that is `enrolled` is always asked for one, also when none works: an
    authenticator that was disabled must not make the password enough. `ever_bound`: nothing is enrolled by password and
    mailbox any more. `enrolment_demanded`: an administrator took the factors away, so new ones must be bound before
    anybody is signed in, by the ticket that was mailed.
    """

    methods: tuple[FactorMethod, ...]
    enrolled: bool
    ever_bound: bool
    enrolment_demanded: bool
    recovery_codes_left: int


@dataclass(frozen=True, slots=True)
class FactorProven:
    """The factor is right, and spent where it works once.

    `amr` is what it adds to the password's `pwd` (RFC 8176); `authenticator` is the name its failures are counted by.
    """

    amr: tuple[str, ...]
    authenticator: str
    must_enrol: bool = False


@dataclass(frozen=True, slots=True)
class FactorWrong:
    """It is not, or was used before, or the account has none of this method; the try stays counted."""


FactorOutcome = FactorProven | FactorWrong | MustWait | LockedOut


class SecondFactor(Protocol):
    """One method."""

    @property
    def method(self) -> FactorMethod:
        """Which."""

    async def options(self, challenge: Challenge) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Return what the client needs to prove it, and what the challenge is to keep; nothing for typed codes."""

    async def prove(self, challenge: Challenge, given: str | Mapping[str, Any], *, meta: ChangeMeta) -> FactorOutcome:
        """Judge what the client gave. A failure is counted for its authenticator, over all challenges.

        Raises:
            UserStorageUnavailableError: PostgreSQL did not answer; nothing is proven.
            EncryptionUnavailableError: the secret cannot be opened now; nothing is proven.
        """


def counter_of(kind: FactorKind, authenticator_id: UUID, device_id: UUID | None = None) -> str:
    """Return under which name the failures of an authenticator are counted, from a known device apart."""
    return counter_from(device_id, f"{kind.value}:{authenticator_id}")


def normalize_factor_name(text: str) -> str:
    """Return the name of an authenticator as it is stored.

    Raises:
        InvalidFactorNameError: empty, too long, or not printable on one line.
    """
    name = " ".join(text.split())
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise InvalidFactorNameError(f"a name is 1 to {MAX_NAME} printable characters")
    return name
