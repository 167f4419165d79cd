"""Rotations in PostgreSQL, so that any node goes on with one where another left off."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from datetime import timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy import Row, text
from sqlalchemy.exc import IntegrityError

from tenancy.audit import AuditEntry
from tenancy.audit_log import append_audit
from tenancy.data_keys import activate_kek, find_active_kek
from tenancy.errors import KeyNotEverywhereError, RotationUnderWayError
from tenancy.ids import PLATFORM_TENANT_ID, TenantId
from tenancy.kept_answers import claim, keep
from tenancy.key_encryption import KeyEncryption
from tenancy.key_nodes import count_nodes
from tenancy.key_rotation import (
    PHASES,
    Rotation,
    RotationId,
    RotationKind,
    RotationPhase,
    Tally,
    WrappedCount,
    next_phase,
)
from tenancy.once import Once
from tenancy.tenant import ChangeMeta
from tenancy.unit_of_work import Sessions, TenantUnitOfWork, tenant_unit_of_work, within

REQUEST_SECONDS = 2.5
COUNT_SECONDS = 10.0
_UNDER_WAY = "key_rotations_under_way"
_TALLY = tuple(field.name for field in fields(Tally))
_COLUMNS = (
    "rotation_id, kind, kek_id, phase, after_tenant, tenants, keys_wrapped, keys_made, keys_removed, sealed_anew, "
    "failed, started_at, started_by, phase_at, finished_at"
)
_SYSTEM = ChangeMeta("system")


class RotationStore:
    """Rotations, and what of all tenants' keys is told for them."""

    def __init__(self, sessions: Sessions) -> None:
        """Keep where units of work come from."""
        self._sessions = sessions

    async def start(
        self, kind: RotationKind, kek: KeyEncryption, *, meta: ChangeMeta, once: Once[Rotation] | None = None
    ) -> Rotation:
        """Enter a rotation, and have `kek` wrap every data key that is made from now on.

        Raises:
            KeyNotEverywhereError: a node that runs lacks it, and would meet data keys that it cannot open.
            RotationUnderWayError: another one is not finished.
            AuditUnavailableError: it cannot be recorded, so it does not begin.
            DatabaseUnavailableError: no answer.
        """
        return await within(REQUEST_SECONDS, lambda: self._start(kind, kek, meta, once))

    async def find_last(self) -> Rotation | None:
        """Return the rotation that is under way, else the one that was finished last."""
        query = text(
            f"SELECT {_COLUMNS} FROM key_rotations WHERE tenant_id = :platform "  # noqa: S608 - constant columns
            "ORDER BY finished_at DESC NULLS FIRST LIMIT 1"
        )

        async def find() -> Rotation | None:
            async with self._platform() as work:
                row = (await work.session.execute(query, {"platform": PLATFORM_TENANT_ID})).one_or_none()
            return None if row is None else _rotation(row)

        return await within(REQUEST_SECONDS, find)

    async def save(self, rotation: Rotation) -> None:
        """Keep how far a rotation has come."""
        async with self._platform() as work:
            await _save(work, rotation)

    async def advance(self, rotation: Rotation) -> Rotation:
        """Enter the next phase; with the last one, the rotation is finished and recorded.

        Another node that was there before stays ahead: then nothing changes, and where it stands is returned.
        """
        phase = next_phase(rotation)
        query = text(
            "UPDATE key_rotations SET phase = :phase, phase_at = clock_timestamp(), after_tenant = NULL, tenants = 0, "  # noqa: S608
            "finished_at = CASE WHEN :done THEN clock_timestamp() END "
            f"WHERE tenant_id = :platform AND rotation_id = :rotation_id AND phase = :present RETURNING {_COLUMNS}"
        )
        present = text(
            f"SELECT {_COLUMNS} FROM key_rotations "  # noqa: S608 - constant columns
            "WHERE tenant_id = :platform AND rotation_id = :rotation_id"
        )
        done = phase is RotationPhase.DONE
        named = {"platform": PLATFORM_TENANT_ID, "rotation_id": rotation.id}
        parameters = named | {"phase": phase.value, "present": rotation.phase.value, "done": done}
        async with self._platform() as work:
            row = (await work.session.execute(query, parameters)).one_or_none()
            if row is None:
                return _rotation((await work.session.execute(present, named)).one())
            if done:
                detail = {"rotation": str(rotation.id), "kind": rotation.kind.value} | asdict(rotation.tally)
                await append_audit(work, _SYSTEM, [AuditEntry("encryption.rotated", detail=detail)])
        return _rotation(row)

    async def has_settled(self, rotation: Rotation, after: timedelta) -> bool:
        """Whether the present phase began long enough ago, by the database's clock."""
        async with self._platform() as work:
            query = text("SELECT clock_timestamp() - CAST(:since AS timestamptz) >= :after")
            parameters = {"since": rotation.phase_at, "after": after}
            settled: bool = (await work.session.execute(query, parameters)).scalar_one()
        return settled

    async def tenants_after(self, after: TenantId | None, most: int) -> list[TenantId]:
        """Return tenants that have data keys, ascending."""
        query = text("SELECT tenants_with_data_keys(CAST(:after AS uuid), :most)")
        async with self._platform() as work:
            return [TenantId(row[0]) for row in await work.session.execute(query, {"after": after, "most": most})]

    async def nodes(self, marks: Mapping[str, str]) -> tuple[int, dict[str, int]]:
        """Return how many nodes run, and how many of them know each of these keys."""

        async def count() -> tuple[int, dict[str, int]]:
            async with self._platform() as work:
                return await count_nodes(work, marks)

        return await within(REQUEST_SECONDS, count)

    async def counts(self) -> tuple[str | None, list[WrappedCount]]:
        """Return the active key-encryption key, and how many data keys each one wraps."""

        async def count() -> tuple[str | None, list[WrappedCount]]:
            async with tenant_unit_of_work(
                self._sessions, PLATFORM_TENANT_ID, statement_timeout=timedelta(seconds=COUNT_SECONDS)
            ) as work:
                rows = await work.session.execute(text("SELECT * FROM data_key_counts() ORDER BY kek_id"))
                found = [WrappedCount(row.kek_id, row.data_keys, row.superseded, row.tenants) for row in rows]
                return await find_active_kek(work), found

        return await within(COUNT_SECONDS, count)

    async def _start(
        self, kind: RotationKind, kek: KeyEncryption, meta: ChangeMeta, once: Once[Rotation] | None
    ) -> Rotation:
        query = text(
            "INSERT INTO key_rotations (tenant_id, rotation_id, kind, kek_id, phase, started_by) "  # noqa: S608
            f"VALUES (:platform, :rotation_id, :kind, :kek_id, :phase, :started_by) RETURNING {_COLUMNS}"
        )
        parameters = {
            "platform": PLATFORM_TENANT_ID,
            "rotation_id": uuid4(),
            "kind": kind.value,
            "kek_id": kek.id,
            "phase": PHASES[kind][0].value,
            "started_by": meta.actor,
        }
        try:
            async with self._platform() as work:
                await claim(work, once)
                before = await find_active_kek(work)
                rotation = _rotation((await work.session.execute(query, parameters)).one())
                if kind is not RotationKind.RETIREMENT:
                    await _require_everywhere(work, kek)
                    await activate_kek(work, kek.id)
                await append_audit(work, meta, [_started(rotation, before)])
                await keep(work, once, rotation)
                return rotation
        except IntegrityError as error:
            if getattr(getattr(error.orig, "diag", None), "constraint_name", None) == _UNDER_WAY:
                raise RotationUnderWayError from error
            raise

    def _platform(self) -> Any:
        return tenant_unit_of_work(self._sessions, PLATFORM_TENANT_ID)


