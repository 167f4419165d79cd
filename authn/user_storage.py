"""Accounts in PostgreSQL. Every change is one transaction: the row, the tenant's revision, its history, its audit."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID
from weakref import WeakValueDictionary

from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from authn.account_flows import forget_flows
from authn.change_address import note_set_address
from authn.errors import (
    UserDeletedError,
    UserLimitExceededError,
    UserNotFoundError,
    UserRevisionConflictError,
    UserTenantNotFoundError,
)
from authn.factor_storage import forget_factors
from authn.mail_queue import queue_mail
from authn.mail_texts import moment_text
from authn.mails import Mail, MailKind
from authn.password_storage import forget_passwords
from authn.subject_policy import SubjectPolicy
from authn.user_edits import Unchanged, UserChange, UserEdit, change_of, personal_of
from authn.user_reads import REQUEST_SECONDS, UserReader
from authn.user_rows import USER_COLUMNS, insert_user, lock_user, taken, user_of
from authn.users import NewUser, StoredUser, User, UserStatus
from tenancy.audit import AuditEntry
from tenancy.heads import lock_head, raise_head, record_change
from tenancy.ids import TenantId
from tenancy.kept_answers import claim, keep
from tenancy.key_ring import KeyRing
from tenancy.once import Once
from tenancy.tenant import ChangeMeta, TenantHead
from tenancy.unit_of_work import Sessions, TenantUnitOfWork, tenant_unit_of_work

MAX_USERS = 1_000_000
MAX_WRITES = 4
KIND = "user"
"""What the history calls a change of an account."""

_SET_STATUS = text(
    "UPDATE users SET status = :status, status_reason = :reason, auth_epoch = auth_epoch + 1, "  # noqa: S608 - constants
    f"updated_at = clock_timestamp() WHERE tenant_id = :tenant_id AND user_id = :user_id RETURNING {USER_COLUMNS}"
)
_BURY = text(
    "UPDATE users SET status = 'deleted', username = NULL, username_key = NULL, email = NULL, "
    "email_key = NULL, email_verified_at = NULL, display_name = NULL, display_name_key = NULL, status_reason = NULL, "
    "password_hash = NULL, password_changed_at = NULL, password_set_by = NULL, last_sign_in_at = NULL, "
    "factors_reset_at = NULL, factors_bound_at = NULL, enrolment_demanded = false, "
    "password_reset_at = NULL, auth_epoch = auth_epoch + 1, updated_at = clock_timestamp() "
    "WHERE tenant_id = :tenant_id AND user_id = :user_id"
)


@dataclass(frozen=True, slots=True)
class UserResult:
    """An account after a write, and where its tenant stands then."""

    head: TenantHead
    user: User


class UserStore(UserReader):
    """Accounts of tenants. Every method raises `UserStorageUnavailableError` when PostgreSQL cannot answer.

    Writes raise `UserTenantNotFoundError`, `UserRevisionConflictError` (not at `expected_revision`), and for an account
    that is not there or a tombstone `UserNotFoundError` and `UserDeletedError`. What changes nothing makes no revision.
    """

    def __init__(
        self,
        sessions: Sessions,
        ring: KeyRing,
        policy: SubjectPolicy,
        *,
        max_users: int = MAX_USERS,
        max_writes: int = MAX_WRITES,
        request_seconds: float = REQUEST_SECONDS,
    ) -> None:
        """Keep where units of work come from, what seals personal fields, and how many accounts a tenant may have.

        `max_writes` is how many connections of the pool writes may hold at once: the rest is for all else, the making
        of keys for what they seal among it.
        """
        super().__init__(sessions, request_seconds=request_seconds)
        self._turns = asyncio.Semaphore(max_writes)
        self._queues: WeakValueDictionary[TenantId, asyncio.Lock] = WeakValueDictionary()
        self._ring = ring
        self._policy = policy
        self._max_users = max_users

    async def create(
        self,
        tenant_id: TenantId,
        new: NewUser,
        *,
        meta: ChangeMeta,
        expected_revision: int | None = None,
        once: Once[UserResult] | None = None,
    ) -> UserResult:
        """Enter an account. With `once`, it acts once for its request.

        Raises:
            UsernameTakenError, EmailTakenError: another account of the tenant has it.
            UserLimitExceededError: the tenant has as many as it may.
        """
        return await self._bounded(lambda: self._create(tenant_id, new, meta, expected_revision, once))

    async def update(
        self,
        tenant_id: TenantId,
        user_id: UUID,
        edit: UserEdit,
        *,
        meta: ChangeMeta,
        expected_revision: int | None = None,
    ) -> UserResult:
        """Change names, address and demands; raises `UsernameTakenError` and `EmailTakenError`, too."""
        return await self._bounded(lambda: self._update(tenant_id, user_id, edit, meta, expected_revision))

    async def set_status(
        self,
        tenant_id: TenantId,
        user_id: UUID,
        status: UserStatus,
        *,
        meta: ChangeMeta,
        expected_revision: int | None = None,
    ) -> UserResult:
        """Disable or enable an account; either ends its sign-ins, and is told to its verified address."""
        if status is UserStatus.DELETED:
            raise ValueError("an account is deleted by `delete`, which erases it")
        return await self._bounded(lambda: self._set_status(tenant_id, user_id, status, meta, expected_revision))

    async def delete(
        self, tenant_id: TenantId, user_id: UUID, *, meta: ChangeMeta, expected_revision: int | None = None
    ) -> TenantHead:
        """Erase what is personal in an account, with what the API granted it; a tombstone stays.

        What is sealed for its person, in the audit and elsewhere, can be opened by nobody from then on.
        """
        return await self._bounded(lambda: self._delete(tenant_id, user_id, meta, expected_revision))

    async def _create(
        self,
        tenant_id: TenantId,
        new: NewUser,
        meta: ChangeMeta,
        expected_revision: int | None,
        once: Once[UserResult] | None,
    ) -> UserResult:
        async with self._write(tenant_id, expected_revision, once) as (work, _, counts):
            if counts["users"] >= self._max_users:
                raise UserLimitExceededError(f"the tenant has {self._max_users} users, which is the limit")
            user = await insert_user(work, new, created_by=meta.actor)
            personal = await self._ring.seal_personal(work, user.id, personal_of(new))
            after = {"mfa_required": True} if new.mfa_required else None
            entry = AuditEntry("user.create", user.ref, after=after, personal=personal)
            head = await raise_head(work, counts={"users": 1})
            await record_change(work.session, head, KIND, meta, audit=[entry], touched=[user.ref])
            result = UserResult(head, user)
            await keep(work, once, result)
            return result

    async def _update(
        self, tenant_id: TenantId, user_id: UUID, edit: UserEdit, meta: ChangeMeta, expected_revision: int | None
    ) -> UserResult:
        async with self._write(tenant_id, expected_revision) as (work, head, _):
            stored = await _locked(work, user_id)
            change = change_of(stored, edit)
            if not change.fields:
                return UserResult(head, stored.user)
            user = await _changed(work, user_id, change)
            if user.username != stored.user.username:
                await self._tell(work, replace(stored.user, username=user.username), MailKind.USERNAME_CHANGED)
            if not isinstance(edit.email, Unchanged) and "email" in change.columns:
                await note_set_address(work, self._ring, stored, edit.email)
            personal = await self._ring.seal_personal(work, user_id, change.personal) if change.personal else None
            entry = AuditEntry(
                "user.update",
                user.ref,
                before=change.before or None,
                after=change.after or None,
                personal=personal,
                detail={"fields": change.fields},
            )
            return UserResult(await _recorded(work, user.ref, meta, entry), user)

    async def _set_status(
        self, tenant_id: TenantId, user_id: UUID, status: UserStatus, meta: ChangeMeta, expected_revision: int | None
    ) -> UserResult:
        async with self._write(tenant_id, expected_revision) as (work, head, _):
            stored = await _locked(work, user_id)
            if stored.user.status is status:
                return UserResult(head, stored.user)
            enabled = status is UserStatus.ACTIVE
            wanted = {"status": status.value, "reason": None if enabled else meta.reason}
            row = (await work.session.execute(_SET_STATUS, wanted | _named(work, user_id))).one()
            await self._tell(work, stored.user, MailKind.ACCOUNT_ENABLED if enabled else MailKind.ACCOUNT_DISABLED)
            entry = AuditEntry(
                "user.enable" if enabled else "user.disable",
                stored.user.ref,
                before={"status": stored.user.status.value},
                after={"status": status.value},
            )
            return UserResult(await _recorded(work, stored.user.ref, meta, entry), user_of(row))

    async def _delete(
        self, tenant_id: TenantId, user_id: UUID, meta: ChangeMeta, expected_revision: int | None
    ) -> TenantHead:
        async with self._write(tenant_id, expected_revision) as (work, _, _):
            stored = await _locked(work, user_id)
            ref = stored.user.ref
            rows = await self._policy.owned_by_api(work, ref)
            await work.session.execute(_BURY, _named(work, user_id))
            head = await raise_head(work, counts={**rows.growth, "users": -1})
            await forget_passwords(work, user_id)
            await forget_flows(work, user_id)
            await forget_factors(work, user_id)
            await self._ring.destroy_subject_key(work, user_id)
            entry = AuditEntry(
                "user.delete",
                ref,
                before={"status": stored.user.status.value},
                after={"status": UserStatus.DELETED.value},
                detail={"rows_removed": rows.count},
            )
            await record_change(work.session, head, KIND, meta, removed=rows.count, audit=[entry], touched=[ref])
            await rows.remove(work, head.revision)
            return head

    @asynccontextmanager
    async def _write(
        self, tenant_id: TenantId, expected_revision: int | None, once: Once[UserResult] | None = None
    ) -> AsyncIterator[tuple[TenantUnitOfWork, TenantHead, dict[str, int]]]:
        """Open the transaction of one write, with the tenant locked where it is expected to be."""
        # Writers of one tenant queue here, not with a connection each at the row lock.
        queue = self._queues.setdefault(tenant_id, asyncio.Lock())
        async with queue, self._turns, tenant_unit_of_work(self._sessions, tenant_id) as work:
            await claim(work, once)
            locked = await lock_head(work)
            if locked is None:
                raise UserTenantNotFoundError(f"no tenant has the id `{tenant_id}`")
            head, counts = locked
            if expected_revision not in {None, head.revision}:
                raise UserRevisionConflictError(f"the tenant is at revision {head.revision}, not {expected_revision}")
            yield work, head, counts

    async def _tell(self, work: TenantUnitOfWork, user: User, kind: MailKind) -> None:
        """Queue a notice to the account's address, if it is known to be its person's."""
        if user.email is None or user.email_verified_at is None:
            return
        values = {"username": user.username or "", "when": moment_text(datetime.now(UTC))}
        await queue_mail(work, self._ring, Mail(kind, user.email, values, user.id))


async def _locked(work: TenantUnitOfWork, user_id: UUID) -> StoredUser:
    stored = await lock_user(work, user_id)
    if stored is None:
        raise UserNotFoundError(f"the tenant has no account `{user_id}`")
    if stored.user.status is UserStatus.DELETED:
        raise UserDeletedError("the account was deleted, which is for ever")
    return stored


async def _changed(work: TenantUnitOfWork, user_id: UUID, change: UserChange) -> User:
    """Write the columns of a change; their names are those of `change_of`, never a caller's."""
    written = [f"{column} = :{column}" for column in change.columns]
    if change.ends_sign_ins:
        written.append("auth_epoch = auth_epoch + 1")
    query = text(
        f"UPDATE users SET {', '.join(written)}, updated_at = clock_timestamp() "  # noqa: S608 - as the docstring says
        f"WHERE tenant_id = :tenant_id AND user_id = :user_id RETURNING {USER_COLUMNS}"
    )
    parameters: dict[str, Any] = {**change.columns, **_named(work, user_id)}
    try:
        return user_of((await work.session.execute(query, parameters)).one())
    except IntegrityError as error:
        raise taken(error) from error


async def _recorded(work: TenantUnitOfWork, ref: str, meta: ChangeMeta, entry: AuditEntry) -> TenantHead:
    head = await raise_head(work)
    await record_change(work.session, head, KIND, meta, audit=[entry], touched=[ref])
    return head


def _named(work: TenantUnitOfWork, user_id: UUID) -> dict[str, Any]:
    return {"tenant_id": work.tenant_id, "user_id": user_id}
