"""Opens what events hold of people, where its key was not destroyed."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol
from uuid import UUID

from tenancy.audit import SealedPersonal
from tenancy.audit_chain import AuditEvent
from tenancy.errors import UnsealError
from tenancy.ids import TenantId
from tenancy.unit_of_work import Sessions, TenantUnitOfWork, tenant_unit_of_work

PERSONAL_MEMBERS = ("personal", "actor_personal")
"""Members of an event that are about a person: who it happened to, and who did it."""

Opened = Mapping[str, str] | None


class PersonalOpener(Protocol):
    """What of the key ring is needed."""

    async def open_all_personal(self, work: TenantUnitOfWork, sealed: Sequence[SealedPersonal]) -> list[Opened]:
        """Return the fields of each, or None where the key was destroyed."""


async def open_events(
    sessions: Sessions, opener: PersonalOpener, tenant_id: TenantId, events: Sequence[AuditEvent]
) -> list[dict[str, Opened]]:
    """Return for each event what its members about people say: None where nobody can read it any more.

    Raises:
        EncryptionUnavailableError: a key cannot be had now.
        DatabaseUnavailableError: no answer.
    """
    sealed = [_sealed(json.loads(event.text)) for event in events]
    flat = [personal for members in sealed for personal in members.values()]
    if not flat:
        return [{} for _ in events]
    async with tenant_unit_of_work(sessions, tenant_id) as work:
        opened = iter(await _open(opener, work, flat))
    return [{name: next(opened) for name in members} for members in sealed]


async def _open(opener: PersonalOpener, work: TenantUnitOfWork, sealed: Sequence[SealedPersonal]) -> list[Opened]:
    try:
        return await opener.open_all_personal(work, sealed)
    except UnsealError:
        # One that was tampered with must not hide the others.
        return [await _open_one(opener, work, personal) for personal in sealed]


async def _open_one(opener: PersonalOpener, work: TenantUnitOfWork, sealed: SealedPersonal) -> Opened:
    try:
        (fields,) = await opener.open_all_personal(work, [sealed])
    except UnsealError:
        return None
    return fields


def _sealed(event: Mapping[str, Any]) -> dict[str, SealedPersonal]:
    return {
        name: SealedPersonal(UUID(event[name]["subject"]), event[name]["sealed"])
        for name in PERSONAL_MEMBERS
        if name in event
    }
