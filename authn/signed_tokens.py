"""JWTs of the issuer, verified, and remembered as long as nothing that proved them changed.

A verification takes some tenths of a millisecond of the event loop, and clients send one token many times. What is
remembered was verified, so strangers fill no memory; it counts while the key that proved it is the one that is held,
which is another one with every set that is fetched.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from jwt import PyJWK

from authn.access_tokens import AccessToken, Expected, Refusal, TokenHeader, judge_claims, read_header, read_object
from authn.bounded import keep
from authn.errors import AccessTokenRefusedError
from authn.issuer_keys import IssuerKeys
from authn.jwks import verified_payload

REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class _Verified:
    header: TokenHeader
    key: PyJWK
    token: AccessToken


class SignedTokens:
    """JWTs as access tokens; one per process. Tokens are remembered by their SHA-256."""

    def __init__(
        self, keys: IssuerKeys, expected: Expected, now: Callable[[], datetime], remembered: int = REMEMBERED
    ) -> None:
        """Keep the issuer's keys, what is taken, and the node's time, which never goes back."""
        self._keys = keys
        self._expected = expected
        self._now = now
        self._limit = remembered
        self._verified: OrderedDict[bytes, _Verified] = OrderedDict()
        self._hits = 0
        self._misses = 0

    async def find(self, token: str) -> AccessToken:
        """Return what a token says, once its issuer has proven that it said so.

        Raises:
            AccessTokenRefusedError: forged, damaged, or not what is taken.
            IssuerUnavailableError: which keys the issuer has is not known.
        """
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        held = self._verified.get(digest)
        header = read_header(token, self._expected) if held is None else held.header
        key = await self._keys.find(header)
        if held is not None and held.key is key and self._now() < held.token.expires_at + self._expected.leeway:
            self._verified.move_to_end(digest)
            self._hits += 1
            return held.token
        self._verified.pop(digest, None)
        if key is None:
            raise AccessTokenRefusedError(Refusal.KEY)
        self._misses += 1
        claims = read_object(verified_payload(token, key), Refusal.CLAIMS)
        found = judge_claims(claims, self._expected, self._now())
        keep(self._verified, digest, _Verified(header, key, found), self._limit)
        return found

    async def close(self) -> None:
        """End what is under way."""
        await self._keys.close()

    def totals(self) -> Mapping[str, int]:
        """Return what metrics count."""
        return {"signed_token_hits": self._hits, "signed_token_misses": self._misses, **self._keys.totals()}
