"""Bring accounts of another directory in: those that are new, batch by batch, each batch one transaction."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from authn.errors import UserLimitExceededError, UserStorageUnavailableError, UserTenantNotFoundError
from authn.user_import import BadLine, ImportedUser, without_repeats
from authn.user_rows import taken
from authn.users import subject_ref
from tenancy.audit import AuditEntry
from tenancy.errors import DatabaseUnavailableError
from tenancy.heads import lock_head, raise_head, record_change
from tenancy.ids import TenantId
from tenancy.tenant import ChangeMeta, TenantHead
from tenancy.unit_of_work import Sessions, TenantUnitOfWork, tenant_unit_of_work
from tenancy.uuid7 import make_uuid7

MAX_BATCH = 5000
BATCH_SECONDS = 60.0

_PRESENT = text(
    "SELECT username_key, email_key FROM users WHERE tenant_id = :tenant_id "
    "AND (username_key = ANY(CAST(:usernames AS text[])) OR email_key = ANY(CAST(:emails AS text[])))"
)
_COLUMNS = {
    "user_id": "uuid",
    "username": "text",
    "username_key": "text",
    "email": "text",
    "email_key": "text",
    "display_name": "text",
    "display_name_key": "text",
    "mfa_required": "boolean",
    "password_hash": "text",
    "password_set_by": "text",
}
_INSERT = text(
    f"INSERT INTO users (tenant_id, {', '.join(_COLUMNS)}, password_changed_at, created_by) "  # noqa: S608 - constants
    f"SELECT :tenant_id, {', '.join(_COLUMNS)}, CASE WHEN password_hash IS NOT NULL THEN clock_timestamp() END, "
    f":created_by FROM unnest({', '.join(f'CAST(:{name} AS {kind}[])' for name, kind in _COLUMNS.items())}) "
    f"AS new ({', '.join(_COLUMNS)})"
)


@dataclass(frozen=True, slots=True)
class ImportResult:
    """What came of a batch: so many accounts were made, so many were there already as they came; the rest is bad."""

    head: TenantHead
    created: int
    existing: int
    bad: Sequence[BadLine]


class UserImports:
    """Imports on PostgreSQL."""

    def __init__(self, sessions: Sessions, *, max_users: int) -> None:
        """Keep where units of work come from, and how many accounts a tenant may have."""
        self._sessions = sessions
        self._max_users = max_users

    async def add(
        self, tenant_id: TenantId, records: Sequence[ImportedUser], bad: Sequence[BadLine], *, meta: ChangeMeta
    ) -> ImportResult:
        """Make the accounts that are not there yet; the same batch again makes none.

        Args:
            tenant_id: Whose accounts.
            records: At most `MAX_BATCH`, in order.
            bad: Lines that were refused before, for the audit and the result.
            meta: Who and why.

        Raises:
            UserLimitExceededError: the tenant would have too many; none of the batch came in.
            UserTenantNotFoundError: no such tenant.
            UserStorageUnavailableError: PostgreSQL did not answer: the batch came in whole or not at all.
        """
        wait = timedelta(seconds=BATCH_SECONDS)
        try:
            async with tenant_unit_of_work(self._sessions, tenant_id, statement_timeout=wait) as work:
                return await self._add(work, records, bad, meta)
        except IntegrityError as error:
            raise taken(error) from error
        except DatabaseUnavailableError as error:
            raise UserStorageUnavailableError(str(error)) from error

    async def _add(
        self, work: TenantUnitOfWork, records: Sequence[ImportedUser], bad: Sequence[BadLine], meta: ChangeMeta
    ) -> ImportResult:
        locked = await lock_head(work)
        if locked is None:
            raise UserTenantNotFoundError(f"no tenant has the id `{work.tenant_id}`")
        head, counts = locked
        once, repeated = without_repeats(records)
        new, existing, conflicting = await _sorted_out(work, once)
        all_bad = sorted([*bad, *repeated, *conflicting], key=lambda fault: fault.line)
        if not new:
            return ImportResult(head, 0, existing, all_bad)
        if counts["users"] + len(new) > self._max_users:
            raise UserLimitExceededError(f"the tenant would have more than {self._max_users} users, which is the limit")
        refs = await _insert(work, new, meta)
        head = await raise_head(work, counts={"users": len(new)})
        detail = {"created": len(new), "existing": existing, "bad": len(all_bad)}
        entries = [AuditEntry("user.import", target=f"tenant:{work.tenant_id}", detail=detail)]
        entries += [AuditEntry("user.create", target=ref, detail={"imported": True}) for ref in refs]
        # The ids are new, so no node remembers anything of these subjects: nothing was touched.
        await record_change(work.session, head, "user", meta, audit=entries)
        return ImportResult(head, len(new), existing, all_bad)


async def _sorted_out(
    work: TenantUnitOfWork, records: Sequence[ImportedUser]
) -> tuple[list[ImportedUser], int, list[BadLine]]:
    """Return which records are new, how many are there as they are, and those that contradict what is there.

    The tenant's lock is held, so nobody takes a name meanwhile.
    """
    emails = [record.new.email[1] for record in records if record.new.email is not None]
    wanted = {
        "tenant_id": work.tenant_id,
        "usernames": [record.new.username[1] for record in records],
        "emails": emails,
    }
    rows = (await work.session.execute(_PRESENT, wanted)).all()
    email_of = {row.username_key: row.email_key for row in rows}
    owned = {row.email_key for row in rows if row.email_key is not None}
    new: list[ImportedUser] = []
    bad: list[BadLine] = []
    existing = 0
    for record in records:
        username, email = record.new.username[1], record.new.email
        if username in email_of:
            if email is None or email[1] == email_of[username]:
                existing += 1
            else:
                bad.append(BadLine(record.line, "email", "the account of this name has another address"))
        elif email is not None and email[1] in owned:
            bad.append(BadLine(record.line, "email", "another account has this address"))
        else:
            new.append(record)
    return new, existing, bad


async def _insert(work: TenantUnitOfWork, records: Sequence[ImportedUser], meta: ChangeMeta) -> list[str]:
    """Enter accounts under fresh ids, in one statement; return what rules call them."""
    columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
    now = datetime.now(UTC)
    # Sorted, so that lists by id show a batch in the order of its lines.
    fresh = sorted(make_uuid7(now, secrets.token_bytes(10)) for _ in records)
    for record, user_id in zip(records, fresh, strict=True):
        new = record.new
        email, display_name = new.email or (None, None), new.display_name or (None, None)
        row = (
            user_id,
            *new.username,
            *email,
            *display_name,
            new.mfa_required,
            new.password_hash,
            new.password_set_by,
        )
        for name, value in zip(_COLUMNS, row, strict=True):
            columns[name].append(value)
    await work.session.execute(_INSERT, {"tenant_id": work.tenant_id, "created_by": meta.actor, **columns})
    return [subject_ref(user_id) for user_id in columns["user_id"]]
