"""Known devices as their owner sees and forgets them, and as administrators forget them all."""

from collections.abc import Sequence
from uuid import UUID

from authn.known_devices import KnownDevice, forget_device, forget_devices, list_devices
from authn.user_rows import lock_user
from authn.users import UserStatus, subject_ref
from tenancy.audit import AuditEntry
from tenancy.audit_log import append_audit
from tenancy.ids import TenantId
from tenancy.tenant import ChangeMeta
from tenancy.unit_of_work import Sessions, tenant_unit_of_work, within

REQUEST_SECONDS = 2.5
ACTION = "sign_in.forget_device"


class KnownDevices:
    """Devices of all accounts; every method raises `DatabaseUnavailableError` when PostgreSQL cannot answer."""

    def __init__(self, sessions: Sessions) -> None:
        """Keep where units of work come from."""
        self._sessions = sessions

    async def list(self, tenant_id: TenantId, user_id: UUID) -> Sequence[KnownDevice]:
        """Return the devices that an account knows now, the one that was used last first."""
        return await within(REQUEST_SECONDS, lambda: self._list(tenant_id, user_id))

    async def forget(self, tenant_id: TenantId, user_id: UUID, device_id: UUID, *, meta: ChangeMeta) -> bool:
        """Forget one device; whether the account knew it."""
        return await within(REQUEST_SECONDS, lambda: self._forget(tenant_id, user_id, device_id, meta))

    async def forget_all(self, tenant_id: TenantId, user_id: UUID, *, meta: ChangeMeta) -> bool:
        """Forget all devices; whether there is such an account."""
        return await within(REQUEST_SECONDS, lambda: self._forget_all(tenant_id, user_id, meta))

    async def _list(self, tenant_id: TenantId, user_id: UUID) -> Sequence[KnownDevice]:
        async with tenant_unit_of_work(self._sessions, tenant_id) as work:
            return await list_devices(work, user_id)

    async def _forget(self, tenant_id: TenantId, user_id: UUID, device_id: UUID, meta: ChangeMeta) -> bool:
        async with tenant_unit_of_work(self._sessions, tenant_id) as work:
            # The account's lock first: what resets it has its failures before its devices.
            if await lock_user(work, user_id) is None or not await forget_device(work, user_id, device_id):
                return False
            entry = AuditEntry(ACTION, subject_ref(user_id), detail={"device": str(device_id)})
            await append_audit(work, meta, [entry])
            return True

    async def _forget_all(self, tenant_id: TenantId, user_id: UUID, meta: ChangeMeta) -> bool:
        async with tenant_unit_of_work(self._sessions, tenant_id) as work:
            held = await lock_user(work, user_id)
            if held is None or held.user.status is UserStatus.DELETED:
                return False
            forgotten = await forget_devices(work, user_id)
            await append_audit(work, meta, [AuditEntry(ACTION, held.user.ref, detail={"devices": forgotten})])
            return True
