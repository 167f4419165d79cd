"""What is wanted of keys that are there, and what comes of it: values."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from authn.api_keys import ApiKey, KeyLimit
from authn.service_accounts import ServiceAccountId
from authn.user_edits import UNCHANGED, Unchanged
from authn.users import UserId
from tenancy.tenant import TenantHead

MAX_OVERLAP = timedelta(days=30)
"""Longest time for which a replaced key may go on."""


@dataclass(frozen=True, slots=True)
class KeyOwner:
    """Whose keys are meant: of one person, of one service account, or, with neither, of the whole tenant."""

    owner_id: UserId | None = None
    service_account_id: ServiceAccountId | None = None

    def named(self) -> dict[str, Any]:
        """Return the parameters of `authn.key_changes.OWNED`."""
        return {"owner_id": self.owner_id, "service_account_id": self.service_account_id}


EVERYBODY = KeyOwner()


@dataclass(frozen=True, slots=True)
class KeyEdit:
    """What is wanted of a key; None takes its limit away."""

    name: str | Unchanged = UNCHANGED
    limit: KeyLimit | Unchanged | None = UNCHANGED


@dataclass(frozen=True, slots=True)
class KeyResult:
    """A key after a write, and where its tenant stands then."""

    head: TenantHead
    key: ApiKey


@dataclass(frozen=True, slots=True)
class RotatedKey:
    """A key that took the place of another one, and until when that one goes on."""

    head: TenantHead
    key: ApiKey
    previous_ends_at: datetime
