"""Rows of authenticators, within the transaction of whoever calls.

Whatever binds, removes or disables one holds the tenant's lock and the account's; using one needs neither.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text

from authn.errors import FactorLimitExceededError
from authn.factors import (
    MAX_AUTHENTICATORS,
    PENDING_LIFETIME,
    Authenticator,
    FactorKind,
    FactorMethod,
    Factors,
)
from tenancy.unit_of_work import TenantUnitOfWork

_MINE = "tenant_id = :tenant_id AND user_id = :user_id"
_ONE = f"{_MINE} AND authenticator_id = :authenticator_id"
_COLUMNS = "authenticator_id, user_id, kind, name, created_at, confirmed_at, last_used_at, disabled_at"
_PENDING = f"confirmed_at IS NULL AND created_at > clock_timestamp() - interval '{PENDING_LIFETIME.total_seconds()} s'"

_SUMMARY = text(
    "SELECT u.factors_bound_at IS NOT NULL AS ever_bound, u.enrolment_demanded, "  # noqa: S608 - constants of this file
    "(SELECT count(*) FROM recovery_codes AS r WHERE r.tenant_id = u.tenant_id AND r.user_id = u.user_id "
    "AND r.spent_at IS NULL) AS codes, "
    "(SELECT count(*) FROM authenticators AS a WHERE a.tenant_id = u.tenant_id AND a.user_id = u.user_id "
    "AND a.confirmed_at IS NOT NULL) AS enrolled, "
    "ARRAY(SELECT DISTINCT a.kind FROM authenticators AS a WHERE a.tenant_id = u.tenant_id "
    "AND a.user_id = u.user_id AND a.confirmed_at IS NOT NULL AND a.disabled_at IS NULL ORDER BY a.kind) AS kinds "
    f"FROM users AS u WHERE u.{_MINE.replace('AND ', 'AND u.')}"
)
_HAS = text(
    f"SELECT EXISTS (SELECT FROM authenticators WHERE {_MINE} AND confirmed_at IS NOT NULL)"  # noqa: S608 - as above
)
_LIST = text(
    f"SELECT {_COLUMNS} FROM authenticators WHERE {_MINE} AND confirmed_at IS NOT NULL "  # noqa: S608 - as above
    "ORDER BY authenticator_id"
)
_FIND = text(
    f"SELECT {_COLUMNS} FROM authenticators WHERE {_ONE} AND (confirmed_at IS NOT NULL OR {_PENDING})"  # noqa: S608
)
_DROP_STALE = text(
    f"DELETE FROM authenticators WHERE {_MINE} AND confirmed_at IS NULL AND NOT ({_PENDING})"  # noqa: S608 - as above
)
_COUNT = text(f"SELECT count(*) FROM authenticators WHERE {_MINE}")  # noqa: S608 - as above
_INSERT_TOTP = text(
    "INSERT INTO authenticators (tenant_id, user_id, authenticator_id, kind, name, secret) "
    "VALUES (:tenant_id, :user_id, :authenticator_id, 'totp', :name, :secret)"
)
_CONFIRM = text(
    f"UPDATE authenticators SET confirmed_at = clock_timestamp() WHERE {_ONE} AND {_PENDING} "  # noqa: S608 - as above
    f"RETURNING {_COLUMNS}"
)
_RENAME = text(
    f"UPDATE authenticators SET name = :name WHERE {_ONE} AND confirmed_at IS NOT NULL "  # noqa: S608 - as above
    f"RETURNING {_COLUMNS}"
)
_REMOVE = text(f"DELETE FROM authenticators WHERE {_ONE} RETURNING {_COLUMNS}")  # noqa: S608 - as above
_REMOVE_ALL = text(f"DELETE FROM authenticators WHERE {_MINE}")  # noqa: S608 - as above
_REMOVE_CODES = text(f"DELETE FROM recovery_codes WHERE {_MINE}")  # noqa: S608 - as above
_REMOVE_MAILED = text(f"DELETE FROM enrolment_codes WHERE {_MINE}")  # noqa: S608 - as above
_REMOVE_AWAITED = text(f"DELETE FROM webauthn_registrations WHERE {_MINE}")  # noqa: S608 - as above
_FORGIVE_ALL = text(
    f"DELETE FROM credential_failures WHERE {_MINE} "  # noqa: S608 - as above
    "AND (authenticator = 'recovery' OR authenticator ~ '^(totp|webauthn):')"
)
_TOTPS = text(
    "SELECT authenticator_id, secret, last_step, clock_timestamp() AS now FROM authenticators "  # noqa: S608 - as above
    f"WHERE {_MINE} AND kind = 'totp' AND disabled_at IS NULL AND confirmed_at IS NOT NULL ORDER BY authenticator_id"
)
_TOTP = text(
    "SELECT authenticator_id, secret, last_step, clock_timestamp() AS now FROM authenticators "  # noqa: S608 - as above
    f"WHERE {_ONE} AND kind = 'totp' AND disabled_at IS NULL AND (confirmed_at IS NOT NULL OR {_PENDING})"
)
_SPEND_STEP = text(
    "UPDATE authenticators SET last_step = :step, last_used_at = clock_timestamp() "  # noqa: S608 - as above
    f"WHERE {_ONE} AND disabled_at IS NULL AND (last_step IS NULL OR last_step < :step) RETURNING 1"
)


@dataclass(frozen=True, slots=True)
class StoredTotp:
    """A time-based authenticator with its sealed secret; `now` is the database's time, the one clock of all nodes."""

    id: UUID
    sealed: bytes
    last_step: int | None
    now: datetime


