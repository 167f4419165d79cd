"""Page tokens: where a search goes on, sealed together with the question it belongs to.

SECURITY: a token made for another tenant, endpoint, question or limit is refused, as is a forged or cut one, so it can
neither carry a cursor across tenants nor be used to probe what is not asked about. It is also encrypted: where a page
ended may be a name that was examined and denied.
"""

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from dataclasses import dataclass

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NONCE_BYTES = 12
TAG_BYTES = 16
MAX_TOKEN_LENGTH = 16_384


class InvalidPageTokenError(Exception):
    """Not a token of this service for this question."""


@dataclass(frozen=True, slots=True)
class Page:
    """Where a page starts: after `after`, at most `limit` results."""

    after: str
    limit: int


class PageTokens:
    """Seals and opens tokens. `secret` is the same on every node."""

    def __init__(self, secret: bytes) -> None:
        self._cipher = AESGCM(hashlib.sha256(b"kasbah page tokens: cipher\0" + secret).digest())
        self._nonce_key = hashlib.sha256(b"kasbah page tokens: nonce\0" + secret).digest()

    def seal(self, page: Page, *bound: bytes) -> str:
        """Return the token of `page`, valid only together with exactly `bound`."""
        text = msgspec.msgpack.encode((page.limit, page.after))
        associated = _joined(bound)
        # INVARIANT: the nonce is a MAC of everything sealed, so it repeats only for an equal token.
        nonce = hashlib.blake2b(_joined((text, associated)), key=self._nonce_key, digest_size=NONCE_BYTES).digest()
        return urlsafe_b64encode(nonce + self._cipher.encrypt(nonce, text, associated)).rstrip(b"=").decode()

    def open(self, token: str, *bound: bytes) -> Page:
        """Return the page of a token; raises `InvalidPageTokenError`."""
        if len(token) > MAX_TOKEN_LENGTH:
            raise InvalidPageTokenError
        try:
            data = token.encode("ascii")
            raw = urlsafe_b64decode(data + b"=" * (-len(data) % 4))
        except (UnicodeEncodeError, Base64Error):
            raise InvalidPageTokenError from None
        # The spelling must be the one we write: base64 decoders skip what they do not know.
        if len(raw) < NONCE_BYTES + TAG_BYTES or urlsafe_b64encode(raw).rstrip(b"=") != data:
            raise InvalidPageTokenError
        try:
            text = self._cipher.decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], _joined(bound))
        except InvalidTag:
            raise InvalidPageTokenError from None
        limit, after = msgspec.msgpack.decode(text, type=tuple[int, str])
        return Page(after, limit)


def _joined(parts: tuple[bytes, ...]) -> bytes:
    """Return the parts as one string that no other parts make."""
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)
