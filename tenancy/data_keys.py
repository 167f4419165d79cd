"""Data keys and subject keys as PostgreSQL holds them: always wrapped."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text

from tenancy.encrypted_columns import EncryptedColumn
from tenancy.ids import PLATFORM_TENANT_ID
from tenancy.unit_of_work import TenantUnitOfWork

_COLUMNS = "key_id, kek_id, wrapped, uses"


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A data key as it is stored; `kek_id` names the key-encryption key that opens it.

    `uses`: about how many values it sealed.
    """

    key_id: UUID
    kek_id: str
    wrapped: bytes = field(repr=False)
    uses: int = 0


@dataclass(frozen=True, slots=True)
class SubjectKey:
    """A subject's key as it is stored; None where it was destroyed."""

    subject_id: UUID
    wrapped: bytes | None = field(repr=False)


async def find_primary(work: TenantUnitOfWork) -> WrappedKey | None:
    """Return the key that new values of the tenant are sealed with."""
    query = text(
        f"SELECT {_COLUMNS} FROM data_keys "  # noqa: S608 - constant columns
        "WHERE tenant_id = :tenant_id AND superseded_at IS NULL"
    )
    return _key((await work.session.execute(query, {"tenant_id": work.tenant_id})).one_or_none())


async def find_data_key(work: TenantUnitOfWork, key_id: UUID) -> WrappedKey | None:
    """Return any data key of the tenant, superseded ones too."""
    query = text(f"SELECT {_COLUMNS} FROM data_keys WHERE tenant_id = :tenant_id AND key_id = :key_id")  # noqa: S608
    parameters = {"tenant_id": work.tenant_id, "key_id": key_id}
    return _key((await work.session.execute(query, parameters)).one_or_none())


async def insert_primary(work: TenantUnitOfWork, key: WrappedKey) -> None:
    """Store a tenant's first key, unless another node was quicker: then that one's stays."""
    query = text(
        "INSERT INTO data_keys (tenant_id, key_id, kek_id, wrapped) "
        "VALUES (:tenant_id, :key_id, :kek_id, :wrapped) ON CONFLICT DO NOTHING"
    )
    parameters = {"tenant_id": work.tenant_id, "key_id": key.key_id, "kek_id": key.kek_id, "wrapped": key.wrapped}
    await work.session.execute(query, parameters)


async def supersede(work: TenantUnitOfWork, key_id: UUID) -> bool:
    """Let a primary key seal no more; False when it was superseded before."""
    query = text(
        "UPDATE data_keys SET superseded_at = clock_timestamp() "
        "WHERE tenant_id = :tenant_id AND key_id = :key_id AND superseded_at IS NULL RETURNING key_id"
    )
    parameters = {"tenant_id": work.tenant_id, "key_id": key_id}
    return (await work.session.execute(query, parameters)).one_or_none() is not None


async def count_uses(work: TenantUnitOfWork, key_id: UUID, more: int) -> None:
    """Add to the number of values that a key sealed."""
    query = text("UPDATE data_keys SET uses = uses + :more WHERE tenant_id = :tenant_id AND key_id = :key_id")
    await work.session.execute(query, {"tenant_id": work.tenant_id, "key_id": key_id, "more": more})


async def find_wrapped_before(work: TenantUnitOfWork, kek_id: str, before: datetime) -> list[WrappedKey]:
    """Return the tenant's keys that another key-encryption key wraps, or that were wrapped before a time."""
    query = text(
        f"SELECT {_COLUMNS} FROM data_keys WHERE tenant_id = :tenant_id "  # noqa: S608 - constant columns
        "AND (kek_id <> :kek_id OR wrapped_at < :before) ORDER BY created_at"
    )
    parameters = {"tenant_id": work.tenant_id, "kek_id": kek_id, "before": before}
    return [_wrapped(row) for row in await work.session.execute(query, parameters)]


async def replace_wrapping(work: TenantUnitOfWork, old: WrappedKey, new: WrappedKey) -> int:
    """Store a key as it was wrapped anew; 0 when somebody else did meanwhile."""
    query = text(
        "UPDATE data_keys SET kek_id = :kek_id, wrapped = :wrapped, wrapped_at = clock_timestamp() "
        "WHERE tenant_id = :tenant_id AND key_id = :key_id AND wrapped = :old RETURNING key_id"
    )
    parameters = {"kek_id": new.kek_id, "wrapped": new.wrapped, "key_id": new.key_id, "old": old.wrapped}
    return len((await work.session.execute(query, parameters | {"tenant_id": work.tenant_id})).all())


async def find_made_before(work: TenantUnitOfWork, before: datetime) -> UUID | None:
    """Return the primary key if it was made before a time."""
    query = text(
        "SELECT key_id FROM data_keys WHERE tenant_id = :tenant_id AND superseded_at IS NULL AND created_at < :before"
    )
    found: UUID | None = (
        await work.session.execute(query, {"tenant_id": work.tenant_id, "before": before})
    ).scalar_one_or_none()
    return found


