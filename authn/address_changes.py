"""Rows of changes of address, within the transaction of whoever calls."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text

from authn.links import LIFETIMES, LinkPurpose
from authn.users import UserId
from tenancy.unit_of_work import TenantUnitOfWork

_COLUMNS = "change_id, user_id, old_email, old_email_key, old_verified_at, new_email, new_email_key"
_OF_USER = "tenant_id = :tenant_id AND user_id = :user_id"

_INSERT = text(
    "INSERT INTO address_changes (tenant_id, change_id, user_id, old_email, old_email_key, old_verified_at, new_email, "
    "new_email_key, state) VALUES (:tenant_id, :change_id, :user_id, :old_email, :old_email_key, :old_verified_at, "
    ":new_email, :new_email_key, :state)"
)
_SUPERSEDE = text(f"UPDATE address_changes SET state = 'dropped' WHERE {_OF_USER} AND state = 'pending'")  # noqa: S608
_CONFIRM = text(
    "UPDATE address_changes SET state = 'confirmed', confirmed_at = clock_timestamp() "  # noqa: S608 - constants
    f"WHERE tenant_id = :tenant_id AND change_id = :change_id AND state = 'pending' RETURNING {_COLUMNS}"
)
_UNDO = text(
    "UPDATE address_changes SET state = 'undone' FROM (SELECT state AS before FROM address_changes "  # noqa: S608
    "WHERE tenant_id = :tenant_id AND change_id = :change_id FOR UPDATE) AS was "
    "WHERE tenant_id = :tenant_id AND change_id = :change_id AND state IN ('pending', 'dropped', 'confirmed') "
    f"RETURNING {_COLUMNS}, before"
)
# SECURITY: what came after the change that is taken back was made by whoever made it, and so were links to undo that.
_END_LATER = text(
    f"UPDATE address_changes SET state = 'undone' WHERE {_OF_USER} AND change_id <> :change_id "  # noqa: S608 - as above
    "AND created_at >= (SELECT created_at FROM address_changes WHERE tenant_id = :tenant_id AND change_id = :change_id)"
)
_OPEN = text(
    f"SELECT EXISTS (SELECT FROM address_changes WHERE {_OF_USER} AND state = 'confirmed' "  # noqa: S608 - as above
    "AND confirmed_at IS NOT NULL AND old_email_key IS NOT NULL AND created_at > clock_timestamp() - :undo_life)"
)
_FORGET_OLD = text(
    "DELETE FROM address_changes WHERE (tenant_id, change_id) IN (SELECT tenant_id, change_id FROM address_changes "
    "WHERE tenant_id = :tenant_id AND created_at < clock_timestamp() - interval '4 days' "
    "LIMIT 100 FOR UPDATE SKIP LOCKED)"
)
_DROP = text(f"DELETE FROM address_changes WHERE {_OF_USER}")  # noqa: S608 - constants of this file


@dataclass(frozen=True, slots=True)
class AddressChange:
    """A change of address: from one (shown, key), if there was one, to another, or to none. `was_made`: it happened."""

    change_id: UUID
    user_id: UserId
    old: tuple[str, str] | None
    old_verified_at: datetime | None
    new: tuple[str, str] | None
    was_made: bool = False


async def insert_change(work: TenantUnitOfWork, change: AddressChange) -> None:
    """Enter a change, made or waiting to be confirmed; one that waited before is dropped."""
    await work.session.execute(_FORGET_OLD, {"tenant_id": work.tenant_id})
    named = {"tenant_id": work.tenant_id, "user_id": change.user_id}
    await work.session.execute(_SUPERSEDE, named)
    await work.session.execute(
        _INSERT,
        named
        | {
            "change_id": change.change_id,
            "old_email": None if change.old is None else change.old[0],
            "old_email_key": None if change.old is None else change.old[1],
            "old_verified_at": change.old_verified_at,
            "new_email": None if change.new is None else change.new[0],
            "new_email_key": None if change.new is None else change.new[1],
            "state": "confirmed" if change.was_made else "pending",
        },
    )


async def confirm_change(work: TenantUnitOfWork, change_id: UUID) -> AddressChange | None:
    """Write that a change that waited was confirmed; None when it does not wait any more."""
    named = {"tenant_id": work.tenant_id, "change_id": change_id}
    return _change((await work.session.execute(_CONFIRM, named)).one_or_none())


async def undo_change(work: TenantUnitOfWork, change_id: UUID) -> AddressChange | None:
    """Write that a change was taken back, made or not; None when it was before."""
    named = {"tenant_id": work.tenant_id, "change_id": change_id}
    row = (await work.session.execute(_UNDO, named)).one_or_none()
    change = _change(row, was_made=row is not None and row.before == "confirmed")
    if change is not None:
        await work.session.execute(_END_LATER, named | {"user_id": change.user_id})
    return change


async def may_be_taken_back(work: TenantUnitOfWork, user_id: UUID) -> bool:
    """Whether a person gave an account its address in place of another one, whose holder may still undo that."""
    named = {"tenant_id": work.tenant_id, "user_id": user_id, "undo_life": LIFETIMES[LinkPurpose.UNDO_ADDRESS]}
    return bool((await work.session.execute(_OPEN, named)).scalar_one())


async def drop_changes(work: TenantUnitOfWork, user_id: UUID) -> None:
    """Forget the changes of an account: it is going."""
    await work.session.execute(_DROP, {"tenant_id": work.tenant_id, "user_id": user_id})


def _change(row: Row[Any] | None, *, was_made: bool = False) -> AddressChange | None:
    if row is None:
        return None
    return AddressChange(
        row.change_id,
        UserId(row.user_id),
        None if row.old_email is None else (row.old_email, row.old_email_key),
        row.old_verified_at,
        None if row.new_email is None else (row.new_email, row.new_email_key),
        was_made,
    )