async def _require_everywhere(work: TenantUnitOfWork, kek: KeyEncryption) -> None:
    nodes, known = await count_nodes(work, {kek.id: kek.mark})
    if known[kek.id] < nodes:
        raise KeyNotEverywhereError(kek.id, nodes - known[kek.id], nodes)


def _started(rotation: Rotation, before: str | None) -> AuditEntry:
    detail = {"rotation": str(rotation.id), "kind": rotation.kind.value}
    if rotation.kind is RotationKind.RETIREMENT or before == rotation.kek_id:
        return AuditEntry("encryption.rotate", detail=detail)
    return AuditEntry("encryption.rotate", before={"key": before}, after={"key": rotation.kek_id}, detail=detail)


async def _save(work: TenantUnitOfWork, rotation: Rotation) -> None:
    query = text(
        "UPDATE key_rotations SET after_tenant = :after_tenant, tenants = :tenants, keys_wrapped = :keys_wrapped, "
        "keys_made = :keys_made, keys_removed = :keys_removed, sealed_anew = :sealed_anew, failed = :failed "
        "WHERE tenant_id = :platform AND rotation_id = :rotation_id AND phase = :phase"
    )
    parameters = {
        "platform": PLATFORM_TENANT_ID,
        "rotation_id": rotation.id,
        "phase": rotation.phase.value,
        "after_tenant": rotation.after_tenant,
        "tenants": rotation.tenants,
    }
    await work.session.execute(query, parameters | asdict(rotation.tally))


def _rotation(row: Row[Any]) -> Rotation:
    return Rotation(
        RotationId(row.rotation_id),
        RotationKind(row.kind),
        row.kek_id,
        RotationPhase(row.phase),
        row.started_at,
        row.started_by,
        row.phase_at,
        None if row.after_tenant is None else TenantId(row.after_tenant),
        row.tenants,
        Tally(*(getattr(row, name) for name in _TALLY)),
        row.finished_at,
    )
