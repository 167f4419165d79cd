"""Password hashes as values: what each kind holds, and whether a password is theirs.

Only `matches` is slow: whoever calls it has chosen a thread for it. `authn/password_hash_forms.py` reads them.
"""

import base64
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import argon2.low_level
import bcrypt

from authn.errors import UnknownPepperError

BCRYPT_BYTES = 72
"""Bcrypt reads no more of a password; those who made the imported hashes cut it off there."""

_ARGON2_TYPES = {
    "argon2i": argon2.low_level.Type.I,
    "argon2d": argon2.low_level.Type.D,
    "argon2id": argon2.low_level.Type.ID,
}
Argon2Variant = Literal["argon2i", "argon2d", "argon2id"]
Digest = Literal["sha1", "sha256", "sha512"]


@dataclass(frozen=True, slots=True)
class Argon2Cost:
    """Memory in KiB, passes over it, and lanes."""

    memory_kib: int
    iterations: int
    parallelism: int


@dataclass(frozen=True, slots=True)
class Argon2Hash:
    """RFC 9106. `version` is 16 or 19; `pepper` names the key that the password was mixed with."""

    variant: Argon2Variant
    version: int
    cost: Argon2Cost
    salt: bytes
    tag: bytes
    pepper: str | None = None

    def matches(self, password: bytes, peppers: Mapping[str, bytes]) -> bool:
        """Whether the hash is this password's."""
        computed = argon2.low_level.hash_secret_raw(
            peppered(password, self.pepper, peppers),
            self.salt,
            time_cost=self.cost.iterations,
            memory_cost=self.cost.memory_kib,
            parallelism=self.cost.parallelism,
            hash_len=len(self.tag),
            type=_ARGON2_TYPES[self.variant],
            version=self.version,
        )
        return hmac.compare_digest(computed, self.tag)

    def __str__(self) -> str:
        """Return the text form."""
        pepper = "" if self.pepper is None else f"$pepper$k={self.pepper}"
        cost = f"m={self.cost.memory_kib},t={self.cost.iterations},p={self.cost.parallelism}"
        return f"{pepper}${self.variant}$v={self.version}${cost}${_b64(self.salt)}${_b64(self.tag)}"


@dataclass(frozen=True, slots=True)
class BcryptHash:
    """Kept as text: the library reads it itself."""

    text: bytes

    def matches(self, password: bytes, _: Mapping[str, bytes]) -> bool:
        """Whether the hash is this password's first 72 bytes'."""
        return bcrypt.checkpw(password[:BCRYPT_BYTES], self.text)


@dataclass(frozen=True, slots=True)
class ScryptHash:
    """RFC 7914; `n` is the cost itself, not its logarithm."""

    n: int
    r: int
    p: int
    salt: bytes
    tag: bytes

    def matches(self, password: bytes, _: Mapping[str, bytes]) -> bool:
        """Whether the hash is this password's."""
        memory = 128 * self.r * (self.n + self.p + 2) + (1 << 16)  # what OpenSSL reckons, and a little
        computed = hashlib.scrypt(
            password, salt=self.salt, n=self.n, r=self.r, p=self.p, maxmem=memory, dklen=len(self.tag)
        )
        return hmac.compare_digest(computed, self.tag)


@dataclass(frozen=True, slots=True)
class Pbkdf2Hash:
    """RFC 8018 with HMAC."""

    digest: Digest
    rounds: int
    salt: bytes
    tag: bytes

    def matches(self, password: bytes, _: Mapping[str, bytes]) -> bool:
        """Whether the hash is this password's."""
        computed = hashlib.pbkdf2_hmac(self.digest, password, self.salt, self.rounds, dklen=len(self.tag))
        return hmac.compare_digest(computed, self.tag)


PasswordHash = Argon2Hash | BcryptHash | ScryptHash | Pbkdf2Hash


def peppered(password: bytes, key_id: str | None, peppers: Mapping[str, bytes]) -> bytes:
    """Return what is hashed: the password, or its HMAC-SHA-256 under a key that the database does not hold."""
    if key_id is None:
        return password
    key = peppers.get(key_id)
    if key is None:
        raise UnknownPepperError(f"no pepper is called `{key_id}`")
    return hmac.digest(key, password, "sha256")


def compute_argon2(
    password: bytes, cost: Argon2Cost, *, salt: bytes, tag_bytes: int, pepper: str | None, peppers: Mapping[str, bytes]
) -> Argon2Hash:
    """Return a new Argon2id hash. `salt` is fresh: 16 bytes from the system's generator."""
    tag = argon2.low_level.hash_secret_raw(
        peppered(password, pepper, peppers),
        salt,
        time_cost=cost.iterations,
        memory_cost=cost.memory_kib,
        parallelism=cost.parallelism,
        hash_len=tag_bytes,
        type=argon2.low_level.Type.ID,
    )
    return Argon2Hash("argon2id", argon2.low_level.ARGON2_VERSION, cost, salt, tag, pepper)


def _b64(value: bytes) -> str:
    """Return base64 as the PHC string format writes it: without padding."""
    return base64.b64encode(value).rstrip(b"=").decode()
