"""Service accounts in PostgreSQL, as they are looked for."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from sqlalchemy import text

from authn.errors import ServiceAccountNotFoundError, UserStorageUnavailableError, UserTenantNotFoundError
from authn.service_account_rows import COLUMNS, READ, service_account_of
from authn.service_accounts import ServiceAccount, ServiceAccountStatus
from tenancy.errors import DatabaseUnavailableError
from tenancy.heads import find_head
from tenancy.ids import TenantId
from tenancy.tenant import TenantHead
from tenancy.unit_of_work import Sessions, tenant_unit_of_work, within

T = TypeVar("T")

REQUEST_SECONDS = 2.5

_FIRST = UUID(int=0)
_LIST = text(
    f"SELECT {COLUMNS} FROM service_accounts WHERE tenant_id = :tenant_id "  # noqa: S608 - constants
    "AND service_account_id > :after AND starts_with(name, :search) AND "
    "CASE WHEN CAST(:status AS text) IS NULL THEN status <> 'deleted' ELSE status = :status END "
    "ORDER BY service_account_id LIMIT :limit"
)
_IDS = text(
    "SELECT name, service_account_id FROM service_accounts WHERE tenant_id = :tenant_id AND status <> 'deleted' "
    "AND name = ANY(:names)"
)
_NAMES = text(
    "SELECT name, service_account_id FROM service_accounts WHERE tenant_id = :tenant_id AND status <> 'deleted' "
    "AND service_account_id = ANY(CAST(:ids AS uuid[]))"
)


@dataclass(frozen=True, slots=True)
class ServiceAccountResult:
    """An account after a write or at a reading, and where its tenant stands then."""

    head: TenantHead
    account: ServiceAccount


@dataclass(frozen=True, slots=True)
class ServiceAccountPage:
    """Accounts ascending by id, which is by age; `cursor` is None on the last page."""

    accounts: Sequence[ServiceAccount]
    cursor: str | None


class ServiceAccountReader:
    """Service accounts of tenants. Every method raises `UserStorageUnavailableError` when PostgreSQL cannot answer."""

    def __init__(self, sessions: Sessions, *, request_seconds: float = REQUEST_SECONDS) -> None:
        """Keep where units of work come from, and how long a call may take."""
        self._sessions = sessions
        self._seconds = request_seconds

    async def read(self, tenant_id: TenantId, account_id: UUID) -> ServiceAccountResult:
        """Return an account, a deleted one too, and where its tenant stood then."""
        return await self._bounded(lambda: self._read(tenant_id, account_id))

    async def list(
        self,
        tenant_id: TenantId,
        *,
        search: str | None = None,
        status: ServiceAccountStatus | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> ServiceAccountPage:
        """Return accounts whose names begin with `search`, in one state; deleted ones only when asked for."""
        return await self._bounded(lambda: self._list(tenant_id, search, status, after, limit))

    async def find_ids(self, tenant_id: TenantId, names: Sequence[str]) -> tuple[TenantHead, dict[str, UUID]]:
        """Return the accounts that have these names, and where the tenant stood then."""
        return await self._bounded(lambda: self._ids(tenant_id, names))

    async def find_names(self, tenant_id: TenantId, ids: Sequence[UUID]) -> dict[UUID, str]:
        """Return the names of accounts; deleted ones and ids that are none are left out."""
        return await self._bounded(lambda: self._names(tenant_id, ids))

    async def _bounded(self, work: Callable[[], Awaitable[T]]) -> T:
        try:
            return await within(self._seconds, work)
        except DatabaseUnavailableError as error:
            raise UserStorageUnavailableError(str(error)) from error

    async def _read(self, tenant_id: TenantId, account_id: UUID) -> ServiceAccountResult:
        async with tenant_unit_of_work(self._sessions, tenant_id) as work:
            head = await find_head(work.session, tenant_id)
            named = {"tenant_id": tenant_id, "account_id": account_id}
            row = (await work.session.execute(READ, named)).one_or_none()
        if head is None or row is None:
            raise ServiceAccountNotFoundError(f"the tenant has no service account `{account_id}`")
        return ServiceAccountResult(head, service_account_of(row))

    async def _list(
        self,
        tenant_id: TenantId,
        search: str | None,
        status: ServiceAccountStatus | None,
        after: str | None,
        limit: int,
    ) -> ServiceAccountPage:
        parameters = {
            "tenant_id": tenant_id,
            "after": _FIRST if after is None else UUID(after),
            "search": search or "",
            "status": None if status is None else status.value,
            "limit": limit + 1,
        }
        async with tenant_unit_of_work(self._sessions, tenant_id) as work:
            rows = (await work.session.execute(_LIST, parameters)).all()
        accounts = [service_account_of(row) for row in rows[:limit]]
        return ServiceAccountPage(accounts, str(accounts[-1].id) if len(rows) > limit else None)

    async def _ids(self, tenant_id: TenantId, names: Sequence[str]) -> tuple[TenantHead, dict[str, UUID]]:
        async with tenant_unit_of_work(self._sessions, tenant_id, repeatable_read=True) as work:
            head = await find_head(work.session, tenant_id)
            rows = await work.session.execute(_IDS, {"tenant_id": tenant_id, "names": list(names)})
            found = {row.name: row.service_account_id for row in rows}
        if head is None:
            raise UserTenantNotFoundError(f"no tenant has the id `{tenant_id}`")
        return head, found

    async def _names(self, tenant_id: TenantId, ids: Sequence[UUID]) -> dict[UUID, str]:
        async with tenant_unit_of_work(self._sessions, tenant_id) as work:
            rows = await work.session.execute(_NAMES, {"tenant_id": tenant_id, "ids": list(ids)})
            return {row.service_account_id: row.name for row in rows}
