"""Time-ordered identifiers (RFC 9562 section 5.7): new rows land at the end of an index."""

from datetime import datetime, timedelta
from uuid import UUID

_EPOCH_MILLISECOND = timedelta(milliseconds=1)
_RANDOM_BITS = 74


def make_uuid7(now: datetime, entropy: bytes) -> UUID:
    """Return the UUIDv7 of a moment.

    Args:
        now: Aware.
        entropy: At least 10 random bytes; 74 bits of them are used.
    """
    milliseconds = (now - datetime.fromtimestamp(0, now.tzinfo)) // _EPOCH_MILLISECOND
    random = int.from_bytes(entropy[:10], "big") & ((1 << _RANDOM_BITS) - 1)
    high, low = random >> 62, random & ((1 << 62) - 1)
    return UUID(int=(milliseconds & ((1 << 48) - 1)) << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low)
