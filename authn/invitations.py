"""Invitations: how an account of a person comes to be. Nobody registers themselves."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NewType
from uuid import UUID

from authn.users import UserId
from tenancy.ids import TenantId

InvitationId = NewType("InvitationId", UUID)

MAX_ROLES = 50
MAX_OPEN_INVITATIONS = 10_000
"""Of one tenant."""


class InvitationStatus(StrEnum):
    """Where an invitation stands."""

    PENDING = "pending"
    ACCEPTED = "accepted"
    REVOKED = "revoked"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Inviter:
    """Whose rights count when an invitation is accepted: a subject, in its own domain, through a key with `scopes`."""

    subject: str
    home: TenantId
    scopes: frozenset[str]


@dataclass(frozen=True, slots=True)
class Invitation:
    """An invitation as administrators see it; times are aware, UTC.

    `user_id` is the account that it becomes: what is written about the person before has that account's subject.
    `email` and `display_name` are None once the
    invitation is over and its personal data forgotten.
    """

    id: InvitationId
    tenant_id: TenantId
    user_id: UserId
    email: str | None
    display_name: str | None
    roles: tuple[str, ...]
    inviter: Inviter
    created_by: str
    created_at: datetime
    expires_at: datetime
    accepted_at: datetime | None
    revoked_at: datetime | None

    def status(self, now: datetime) -> InvitationStatus:
        """Return where it stands; it is over from `expires_at` on."""
        if self.accepted_at is not None:
            return InvitationStatus.ACCEPTED
        if self.revoked_at is not None:
            return InvitationStatus.REVOKED
        return InvitationStatus.PENDING if now < self.expires_at else InvitationStatus.EXPIRED


@dataclass(frozen=True, slots=True)
class NewInvitation:
    """What an inviter says. Names are (shown, key) as `authn.user_names` normalizes them; `roles` are typed names."""

    email: tuple[str, str]
    display_name: tuple[str, str] | None
    roles: tuple[str, ...]
    inviter: Inviter
