"""Tells a tenant, in its audit, that one of its keys was used with another tenant's name, or with names that disagree.

A refusal costs its caller nothing, so a flood of them must not fill the audit or hold the lock of its chain: one event
a minute for each key, which says how many there were.
"""

import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

import structlog
from aiohttp import web

from service.callers import Caller
from service.edge_errors import OtherTenantError, TenantConflictError
from service.http.admin import meta_of
from service.keys import CALLER, REFUSALS, ROUTE
from tenancy.audit import AuditEntry, AuditOutcome
from tenancy.audit_log import append_audit
from tenancy.errors import TenancyError
from tenancy.tenant import ChangeMeta
from tenancy.unit_of_work import Sessions, tenant_unit_of_work, within

QUIET_SECONDS = 60.0
REMEMBERED = 10_000
REQUEST_SECONDS = 1.0

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Told:
    """When an event was last written for a key, and how often it was refused since."""

    at: float
    since: int = 0


class Refusals:
    """Records the use of keys across tenants; one per node."""

    def __init__(self, sessions: Sessions, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Keep where units of work come from, and a clock that never steps back."""
        self._sessions = sessions
        self._monotonic = monotonic
        self._told: OrderedDict[UUID, _Told] = OrderedDict()

    async def note(self, caller: Caller, meta: ChangeMeta, route: str, refusal: Exception) -> None:
        """Record a refusal, unless one of this key was recorded within a minute; never fails.

        Args:
            caller: Whose key it was; the event goes into the audit of its own tenant.
            meta: Who and from where.
            route: Label of the route; no name that the caller made up.
            refusal: What it was answered.
        """
        told = self._told.get(caller.key_id)
        now = self._monotonic()
        if told is not None and now < told.at + QUIET_SECONDS:
            told.since += 1
            return
        suppressed = 0 if told is None else told.since
        self._told[caller.key_id] = _Told(now)
        self._told.move_to_end(caller.key_id)
        if len(self._told) > REMEMBERED:
            self._told.popitem(last=False)
        detail = {"route": route, "refusal": type(refusal).__name__.removesuffix("Error"), "not_told_of": suppressed}
        entry = AuditEntry("tenant.cross_use", f"key:{caller.key_id}", AuditOutcome.REFUSED, detail=detail)
        try:
            await within(REQUEST_SECONDS, lambda: self._append(caller, meta, entry))
        except TenancyError as error:
            # The refusal stands, and nothing was done that must not be.
            _log.warning("refusals.not_recorded", caller=caller.actor, error=str(error))

    async def _append(self, caller: Caller, meta: ChangeMeta, entry: AuditEntry) -> None:
        async with tenant_unit_of_work(self._sessions, caller.home) as work:
            await append_audit(work, meta, [entry])


@asynccontextmanager
async def told_across_tenants(request: web.Request) -> AsyncIterator[None]:
    """Have what refuses a caller inside for the sake of tenants be told of; it is raised all the same."""
    try:
        yield
    except (OtherTenantError, TenantConflictError) as refusal:
        refusals = request.app.get(REFUSALS)
        if refusals is not None:
            await refusals.note(request[CALLER], meta_of(request), request[ROUTE].label, refusal)
        raise
