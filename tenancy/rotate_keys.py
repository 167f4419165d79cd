"""Carries rotations out: one phase after the other, one tenant after the other, from wherever it stopped.

Every step looks at what is there (what an older key wraps, what a superseded key sealed) and leaves it done or as it
was. So it may be broken off anywhere, by anything, and two nodes at once do no harm.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import assert_never

import structlog

from tenancy.cluster_lock import once_in_cluster
from tenancy.data_keys import find_made_before, find_superseded, mark_unused, remove_unused
from tenancy.encrypted_columns import ENCRYPTED_COLUMNS, EncryptedColumn
from tenancy.errors import UnknownKeyError, WrappedKeyRefusedError
from tenancy.ids import TenantId
from tenancy.key_maker import KeyMaker
from tenancy.key_ring import KeyRing
from tenancy.key_rotation import Rotation, RotationPhase, Tally
from tenancy.reencryption import Reencryption
from tenancy.rotation_storage import RotationStore
from tenancy.unit_of_work import Sessions, tenant_unit_of_work

GRACE = timedelta(seconds=30)
"""How long a key stays that nothing uses: longer than any transaction that may have read a value under it lasts."""

RUN_SECONDS = 60.0
TENANTS = 100

_log = structlog.get_logger()


class KeyRotator:
    """Goes on with the rotation that is under way, if there is one."""

    def __init__(
        self,
        sessions: Sessions,
        ring: KeyRing,
        maker: KeyMaker,
        *,
        columns: Sequence[EncryptedColumn] = ENCRYPTED_COLUMNS,
        grace: timedelta = GRACE,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keep what it works on. `now` never steps back, in seconds; `grace` as `GRACE`."""
        self._sessions = sessions
        self._ring = ring
        self._maker = maker
        self._columns = columns
        self._grace = grace
        self._now = now
        self.store = RotationStore(sessions)
        self.keks = maker.keks

    async def run(self) -> None:
        """Work for a minute at most; the next run goes on.

        Raises:
            EncryptionUnavailableError, DatabaseUnavailableError, RowsInUseError: no further for now.
        """
        async with once_in_cluster(self._sessions, "key-rotation") as ours:
            if not ours:
                return
            rotation: Rotation | None = await self.store.find_last()
            until = self._now() + RUN_SECONDS
            while rotation is not None and self._now() < until:
                rotation = await self._go_on(rotation)

    async def _go_on(self, rotation: Rotation) -> Rotation | None:
        """Do some of it; return where it stands, or None when there is nothing to do now."""
        # A node that was not given the new key leaves the work to those that were.
        if rotation.finished_at is not None or rotation.kek_id not in self.keks.ids:
            return None
        if rotation.phase is RotationPhase.SETTLE:
            settled = await self.store.has_settled(rotation, self._grace)
            return await self.store.advance(rotation) if settled else None
        tenants = await self.store.tenants_after(rotation.after_tenant, TENANTS)
        if not tenants:
            return await self.store.advance(rotation)
        for tenant_id in tenants:
            tally = rotation.tally + await self._step(rotation, tenant_id)
            rotation = replace(rotation, after_tenant=tenant_id, tenants=rotation.tenants + 1, tally=tally)
            await self.store.save(rotation)
        return rotation

    async def _step(self, rotation: Rotation, tenant_id: TenantId) -> Tally:
        """Do one phase for one tenant. A key that cannot be opened is counted, and the others go on."""
        try:
            match rotation.phase:
                case RotationPhase.REWRAP:
                    wrapped = await self._maker.rewrap(tenant_id, rotation.kek_id, rotation.started_at)
                    return Tally(keys_wrapped=wrapped)
                case RotationPhase.REPLACE:
                    return await self._replace(rotation, tenant_id)
                case RotationPhase.REENCRYPT:
                    return await self._reencrypt(tenant_id)
                case RotationPhase.MARK:
                    async with tenant_unit_of_work(self._sessions, tenant_id) as work:
                        await mark_unused(work, self._columns)
                    return Tally()
                case RotationPhase.REMOVE:
                    async with tenant_unit_of_work(self._sessions, tenant_id) as work:
                        return Tally(keys_removed=await remove_unused(work, self._columns, self._grace))
                case RotationPhase.SETTLE | RotationPhase.DONE:
                    return Tally()
                case _:
                    assert_never(rotation.phase)
        except (UnknownKeyError, WrappedKeyRefusedError) as error:
            _log.error("encryption.key_not_opened", tenant=str(tenant_id), error=str(error))
            return Tally(failed=1)

    async def _replace(self, rotation: Rotation, tenant_id: TenantId) -> Tally:
        async with tenant_unit_of_work(self._sessions, tenant_id) as work:
            key_id = await find_made_before(work, rotation.started_at)
        made = key_id is not None and await self._maker.replace(tenant_id, key_id)
        return Tally(keys_made=int(made))

    async def _reencrypt(self, tenant_id: TenantId) -> Tally:
        async with tenant_unit_of_work(self._sessions, tenant_id) as work:
            key_ids = await find_superseded(work)
        tally = Tally()
        for column in self._columns:
            for key_id in key_ids:
                anew = Reencryption(self._sessions, self._ring, tenant_id, column, key_id)
                await anew.run()
                tally += Tally(sealed_anew=anew.sealed_anew, failed=len(anew.unreadable))
        return tally