async def read_factors(work: TenantUnitOfWork, user_id: UUID) -> Factors:
    """Return what an account can prove besides its password, as of this statement."""
    row = (await work.session.execute(_SUMMARY, _named(work, user_id))).one_or_none()
    if row is None:
        return Factors((), enrolled=False, ever_bound=False, enrolment_demanded=False, recovery_codes_left=0)
    methods = [FactorMethod(kind) for kind in row.kinds]
    # A code replaces an authenticator that was lost, so it is nothing to an account that has none.
    if row.enrolled and row.codes:
        methods.append(FactorMethod.RECOVERY_CODE)
    return Factors(
        tuple(methods),
        enrolled=row.enrolled > 0,
        ever_bound=row.ever_bound,
        enrolment_demanded=row.enrolment_demanded,
        recovery_codes_left=row.codes,
    )


async def has_factors(work: TenantUnitOfWork, user_id: UUID) -> bool:
    """Whether an account has a confirmed authenticator, a disabled one too: then its full level is `aal2`."""
    return bool((await work.session.execute(_HAS, _named(work, user_id))).scalar_one())


async def list_authenticators(work: TenantUnitOfWork, user_id: UUID) -> Sequence[Authenticator]:
    """Return the confirmed authenticators of an account, the oldest first."""
    return [authenticator_of(row) for row in await work.session.execute(_LIST, _named(work, user_id))]


async def find_authenticator(work: TenantUnitOfWork, user_id: UUID, authenticator_id: UUID) -> Authenticator | None:
    """Return one of an account's own, also one that waits for its confirmation."""
    row = (await work.session.execute(_FIND, _named(work, user_id, authenticator_id))).one_or_none()
    return None if row is None else authenticator_of(row)


async def require_room(work: TenantUnitOfWork, user_id: UUID) -> None:
    """Refuse one authenticator too many; those that waited too long are dropped. The account is locked.

    Raises:
        FactorLimitExceededError: there is no room.
    """
    named = _named(work, user_id)
    await work.session.execute(_DROP_STALE, named)
    if (await work.session.execute(_COUNT, named)).scalar_one() >= MAX_AUTHENTICATORS:
        raise FactorLimitExceededError(f"an account has at most {MAX_AUTHENTICATORS} authenticators")


