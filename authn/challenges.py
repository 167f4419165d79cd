"""A sign-in that is half done: what was proven already, and what must be proven next. Pure.

A challenge goes forward only: the password comes first and makes it, a second factor (or the first enrolment of one)
ends it. It is bound to the client that began and to the state of the account that was proven.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from tenancy.ids import TenantId

CHALLENGE_PREFIX = "kasbah_challenge_"
CHALLENGE_BYTES = 32
"""256 bits: nobody guesses them, whatever the limits are."""

CHALLENGE_LIFE = timedelta(minutes=5)
MAX_TRIES = 5
"""Proofs that one challenge takes in all. What limits guessing is the authenticator's own counter, in PostgreSQL."""


class ChallengeStep(StrEnum):
    """What must be proven next."""

    MFA = "mfa"
    ENROL = "enrol"


@dataclass(frozen=True, slots=True)
class Challenge:
    """A password was right; `methods` may prove the rest.

    Args:
        challenge_id: UUIDv7, no secret: what is spent for good when a session is made.
        tenant_id: Whose account.
        user_id: Which.
        auth_epoch: The account's when its password was proven.
        password_hash_digest: SHA-256 of the stored hash that was proven.
        step: What comes next.
        methods: Names of second factors.
        client: Who began (`client_of`).
        issued_at: When the password was proven.
        expires_at: No proof is taken from then on.
        device_id: The known device that it was proven on.
        data: What a factor left between two requests.
        slug: The tenant's name; a request that names another one has no challenge.
        remember_device: Asked for with the password: the device is to be known once the sign-in is done.
    """

    challenge_id: UUID
    tenant_id: TenantId
    user_id: UUID
    auth_epoch: int
    password_hash_digest: bytes
    step: ChallengeStep
    methods: tuple[str, ...]
    client: bytes
    issued_at: datetime
    expires_at: datetime
    device_id: UUID | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    slug: str | None = None
    remember_device: bool = False


def client_of(network: str, user_agent: str | None) -> bytes:
    """Return what a challenge is bound to: the network that a request comes from, and the program that sends it.

    SECURITY: a challenge that was seen by somebody else is worth nothing to them elsewhere. People whose address
    changes between two steps begin again with their password.
    """
    return hashlib.sha256(f"{network}\0{user_agent or ''}".encode("utf-8", "surrogatepass")).digest()


def digest_of_hash(stored: str) -> bytes:
    """Return what a challenge keeps of a password's stored hash."""
    return hashlib.sha256(stored.encode()).digest()
