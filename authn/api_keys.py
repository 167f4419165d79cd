"""API keys: how a service proves who it is. The token is shown once; what is stored is its hash.

A token is `kasbah_<prefix>_<secret>`: 8 hex digits that find the key in lists and logs, then 256 random bits in
base64url. With that much randomness a plain SHA-256 is as strong as the token itself; a slow
password hash would only slow checks.
"""

import base64
import hashlib
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NewType
from uuid import UUID

from authn.errors import InvalidKeyLimitError, InvalidKeyNameError, KeyLifeError, UnknownScopeError
from authn.service_accounts import ServiceAccountId, service_ref
from authn.sessions import Acr
from authn.users import UserId, subject_ref
from tenancy.ids import TenantId

ApiKeyId = NewType("ApiKeyId", UUID)

DECISION_CHECK = "decision:check"

SCOPES = frozenset(
    {
        DECISION_CHECK,
        "audit:read",
        "decision:assert",
        "decision:explain",
        "account:write",
        "policy:read",
        "policy:write",
        "settings:read",
        "settings:write",
        "tenant:read",
        "tenant:write",
        "key:read",
        "key:write",
        "encryption:read",
        "encryption:write",
        "metrics:read",
        "user:import",
        "invitation:write",
        "user:read",
        "user:write",
        "service-account:read",
        "service-account:write",
    }
)
"""Every scope there is."""

SECRET_BYTES = 32
PREFIX_BYTES = 4
TOKEN_PATTERN = re.compile(r"kasbah_([0-9a-f]{8})_[A-Za-z0-9_-]{43}\Z")
MAX_NAME_LENGTH = 100
PERSONAL_LIFE = timedelta(days=30)
"""Of a personal key, if nothing else is said."""

MAX_PERSONAL_LIFE = timedelta(days=365)


MAX_PER_SECOND = 100_000
MAX_BURST = 1_000_000


@dataclass(frozen=True, slots=True)
class KeyLimit:
    """How often a key may ask each node: `requests_per_second` in the long run, and up to `burst` requests at once."""

    requests_per_second: int
    burst: int

    def __post_init__(self) -> None:
        if not 0 < self.requests_per_second <= MAX_PER_SECOND:
            raise InvalidKeyLimitError(
                f"`requests_per_second` is from 1 to {MAX_PER_SECOND}", "/limits/requests_per_second"
            )
        if not 0 < self.burst <= MAX_BURST:
            raise InvalidKeyLimitError(f"`burst` is from 1 to {MAX_BURST}", "/limits/burst")

    def within(self, other: "KeyLimit") -> bool:
        """Whether it allows no more than another one."""
        return self.requests_per_second <= other.requests_per_second and self.burst <= other.burst


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as lists show it. `prefix` is part of the token and no secret; times are aware, UTC."""

    id: ApiKeyId
    tenant_id: TenantId
    name: str
    prefix: str
    scopes: frozenset[str]
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    created_by: str = ""
    owner_id: UserId | None = None
    """The account that a personal key belongs to, and ends with."""
    service_account_id: ServiceAccountId | None = None
    """The service account that the key belongs to, and ends with."""
    limit: KeyLimit | None = None
    last_used_at: datetime | None = None
    """To the minute; None when it was never used."""
    replaces: ApiKeyId | None = None
    """The key whose rotation made this one."""
    acr: Acr = Acr.AAL1
    """Of a personal key: how well whoever made it had proven who they are; it brings no more."""

    @property
    def owner(self) -> str | None:
        """The subject that the key belongs to; its rights bound what the key may do. None for a key of its own."""
        if self.owner_id is not None:
            return subject_ref(self.owner_id)
        return None if self.service_account_id is None else service_ref(self.service_account_id)

    def is_live(self, now: datetime) -> bool:
        """Whether the key is neither revoked nor expired; it is expired from `expires_at` on."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


def new_api_key(
    tenant_id: TenantId,
    name: str,
    scopes: frozenset[str],
    *,
    key_id: UUID,
    entropy: bytes,
    now: datetime,
    ttl: timedelta | None = None,
    created_by: str = "",
    owner_id: UserId | None = None,
    service_account_id: ServiceAccountId | None = None,
    limit: KeyLimit | None = None,
    replaces: ApiKeyId | None = None,
    acr: Acr = Acr.AAL1,
) -> tuple[str, ApiKey, bytes]:
    """Make a key; return the token, the key, and the hash to store. Every key has the scope `decision:check`.

    Args:
        tenant_id: The tenant it is bound to, or the platform's.
        name: For people.
        scopes: Of `SCOPES`.
        key_id: A fresh identifier.
        entropy: At least 36 bytes from the system's generator.
        now: Aware.
        ttl: How long it lives; for ever when None, which a personal key never does.
        created_by: The actor.
        owner_id: Whose personal key it is.
        service_account_id: The service account whose key it is.
        limit: How often it may be used.
        replaces: The key whose place it takes.
        acr: How well whoever makes it has proven who they are.

    Raises:
        UnknownScopeError: a scope that does not exist.
        InvalidKeyNameError: empty, too long, or not printable.
        KeyLifeError: a personal key that would live too long.
        ValueError: too little entropy, or a ttl that is not positive.
    """
    unknown = sorted(scopes - SCOPES)
    if unknown:
        raise UnknownScopeError(f"`{unknown[0]}` is not a scope; there are {', '.join(sorted(SCOPES))}")
    if len(entropy) < PREFIX_BYTES + SECRET_BYTES:
        raise ValueError("too little entropy for a key")
    if ttl is not None and ttl <= timedelta(0):
        raise ValueError("a key's life must be longer than nothing")
    if owner_id is not None and (ttl is None or ttl > MAX_PERSONAL_LIFE):
        raise KeyLifeError(f"a personal key lives at most {MAX_PERSONAL_LIFE.days} days")
    prefix = entropy[:PREFIX_BYTES].hex()
    secret = base64.urlsafe_b64encode(entropy[PREFIX_BYTES : PREFIX_BYTES + SECRET_BYTES]).rstrip(b"=").decode()
    token = f"kasbah_{prefix}_{secret}"
    key = ApiKey(
        ApiKeyId(key_id),
        tenant_id,
        checked_key_name(name),
        prefix,
        scopes | {DECISION_CHECK},
        now,
        None if ttl is None else now + ttl,
        None,
        created_by,
        owner_id,
        service_account_id,
        limit,
        replaces=replaces,
        acr=acr,
    )
    return token, key, hash_token(token)


def checked_key_name(name: str) -> str:
    """Return a key's name without blanks around it; raises `InvalidKeyNameError`."""
    if not name.strip() or len(name) > MAX_NAME_LENGTH or not name.isprintable():
        raise InvalidKeyNameError(f"a key's name has 1 to {MAX_NAME_LENGTH} printable characters")
    return name.strip()


def hash_token(token: str) -> bytes:
    """Return the SHA-256 of the whole token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def is_token(text: str) -> bool:
    """Whether `text` has the shape of a token: anything else needs no look-up."""
    return TOKEN_PATTERN.match(text) is not None
