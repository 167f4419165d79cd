"""Rows of service accounts, within the transaction of whoever calls."""

from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.exc import IntegrityError

from authn.errors import ServiceAccountDeletedError, ServiceAccountNameTakenError, ServiceAccountNotFoundError
from authn.service_accounts import ServiceAccount, ServiceAccountId, ServiceAccountStatus
from tenancy.ids import TenantId
from tenancy.unit_of_work import TenantUnitOfWork

COLUMNS = "tenant_id, service_account_id, name, description, status, status_reason, created_at, updated_at, created_by"
_MINE = "tenant_id = :tenant_id AND service_account_id = :account_id"

READ = text(f"SELECT {COLUMNS} FROM service_accounts WHERE {_MINE}")  # noqa: S608 - constants
_LOCK = text(f"SELECT {COLUMNS} FROM service_accounts WHERE {_MINE} FOR NO KEY UPDATE")  # noqa: S608 - constants
_INSERT = text(
    "INSERT INTO service_accounts (tenant_id, service_account_id, name, description, created_by) "  # noqa: S608 - as above
    f"VALUES (:tenant_id, :account_id, :name, :description, :created_by) RETURNING {COLUMNS}"
)
_DESCRIBE = text(
    "UPDATE service_accounts SET name = :name, description = :description, "  # noqa: S608 - constants
    f"updated_at = clock_timestamp() WHERE {_MINE} RETURNING {COLUMNS}"
)
_SET_STATUS = text(
    "UPDATE service_accounts SET status = :status, status_reason = :reason, "  # noqa: S608 - constants
    f"updated_at = clock_timestamp() WHERE {_MINE} RETURNING {COLUMNS}"
)
_COUNT = text("SELECT count(*) FROM service_accounts WHERE tenant_id = :tenant_id AND status <> 'deleted'")
_END_KEYS = text(
    "UPDATE api_keys SET revoked_at = clock_timestamp() WHERE tenant_id = :tenant_id "
    "AND service_account_id = :account_id AND revoked_at IS NULL RETURNING key_id"
)


async def lock_service_account(work: TenantUnitOfWork, account_id: UUID) -> ServiceAccount:
    """Lock an account until the transaction ends, and return it as it is now; whoever calls holds the tenant's lock.

    Raises:
        ServiceAccountNotFoundError: there is none with this id.
        ServiceAccountDeletedError: it is a tombstone.
    """
    row = (await work.session.execute(_LOCK, _named(work, account_id))).one_or_none()
    if row is None:
        raise ServiceAccountNotFoundError(f"the tenant has no service account `{account_id}`")
    account = service_account_of(row)
    if account.status is ServiceAccountStatus.DELETED:
        raise ServiceAccountDeletedError("the service account was deleted, which is for ever")
    return account


async def count_service_accounts(work: TenantUnitOfWork) -> int:
    """Return how many the tenant has that are not deleted."""
    return int((await work.session.execute(_COUNT, {"tenant_id": work.tenant_id})).scalar_one())


async def insert_service_account(
    work: TenantUnitOfWork, account_id: UUID, name: str, description: str | None, *, created_by: str
) -> ServiceAccount:
    """Enter an account; raises `ServiceAccountNameTakenError`."""
    parameters = {"name": name, "description": description, "created_by": created_by} | _named(work, account_id)
    return await _named_one(work, _INSERT, parameters)


async def describe_service_account(
    work: TenantUnitOfWork, account_id: UUID, name: str, description: str | None
) -> ServiceAccount:
    """Give an account another name and description; raises `ServiceAccountNameTakenError`."""
    return await _named_one(work, _DESCRIBE, {"name": name, "description": description} | _named(work, account_id))


async def put_service_account(
    work: TenantUnitOfWork, account_id: UUID, status: ServiceAccountStatus, reason: str | None
) -> ServiceAccount:
    """Change the state of an account."""
    parameters = {"status": status.value, "reason": reason} | _named(work, account_id)
    return service_account_of((await work.session.execute(_SET_STATUS, parameters)).one())


async def end_keys_of(work: TenantUnitOfWork, account_id: UUID) -> int:
    """Revoke all keys of an account; return how many there were."""
    return len((await work.session.execute(_END_KEYS, _named(work, account_id))).all())


def service_account_of(row: Row[Any]) -> ServiceAccount:
    """Return the account in a result row that has `COLUMNS`."""
    return ServiceAccount(
        ServiceAccountId(row.service_account_id),
        TenantId(row.tenant_id),
        row.name,
        row.description,
        ServiceAccountStatus(row.status),
        row.status_reason,
        row.created_at,
        row.updated_at,
        row.created_by,
    )


async def _named_one(work: TenantUnitOfWork, query: Any, parameters: dict[str, Any]) -> ServiceAccount:
    try:
        return service_account_of((await work.session.execute(query, parameters)).one())
    except IntegrityError as error:
        if getattr(getattr(error.orig, "diag", None), "constraint_name", None) == "service_accounts_name_key":
            raise ServiceAccountNameTakenError("another service account of this tenant has the name") from error
        raise


def _named(work: TenantUnitOfWork, account_id: UUID) -> dict[str, Any]:
    return {"tenant_id": work.tenant_id, "account_id": account_id}
