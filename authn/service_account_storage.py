"""Service accounts in PostgreSQL. Every change is one transaction: the row, the revision, the history, the audit."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

from authn.errors import (
    ServiceAccountLimitExceededError,
    ServiceAccountRevisionConflictError,
    UserTenantNotFoundError,
)
from authn.service_account_reads import REQUEST_SECONDS, ServiceAccountReader, ServiceAccountResult
from authn.service_account_rows import (
    count_service_accounts,
    describe_service_account,
    end_keys_of,
    insert_service_account,
    lock_service_account,
    put_service_account,
)
from authn.service_accounts import ServiceAccountStatus
from authn.subject_policy import SubjectPolicy
from authn.user_edits import UNCHANGED, Unchanged
from tenancy.audit import AuditEntry
from tenancy.heads import lock_head, raise_head, record_change
from tenancy.ids import TenantId
from tenancy.kept_answers import claim, keep
from tenancy.once import Once
from tenancy.tenant import ChangeMeta, TenantHead
from tenancy.unit_of_work import Sessions, TenantUnitOfWork, tenant_unit_of_work
from tenancy.uuid7 import make_uuid7

MAX_SERVICE_ACCOUNTS = 1000
"""Of one tenant, deleted ones aside."""

KIND = "service_account"
"""What the history calls a change of a service account."""


class ServiceAccountStore(ServiceAccountReader):
    """Service accounts of tenants. Every method raises `UserStorageUnavailableError` when PostgreSQL cannot answer.

    Writes raise `UserTenantNotFoundError`, `ServiceAccountRevisionConflictError` (not at `expected_revision`), and for
    an account that is not there or a tombstone `ServiceAccountNotFoundError` and `ServiceAccountDeletedError`.
    """

    def __init__(
        self,
        sessions: Sessions,
        policy: SubjectPolicy,
        *,
        max_accounts: int = MAX_SERVICE_ACCOUNTS,
        request_seconds: float = REQUEST_SECONDS,
    ) -> None:
        """Keep where units of work come from, what a policy holds of a subject, and how many a tenant may have."""
        super().__init__(sessions, request_seconds=request_seconds)
        self._policy = policy
        self._max_accounts = max_accounts

    async def create(
        self,
        tenant_id: TenantId,
        name: str,
        description: str | None,
        *,
        meta: ChangeMeta,
        expected_revision: int | None = None,
        once: Once[ServiceAccountResult] | None = None,
    ) -> ServiceAccountResult:
        """Enter an account. With `once`, it acts once for its request.

        Raises:
            ServiceAccountNameTakenError: another one of the tenant has the name.
            ServiceAccountLimitExceededError: the tenant has as many as it may.
        """
        return await self._bounded(
            lambda: self._create(tenant_id, name, description, meta, expected_revision, once=once)
        )

    async def update(
        self,
        tenant_id: TenantId,
        account_id: UUID,
        *,
        meta: ChangeMeta,
        name: str | Unchanged = UNCHANGED,
        description: str | Unchanged | None = UNCHANGED,
        expected_revision: int | None = None,
    ) -> ServiceAccountResult:
        """Change the name and the description; raises `ServiceAccountNameTakenError`."""
        return await self._bounded(
            lambda: self._update(tenant_id, account_id, name, description, meta, expected_revision=expected_revision)
        )

    async def set_status(
        self,
        tenant_id: TenantId,
        account_id: UUID,
        status: ServiceAccountStatus,
        *,
        meta: ChangeMeta,
        expected_revision: int | None = None,
    ) -> ServiceAccountResult:
        """Disable or enable an account. Its keys do nothing while it is disabled, and go on when it is enabled."""
        if status is ServiceAccountStatus.DELETED:
            raise ValueError("a service account is deleted by `delete`, which ends its keys")
        return await self._bounded(lambda: self._set_status(tenant_id, account_id, status, meta, expected_revision))

    async def delete(
        self, tenant_id: TenantId, account_id: UUID, *, meta: ChangeMeta, expected_revision: int | None = None
    ) -> TenantHead:
        """End an account and its keys for ever, and take what the API granted it; a tombstone keeps the id."""
        return await self._bounded(lambda: self._delete(tenant_id, account_id, meta, expected_revision))

    async def _create(
        self,
        tenant_id: TenantId,
        name: str,
        description: str | None,
        meta: ChangeMeta,
        expected_revision: int | None,
        *,
        once: Once[ServiceAccountResult] | None,
    ) -> ServiceAccountResult:
        async with self._write(tenant_id, expected_revision, once) as (work, _):
            if await count_service_accounts(work) >= self._max_accounts:
                raise ServiceAccountLimitExceededError(
                    f"the tenant has {self._max_accounts} service accounts, which is the limit"
                )
            # Of the same space as the ids of people: the milliseconds of its making, and 74 random bits.
            account_id = make_uuid7(datetime.now(UTC), secrets.token_bytes(10))
            account = await insert_service_account(work, account_id, name, description, created_by=meta.actor)
            entry = AuditEntry("service_account.create", account.ref, after={"name": name, "description": description})
            result = ServiceAccountResult(await _recorded(work, account.ref, meta, entry), account)
            await keep(work, once, result)
            return result

    async def _update(
        self,
        tenant_id: TenantId,
        account_id: UUID,
        name: str | Unchanged,
        description: str | Unchanged | None,
        meta: ChangeMeta,
        *,
        expected_revision: int | None,
    ) -> ServiceAccountResult:
        async with self._write(tenant_id, expected_revision) as (work, head):
            before = await lock_service_account(work, account_id)
            wanted = replace(
                before,
                name=before.name if isinstance(name, Unchanged) else name,
                description=before.description if isinstance(description, Unchanged) else description,
            )
            if wanted == before:
                return ServiceAccountResult(head, before)
            account = await describe_service_account(work, account_id, wanted.name, wanted.description)
            changed = [field for field in ("name", "description") if getattr(wanted, field) != getattr(before, field)]
            entry = AuditEntry(
                "service_account.update",
                account.ref,
                before={field: getattr(before, field) for field in changed},
                after={field: getattr(wanted, field) for field in changed},
            )
            return ServiceAccountResult(await _recorded(work, account.ref, meta, entry), account)

    async def _set_status(
        self,
        tenant_id: TenantId,
        account_id: UUID,
        status: ServiceAccountStatus,
        meta: ChangeMeta,
        expected_revision: int | None,
    ) -> ServiceAccountResult:
        async with self._write(tenant_id, expected_revision) as (work, head):
            before = await lock_service_account(work, account_id)
            if before.status is status:
                return ServiceAccountResult(head, before)
            enabled = status is ServiceAccountStatus.ACTIVE
            account = await put_service_account(work, account_id, status, None if enabled else meta.reason)
            entry = AuditEntry(
                "service_account.enable" if enabled else "service_account.disable",
                account.ref,
                before={"status": before.status.value},
                after={"status": status.value},
            )
            return ServiceAccountResult(await _recorded(work, account.ref, meta, entry, keys=True), account)

    async def _delete(
        self, tenant_id: TenantId, account_id: UUID, meta: ChangeMeta, expected_revision: int | None
    ) -> TenantHead:
        async with self._write(tenant_id, expected_revision) as (work, _):
            before = await lock_service_account(work, account_id)
            rows = await self._policy.owned_by_api(work, before.ref)
            await put_service_account(work, account_id, ServiceAccountStatus.DELETED, meta.reason)
            ended = await end_keys_of(work, account_id)
            head = await raise_head(work, keys=True, counts=rows.growth)
            entry = AuditEntry(
                "service_account.delete",
                before.ref,
                before={"name": before.name, "status": before.status.value},
                after={"status": ServiceAccountStatus.DELETED.value},
                detail={"rows_removed": rows.count, "keys_ended": ended},
            )
            await record_change(work.session, head, KIND, meta, removed=rows.count, audit=[entry], touched=[before.ref])
            await rows.remove(work, head.revision)
            return head

    @asynccontextmanager
    async def _write(
        self, tenant_id: TenantId, expected_revision: int | None, once: Once[ServiceAccountResult] | None = None
    ) -> AsyncIterator[tuple[TenantUnitOfWork, TenantHead]]:
        """Open the transaction of one write, with the tenant locked where it is expected to be."""
        async with tenant_unit_of_work(self._sessions, tenant_id) as work:
            await claim(work, once)
            locked = await lock_head(work)
            if locked is None:
                raise UserTenantNotFoundError(f"no tenant has the id `{tenant_id}`")
            if expected_revision not in {None, locked[0].revision}:
                raise ServiceAccountRevisionConflictError(
                    f"the tenant is at revision {locked[0].revision}, not {expected_revision}"
                )
            yield work, locked[0]


async def _recorded(
    work: TenantUnitOfWork, ref: str, meta: ChangeMeta, entry: AuditEntry, *, keys: bool = False
) -> TenantHead:
    head = await raise_head(work, keys=keys)
    await record_change(work.session, head, KIND, meta, audit=[entry], touched=[ref])
    return head
