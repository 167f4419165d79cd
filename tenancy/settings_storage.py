"""Settings of tenants in PostgreSQL: one row for a tenant that set anything, holding what it set."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from sqlalchemy import text

from tenancy.audit import AuditEntry
from tenancy.errors import TenantGoneError, TenantMovedOnError
from tenancy.heads import find_head, lock_head, raise_head, record_change
from tenancy.ids import TenantId
from tenancy.settings_bounds import require_within, tightened
from tenancy.settings_document import differences, parse_settings, read_stored, show_settings
from tenancy.tenant import ChangeMeta, TenantHead
from tenancy.tenant_settings import TenantLimits, TenantSettings
from tenancy.unit_of_work import Sessions, TenantUnitOfWork, tenant_unit_of_work, within

REQUEST_SECONDS = 2.5

_READ = text("SELECT settings FROM tenant_settings WHERE tenant_id = :tenant_id")
_WRITE = text(
    "INSERT INTO tenant_settings (tenant_id, settings) VALUES (:tenant_id, CAST(:settings AS json)) "
    "ON CONFLICT (tenant_id) DO UPDATE SET settings = excluded.settings"
)

Change = Callable[[Mapping[str, Any]], Any]
"""Returns the document that is wanted, given the whole one that is."""

Judge = Callable[[TenantSettings, TenantSettings], None]
"""Raises for a change, from the settings that are to those that are wanted, which may not be made."""


async def read_settings(work: TenantUnitOfWork, limits: TenantLimits | None = None) -> TenantSettings:
    """Return the settings of the bound tenant, inside a transaction.

    Args:
        work: Bound to the tenant.
        limits: The platform's bounds, as this node has them; settings that they overtook are tightened.
    """
    stored = (await work.session.execute(_READ, {"tenant_id": work.tenant_id})).scalar_one_or_none()
    return settings_of(stored, limits)


def settings_of(stored: Any, limits: TenantLimits | None) -> TenantSettings:
    """Return the settings that a stored document says, or None's, within the platform's bounds."""
    limits = limits or TenantLimits()
    defaults = tightened(TenantSettings(), limits)
    return defaults if stored is None else tightened(read_stored(stored, defaults), limits)


class TenantSettingsStore:
    """Reads and changes settings; every method raises `DatabaseUnavailableError` when PostgreSQL cannot answer."""

    def __init__(
        self,
        sessions: Sessions,
        limits: TenantLimits,
        *,
        request_seconds: float = REQUEST_SECONDS,
    ) -> None:
        """Keep where units of work come from, and the platform's bounds."""
        self._sessions = sessions
        self._limits = limits
        self._seconds = request_seconds

    async def read(self, tenant_id: TenantId) -> tuple[TenantHead, TenantSettings]:
        """Return where the tenant stands, and its settings; raises `TenantGoneError`."""
        return await within(self._seconds, lambda: self._read(tenant_id))

    async def change(
        self,
        tenant_id: TenantId,
        wanted: Change,
        *,
        meta: ChangeMeta,
        expected_revision: int | None = None,
        judge: Judge | None = None,
    ) -> tuple[TenantHead, TenantSettings]:
        """Change the settings, if `judge` raises nothing; what changes nothing makes no revision.

        Raises:
            TenantGoneError: no such tenant.
            TenantMovedOnError: it is not at `expected_revision`.
            InvalidSettingsError, SettingsOutOfBoundsError: the document is refused.
        """
        return await within(self._seconds, lambda: self._change(tenant_id, wanted, meta, expected_revision, judge))

    async def _read(self, tenant_id: TenantId) -> tuple[TenantHead, TenantSettings]:
        async with tenant_unit_of_work(self._sessions, tenant_id) as work:
            head = await find_head(work.session, tenant_id)
            if head is None:
                raise TenantGoneError
            return head, await read_settings(work, self._limits)

    async def _change(
        self,
        tenant_id: TenantId,
        wanted: Change,
        meta: ChangeMeta,
        expected_revision: int | None,
        judge: Judge | None,
    ) -> tuple[TenantHead, TenantSettings]:
        defaults = tightened(TenantSettings(), self._limits)
        async with tenant_unit_of_work(self._sessions, tenant_id) as work:
            locked = await lock_head(work)
            if locked is None:
                raise TenantGoneError
            head = locked[0]
            if expected_revision is not None and head.revision != expected_revision:
                raise TenantMovedOnError(head.revision)
            before = await read_settings(work, self._limits)
            after = parse_settings(wanted(show_settings(before)), defaults)
            require_within(after, self._limits)
            if after == before:
                return head, before
            if judge is not None:
                judge(before, after)
            stored = msgspec.json.encode(differences(after, defaults)).decode()
            await work.session.execute(_WRITE, {"tenant_id": tenant_id, "settings": stored})
            # Roles that demand a second factor take part in decisions, so they are of one revision with the rules.
            head = await raise_head(work, rules=after.mfa != before.mfa)
            entry = AuditEntry(
                "settings.change",
                target=f"tenant:{tenant_id}",
                before=differences(before, after),
                after=differences(after, before),
            )
            await record_change(work.session, head, "settings", meta, audit=[entry])
            return head, after
