"""Data keys and subject keys as PostgreSQL holds them: always wrapped."""

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text

from tenancy.ids import PLATFORM_TENANT_ID
from tenancy.unit_of_work import TenantUnitOfWork

_COLUMNS = "key_id, kek_id, wrapped"


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A data key as it is stored; `kek_id` names the key-encryption key that opens it."""

    key_id: UUID
    kek_id: str
    wrapped: bytes = field(repr=False)


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
    """Remove a subject's key, and see to it that there never is another."""
    query = text(
        "INSERT INTO subject_keys (tenant_id, subject_id, wrapped, destroyed_at) "
        "VALUES (:tenant_id, :subject_id, NULL, clock_timestamp()) ON CONFLICT (tenant_id, subject_id) "
        "DO UPDATE SET wrapped = NULL, destroyed_at = coalesce(subject_keys.destroyed_at, clock_timestamp())"
    )
    await work.session.execute(query, {"tenant_id": work.tenant_id, "subject_id": subject_id})


def _key(row: Row[Any] | None) -> WrappedKey | None:
    return None if row is None else WrappedKey(row.key_id, row.kek_id, row.wrapped)
