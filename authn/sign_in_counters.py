"""Counters of failed sign-ins, as administrators see and clear them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import text

from authn.user_rows import read_user
from authn.users import UserStatus
from tenancy.audit import AuditEntry
from tenancy.audit_log import append_audit
from tenancy.ids import TenantId
from tenancy.settings_storage import read_settings
from tenancy.tenant import ChangeMeta
from tenancy.tenant_settings import TenantLimits
from tenancy.unit_of_work import Sessions, TenantUnitOfWork, tenant_unit_of_work, within

REQUEST_SECONDS = 2.5

_COUNTERS = text(
    "SELECT authenticator, failures, CASE WHEN blocked_until > clock_timestamp() THEN blocked_until END AS waits "
    "FROM credential_failures WHERE tenant_id = :tenant_id AND user_id = :user_id AND failures > 0 "
    "ORDER BY authenticator"
)
_DEVICES = text(
    "SELECT count(*) FROM known_devices WHERE tenant_id = :tenant_id AND user_id = :user_id "
    "AND expires_at > clock_timestamp()"
)
_CLEAR = text("DELETE FROM credential_failures WHERE tenant_id = :tenant_id AND user_id = :user_id AND failures > 0")
_SUMS = text(
    "SELECT kind, count(*) FILTER (WHERE failures > 0) AS counted, "
    "count(*) FILTER (WHERE blocked_until > clock_timestamp()) AS waiting "
    "FROM sign_in_throttles WHERE tenant_id = :tenant_id GROUP BY kind"
)
_CLEAR_ALL = text("DELETE FROM sign_in_throttles WHERE tenant_id = :tenant_id")
_CLEAR_ONE = text(
    "DELETE FROM sign_in_throttles WHERE tenant_id = :tenant_id AND kind = 'network' AND bucket = :bucket"
)


@dataclass(frozen=True, slots=True)
class Counter:
    """Failures of one authenticator, from devices that the account does not know or from one that it does.

    `waits_until` is when the next try is judged, `locked` that none is.
    """

    authenticator: str
    device_id: str | None
    failures: int
    waits_until: datetime | None
    locked: bool


@dataclass(frozen=True, slots=True)
class AccountSignIn:
    """How an account fares at signing in."""

    last_sign_in_at: datetime | None
    counters: Sequence[Counter]
    known_devices: int


@dataclass(frozen=True, slots=True)
class TenantSignIn:
    """How many identifiers of nobody, and how many networks, have failures and must wait; counts, not names."""

    identifiers: tuple[int, int] = (0, 0)
    networks: tuple[int, int] = (0, 0)


class SignInCounters:
    """Counters of all tenants; every method raises `DatabaseUnavailableError` when PostgreSQL cannot answer."""

    def __init__(self, sessions: Sessions, limits: TenantLimits | None = None) -> None:
        """Keep where units of work come from, and the platform's bounds on settings."""
        self._sessions = sessions
        self._limits = limits

    async def of_account(self, tenant_id: TenantId, user_id: UUID) -> AccountSignIn | None:
        """Return the counters of an account; None when the tenant has no such account."""
        return await within(REQUEST_SECONDS, lambda: self._of_account(tenant_id, user_id))

    async def clear_account(self, tenant_id: TenantId, user_id: UUID, *, meta: ChangeMeta) -> bool:
        """Clear all counters of an account; whether there is such an account."""
        return await within(REQUEST_SECONDS, lambda: self._clear_account(tenant_id, user_id, meta))

    async def of_tenant(self, tenant_id: TenantId) -> TenantSignIn:
        """Return the sums of what is no account's."""
        return await within(REQUEST_SECONDS, lambda: self._of_tenant(tenant_id))

    async def clear_tenant(self, tenant_id: TenantId, network: int | None, *, meta: ChangeMeta) -> None:
        """Clear what is no account's: of one network, given by its bucket, or all."""
        await within(REQUEST_SECONDS, lambda: self._clear_tenant(tenant_id, network, meta))

    async def _of_account(self, tenant_id: TenantId, user_id: UUID) -> AccountSignIn | None:
        async with tenant_unit_of_work(self._sessions, tenant_id) as work:
            held = await read_user(work, user_id)
            if held is None or held.user.status is UserStatus.DELETED:
                return None
            most = (await read_settings(work, self._limits)).sign_in.max_failures
            named = _named(work, user_id)
            counters = []
            for row in await work.session.execute(_COUNTERS, named):
                authenticator, _, device = row.authenticator.partition("@")
                counters.append(Counter(authenticator, device or None, row.failures, row.waits, row.failures >= most))
            devices = (await work.session.execute(_DEVICES, named)).scalar_one()
            return AccountSignIn(held.user.last_sign_in_at, counters, devices)

    async def _clear_account(self, tenant_id: TenantId, user_id: UUID, meta: ChangeMeta) -> bool:
        async with tenant_unit_of_work(self._sessions, tenant_id) as work:
            held = await read_user(work, user_id)
            if held is None or held.user.status is UserStatus.DELETED:
                return False
            await work.session.execute(_CLEAR, _named(work, user_id))
            await append_audit(work, meta, [AuditEntry("sign_in.clear", held.user.ref)])
            return True

    async def _of_tenant(self, tenant_id: TenantId) -> TenantSignIn:
        async with tenant_unit_of_work(self._sessions, tenant_id) as work:
            found = {
                row.kind: (row.counted, row.waiting)
                for row in await work.session.execute(_SUMS, {"tenant_id": work.tenant_id})
            }
        return TenantSignIn(found.get("identifier", (0, 0)), found.get("network", (0, 0)))

    async def _clear_tenant(self, tenant_id: TenantId, network: int | None, meta: ChangeMeta) -> None:
        async with tenant_unit_of_work(self._sessions, tenant_id) as work:
            if network is None:
                await work.session.execute(_CLEAR_ALL, {"tenant_id": work.tenant_id})
            else:
                await work.session.execute(_CLEAR_ONE, {"tenant_id": work.tenant_id, "bucket": network})
            cleared = "all" if network is None else "network"
            entry = AuditEntry("sign_in.clear", f"tenant:{tenant_id}", detail={"cleared": cleared})
            await append_audit(work, meta, [entry])


def _named(work: TenantUnitOfWork, user_id: UUID) -> dict[str, object]:
    return {"tenant_id": work.tenant_id, "user_id": user_id}