async def insert_totp(
    work: TenantUnitOfWork, user_id: UUID, authenticator_id: UUID, *, name: str, sealed: bytes
) -> None:
    """Enter a time-based authenticator that waits for its confirmation."""
    named = _named(work, user_id, authenticator_id)
    await work.session.execute(_INSERT_TOTP, named | {"name": name, "secret": sealed})


async def confirm_authenticator(work: TenantUnitOfWork, user_id: UUID, authenticator_id: UUID) -> Authenticator | None:
    """Bind one that waits; None when it does not (any more). Of any number at once one succeeds."""
    row = (await work.session.execute(_CONFIRM, _named(work, user_id, authenticator_id))).one_or_none()
    return None if row is None else authenticator_of(row)


async def rename_authenticator(
    work: TenantUnitOfWork, user_id: UUID, authenticator_id: UUID, name: str
) -> Authenticator | None:
    """Give a bound authenticator another name."""
    named = _named(work, user_id, authenticator_id)
    row = (await work.session.execute(_RENAME, named | {"name": name})).one_or_none()
    return None if row is None else authenticator_of(row)


async def remove_authenticator(work: TenantUnitOfWork, user_id: UUID, authenticator_id: UUID) -> Authenticator | None:
    """End an authenticator; return what it was."""
    row = (await work.session.execute(_REMOVE, _named(work, user_id, authenticator_id))).one_or_none()
    return None if row is None else authenticator_of(row)


async def forget_factors(work: TenantUnitOfWork, user_id: UUID) -> None:
    """Remove everything by which an account proves more than its password, and what was counted of it."""
    for statement in (_REMOVE_ALL, _REMOVE_CODES, _REMOVE_MAILED, _REMOVE_AWAITED, _FORGIVE_ALL):
        await work.session.execute(statement, _named(work, user_id))


async def list_totps(work: TenantUnitOfWork, user_id: UUID) -> Sequence[StoredTotp]:
    """Return the time-based authenticators of an account that may prove something, in the order of their ids."""
    return [_totp(row) for row in await work.session.execute(_TOTPS, _named(work, user_id))]


async def find_totp(work: TenantUnitOfWork, user_id: UUID, authenticator_id: UUID) -> StoredTotp | None:
    """Return one time-based authenticator, also one that waits for its confirmation."""
    row = (await work.session.execute(_TOTP, _named(work, user_id, authenticator_id))).one_or_none()
    return None if row is None else _totp(row)


async def spend_step(work: TenantUnitOfWork, user_id: UUID, authenticator_id: UUID, step: int) -> bool:
    """Accept a time step once, ever: it is refused when it, or a later one, was accepted before.

    INVARIANT: one statement decides and writes, so that of any number of equal codes at once, on however many nodes,
    one is accepted; and the step only rises, whatever a clock does.
    """
    spent = await work.session.execute(_SPEND_STEP, _named(work, user_id, authenticator_id) | {"step": step})
    return spent.one_or_none() is not None


def authenticator_of(row: Row[Any]) -> Authenticator:
    """Return the authenticator in a row that has this file's columns."""
    return Authenticator(
        id=row.authenticator_id,
        user_id=row.user_id,
        kind=FactorKind(row.kind),
        name=row.name,
        created_at=row.created_at,
        confirmed_at=row.confirmed_at,
        last_used_at=row.last_used_at,
        disabled_at=row.disabled_at,
    )


def _totp(row: Row[Any]) -> StoredTotp:
    return StoredTotp(row.authenticator_id, bytes(row.secret), row.last_step, row.now.astimezone(UTC))


def _named(work: TenantUnitOfWork, user_id: UUID, authenticator_id: UUID | None = None) -> dict[str, Any]:
    named = {"tenant_id": work.tenant_id, "user_id": user_id}
    return named if authenticator_id is None else named | {"authenticator_id": authenticator_id}
