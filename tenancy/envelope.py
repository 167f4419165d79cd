"""AES-256-GCM envelopes: bytes that one key opens, in the one place that they were sealed for.

A sealed value is `version (1), key id (16), nonce (12), ciphertext and tag`. Its key is named, never tried for. What it
is bound to (NIST SP 800-38D's additional authenticated data) is not in it: tenant, table, column, row and key id come
from where it was found, so a value that was moved does not open.

Nonces are 96 random bits each: at 2^32 values under one key two are equal with a probability of 2^-33 (SP 800-38D
section 8.3), and keys are superseded long before.
"""

import os
from dataclasses import dataclass
from uuid import UUID

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tenancy.errors import UnsealError
from tenancy.ids import TenantId

VERSION = 1
KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16
KEY_ID_BYTES = 16
_HEAD = 1 + KEY_ID_BYTES
_LEAST = _HEAD + NONCE_BYTES + TAG_BYTES


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sealed value stands; `row` is the id of its row, as text."""

    table: str
    column: str
    row: str


class EnvelopeKey:
    """A key that is ready for use, and its id. It shows neither itself nor its bytes."""

    __slots__ = ("_cipher", "id", "uncounted")

    def __init__(self, key_id: UUID, key: bytes) -> None:
        """Take 32 bytes."""
        if len(key) != KEY_BYTES:
            raise UnsealError
        self.id = key_id
        self.uncounted = 0
        """Values sealed since somebody last counted."""
        self._cipher = AESGCM(key)

    def seal(self, tenant_id: TenantId, place: Place, plaintext: bytes) -> bytes:
        """Return `plaintext` as only this key opens it, in this place alone."""
        self.uncounted += 1
        nonce = os.urandom(NONCE_BYTES)
        bound = _bound(tenant_id, place, self.id)
        return bytes((VERSION,)) + self.id.bytes + nonce + self._cipher.encrypt(nonce, plaintext, bound)

    def open(self, tenant_id: TenantId, place: Place, sealed: bytes) -> bytes:
        """Return the plaintext; raises `UnsealError`, which never says what was wrong."""
        if key_id_of(sealed) != self.id:
            raise UnsealError
        nonce, ciphertext = sealed[_HEAD : _HEAD + NONCE_BYTES], sealed[_HEAD + NONCE_BYTES :]
        try:
            return self._cipher.decrypt(nonce, ciphertext, _bound(tenant_id, place, self.id))
        except InvalidTag:
            raise UnsealError from None


def key_id_of(sealed: bytes) -> UUID:
    """Return which key a value says it was sealed with; raises `UnsealError` for what is no sealed value."""
    if len(sealed) < _LEAST or sealed[0] != VERSION:
        raise UnsealError
    return UUID(bytes=bytes(sealed[1:_HEAD]))


def _bound(tenant_id: TenantId, place: Place, key_id: UUID) -> bytes:
    # msgpack writes the length of each part: no two places give the same bytes.
    return msgspec.msgpack.encode((VERSION, tenant_id.bytes, place.table, place.column, place.row, key_id.bytes))
