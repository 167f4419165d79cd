"""Rows of invitations, within the transaction of whoever calls; and lists of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text

from authn.invitations import Invitation, InvitationId, Inviter, NewInvitation
from authn.users import UserId
from tenancy.ids import TenantId
from tenancy.unit_of_work import TenantUnitOfWork

PERSONAL_DAYS = 30
"""How long it is remembered who was invited by an invitation that is over. An accepted one's person has an account."""

_COLUMNS = (
    "tenant_id, invitation_id, user_id, email, email_key, display_name, display_name_key, roles, inviter, "
    "inviter_home, inviter_scopes, created_by, created_at, expires_at, accepted_at, revoked_at"
)
_MINE = "tenant_id = :tenant_id AND invitation_id = :invitation_id"
_OPEN = "accepted_at IS NULL AND revoked_at IS NULL AND expires_at > clock_timestamp()"

_INSERT = text(
    "INSERT INTO invitations (tenant_id, invitation_id, user_id, email, email_key, display_name, display_name_key, "  # noqa: S608
    "roles, inviter, inviter_home, inviter_scopes, created_by, expires_at) VALUES (:tenant_id, :invitation_id, "
    ":user_id, :email, :email_key, :display_name, :display_name_key, :roles, :inviter, :inviter_home, "
    ":inviter_scopes, :created_by, clock_timestamp() + :lifetime) "
    f"RETURNING {_COLUMNS}"
)
_FIND = text(f"SELECT {_COLUMNS} FROM invitations WHERE {_MINE}")  # noqa: S608 - constants of this file
_FIND_OPEN = text(f"SELECT {_COLUMNS} FROM invitations WHERE {_MINE} AND {_OPEN}")  # noqa: S608 - as above
_LIST = text(
    f"SELECT {_COLUMNS} FROM invitations WHERE tenant_id = :tenant_id AND invitation_id > :after "  # noqa: S608
    "ORDER BY invitation_id LIMIT :limit"
)
_COUNT_OPEN = text(f"SELECT count(*) FROM invitations WHERE tenant_id = :tenant_id AND {_OPEN}")  # noqa: S608
_REVOKE = text(
    f"UPDATE invitations SET revoked_at = clock_timestamp() WHERE {_MINE} AND {_OPEN} RETURNING 1"  # noqa: S608
)
_REVOKE_OTHERS = text(
    "UPDATE invitations SET revoked_at = clock_timestamp() WHERE tenant_id = :tenant_id AND email_key = :email_key "  # noqa: S608
    f"AND invitation_id <> :invitation_id AND {_OPEN} RETURNING invitation_id"
)
_ACCEPT = text(
    "UPDATE invitations SET accepted_at = clock_timestamp(), email = NULL, email_key = NULL, display_name = NULL, "  # noqa: S608
    f"display_name_key = NULL WHERE {_MINE} AND {_OPEN} RETURNING 1"
)
_EXTEND = text(
    f"UPDATE invitations SET expires_at = clock_timestamp() + :lifetime WHERE {_MINE} AND accepted_at IS NULL "  # noqa: S608
    f"AND revoked_at IS NULL AND email IS NOT NULL RETURNING {_COLUMNS}"
)
_FORGET = text(
    "UPDATE invitations SET email = NULL, email_key = NULL, display_name = NULL, display_name_key = NULL "
    "WHERE (tenant_id, invitation_id) IN (SELECT tenant_id, invitation_id FROM invitations "
    "WHERE tenant_id = :tenant_id AND email IS NOT NULL "
    "AND least(revoked_at, expires_at) < clock_timestamp() - :kept LIMIT 100 FOR UPDATE SKIP LOCKED) "
    "RETURNING user_id"
)


@dataclass(frozen=True, slots=True)
class StoredInvitation:
    """An invitation with the keys of its names."""

    invitation: Invitation
    email: tuple[str, str] | None
    display_name: tuple[str, str] | None


