"""Recovery codes (NIST SP 800-63B-4 section 4.2.1.1): ten, each works once, for who lost their authenticators.

A code has 120 random bits, so its SHA-256 is enough to store (section 3.1.2: a password hash is for less than 112).
"""

import base64
import hashlib
import re

CODES = 10
CODE_BYTES = 15
GROUP = 4

_RFC_4648 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_SHOWN = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Crockford's alphabet: what people misread is no other letter."""
_SHOW = str.maketrans(_RFC_4648, _SHOWN)
_READ = str.maketrans(_SHOWN, _RFC_4648)
_MISREAD = str.maketrans("ILO", "110")
_CODE = re.compile(rf"[{_SHOWN}]{{{CODE_BYTES * 8 // 5}}}\Z")


def code_text(entropy: bytes) -> str:
    """Return a code as people keep it: 24 letters and digits in groups of four.

    Args:
        entropy: 15 bytes from the system's generator.
    """
    if len(entropy) != CODE_BYTES:
        raise ValueError(f"a code takes {CODE_BYTES} random bytes")
    text = base64.b32encode(entropy).decode().translate(_SHOW)
    return "-".join(text[place : place + GROUP] for place in range(0, len(text), GROUP))


def read_recovery_code(text: str) -> bytes | None:
    """Return the bytes of a code as people type it: any case, with or without dashes and spaces; else None."""
    if len(text) > 3 * CODE_BYTES * 8 // 5 or not text.isascii():
        return None
    letters = re.sub(r"[-\s]", "", text).upper().translate(_MISREAD)
    return None if _CODE.match(letters) is None else base64.b32decode(letters.translate(_READ))


def hash_recovery_code(code: bytes) -> bytes:
    """Return what is stored of a code."""
    return hashlib.sha256(code).digest()
