"""Seals the answers that are kept for repeated requests: the token of a new API key is among them.

SECURITY: who reads the database, or a backup of it, without `KASBAH_SECRET_KEY` learns nothing from them; and one that
is moved to another tenant, route, caller or request is refused.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from authz.rule_set_codec import derive_key
from tenancy.once import RequestKey

NONCE_BYTES = 12


class SealedAnswerError(Exception):
    """An answer that cannot be opened: sealed with another secret, or for another request."""


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """An answer as it was given."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


class AnswerSeal:
    """Seals and opens answers. `secret` is the same on every node."""

    def __init__(self, secret: bytes) -> None:
        self._cipher = AESGCM(derive_key(secret, "kept-answers"))

    def seal(self, answer: KeptAnswer, key: RequestKey) -> bytes:
        """Return the answer as only this service can read it."""
        nonce = os.urandom(NONCE_BYTES)
        text = msgspec.msgpack.encode((answer.status, dict(answer.headers), answer.body))
        return nonce + self._cipher.encrypt(nonce, text, _bound(key))

    def open(self, sealed: bytes, key: RequestKey) -> KeptAnswer:
        """Return the answer; raises `SealedAnswerError`."""
        try:
            text = self._cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], _bound(key))
        except (InvalidTag, ValueError):
            raise SealedAnswerError from None
        return KeptAnswer(*msgspec.msgpack.decode(text, type=tuple[int, dict[str, str], bytes]))


def _bound(key: RequestKey) -> bytes:
    return msgspec.msgpack.encode((key.tenant_id, key.route, key.key_hash, key.request_hash))
