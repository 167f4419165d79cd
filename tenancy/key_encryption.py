"""Keys that wrap the tenants' data keys: a port, keys from settings behind it, and the set that a node knows.

A wrapped key is bound to tenant and key id, so it opens as no other. Whatever keeps a key-encryption key from answering
is `EncryptionUnavailableError`: the one operation fails, and nothing is ever stored unencrypted instead.
"""

import base64
import binascii
import itertools
import os
import re
from collections.abc import Iterable, Mapping
from typing import Protocol
from uuid import UUID

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tenancy.errors import UnknownKeyError, WrappedKeyRefusedError
from tenancy.ids import TenantId

KEY_BYTES = 32
NONCE_BYTES = 12
MARK_BYTES = 8
DERIVED = "derived"
"""Id of the key that is made from `KASBAH_SECRET_KEY` where no other is set."""

_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}\Z")
_LEAST_DISTINCT = 16
"""32 random bytes have 30 distinct ones; fewer than 16 come about once in 10^20."""


class KeyEncryption(Protocol):
    """One key-encryption key. Every method raises `EncryptionUnavailableError` when it cannot answer."""

    @property
    def id(self) -> str:
        """What stored keys name it by."""

    @property
    def mark(self) -> str:
        """What tells it from another key of the same name; gives nothing of the key away."""

    async def wrap(self, key: bytes, bound: bytes) -> bytes:
        """Return a data key as only this one opens it."""

    async def unwrap(self, wrapped: bytes, bound: bytes) -> bytes:
        """Return the data key."""


class LocalKeyEncryption:
    """A key that this process holds: from the environment, a file, or derived."""

    def __init__(self, key_id: str, key: bytes) -> None:
        """Take 32 bytes."""
        self._id = key_id
        self._cipher = AESGCM(key)
        self._mark = HKDF(SHA256(), length=MARK_BYTES, salt=None, info=b"kasbah/key-mark").derive(key).hex()

    @property
    def id(self) -> str:
        """What stored keys name it by."""
        return self._id

    @property
    def mark(self) -> str:
        """A check value: 8 bytes that are derived from the key (HKDF, RFC 5869)."""
        return self._mark

    async def wrap(self, key: bytes, bound: bytes) -> bytes:
        """Return `nonce, ciphertext and tag`."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, key, self._bound(bound))

    async def unwrap(self, wrapped: bytes, bound: bytes) -> bytes:
        """Return the data key; one that does not open was wrapped by another key of this name, or damaged."""
        try:
            return self._cipher.decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], self._bound(bound))
        except (InvalidTag, ValueError):
            raise WrappedKeyRefusedError(f"a data key does not open with `{self._id}`") from None

    def _bound(self, bound: bytes) -> bytes:
        return msgspec.msgpack.encode((self._id, bound))


class KeyEncryptionKeys:
    """Every key-encryption key that this node knows. `preferred` is the one that a rotation goes over to."""

    def __init__(self, keys: Iterable[KeyEncryption], preferred: str) -> None:
        """Keep them by id."""
        self._keys: Mapping[str, KeyEncryption] = {key.id: key for key in keys}
        self.preferred = self.get(preferred).id

    def get(self, key_id: str) -> KeyEncryption:
        """Return a key; raises `UnknownKeyError`."""
        found = self._keys.get(key_id)
        if found is None:
            raise UnknownKeyError(f"this node does not know the key-encryption key `{key_id}`")
        return found

    @property
    def marks(self) -> dict[str, str]:
        """Return the mark of each key, by its id."""
        return {name: key.mark for name, key in self._keys.items()}

    @property
    def ids(self) -> tuple[str, ...]:
        """Return the ids of all."""
        return tuple(self._keys)


def bound_key(tenant_id: TenantId, key_id: UUID) -> bytes:
    """Return what a wrapped data key is bound to."""
    return msgspec.msgpack.encode((tenant_id.bytes, key_id.bytes))


class InvalidKeysError(ValueError):
    """Keys in settings that cannot be used; `faults` names each by its id or place, never its value."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


def parse_keys(text: str) -> dict[str, bytes]:
    """Return keys by id from `id:base64,id:base64` (or one a line; `#` begins a comment), the preferred one first.

    Raises:
        InvalidKeysError: names every key that is missing, malformed, short, doubled or not random.
    """
    lines = [line.partition("#")[0] for line in text.splitlines()]
    entries = [entry.strip() for line in lines for entry in line.split(",") if entry.strip()]
    keys: dict[str, bytes] = {}
    faults = [] if entries else ["holds no key"]
    for place, entry in enumerate(entries, start=1):
        key_id, separator, encoded = entry.partition(":")
        key_id = key_id.strip()
        if not separator or _ID.match(key_id) is None:
            faults.append(f"key {place} does not begin with its id (a-z, 0-9, `.`, `_`, `-`) and a colon")
            continue
        if key_id == DERIVED:
            faults.append(f"key {place}: the id `{DERIVED}` is that of the key made from KASBAH_SECRET_KEY")
            continue
        if key_id in keys:
            faults.append(f"the id `{key_id}` is there twice")
            continue
        key = _decoded(encoded.strip())
        fault = "is no base64" if key is None else _fault(key, keys)
        if key is None or fault is not None:
            faults.append(f"the key `{key_id}` {fault}")
            continue
        keys[key_id] = key
    if faults:
        raise InvalidKeysError(faults)
    return keys


def _decoded(text: str) -> bytes | None:
    try:
        return base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
    except (binascii.Error, ValueError):
        return None


def _fault(key: bytes, others: Mapping[str, bytes]) -> str | None:
    """Return what is wrong with a key, or None."""
    if len(key) != KEY_BYTES:
        return f"has {len(key)} bytes, not {KEY_BYTES}"
    twin = next((name for name, other in others.items() if other == key), None)
    if twin is not None:
        return f"is the same as `{twin}`"
    # SECURITY: examples from a page, zeros and passwords would all be "set".
    steps = {(after - before) % 256 for before, after in itertools.pairwise(key)}
    if len(set(key)) < _LEAST_DISTINCT or len(steps) == 1 or all(32 <= byte < 127 for byte in key):  # noqa: PLR2004 - ASCII
        return "is not random: openssl rand -base64 32"
    return None
