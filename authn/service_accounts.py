"""Service accounts: the programs that a tenant knows. Each has rights of its own, by roles, and keys that carry them.

The subject in rules and decisions is `service:<id>`; the id is the account's OAuth `client_id` (RFC 6749 section 2.2).
"""

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NewType
from uuid import UUID

from authn.errors import InvalidServiceAccountError
from tenancy.ids import TenantId

ServiceAccountId = NewType("ServiceAccountId", UUID)

SUBJECT_TYPE = "service"
MAX_DESCRIPTION = 500
_NAME = re.compile(r"[a-z][a-z0-9._-]{0,63}\Z")


class ServiceAccountStatus(StrEnum):
    """Life of a service account. Nothing comes after `deleted`: the row stays, so that its id is never given again."""

    ACTIVE = "active"
    DISABLED = "disabled"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """A service account as administrators see it; times are aware, UTC. A deleted one keeps its name for the audit."""

    id: ServiceAccountId
    tenant_id: TenantId
    name: str
    description: str | None
    status: ServiceAccountStatus
    status_reason: str | None
    created_at: datetime
    updated_at: datetime
    created_by: str

    @property
    def ref(self) -> str:
        """What rules, decisions and tokens call it."""
        return service_ref(self.id)


def service_ref(account_id: UUID) -> str:
    """Return the subject that stands for a service account: `service:` and its id in lower case."""
    return f"{SUBJECT_TYPE}:{account_id}"


def service_account_id_of(text: str) -> ServiceAccountId | None:
    """Return the id that `text` writes in its one canonical form; None for every other spelling."""
    try:
        found = UUID(text)
    except ValueError:
        return None
    return ServiceAccountId(found) if str(found) == text else None


def checked_name(name: str) -> str:
    """Return the name of a service account.

    Raises:
        InvalidServiceAccountError: not 1 to 64 of `a-z`, `0-9`, `.`, `_`, `-`, a letter first.
    """
    if _NAME.match(name) is None:
        raise InvalidServiceAccountError(
            "a service account's name has 1 to 64 of `a-z`, `0-9`, `.`, `_` and `-`, and begins with a letter", "/name"
        )
    return name


def checked_description(description: str | None) -> str | None:
    """Return what a service account is for; nothing for blank text.

    Raises:
        InvalidServiceAccountError: too long, or not printable.
    """
    text = (description or "").strip()
    if len(text) > MAX_DESCRIPTION or not text.isprintable():
        raise InvalidServiceAccountError(
            f"a description has at most {MAX_DESCRIPTION} printable characters", "/description"
        )
    return text or None
