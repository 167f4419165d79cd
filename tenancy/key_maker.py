"""Makes data keys, in transactions of their own: a key is committed before anything is sealed with it.

INVARIANT: made in the transaction of who first needs it, a key would go with its rollback (to a savepoint, too), and
other values under it would never open again.
"""

import os
from datetime import datetime
from uuid import UUID, uuid4

from tenancy.data_keys import (
    WrappedKey,
    claim_active_kek,
    find_active_kek,
    find_wrapped_before,
    insert_primary,
    replace_wrapping,
    supersede,
)
from tenancy.envelope import KEY_BYTES
from tenancy.ids import PLATFORM_TENANT_ID, TenantId
from tenancy.key_encryption import KeyEncryptionKeys, bound_key
from tenancy.unit_of_work import Sessions, tenant_unit_of_work


class KeyMaker:
    """Makes, replaces and wraps data keys. No transaction is open while a key-encryption key is asked."""

    def __init__(self, sessions: Sessions, keks: KeyEncryptionKeys) -> None:
        """Keep where units of work come from, and the key-encryption keys of this node."""
        self._sessions = sessions
        self.keks = keks

    async def make_first(self, tenant_id: TenantId) -> None:
        """Give a tenant its first data key, unless another node was quicker."""
        key = await self._new(tenant_id)
        async with tenant_unit_of_work(self._sessions, tenant_id) as work:
            await insert_primary(work, key)

    async def replace(self, tenant_id: TenantId, key_id: UUID) -> bool:
        """Supersede a tenant's primary data key by a new one; False when it was superseded meanwhile.

        What the old one sealed still opens. Every node reads which key is primary from the database each time, so no
        node needs to be told.
        """
        key = await self._new(tenant_id)
        async with tenant_unit_of_work(self._sessions, tenant_id) as work:
            if not await supersede(work, key_id):
                return False
            await insert_primary(work, key)
            return True

    async def rewrap(self, tenant_id: TenantId, kek_id: str, before: datetime) -> int:
        """Wrap anew, by `kek_id`, what another key wraps or what was wrapped before a time; return how many.

        Raises:
            UnknownKeyError, WrappedKeyRefusedError: one of them does not open here; those before it are done.
        """
        async with tenant_unit_of_work(self._sessions, tenant_id) as work:
            stored = await find_wrapped_before(work, kek_id, before)
        done = 0
        for key in stored:
            bound = bound_key(tenant_id, key.key_id)
            plain = await self.keks.get(key.kek_id).unwrap(key.wrapped, bound)
            wrapped = WrappedKey(key.key_id, kek_id, await self.keks.get(kek_id).wrap(plain, bound))
            async with tenant_unit_of_work(self._sessions, tenant_id) as work:
                done += await replace_wrapping(work, key, wrapped)
        return done

    async def _new(self, tenant_id: TenantId) -> WrappedKey:
        kek = self.keks.get(await self._active_kek(tenant_id))
        key_id = uuid4()
        wrapped = await kek.wrap(os.urandom(KEY_BYTES), bound_key(tenant_id, key_id))
        return WrappedKey(key_id, kek.id, wrapped)

    async def _active_kek(self, tenant_id: TenantId) -> str:
        async with tenant_unit_of_work(self._sessions, tenant_id) as work:
            active = await find_active_kek(work)
        if active is not None:
            return active
        async with tenant_unit_of_work(self._sessions, PLATFORM_TENANT_ID) as platform:
            await claim_active_kek(platform, self.keks.preferred)
            claimed = await find_active_kek(platform)
        return claimed or self.keks.preferred
