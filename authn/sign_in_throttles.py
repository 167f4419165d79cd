"""How often a sign-in may be tried: counted for the account, the network and the tenant, before it is judged.

A try is one statement, and one trip to the database. It is counted as failed, and given back when it was right, so that
two hundred at once, on however many nodes, are never judged more often than the limit says. Identifiers of nobody count
as accounts do, so that answers tell nothing; they and networks share a bounded number of rows, found by a MAC, so that
whoever invents names fills no table and cannot choose whose row to share.
"""

import hmac
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text

from authn.sign_in_settings import SignInLimits
from authn.tries import LockedOut, MustWait
from tenancy.errors import DatabaseUnavailableError
from tenancy.ids import TenantId
from tenancy.one_trip import fetch_row
from tenancy.tenant_settings import SignInSettings
from tenancy.unit_of_work import Sessions, TenantUnitOfWork, tenant_unit_of_work, within

BUCKETS = 65_536
"""Rows of one kind and tenant at most. Two names that share one share their waits."""

MOST_DOUBLINGS = 20
REQUEST_SECONDS = 2.5


def _wait(failures: str, free: str, first: str, longest: str) -> str:
    """Return the SQL of the wait after a failure, in seconds: it doubles from the first on that is not free."""
    return f"least({longest}, {first} * power(2, least({failures} - {free}, {MOST_DOUBLINGS})))"


_OPEN = "(t.blocked_until IS NULL OR t.blocked_until <= clock_timestamp())"
_SUBJECT_NEXT = (
    "failures = t.failures + 1, blocked_until = CASE WHEN t.failures >= :free THEN clock_timestamp() + make_interval("
    f"secs => {_wait('t.failures', ':free', ':first', ':longest')}) END"
)
_SUBJECT_FREE = f"{_OPEN} AND t.failures < :most"
_FORGOTTEN = "t.counted_at < clock_timestamp() - make_interval(secs => :forget)"
_WINDOW_OVER = "t.counted_at < clock_timestamp() - make_interval(secs => :window)"

