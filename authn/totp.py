"""Time-based one-time passwords (RFC 6238 on RFC 4226): six digits of HMAC-SHA-1, a new one every 30 seconds."""

import hmac
import re
from base64 import b32encode
from datetime import datetime

from pyotp import TOTP

SECRET_BYTES = 20
"""160 bits, as long as the hash (RFC 4226 section 4, R6)."""

DIGITS = 6
STEP_SECONDS = 30
WINDOW = 1
"""Steps accepted before and after the present one: clocks of phones differ, and people type slowly."""

_CODE = re.compile(r"[0-9]{6}\Z")


def matching_step(secret: bytes, code: str, *, now: datetime, after: int = -1, window: int = WINDOW) -> int | None:
    """Return the time step that `code` proves, or None.

    Args:
        secret: Raw key bytes, never base32 text.
        code: Six ASCII digits, as `read_code` returns them.
        now: The server's time, aware.
        after: Last accepted step; steps up to it are spent (RFC 6238 section 5.2).
        window: Steps of clock drift accepted on either side.
    """
    present = step_at(now)
    codes = _generator(secret)
    found = None
    # SECURITY: every step is compared, whichever matches, so that time tells nothing.
    for step in range(present - window, present + window + 1):
        if hmac.compare_digest(codes.generate_otp(step), code) and step > after:
            found = step
    return found


def step_at(now: datetime) -> int:
    """Return the number of the time step that a moment lies in."""
    return int(now.timestamp()) // STEP_SECONDS


def read_code(text: str) -> str | None:
    """Return the digits of a code as people type it, with spaces between; None for what cannot be one."""
    digits = text.replace(" ", "") if len(text) <= 2 * DIGITS else ""
    return digits if _CODE.match(digits) is not None else None


def secret_text(secret: bytes) -> str:
    """Return a secret as authenticators take it by hand: base32 without padding."""
    return b32encode(secret).decode().rstrip("=")


def provisioning_uri(secret: bytes, *, account: str, issuer: str) -> str:
    """Return the `otpauth://` URI that a QR code carries; algorithm, digits and period are every app's defaults."""
    return _generator(secret).provisioning_uri(name=account, issuer_name=issuer)


def _generator(secret: bytes) -> TOTP:
    return TOTP(secret_text(secret), digits=DIGITS, interval=STEP_SECONDS)
