"""Tells a tenant, in its audit, what its keys were refused: another tenant's name, and more rights than are theirs.

A refusal costs its caller nothing, so a flood of them must not fill the audit or hold the lock of its chain: one event
a minute for each key and kind, which says how many there were.
"""

import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

import structlog
from aiohttp import web

from authz.errors import GrantRefusedError, OwnRightsError, TargetTooPowerfulError
from service.caller import Caller
from service.edge_errors import OtherTenantError, TenantConflictError
from service.http.admin import meta_of
from service.http.admin_errors import KeyScopeError
from service.keys import CALLER, REFUSALS, ROUTE
from tenancy.audit import AuditEntry, AuditOutcome
from tenancy.audit_log import append_audit
from tenancy.errors import TenancyError
from tenancy.tenant import ChangeMeta
from tenancy.unit_of_work import Sessions, tenant_unit_of_work, within

QUIET_SECONDS = 60.0
REMEMBERED = 10_000
REQUEST_SECONDS = 1.0

CROSS_USE = "tenant.cross_use"
ESCALATION = "rights.refuse"
_KINDS: dict[str, tuple[type[Exception], ...]] = {
    CROSS_USE: (OtherTenantError, TenantConflictError),
    ESCALATION: (GrantRefusedError, OwnRightsError, TargetTooPowerfulError, KeyScopeError),
}
"""Actions of the audit, and the refusals that they stand for."""

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Told:
    """When an event was last written for a key, and how often it was refused since."""

    at: float
    since: int = 0


class Refusals:
    """Records what keys were refused; one per node."""

    def __init__(self, sessions: Sessions, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Keep where units of work come from, and a clock that never steps back."""
        self._sessions = sessions
        self._monotonic = monotonic
        self._told: OrderedDict[tuple[UUID, str], _Told] = OrderedDict()

    async def note(self, action: str, caller: Caller, meta: ChangeMeta, route: str, refusal: Exception) -> None:
        """Record a refusal, unless one of this key and kind was recorded within a minute; never fails.

        Args:
            action: What the audit calls it.
            caller: Whose key it was; the event goes into the audit of its own tenant.
            meta: Who and from where.
            route: Label of the route; no name that the caller made up.
            refusal: What it was answered.
        """
        known = (caller.key_id, action)
        told = self._told.get(known)
        now = self._monotonic()
        if told is not None and now < told.at + QUIET_SECONDS:
            told.since += 1
            return
        suppressed = 0 if told is None else told.since
        self._told[known] = _Told(now)
        self._told.move_to_end(known)
        if len(self._told) > REMEMBERED:
            self._told.popitem(last=False)
        detail = {"route": route, "refusal": type(refusal).__name__.removesuffix("Error"), "not_told_of": suppressed}
        entry = AuditEntry(action, caller.credential_ref, AuditOutcome.REFUSED, detail=detail)
        try:
            await within(REQUEST_SECONDS, lambda: self._append(caller, meta, entry))
        except TenancyError as error:
            # The refusal stands, and nothing was done that must not be.
            _log.warning("refusals.not_recorded", caller=caller.actor, error=str(error))

    async def _append(self, caller: Caller, meta: ChangeMeta, entry: AuditEntry) -> None:
        async with tenant_unit_of_work(self._sessions, caller.home) as work:
            await append_audit(work, meta, [entry])


@asynccontextmanager
async def told_of(request: web.Request, action: str) -> AsyncIterator[None]:
    """Have refusals of one kind, raised inside, be told of; they are raised all the same."""
    try:
        yield
    except _KINDS[action] as refusal:
        refusals = request.app.get(REFUSALS)
        if refusals is not None:
            await refusals.note(action, request[CALLER], meta_of(request), request[ROUTE].label, refusal)
        raise