async def find_superseded(work: TenantUnitOfWork) -> list[UUID]:
    """Return the keys that seal no more, the oldest first."""
    query = text(
        "SELECT key_id FROM data_keys WHERE tenant_id = :tenant_id AND superseded_at IS NOT NULL ORDER BY created_at"
    )
    return [row.key_id for row in await work.session.execute(query, {"tenant_id": work.tenant_id})]


async def mark_unused(work: TenantUnitOfWork, columns: Sequence[EncryptedColumn]) -> None:
    """Note since when no row uses a superseded key."""
    query = text(
        "UPDATE data_keys AS k SET unused_since = clock_timestamp() WHERE k.tenant_id = :tenant_id "  # noqa: S608 - as below
        f"AND k.superseded_at IS NOT NULL AND k.unused_since IS NULL AND {_unused(columns)}"
    )
    await work.session.execute(query, {"tenant_id": work.tenant_id})


async def remove_unused(work: TenantUnitOfWork, columns: Sequence[EncryptedColumn], grace: timedelta) -> int:
    """Remove superseded keys that no row has used for as long as `grace`; return how many.

    A row that comes to use one at this very moment makes the statement fail: PostgreSQL holds the reference.
    """
    query = text(
        "DELETE FROM data_keys AS k WHERE k.tenant_id = :tenant_id AND k.superseded_at IS NOT NULL "  # noqa: S608 - as below
        f"AND k.unused_since <= clock_timestamp() - CAST(:grace AS interval) AND {_unused(columns)} RETURNING k.key_id"
    )
    return len((await work.session.execute(query, {"tenant_id": work.tenant_id, "grace": grace})).all())


def _unused(columns: Sequence[EncryptedColumn]) -> str:
    return " AND ".join(
        f"NOT EXISTS (SELECT FROM {column.table} AS t WHERE t.tenant_id = k.tenant_id "
        f"AND t.{column.column}_key = k.key_id)"
        for column in columns
    )


async def activate_kek(platform: TenantUnitOfWork, kek_id: str) -> None:
    """Have `kek_id` wrap every data key that is made from now on. `platform` is bound to the platform."""
    query = text("UPDATE key_encryption SET active = :kek_id WHERE tenant_id = :platform")
    await platform.session.execute(query, {"platform": PLATFORM_TENANT_ID, "kek_id": kek_id})


async def find_active_kek(work: TenantUnitOfWork) -> str | None:
    """Return which key-encryption key wraps new data keys, on every node."""
    query = text("SELECT active FROM key_encryption WHERE tenant_id = :platform")
    found: str | None = (await work.session.execute(query, {"platform": PLATFORM_TENANT_ID})).scalar_one()
    return found


async def claim_active_kek(platform: TenantUnitOfWork, kek_id: str) -> None:
    """Have `kek_id` wrap new data keys, if none does yet. `platform` is bound to the platform."""
    query = text("UPDATE key_encryption SET active = :kek_id WHERE tenant_id = :platform AND active IS NULL")
    await platform.session.execute(query, {"platform": PLATFORM_TENANT_ID, "kek_id": kek_id})


async def find_subject_keys(work: TenantUnitOfWork, subject_ids: list[UUID]) -> dict[UUID, SubjectKey]:
    """Return the keys of those subjects that have one, or had one."""
    query = text(
        "SELECT subject_id, wrapped FROM subject_keys WHERE tenant_id = :tenant_id AND subject_id = ANY(:subjects)"
    )
    rows = await work.session.execute(query, {"tenant_id": work.tenant_id, "subjects": subject_ids})
    return {row.subject_id: SubjectKey(row.subject_id, row.wrapped) for row in rows}


async def insert_subject_key(work: TenantUnitOfWork, key: SubjectKey) -> None:
    """Store a subject's key, unless there is or was one."""
    query = text(
        "INSERT INTO subject_keys (tenant_id, subject_id, wrapped) VALUES (:tenant_id, :subject_id, :wrapped) "
        "ON CONFLICT DO NOTHING"
    )
    parameters = {"tenant_id": work.tenant_id, "subject_id": key.subject_id, "wrapped": key.wrapped}
    await work.session.execute(query, parameters)


async def destroy_subject_key(work: TenantUnitOfWork, subject_id: UUID) -> None:
    """Remove a subject's key, and see to it that there never is another; one of the platform's, from every tenant."""
    query = text(
        "INSERT INTO subject_keys (tenant_id, subject_id, wrapped, destroyed_at) "
        "VALUES (:tenant_id, :subject_id, NULL, clock_timestamp()) ON CONFLICT (tenant_id, subject_id) "
        "DO UPDATE SET wrapped = NULL, destroyed_at = coalesce(subject_keys.destroyed_at, clock_timestamp())"
    )
    await work.session.execute(query, {"tenant_id": work.tenant_id, "subject_id": subject_id})
    if work.tenant_id == PLATFORM_TENANT_ID:
        # The platform's people act in tenants, whose audits seal it under keys of theirs in each.
        await work.session.execute(text("SELECT destroy_subject_keys(:subject_id)"), {"subject_id": subject_id})


def _key(row: Row[Any] | None) -> WrappedKey | None:
    return None if row is None else _wrapped(row)


def _wrapped(row: Row[Any]) -> WrappedKey:
    return WrappedKey(row.key_id, row.kek_id, row.wrapped, row.uses)
