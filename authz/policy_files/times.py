"""RFC 3339 times, as policy files and cases write them."""

import re
from datetime import UTC, datetime

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:Z|[+-]\d\d:\d\d)\Z", re.ASCII)


def parse_time(text: str) -> datetime:
    """Return an aware UTC time.

    Raises:
        ValueError: `text` is not an RFC 3339 time with an offset and at most microseconds.
    """
    if _RFC3339.match(text) is None:
        raise ValueError(f"`{text}` is no RFC 3339 time with an offset, such as `2027-01-31T00:00:00Z`")
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"`{text}` is no time: {error}") from error


def format_time(moment: datetime) -> str:
    """Return an aware time as RFC 3339 in UTC, with `Z`."""
    return moment.astimezone(UTC).isoformat().removesuffix("+00:00") + "Z"
