"""A password as bytes: what is hashed and compared, whoever set it and however it was typed.

The only change is Unicode's normalization form C (NIST SP 800-63B-4 section 3.1.1.2), so that `é` typed as one code
point or as two is the same password. Case, blanks and every other character count as they are, up to the last one.
"""

import unicodedata

from authn.errors import UnusablePasswordError

MAX_CODE_POINTS = 256
MAX_BYTES = 1024
_MAX_TYPED = 1024
"""Code points before normalization: composing a text makes it at most three or four times shorter."""


def normalize_password(typed: str) -> str:
    """Return the password that was meant.

    Raises:
        UnusablePasswordError: empty, too long, or no text. It is the same for every account, and told before any
            hash is computed, so it tells nothing about one.
    """
    # SECURITY: looked at before anything that takes time with length, or one long password is a lever.
    if len(typed) > _MAX_TYPED:
        raise UnusablePasswordError(f"a password has at most {MAX_CODE_POINTS} characters")
    if not typed:
        raise UnusablePasswordError("the password is empty")
    password = unicodedata.normalize("NFC", typed)
    if len(password) > MAX_CODE_POINTS:
        raise UnusablePasswordError(f"a password has at most {MAX_CODE_POINTS} characters")
    if len(encode_password(password)) > MAX_BYTES:
        raise UnusablePasswordError(f"a password has at most {MAX_BYTES} bytes")
    return password


def encode_password(password: str) -> bytes:
    """Return UTF-8; half of a surrogate pair is no character and has none."""
    try:
        return password.encode()
    except UnicodeEncodeError:
        raise UnusablePasswordError("the password holds what is no Unicode text") from None
