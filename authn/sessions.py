"""Sessions: that somebody signed in, how well they proved who they are, and for how long that counts.

A token is `kasbah_session_` and 48 bytes in base64url: the tenant's id, which says where to look, then 256 random bits.
What is stored is the SHA-256 of the whole token; with that much randomness nobody finds a token to a digest.
"""

import base64
import hashlib
import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from tenancy.ids import TenantId
from tenancy.tenant_settings import SessionSettings

TOKEN_PREFIX = "kasbah_session_"  # noqa: S105 - how tokens begin is no secret
TENANT_BYTES = 16
SECRET_BYTES = 32
TOKEN_PATTERN = re.compile(rf"{TOKEN_PREFIX}([A-Za-z0-9_-]{{64}})\Z")

MAX_DEVICE = 200
"""Characters of a device's name."""

MAX_SESSIONS = 50
"""Sessions of one account; the next one ends the oldest (ASVS 5.0, 7.1.2)."""

LONGEST_IDLE_AT_AAL2 = timedelta(hours=1)
LONGEST_LIFE_AT_AAL2 = timedelta(hours=24)
"""NIST SP 800-63B-4 section 2.2.3. Where the password alone signs in, the tenant's settings alone say."""


class Acr(StrEnum):
    """How well somebody proved who they are: the authentication assurance levels of NIST SP 800-63B-4."""

    AAL1 = "aal1"
    """One factor."""
    AAL2 = "aal2"
    """Two different ones."""


class Amr(StrEnum):
    """What somebody proved it with (RFC 8176 section 2)."""

    PASSWORD = "pwd"  # noqa: S105 - the standard's name
    ONE_TIME_CODE = "otp"
    HARDWARE_KEY = "hwk"
    SEVERAL_FACTORS = "mfa"


_LEVELS = {Acr.AAL1: 1, Acr.AAL2: 2}


def reaches(held: Acr, wanted: Acr) -> bool:
    """Return whether a level is as high as another one."""
    return _LEVELS[held] >= _LEVELS[wanted]


@dataclass(frozen=True, slots=True)
class Proof:
    """What somebody proved when they signed in.

    `auth_time` is when the last proof was given. `must_enrol`: a recovery code was used, so until second factors are
    enrolled or confirmed the session is good for that alone.
    """

    acr: Acr
    amr: tuple[str, ...]
    auth_time: datetime
    must_enrol: bool = False


@dataclass(frozen=True, slots=True)
class Session:
    """A sign-in that is remembered; all times are aware.

    `session_id` is no secret: lists, the audit and revocations name it. `auth_epoch` is the account's when it began.
    `expires_at` is its absolute end. `device` and `address` are shown to its person.
    """

    session_id: UUID
    tenant_id: TenantId
    user_id: UUID
    auth_epoch: int
    acr: Acr
    amr: tuple[str, ...]
    auth_time: datetime
    created_at: datetime
    expires_at: datetime
    idle_seconds: int
    last_seen_at: datetime
    device: str = ""
    address: str | None = None
    must_enrol: bool = False

    @property
    def ends_at(self) -> datetime:
        """From when on it does not count any more, unless it is used before."""
        return min(self.expires_at, self.last_seen_at + timedelta(seconds=self.idle_seconds))

    def is_over(self, now: datetime) -> bool:
        """Return whether it was left idle for too long, or reached its absolute end."""
        return now >= self.ends_at

    def seen(self, now: datetime) -> "Session":
        """Return it as used at `now`; time never goes back."""
        return replace(self, last_seen_at=max(self.last_seen_at, now))


@dataclass(frozen=True, slots=True)
class NewSession:
    """A session with its token, which nobody can read again."""

    token: str
    session: Session

    def __repr__(self) -> str:
        """SECURITY: no log and no traceback shows a token."""
        return f"NewSession({self.session!r})"


def make_token(tenant_id: TenantId, entropy: bytes) -> str:
    """Return a new token.

    Args:
        tenant_id: Whose session it is for.
        entropy: 32 bytes from the system's generator.
    """
    if len(entropy) != SECRET_BYTES:
        raise ValueError(f"a token takes {SECRET_BYTES} random bytes")
    return TOKEN_PREFIX + base64.urlsafe_b64encode(tenant_id.bytes + entropy).decode()


def is_session_token(text: str) -> bool:
    """Whether `text` has the shape of a session's token: anything else needs no look-up."""
    return TOKEN_PATTERN.match(text) is not None


def home_of_session(token: str) -> TenantId:
    """Return in which tenant to look for a token of the right shape."""
    return TenantId(UUID(bytes=base64.urlsafe_b64decode(token.removeprefix(TOKEN_PREFIX))[:TENANT_BYTES]))


def digest_of(token: str) -> str:
    """Return what stands for a token where it is stored: its SHA-256, hex."""
    return hashlib.sha256(token.encode()).hexdigest()


def lifetimes(settings: SessionSettings, acr: Acr) -> tuple[int, timedelta]:
    """Return how many seconds a session may be idle, and how long it lasts in all."""
    idle, life = timedelta(seconds=settings.idle_seconds), timedelta(seconds=settings.absolute_seconds)
    if reaches(acr, Acr.AAL2):
        idle, life = min(idle, LONGEST_IDLE_AT_AAL2), min(life, LONGEST_LIFE_AT_AAL2)
    return int(min(idle, life).total_seconds()), life


def strengthened(session: Session, proven: tuple[str, ...]) -> Session:
    """Return a session in which a second factor was proven besides; it lasts no longer than one at that level may.

    `auth_time` stays: the password was not proven again.
    """
    amr = tuple(dict.fromkeys((*(name for name in session.amr if name != Amr.SEVERAL_FACTORS), *proven)))
    expires_at = min(session.expires_at, session.created_at + LONGEST_LIFE_AT_AAL2)
    idle = min(session.idle_seconds, int(LONGEST_IDLE_AT_AAL2.total_seconds()))
    return replace(session, acr=Acr.AAL2, amr=amr, expires_at=expires_at, idle_seconds=idle)


def device_of(user_agent: str) -> str:
    """Return a `User-Agent` as it is shown to people: printable, and not too long."""
    return "".join(character for character in user_agent if character.isprintable())[:MAX_DEVICE]


def renewed(session: Session, *, session_id: UUID, auth_epoch: int, now: datetime) -> Session:
    """Return the session that takes the place of another one after a change of credentials.

    It proves no more than that one, and lasts no longer.
    """
    return replace(session, session_id=session_id, auth_epoch=auth_epoch, last_seen_at=max(session.last_seen_at, now))
