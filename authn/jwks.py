"""Keys of an issuer (RFC 7517), and whether one of them signed a token; signatures are verified by PyJWT.

An algorithm belongs to a key, never to what a token asks for: each key is entered under every algorithm that it is
for, and a token finds it by both (RFC 8725 section 3.1).
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt import PyJWK, PyJWS
from jwt.exceptions import PyJWTError

from authn.access_tokens import Refusal, TokenHeader, read_object
from authn.errors import AccessTokenRefusedError, BadKeySetError

ALGORITHMS = ("ES256", "ES384", "EdDSA", "PS256", "RS256")
"""Every algorithm that may be configured: asymmetric ones alone (RFC 8725 section 3.2)."""

MAX_KEYS = 64
MAX_KEY_SET_BYTES = 256 * 1024
MIN_RSA_BITS, MAX_RSA_BITS = 2048, 8192
MAX_RSA_EXPONENT = 2**32
_MAX_KID = 255
_NUMBER = re.compile(r"[A-Za-z0-9_-]{1,1400}\Z")

_SHAPES: Mapping[str, tuple[str, str | None, tuple[str, ...]]] = {
    "ES256": ("EC", "P-256", ("x", "y")),
    "ES384": ("EC", "P-384", ("x", "y")),
    "EdDSA": ("OKP", "Ed25519", ("x",)),
    "PS256": ("RSA", None, ("n", "e")),
    "RS256": ("RSA", None, ("n", "e")),
}
"""Key type, curve and parameters that an algorithm's keys have (RFC 7518 section 6, RFC 8037 section 2)."""

_jws = PyJWS(algorithms=list(ALGORITHMS))


class KeySet:
    """Public keys by key id and algorithm. Use `read_key_set`."""

    def __init__(self, keys: Mapping[tuple[str, str], PyJWK]) -> None:
        self._keys = keys

    def __len__(self) -> int:
        return len({kid for kid, _ in self._keys})

    def find(self, header: TokenHeader) -> PyJWK | None:
        """Return the key that a header names, if it is one for the header's algorithm."""
        return self._keys.get((header.kid, header.algorithm))


def read_key_set(body: bytes, algorithms: Collection[str]) -> KeySet:
    """Return the keys of a JWK Set that may verify tokens; all others (for encryption, unknown, weak) are left out.

    Raises:
        BadKeySetError: no key set, too large a one, or one without any such key.
    """
    if len(body) > MAX_KEY_SET_BYTES:
        raise BadKeySetError("the key set is too large")
    try:
        listed = read_object(body, Refusal.KEY).get("keys")
    except AccessTokenRefusedError:
        raise BadKeySetError("the key set is no JSON object, or says something twice") from None
    if not isinstance(listed, list) or len(listed) > MAX_KEYS:
        raise BadKeySetError(f"a key set has a list of at most {MAX_KEYS} keys")
    keys: dict[tuple[str, str], PyJWK] = {}
    for listing in listed:
        for algorithm in algorithms:
            key = _usable(listing, algorithm)
            if key is not None:
                keys.setdefault((listing["kid"], algorithm), key)  # one id for two keys: the first counts
    if not keys:
        raise BadKeySetError("the key set has no key that may verify a token")
    return KeySet(keys)


def verified_payload(token: str, key: PyJWK) -> bytes:
    """Return what a token holds that `key` has signed.

    Raises:
        AccessTokenRefusedError: it has not.
    """
    try:
        decoded = _jws.decode_complete(token, key, algorithms=[key.algorithm_name])
    except (PyJWTError, ValueError, TypeError):
        raise AccessTokenRefusedError(Refusal.SIGNATURE) from None
    payload: bytes = decoded["payload"]
    return payload


def _usable(listing: Any, algorithm: str) -> PyJWK | None:
    """Return the key of an entry as one for `algorithm`, or None."""
    if not isinstance(listing, dict) or not _is_for(listing, algorithm):
        return None
    _, _, parameters = _SHAPES[algorithm]
    if not all(isinstance(listing.get(name), str) and _NUMBER.match(listing[name]) for name in parameters):
        return None
    public = {name: listing[name] for name in ("kty", "crv", *parameters) if name in listing}
    try:
        key = PyJWK.from_dict(public, algorithm)
    except (PyJWTError, UnsupportedAlgorithm, ValueError, TypeError, KeyError):
        return None
    found = key.key
    if isinstance(found, RSAPublicKey) and not (
        MIN_RSA_BITS <= found.key_size <= MAX_RSA_BITS and found.public_numbers().e < MAX_RSA_EXPONENT
    ):
        return None
    return key


def _is_for(listing: Mapping[str, Any], algorithm: str) -> bool:
    kind, curve, _ = _SHAPES[algorithm]
    kid, operations = listing.get("kid"), listing.get("key_ops")
    return (
        isinstance(kid, str)
        and 0 < len(kid) <= _MAX_KID
        and listing.get("kty") == kind
        and (curve is None or listing.get("crv") == curve)
        and listing.get("alg", algorithm) == algorithm
        and listing.get("use", "sig") == "sig"
        and (operations is None or (isinstance(operations, list) and "verify" in operations))
        # SECURITY: a private key that its issuer publishes is everybody's.
        and "d" not in listing
    )
