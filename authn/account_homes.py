"""Where an account is, by its id alone: an access token names the account and no tenant."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from time import monotonic as monotonic_clock
from typing import Protocol
from uuid import UUID

from sqlalchemy import text

from authn.bounded import keep
from authn.errors import UserStorageUnavailableError
from tenancy.errors import DatabaseUnavailableError
from tenancy.ids import Slug, TenantId, TenantStatus
from tenancy.unit_of_work import Sessions, unbound_session, within

REQUEST_SECONDS = 2.0
_FIND = text("SELECT tenant_id, slug, status FROM find_account(:kind, :account_id)")


class AccountKind(StrEnum):
    """What an account is of; also the type of its subject in rules."""

    PERSON = "user"
    SERVICE = "service"


@dataclass(frozen=True, slots=True)
class AccountHome:
    """The tenant of an account, which never changes; whether the account lives is asked there."""

    tenant_id: TenantId
    slug: Slug


class AccountDirectory(Protocol):
    """Where homes are looked up."""

    async def find_home(self, kind: AccountKind, account_id: UUID) -> AccountHome | None:
        """Return the home, or None for an unknown id; raises `UserStorageUnavailableError`."""


class PostgresAccountDirectory:
    """`AccountDirectory` on PostgreSQL."""

    def __init__(self, sessions: Sessions, *, request_seconds: float = REQUEST_SECONDS) -> None:
        """Keep where sessions of the database come from, and how long a call may take."""
        self._sessions = sessions
        self._seconds = request_seconds

    async def find_home(self, kind: AccountKind, account_id: UUID) -> AccountHome | None:
        """Return the home; None for an unknown id, one of a deleted tenant, and one that two tenants have."""
        try:
            return await within(self._seconds, lambda: self._find(kind, account_id))
        except DatabaseUnavailableError as error:
            raise UserStorageUnavailableError(str(error)) from error

    async def _find(self, kind: AccountKind, account_id: UUID) -> AccountHome | None:
        # SECURITY: no tenant is bound, since it is what is asked for: the function returns the account's tenant alone.
        async with unbound_session(self._sessions) as session:
            rows = (await session.execute(_FIND, {"kind": kind.value, "account_id": account_id})).all()
        # Ids are made here and never twice; should one stand in two tenants all the same, it names nobody.
        if len(rows) != 1 or TenantStatus(rows[0].status) is TenantStatus.DELETED:
            return None
        return AccountHome(TenantId(rows[0].tenant_id), Slug(rows[0].slug))


@dataclass(frozen=True, slots=True)
class HomeLimits:
    """Bounds of what is remembered and of look-ups under way."""

    remembered: int = 10_000
    unknown: int = 1_024
    unknown_seconds: float = 1.0
    lookups: int = 8
    waiting: int = 256


class AccountHomes:
    """Homes as a node remembers them; one per node."""

    def __init__(
        self,
        directory: AccountDirectory,
        limits: HomeLimits | None = None,
        monotonic: Callable[[], float] = monotonic_clock,
    ) -> None:
        """Keep where homes are looked up."""
        self._directory = directory
        self._limits = limits or HomeLimits()
        self._monotonic = monotonic
        self._known: OrderedDict[tuple[AccountKind, UUID], AccountHome] = OrderedDict()
        self._unknown: OrderedDict[tuple[AccountKind, UUID], float] = OrderedDict()
        self._lookups = asyncio.Semaphore(self._limits.lookups)
        self._waiting = 0
        self._generation = 0
        self._misses = 0

    async def find(self, kind: AccountKind, account_id: UUID) -> AccountHome | None:
        """Return the home of an account, or None for an unknown one.

        Raises:
            UserStorageUnavailableError: PostgreSQL did not answer, or too many look-ups wait.
        """
        name = (kind, account_id)
        known = self._known.get(name)
        if known is not None:
            self._known.move_to_end(name)
            return known
        if self._monotonic() < self._unknown.get(name, float("-inf")):
            return None
        if self._waiting >= self._limits.waiting:
            raise UserStorageUnavailableError("too many accounts are looked up")
        generation = self._generation
        self._waiting += 1
        try:
            async with self._lookups:
                self._misses += 1
                found = await self._directory.find_home(kind, account_id)
        finally:
            self._waiting -= 1
        if generation != self._generation:
            return found
        if found is None:
            keep(self._unknown, name, self._monotonic() + self._limits.unknown_seconds, self._limits.unknown)
        else:
            keep(self._known, name, found, self._limits.remembered)
        return found

    def forget_all(self) -> None:
        """Forget every home: the database is another one, or an older copy, with other accounts."""
        self._generation += 1
        self._known.clear()
        self._unknown.clear()

    def totals(self) -> Mapping[str, int]:
        """Return what metrics count."""
        return {"account_home_lookups": self._misses}