# Each step waits for what the one before it returned, so that all statements take their row locks in one order:
# account or identifier, tenant, network. `t` is the row that is there, in its newest version.
_TAKE = text(
    # What the network's row says now; what it says when it is counted is asked again below.
    "WITH network AS (SELECT ceil(extract(epoch FROM blocked_until - clock_timestamp())) AS seconds "  # noqa: S608
    "FROM sign_in_throttles WHERE tenant_id = :tenant_id AND kind = 'network' AND bucket = :network "
    "AND NOT CAST(:known AS boolean) AND blocked_until > clock_timestamp()), "
    "account_before AS (SELECT failures, blocked_until FROM credential_failures WHERE tenant_id = :tenant_id "
    "AND user_id = CAST(:user_id AS uuid) AND authenticator = :authenticator), "
    "name_before AS (SELECT failures, blocked_until FROM sign_in_throttles WHERE tenant_id = :tenant_id "
    "AND kind = 'identifier' AND bucket = :identifier AND CAST(:user_id AS uuid) IS NULL), "
    "account AS (INSERT INTO credential_failures AS t (tenant_id, user_id, authenticator, failures) "
    "SELECT :tenant_id, CAST(:user_id AS uuid), :authenticator, 1 WHERE CAST(:user_id AS uuid) IS NOT NULL "
    "AND NOT EXISTS (SELECT FROM network) ON CONFLICT (tenant_id, user_id, authenticator) DO UPDATE "
    f"SET {_SUBJECT_NEXT} WHERE {_SUBJECT_FREE} RETURNING failures, blocked_until), "
    "name AS (INSERT INTO sign_in_throttles AS t (tenant_id, kind, bucket, failures) "
    "SELECT :tenant_id, 'identifier', :identifier, 1 WHERE CAST(:user_id AS uuid) IS NULL "
    "AND NOT EXISTS (SELECT FROM network) ON CONFLICT (tenant_id, kind, bucket) DO UPDATE "
    f"SET {_SUBJECT_NEXT}, counted_at = clock_timestamp() WHERE {_SUBJECT_FREE} RETURNING failures, blocked_until), "
    "taken AS (SELECT * FROM account UNION ALL SELECT * FROM name), "
    "before AS (SELECT * FROM account_before UNION ALL SELECT * FROM name_before), "
    # A locked subject is answered as a wrong password is, with the same work, which is as much of a failure.
    "counted AS (SELECT FROM taken UNION ALL SELECT FROM before WHERE failures >= :most "
    "AND NOT EXISTS (SELECT FROM network)), "
    "tenant AS (INSERT INTO sign_in_throttles AS t (tenant_id, kind, bucket, failures) "
    "SELECT :tenant_id, 'tenant', :tenant, 1 WHERE NOT CAST(:known AS boolean) AND EXISTS (SELECT FROM counted) "
    "ON CONFLICT (tenant_id, kind, bucket) DO UPDATE SET "
    f"failures = CASE WHEN {_WINDOW_OVER} THEN 1 ELSE least(t.failures + 1, 1000000000) END, "
    f"counted_at = CASE WHEN {_WINDOW_OVER} THEN clock_timestamp() ELSE t.counted_at END RETURNING failures), "
    "free AS (SELECT CASE WHEN failures > :tenant_most THEN CAST(:attacked_free AS integer) "
    "ELSE CAST(:network_free AS integer) END AS number FROM tenant), "
    "place AS (INSERT INTO sign_in_throttles AS t (tenant_id, kind, bucket, failures) "
    "SELECT :tenant_id, 'network', :network, 1 FROM free ON CONFLICT (tenant_id, kind, bucket) DO UPDATE SET "
    f"failures = CASE WHEN {_FORGOTTEN} THEN 1 ELSE least(t.failures + 1, 1000000000) END, "
    f"blocked_until = CASE WHEN NOT {_FORGOTTEN} AND t.failures >= (SELECT number FROM free) THEN clock_timestamp() "
    "+ make_interval(secs => "
    f"{_wait('t.failures', '(SELECT number FROM free)', ':network_first', ':network_longest')}) END, "
    f"counted_at = clock_timestamp() WHERE {_OPEN} RETURNING blocked_until) "
    "SELECT (SELECT seconds FROM network) AS network_seconds, (SELECT failures FROM taken) AS failures, "
    "(SELECT blocked_until FROM taken) AS blocked_until, (SELECT failures FROM before) AS failures_before, "
    "(SELECT ceil(extract(epoch FROM blocked_until - clock_timestamp())) FROM before) AS seconds_before, "
    "EXISTS (SELECT FROM place) AS in_place, (SELECT blocked_until FROM place) AS place_blocked_until"
)

# Only a wait that this very try began ends with it: not that of another one, which failed meanwhile.
_UNBLOCK = "blocked_until = CASE WHEN blocked_until IS DISTINCT FROM :set_until THEN blocked_until END"
_LESS = f"failures = greatest(failures - 1, 0), {_UNBLOCK}"
_GIVE_BACK_ACCOUNT = text(
    f"UPDATE credential_failures SET {_LESS} WHERE tenant_id = :tenant_id AND user_id = :user_id "  # noqa: S608 - constants
    "AND authenticator = :authenticator"
)
_FORGIVE = text(
    "DELETE FROM credential_failures WHERE tenant_id = :tenant_id AND user_id = :user_id "
    "AND authenticator = :authenticator"
)
_GIVE_BACK = text(
    f"UPDATE sign_in_throttles SET {_LESS} WHERE tenant_id = :tenant_id AND kind = :kind "  # noqa: S608 - constants
    "AND bucket = :bucket"
)


@dataclass(frozen=True, slots=True)
class Attempt:
    """Who is tried to be, and from where.

    `user_id` is None when the identifier is nobody's. `identifier`, `network` and `tenant` are buckets; a tenant that
    is not there has its own, too. `authenticator` names the counter: a known device has its own, and is asked about
    neither network nor tenant.
    """

    tenant_id: TenantId
    user_id: UUID | None
    authenticator: str
    identifier: int
    network: int
    tenant: int
    known_device: bool


@dataclass(frozen=True, slots=True)
class Taken:
    """This try counts as failed until it is given back or forgiven.

    `last`: no further one is judged. `wait_until` and `place_wait_until` are the waits that it began.
    """

    attempt: Attempt
    last: bool
    wait_until: datetime | None
    place_wait_until: datetime | None


