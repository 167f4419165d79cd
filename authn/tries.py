"""What comes of asking for one more try at a credential, and under which names failed ones are counted."""

from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class TryTaken:
    """This try counts as failed until it is forgiven."""


@dataclass(frozen=True, slots=True)
class MustWait:
    """The next try is judged after so many seconds."""

    seconds: int


@dataclass(frozen=True, slots=True)
class LockedOut:
    """No try is judged any more: the credential must be replaced."""


def counter_from(device_id: UUID | None, authenticator: str) -> str:
    """Return under which name failures of an authenticator are counted, from a known device apart."""
    return authenticator if device_id is None else f"{authenticator}@{device_id}"
