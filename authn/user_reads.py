"""Accounts in PostgreSQL, as they are looked for."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import TextClause, text

from authn.errors import (
    InvalidEmailError,
    InvalidUsernameError,
    UserNotFoundError,
    UserStorageUnavailableError,
    UserTenantNotFoundError,
)
from authn.user_names import fold
from authn.user_rows import USER_COLUMNS, user_of
from authn.users import User, UserId, UserStatus, normalize_email, normalize_username
from tenancy.errors import DatabaseUnavailableError
from tenancy.heads import find_head
from tenancy.ids import TenantId
from tenancy.tenant import TenantHead
from tenancy.unit_of_work import Sessions, tenant_unit_of_work, within

T = TypeVar("T")

REQUEST_SECONDS = 2.5
_AFTER_ALL = "\U0010ffff"
"""Sorts after every character that a name may have."""

_FIND = text(f"SELECT {USER_COLUMNS} FROM users WHERE tenant_id = :tenant_id AND user_id = :user_id")  # noqa: S608
_BY_USERNAME = text(
    f"SELECT {USER_COLUMNS} FROM users WHERE tenant_id = :tenant_id AND username_key = :key"  # noqa: S608 - constants
)
_BY_EMAIL = text(
    f"SELECT {USER_COLUMNS} FROM users WHERE tenant_id = :tenant_id AND email_key = :key"  # noqa: S608 - constants
)


_IDS = text("SELECT username_key, user_id FROM users WHERE tenant_id = :tenant_id AND username_key = ANY(:keys)")
_USERNAMES = text(
    "SELECT user_id, username FROM users WHERE tenant_id = :tenant_id AND username IS NOT NULL "
    "AND user_id = ANY(CAST(:ids AS uuid[]))"
)
PORTION = 1000
"""Names or ids in one statement."""


@dataclass(frozen=True, slots=True)
class UserPage:
    """Accounts ascending by id, which is by age; `cursor` is None on the last page."""

    users: Sequence[User]
    cursor: str | None
    head: TenantHead


class UserReader:
    """Accounts of tenants. Every method raises `UserStorageUnavailableError` when PostgreSQL cannot answer."""

    def __init__(self, sessions: Sessions, *, request_seconds: float = REQUEST_SECONDS) -> None:
        """Keep where units of work come from, and how long a call may take."""
        self._sessions = sessions
        self._seconds = request_seconds

    async def find(self, tenant_id: TenantId, user_id: UUID) -> User | None:
        """Return an account, also a deleted one; None when the tenant has none with this id."""
        return await self._bounded(lambda: self._one(_FIND, tenant_id, {"user_id": user_id}))

    async def read(self, tenant_id: TenantId, user_id: UUID) -> tuple[TenantHead, User]:
        """Return an account and where its tenant stood then; raises `UserNotFoundError`."""
        return await self._bounded(lambda: self._read(tenant_id, user_id))

    async def find_by_username(self, tenant_id: TenantId, username: str) -> User | None:
        """Return the account with this name, however it is spelled; what cannot be a name is nobody's."""
        try:
            _, key = normalize_username(username)
        except InvalidUsernameError:
            return None
        return await self._bounded(lambda: self._one(_BY_USERNAME, tenant_id, {"key": key}))

    async def find_by_email(self, tenant_id: TenantId, email: str) -> User | None:
        """Return the account with this address, however it is spelled; what cannot be an address is nobody's."""
        try:
            _, key = normalize_email(email)
        except InvalidEmailError:
            return None
        return await self._bounded(lambda: self._one(_BY_EMAIL, tenant_id, {"key": key}))

    async def find_by_identifier(self, tenant_id: TenantId, identifier: str) -> User | None:
        """Return the account that a person names by username or address: a name never has an `@`."""
        by = self.find_by_email if "@" in identifier else self.find_by_username
        return await by(tenant_id, identifier)

    async def find_ids(self, tenant_id: TenantId, usernames: Sequence[str]) -> tuple[TenantHead, dict[str, UserId]]:
        """Return the accounts that usernames name, in whatever spelling, and where the tenant stood then.

        Names that are nobody's are left out. Takes about 0.1 ms for each name, off the event loop.
        """
        return await self._bounded(lambda: self._find_ids(tenant_id, usernames))

    async def find_usernames(self, tenant_id: TenantId, user_ids: Sequence[UUID]) -> dict[UserId, str]:
        """Return the usernames of accounts; deleted ones and ids that are none are left out."""
        return await self._bounded(lambda: self._find_usernames(tenant_id, user_ids))

    async def list(
        self,
        tenant_id: TenantId,
        *,
        search: str | None = None,
        status: UserStatus | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> UserPage:
        """Return accounts whose username, address or display name begins with `search`.

        Args:
            tenant_id: Whose accounts.
            search: Case and compatible forms do not count; no character in it is a wildcard.
            status: Only these; without it all but the deleted ones.
            after: The cursor of the page before.
            limit: How many at most.
        """
        return await self._bounded(lambda: self._list(tenant_id, search, status, after, limit))

    async def _bounded(self, work: Callable[[], Awaitable[T]]) -> T:
        try:
            return await within(self._seconds, work)
        except DatabaseUnavailableError as error:
            raise UserStorageUnavailableError(str(error)) from error

    async def _one(self, query: TextClause, tenant_id: TenantId, parameters: Mapping[str, object]) -> User | None:
        async with tenant_unit_of_work(self._sessions, tenant_id) as work:
            row = (await work.session.execute(query, {"tenant_id": tenant_id, **parameters})).one_or_none()
        return None if row is None else user_of(row)

    async def _read(self, tenant_id: TenantId, user_id: UUID) -> tuple[TenantHead, User]:
        async with tenant_unit_of_work(self._sessions, tenant_id) as work:
            head = await find_head(work.session, tenant_id)
            row = (await work.session.execute(_FIND, {"tenant_id": tenant_id, "user_id": user_id})).one_or_none()
        if head is None:
            raise UserTenantNotFoundError(f"no tenant has the id `{tenant_id}`")
        if row is None:
            raise UserNotFoundError(f"the tenant has no account `{user_id}`")
        return head, user_of(row)

    async def _find_ids(self, tenant_id: TenantId, usernames: Sequence[str]) -> tuple[TenantHead, dict[str, UserId]]:
        keys = await asyncio.to_thread(_keys_of, usernames)
        held: dict[str, UserId] = {}
        async with tenant_unit_of_work(self._sessions, tenant_id, repeatable_read=True) as work:
            head = await find_head(work.session, tenant_id)
            wanted = list(dict.fromkeys(keys.values()))
            for start in range(0, len(wanted), PORTION):
                named = {"tenant_id": tenant_id, "keys": wanted[start : start + PORTION]}
                held |= {row.username_key: UserId(row.user_id) for row in await work.session.execute(_IDS, named)}
        if head is None:
            raise UserTenantNotFoundError(f"no tenant has the id `{tenant_id}`")
        return head, {name: held[key] for name, key in keys.items() if key in held}

    async def _find_usernames(self, tenant_id: TenantId, user_ids: Sequence[UUID]) -> dict[UserId, str]:
        found: dict[UserId, str] = {}
        async with tenant_unit_of_work(self._sessions, tenant_id, repeatable_read=True) as work:
            for start in range(0, len(user_ids), PORTION):
                named = {"tenant_id": tenant_id, "ids": list(user_ids[start : start + PORTION])}
                found |= {UserId(row.user_id): row.username for row in await work.session.execute(_USERNAMES, named)}
        return found

    async def _list(
        self, tenant_id: TenantId, search: str | None, status: UserStatus | None, after: str | None, limit: int
    ) -> UserPage:
        query, parameters = list_query(search, status)
        parameters |= {"tenant_id": tenant_id, "after": UUID(after or "0" * 32), "limit": limit + 1}
        async with tenant_unit_of_work(self._sessions, tenant_id) as work:
            head = await find_head(work.session, tenant_id)
            rows = (await work.session.execute(query, parameters)).all()
        if head is None:
            raise UserTenantNotFoundError(f"no tenant has the id `{tenant_id}`")
        users = [user_of(row) for row in rows[:limit]]
        return UserPage(users, str(users[-1].id) if len(rows) > limit else None, head)


def _keys_of(usernames: Iterable[str]) -> dict[str, str]:
    """Return the key of every text that can be a username."""
    keys: dict[str, str] = {}
    for name in usernames:
        with suppress(InvalidUsernameError):
            keys[name] = normalize_username(name)[1]
    return keys


def list_query(search: str | None, status: UserStatus | None) -> tuple[TextClause, dict[str, Any]]:
    """Return the statement of a page, but for tenant, place and limit, with its parameters.

    The beginning of a name is a range of names: comparisons pass the security barrier and use the indexes, and no
    character means anything else, as it would in LIKE.
    """
    parameters: dict[str, Any] = {"status": UserStatus.DELETED if status is None else status}
    conditions = f"status {'<>' if status is None else '='} :status"
    if search is not None:
        low = fold(search)
        parameters |= {"low": low, "high": low + _AFTER_ALL}
        columns = ("username_key", "email_key", "display_name_key")
        ranges = (f"({column} >= :low AND {column} < :high)" for column in columns)
        conditions += f" AND ({' OR '.join(ranges)})"
    return (
        text(
            f"SELECT {USER_COLUMNS} FROM users WHERE tenant_id = :tenant_id AND user_id > :after "  # noqa: S608
            f"AND {conditions} ORDER BY user_id LIMIT :limit"
        ),
        parameters,
    )