class SignInThrottles:
    """Counts tries of all tenants."""

    def __init__(self, sessions: Sessions, key: bytes, limits: SignInLimits) -> None:
        """Keep where units of work come from, the key that finds buckets, and the platform's bounds."""
        self._sessions = sessions
        self._key = key
        self._limits = limits

    def bucket(self, tenant_id: TenantId, kind: str, name: str) -> int:
        """Return which row a name is counted in."""
        said = f"{tenant_id}\0{kind}\0{name}".encode("utf-8", "surrogatepass")
        return int.from_bytes(hmac.digest(self._key, said, "sha256")[:8], "big") % BUCKETS

    def network_bucket(self, tenant_id: TenantId, slug: str, network: str) -> int:
        """Return in which row a network is counted; of tenants that are not there, each by the name that was given."""
        return self.bucket(tenant_id, "network", f"{slug}\0{network}")

    async def take(self, attempt: Attempt, settings: SignInSettings) -> Taken | MustWait | LockedOut:
        """Count a try if one is free; when this returns, that is committed.

        Raises:
            DatabaseUnavailableError: not known, so nothing may be judged.
        """
        row = await within(
            REQUEST_SECONDS,
            lambda: fetch_row(self._sessions, attempt.tenant_id, _TAKE, self._parameters(attempt, settings)),
        )
        if row is None:
            raise DatabaseUnavailableError("no answer to a statement that always gives a row")
        if row.network_seconds is not None:
            return MustWait(max(1, int(row.network_seconds)))
        if row.failures is None:
            if row.failures_before is not None and row.failures_before >= settings.max_failures:
                return LockedOut()
            return MustWait(max(1, int(row.seconds_before or 1)))
        taken = Taken(attempt, row.failures >= settings.max_failures, row.blocked_until, row.place_blocked_until)
        if not attempt.known_device and not row.in_place:
            # The network's wait began between two steps of the statement; what is not judged must not count.
            async with tenant_unit_of_work(self._sessions, attempt.tenant_id) as work:
                await give_back(work, taken, place=False)
            return MustWait(1)
        return taken

    def _parameters(self, attempt: Attempt, settings: SignInSettings) -> dict[str, Any]:
        limits = self._limits
        return {
            "tenant_id": attempt.tenant_id,
            "user_id": attempt.user_id,
            "authenticator": attempt.authenticator,
            "identifier": attempt.identifier,
            "network": attempt.network,
            "tenant": attempt.tenant,
            "known": attempt.known_device,
            "free": settings.failures_before_wait,
            "first": settings.first_wait_seconds,
            "longest": settings.longest_wait_seconds,
            "most": settings.max_failures,
            "forget": limits.network_forget_seconds,
            "window": limits.tenant_window_seconds,
            "tenant_most": limits.tenant_failures,
            "attacked_free": min(limits.attacked_network_failures, limits.network_failures),
            "network_free": limits.network_failures,
            "network_first": limits.network_first_wait_seconds,
            "network_longest": limits.network_longest_wait_seconds,
        }


async def give_back(work: TenantUnitOfWork, taken: Taken, *, subject: bool = True, place: bool = True) -> None:
    """Take back the count of a try that was not judged, or was right.

    Args:
        work: Bound to the attempt's tenant.
        taken: What was counted.
        subject: Whether the account's or identifier's count is taken back; a right proof forgives it all instead.
        place: Whether those of tenant and network are.
    """
    attempt = taken.attempt
    execute, named = work.session.execute, {"tenant_id": work.tenant_id}
    if subject and attempt.user_id is not None:
        key = {"user_id": attempt.user_id, "authenticator": attempt.authenticator, "set_until": taken.wait_until}
        await execute(_GIVE_BACK_ACCOUNT, named | key)
    elif subject:
        key = {"kind": "identifier", "bucket": attempt.identifier, "set_until": taken.wait_until}
        await execute(_GIVE_BACK, named | key)
    if place and not attempt.known_device:
        await execute(_GIVE_BACK, named | {"kind": "tenant", "bucket": attempt.tenant, "set_until": None})
        where = {"kind": "network", "bucket": attempt.network, "set_until": taken.place_wait_until}
        await execute(_GIVE_BACK, named | where)


async def forgive(work: TenantUnitOfWork, taken: Taken) -> None:
    """Forget all failures of the account's counter, and this try's count elsewhere: it was right."""
    attempt = taken.attempt
    key = {"user_id": attempt.user_id, "authenticator": attempt.authenticator}
    await work.session.execute(_FORGIVE, {"tenant_id": work.tenant_id} | key)
    await give_back(work, taken, subject=False)
