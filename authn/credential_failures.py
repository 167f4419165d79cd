"""Failed proofs are counted for each account and authenticator (NIST SP 800-63B-4 section 3.2.2).

A try is counted before it is judged and forgiven when it was right, so that two hundred at once, on however many
nodes, are judged no more often than the limit says. A device that its person knows has a counter of its own for each
authenticator, named with an `@` (`password@<device>`).
"""

from typing import Any
from uuid import UUID

from sqlalchemy import text

from authn.tries import LockedOut, MustWait, TryTaken
from tenancy.ids import TenantId
from tenancy.one_trip import fetch_row
from tenancy.tenant_settings import SignInSettings
from tenancy.unit_of_work import Sessions, TenantUnitOfWork

PASSWORD = "password"  # noqa: S105 - the name of an authenticator
_MAX_DOUBLINGS = 20

_KEY = "tenant_id = :tenant_id AND user_id = :user_id AND authenticator = :authenticator"
_TAKE = text(
    "INSERT INTO credential_failures AS f (tenant_id, user_id, authenticator, failures) "  # noqa: S608 - constants
    "VALUES (:tenant_id, :user_id, :authenticator, 1) "
    "ON CONFLICT (tenant_id, user_id, authenticator) DO UPDATE SET failures = f.failures + 1, "
    "blocked_until = CASE WHEN f.failures >= :free THEN clock_timestamp() + make_interval(secs => least("
    f":longest, :first * power(2, least(f.failures - :free, {_MAX_DOUBLINGS})))) END "
    "WHERE (f.blocked_until IS NULL OR f.blocked_until <= clock_timestamp()) AND f.failures < :most "
    "RETURNING failures"
)
_WAIT = text(
    "SELECT failures, ceil(extract(epoch FROM blocked_until - clock_timestamp())) AS seconds "  # noqa: S608 - constants
    f"FROM credential_failures WHERE {_KEY}"
)
_GIVE_BACK = text(
    "UPDATE credential_failures SET failures = failures - 1, blocked_until = NULL "  # noqa: S608 - constants
    f"WHERE {_KEY} AND failures > 0"
)
_FORGIVE = text(f"DELETE FROM credential_failures WHERE {_KEY}")  # noqa: S608 - constants

_FORGIVE_EVERYWHERE = text(
    "DELETE FROM credential_failures WHERE tenant_id = :tenant_id AND user_id = :user_id "
    "AND split_part(authenticator, '@', 1) = :authenticator"
)


async def take_try(
    work: TenantUnitOfWork, user_id: UUID, limits: SignInSettings, *, authenticator: str = PASSWORD
) -> TryTaken | MustWait | LockedOut:
    """Count a try, if one is free, in a transaction that commits before it is judged."""
    key = _key(work.tenant_id, user_id, authenticator)
    if (await work.session.execute(_TAKE, key | _bounds(limits))).one_or_none() is not None:
        return TryTaken()
    return _refused((await work.session.execute(_WAIT, key)).one_or_none(), limits)


async def take_try_now(
    sessions: Sessions, tenant_id: TenantId, user_id: UUID, limits: SignInSettings, *, authenticator: str = PASSWORD
) -> TryTaken | MustWait | LockedOut:
    """As `take_try`, in one trip that commits it.

    Raises:
        DatabaseUnavailableError: no answer; whether the try is counted is then unknown.
    """
    key = _key(tenant_id, user_id, authenticator)
    if await fetch_row(sessions, tenant_id, _TAKE, key | _bounds(limits)) is not None:
        return TryTaken()
    return _refused(await fetch_row(sessions, tenant_id, _WAIT, key), limits)


async def give_back_try(work: TenantUnitOfWork, user_id: UUID, *, authenticator: str = PASSWORD) -> None:
    """Take back the count of a try that was not judged."""
    await work.session.execute(_GIVE_BACK, _key(work.tenant_id, user_id, authenticator))


def _refused(row: Any, limits: SignInSettings) -> MustWait | LockedOut:
    if row is not None and row.failures >= limits.max_failures:
        return LockedOut()
    return MustWait(max(1, int(row.seconds or 1)) if row is not None else 1)


def _bounds(limits: SignInSettings) -> dict[str, object]:
    return {
        "free": limits.failures_before_wait,
        "first": limits.first_wait_seconds,
        "longest": limits.longest_wait_seconds,
        "most": limits.max_failures,
    }


async def forgive_tries(work: TenantUnitOfWork, user_id: UUID, *, authenticator: str = PASSWORD) -> None:
    """Forget all tries: one was right."""
    await work.session.execute(_FORGIVE, _key(work.tenant_id, user_id, authenticator))


async def forgive_everywhere(work: TenantUnitOfWork, user_id: UUID, *, authenticator: str = PASSWORD) -> None:
    """Forget all tries of an authenticator, those from known devices too: it was replaced."""
    await work.session.execute(_FORGIVE_EVERYWHERE, _key(work.tenant_id, user_id, authenticator))


def _key(tenant_id: TenantId, user_id: UUID, authenticator: str) -> dict[str, object]:
    return {"tenant_id": tenant_id, "user_id": user_id, "authenticator": authenticator}
