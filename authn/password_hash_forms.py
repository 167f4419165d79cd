"""The text forms of password hashes that are read, each with a bound on what it may cost.

| form | written by |
| --- | --- |
| `$argon2id$v=19$m=…,t=…,p=…$salt$hash`, also `argon2i`, `argon2d` | Kasbah, PHC; after `argon2`: Django |
| `$2a$`, `$2b$`, `$2y$` | bcrypt; after `bcrypt$`: Django |
| `$scrypt$ln=…,r=…,p=…$salt$hash` | PHC, passlib |
| `scrypt$n$salt$r$p$hash` as Django orders it | Django |
| `$pbkdf2-sha256$i=…,l=…$salt$hash`, also `sha1`, `sha512` | PHC |
| `$pbkdf2-sha256$rounds$salt$hash`, also `$pbkdf2$` (SHA-1), `sha512` | passlib |
| `pbkdf2_sha256$rounds$salt$hash`, also `sha1` | Django |
| `$pepper$k=<key id>` before one of Argon2 | Kasbah: the password went through HMAC-SHA-256 with that key first |

PHC is the string format of the Password Hashing Competition.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Callable

from authn.errors import UnsupportedPasswordHashError
from authn.password_hashes import (
    Argon2Cost,
    Argon2Hash,
    Argon2Variant,
    BcryptHash,
    Digest,
    PasswordHash,
    Pbkdf2Hash,
    ScryptHash,
)

MAX_HASH_TEXT = 1024

# SECURITY: whoever imports accounts chooses what a sign-in to them costs; these are the most that it may.
MAX_MEMORY_BYTES = 128 << 20
MAX_ARGON2_PASSES_BYTES = 512 << 20
"""Memory times passes: 64 MiB eight times. What Argon2 takes grows with it."""
MAX_SCRYPT_WORK_BYTES = 512 << 20
"""128 · N · r · p (RFC 7914)."""
MAX_LANES = 16
MAX_BCRYPT_COST = 14
MAX_PBKDF2_ROUNDS = 2_000_000

MIN_SALT_BYTES, MAX_SALT_BYTES = 8, 128
MIN_TAG_BYTES, MAX_TAG_BYTES = 16, 128


def read_password_hash(text: str) -> PasswordHash:
    """Return the hash that a text form says.

    Raises:
        UnsupportedPasswordHashError: an unknown form, a malformed one, or one that costs too much. The message never
            holds the text.
    """
    if len(text) > MAX_HASH_TEXT or not text.isascii():
        raise UnsupportedPasswordHashError("is no password hash")
    for pattern, read in _FORMS:
        found = pattern.match(text)
        if found is not None:
            return read(found)
    raise UnsupportedPasswordHashError("is of no form that is read here")


def _argon2(found: re.Match[str]) -> PasswordHash:
    variant: Argon2Variant = found["variant"]  # type: ignore[assignment]  # the pattern says which
    cost = Argon2Cost(int(found["m"]), int(found["t"]), int(found["p"]))
    memory = cost.memory_kib << 10
    if cost.memory_kib < 8 * cost.parallelism or cost.iterations < 1 or cost.parallelism < 1:
        raise UnsupportedPasswordHashError("has costs that Argon2 does not know")
    if memory > MAX_MEMORY_BYTES or memory * cost.iterations > MAX_ARGON2_PASSES_BYTES or cost.parallelism > MAX_LANES:
        raise UnsupportedPasswordHashError("costs too much")
    version = int(found["v"] or 16)
    if version not in {16, 19}:
        raise UnsupportedPasswordHashError("is of a version of Argon2 that is not known")
    return Argon2Hash(variant, version, cost, _salt(found["salt"]), _tag(found["tag"]), found["pepper"])


def _bcrypt(found: re.Match[str]) -> PasswordHash:
    if not 4 <= int(found["cost"]) <= MAX_BCRYPT_COST:  # noqa: PLR2004 - bcrypt's least
        raise UnsupportedPasswordHashError("costs too much" if int(found["cost"]) > 4 else "costs too little")  # noqa: PLR2004
    return BcryptHash(found["text"].encode())


def _scrypt(found: re.Match[str], *, n: int, salt: bytes) -> PasswordHash:
    r, p = int(found["r"]), int(found["p"])
    if n < 2 or n & (n - 1) or r < 1 or p < 1:  # noqa: PLR2004 - a power of two
        raise UnsupportedPasswordHashError("has costs that scrypt does not know")
    if 128 * r * n > MAX_MEMORY_BYTES or 128 * r * n * p > MAX_SCRYPT_WORK_BYTES or r * p > 1 << 10:
        raise UnsupportedPasswordHashError("costs too much")
    return ScryptHash(n, r, p, salt, _tag(found["tag"]))


def _scrypt_phc(found: re.Match[str]) -> PasswordHash:
    if int(found["ln"]) > 30:  # noqa: PLR2004 - far above the most, so that no huge number is made of it
        raise UnsupportedPasswordHashError("costs too much")
    return _scrypt(found, n=1 << int(found["ln"]), salt=_salt(found["salt"]))


def _scrypt_django(found: re.Match[str]) -> PasswordHash:
    return _scrypt(found, n=int(found["n"]), salt=_plain_salt(found["salt"]))


def _pbkdf2(found: re.Match[str], *, salt: bytes, tag: bytes) -> PasswordHash:
    digest: Digest = found["digest"] or "sha1"  # type: ignore[assignment]  # the pattern says which
    rounds = int(found["rounds"])
    if not 1 <= rounds <= MAX_PBKDF2_ROUNDS:
        raise UnsupportedPasswordHashError("costs too much" if rounds else "has no rounds")
    # SECURITY: each block beyond the digest's own size costs all rounds once more.
    if len(tag) > hashlib.new(digest, usedforsecurity=False).digest_size:
        raise UnsupportedPasswordHashError("is longer than its digest")
    return Pbkdf2Hash(digest, rounds, salt, tag)


def _pbkdf2_passlib(found: re.Match[str]) -> PasswordHash:
    return _pbkdf2(found, salt=_salt(found["salt"].replace(".", "+")), tag=_tag(found["tag"].replace(".", "+")))


def _pbkdf2_phc(found: re.Match[str]) -> PasswordHash:
    tag = _tag(found["tag"])
    if found["length"] is not None and int(found["length"]) != len(tag):
        raise UnsupportedPasswordHashError("has another length than it says")
    return _pbkdf2(found, salt=_salt(found["salt"]), tag=tag)


def _pbkdf2_django(found: re.Match[str]) -> PasswordHash:
    return _pbkdf2(found, salt=_plain_salt(found["salt"]), tag=_tag(found["tag"]))


def _salt(encoded: str) -> bytes:
    return _sized(_unb64(encoded), "salt", MIN_SALT_BYTES, MAX_SALT_BYTES)


def _plain_salt(text: str) -> bytes:
    return _sized(text.encode(), "salt", 1, MAX_SALT_BYTES)  # Django lets anyone choose it


def _tag(encoded: str) -> bytes:
    return _sized(_unb64(encoded), "hash", MIN_TAG_BYTES, MAX_TAG_BYTES)


def _sized(value: bytes, name: str, least: int, most: int) -> bytes:
    if not least <= len(value) <= most:
        raise UnsupportedPasswordHashError(f"has a {name} of fewer than {least} or more than {most} bytes")
    return value


def _unb64(text: str) -> bytes:
    bare = text.rstrip("=")
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except binascii.Error:
        raise UnsupportedPasswordHashError("holds what is not base64") from None


_NUMBER = "[0-9]{1,9}"
_B64 = "[A-Za-z0-9+/]{1,200}={0,2}"
_AB64 = "[A-Za-z0-9./]{1,200}"
_FORMS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], PasswordHash]], ...] = tuple(
    (re.compile(pattern + r"\Z"), read)
    for pattern, read in (
        (
            (
                rf"(?:argon2|\$pepper\$k=(?P<pepper>[A-Za-z0-9_-]{{1,32}}))?\$(?P<variant>argon2(?:id|i|d))"
                rf"(?:\$v=(?P<v>{_NUMBER}))?\$m=(?P<m>{_NUMBER}),t=(?P<t>{_NUMBER}),p=(?P<p>{_NUMBER})"
                rf"\$(?P<salt>{_B64})\$(?P<tag>{_B64})"
            ),
            _argon2,
        ),
        (r"(?:bcrypt\$)?(?P<text>\$2[aby]\$(?P<cost>[0-9]{2})\$[A-Za-z0-9./]{53})", _bcrypt),
        (
            rf"\$scrypt\$ln=(?P<ln>{_NUMBER}),r=(?P<r>{_NUMBER}),p=(?P<p>{_NUMBER})\$(?P<salt>{_B64})\$(?P<tag>{_B64})",
            _scrypt_phc,
        ),
        (
            rf"scrypt\$(?P<n>{_NUMBER})\$(?P<salt>[!-#%-~]{{1,128}})\$(?P<r>{_NUMBER})\$(?P<p>{_NUMBER})\$(?P<tag>{_B64})",
            _scrypt_django,
        ),
        (
            (
                rf"\$pbkdf2(?:-(?P<digest>sha1|sha256|sha512))?\$i=(?P<rounds>{_NUMBER})(?:,l=(?P<length>{_NUMBER}))?"
                rf"\$(?P<salt>{_B64})\$(?P<tag>{_B64})"
            ),
            _pbkdf2_phc,
        ),
        (
            rf"\$pbkdf2(?:-(?P<digest>sha256|sha512))?\$(?P<rounds>{_NUMBER})\$(?P<salt>{_AB64})\$(?P<tag>{_AB64})",
            _pbkdf2_passlib,
        ),
        (
            rf"pbkdf2_(?P<digest>sha1|sha256)\$(?P<rounds>{_NUMBER})\$(?P<salt>[!-#%-~]{{1,128}})\$(?P<tag>{_B64})",
            _pbkdf2_django,
        ),
    )
)