async def insert_invitation(
    work: TenantUnitOfWork,
    invitation_id: InvitationId,
    user_id: UserId,
    new: NewInvitation,
    *,
    created_by: str,
    lifetime: timedelta,
) -> StoredInvitation:
    """Enter an invitation."""
    email, display_name = new.email, new.display_name or (None, None)
    parameters = {
        "tenant_id": work.tenant_id,
        "invitation_id": invitation_id,
        "user_id": user_id,
        "email": email[0],
        "email_key": email[1],
        "display_name": display_name[0],
        "display_name_key": display_name[1],
        "roles": list(new.roles),
        "inviter": new.inviter.subject,
        "inviter_home": new.inviter.home,
        "inviter_scopes": sorted(new.inviter.scopes),
        "created_by": created_by,
        "lifetime": lifetime,
    }
    return _stored((await work.session.execute(_INSERT, parameters)).one())


async def revoke_others(work: TenantUnitOfWork, invitation_id: InvitationId, email_key: str) -> Sequence[UUID]:
    """Revoke every other open invitation of an address; return them."""
    named = _named(work, invitation_id) | {"email_key": email_key}
    return list((await work.session.execute(_REVOKE_OTHERS, named)).scalars())


async def find_invitation(work: TenantUnitOfWork, invitation_id: UUID) -> StoredInvitation | None:
    """Return an invitation of the tenant, whatever became of it."""
    row = (await work.session.execute(_FIND, _named(work, invitation_id))).one_or_none()
    return None if row is None else _stored(row)


async def find_open_invitation(work: TenantUnitOfWork, invitation_id: UUID) -> StoredInvitation | None:
    """Return an invitation that could be accepted now, by the database's time."""
    row = (await work.session.execute(_FIND_OPEN, _named(work, invitation_id))).one_or_none()
    return None if row is None else _stored(row)


async def list_invitations(work: TenantUnitOfWork, after: str | None, limit: int) -> Sequence[Invitation]:
    """Return invitations ascending by id, which is by age."""
    parameters = {"tenant_id": work.tenant_id, "after": UUID(after or "0" * 32), "limit": limit}
    return [_stored(row).invitation for row in await work.session.execute(_LIST, parameters)]


async def count_open(work: TenantUnitOfWork) -> int:
    """Return how many invitations could be accepted."""
    return int((await work.session.execute(_COUNT_OPEN, {"tenant_id": work.tenant_id})).scalar_one())


async def revoke_invitation(work: TenantUnitOfWork, invitation_id: UUID) -> bool:
    """End an open invitation; false when there is none."""
    return (await work.session.execute(_REVOKE, _named(work, invitation_id))).one_or_none() is not None


async def accept_invitation(work: TenantUnitOfWork, invitation_id: UUID) -> bool:
    """Write that an open invitation became an account, which holds the person's data from now on."""
    return (await work.session.execute(_ACCEPT, _named(work, invitation_id))).one_or_none() is not None


async def extend_invitation(
    work: TenantUnitOfWork, invitation_id: UUID, lifetime: timedelta
) -> StoredInvitation | None:
    """Let an invitation that was neither accepted nor revoked begin anew; None when there is none."""
    named = _named(work, invitation_id) | {"lifetime": lifetime}
    row = (await work.session.execute(_EXTEND, named)).one_or_none()
    return None if row is None else _stored(row)


async def forget_persons(work: TenantUnitOfWork) -> Sequence[UUID]:
    """Forget who was invited by invitations that are long over; return the subjects that never became accounts."""
    parameters = {"tenant_id": work.tenant_id, "kept": timedelta(days=PERSONAL_DAYS)}
    return list((await work.session.execute(_FORGET, parameters)).scalars())


def _named(work: TenantUnitOfWork, invitation_id: UUID) -> dict[str, Any]:
    return {"tenant_id": work.tenant_id, "invitation_id": invitation_id}


def _stored(row: Row[Any]) -> StoredInvitation:
    invitation = Invitation(
        id=InvitationId(row.invitation_id),
        tenant_id=TenantId(row.tenant_id),
        user_id=UserId(row.user_id),
        email=row.email,
        display_name=row.display_name,
        roles=tuple(row.roles),
        inviter=Inviter(row.inviter, TenantId(row.inviter_home), frozenset(row.inviter_scopes)),
        created_by=row.created_by,
        created_at=row.created_at,
        expires_at=row.expires_at,
        accepted_at=row.accepted_at,
        revoked_at=row.revoked_at,
    )
    email = None if row.email is None else (row.email, row.email_key)
    return StoredInvitation(
        invitation, email, None if row.display_name is None else (row.display_name, row.display_name_key)
    )
