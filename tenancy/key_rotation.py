"""A rotation of keys: what it does, in which order, and how far it has come."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import NewType
from uuid import UUID

from tenancy.ids import TenantId

RotationId = NewType("RotationId", UUID)


class RotationKind(StrEnum):
    """What is asked for."""

    ALL = "all"
    """New data keys for every tenant, and every sealed value under them."""
    WRAPPING = "wrapping"
    """The same data keys, wrapped anew by the key-encryption key that is preferred now."""
    RETIREMENT = "retirement"
    """Superseded data keys that nothing uses any more go."""


class RotationPhase(StrEnum):
    """One pass over all tenants."""

    REWRAP = "rewrap"
    REPLACE = "replace"
    REENCRYPT = "reencrypt"
    MARK = "mark"
    """Superseded keys that no row uses are noted, with the time."""
    SETTLE = "settle"
    """Who read a value under such a key before it was sealed anew may still open it."""
    REMOVE = "remove"
    DONE = "done"


PHASES: Mapping[RotationKind, tuple[RotationPhase, ...]] = MappingProxyType(
    {
        RotationKind.ALL: (
            RotationPhase.REWRAP,
            RotationPhase.REPLACE,
            RotationPhase.REENCRYPT,
            RotationPhase.MARK,
            RotationPhase.DONE,
        ),
        RotationKind.WRAPPING: (RotationPhase.REWRAP, RotationPhase.DONE),
        RotationKind.RETIREMENT: (
            RotationPhase.MARK,
            RotationPhase.SETTLE,
            RotationPhase.REMOVE,
            RotationPhase.DONE,
        ),
    }
)
"""INVARIANT: all data keys are wrapped by the new key before one of them is replaced, and replaced before a value is
sealed anew; so whoever breaks off leaves nothing that does not open."""


@dataclass(frozen=True, slots=True)
class Tally:
    """What was done. `failed`: data keys and values that did not open, and were left as they are."""

    keys_wrapped: int = 0
    keys_made: int = 0
    keys_removed: int = 0
    sealed_anew: int = 0
    failed: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        """Return both together."""
        return Tally(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(Tally)))


@dataclass(frozen=True, slots=True)
class Rotation:
    """One rotation. `kek_id` wraps data keys from its beginning on; `tenants` are done with in this phase."""

    id: RotationId
    kind: RotationKind
    kek_id: str
    phase: RotationPhase
    started_at: datetime
    started_by: str
    phase_at: datetime
    after_tenant: TenantId | None = None
    tenants: int = 0
    tally: Tally = Tally()
    finished_at: datetime | None = None


def next_phase(rotation: Rotation) -> RotationPhase:
    """Return what follows on the present phase."""
    phases = PHASES[rotation.kind]
    return phases[phases.index(rotation.phase) + 1]


@dataclass(frozen=True, slots=True)
class WrappedCount:
    """How many data keys one key-encryption key wraps, and of how many tenants; some of them are superseded."""

    kek_id: str
    data_keys: int
    superseded: int
    tenants: int
