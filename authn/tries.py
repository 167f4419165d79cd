"""What comes of asking for one more try at a credential."""

from dataclasses import dataclass


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
