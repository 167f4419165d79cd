"""Sessions end: one, or all sign-ins of an account. In PostgreSQL, so on every node, whatever Valkey says later."""

from collections.abc import Sequence
from uuid import UUID

from authn.errors import UserNotFoundError
from authn.session_rows import end_all_rows, end_session_row
from authn.sessions import Session
from authn.user_rows import lock_user
from authn.users import UserStatus, subject_ref
from tenancy.audit import AuditEntry
from tenancy.heads import lock_head, raise_head, record_change
from tenancy.ids import TenantId
from tenancy.tenant import ChangeMeta, TenantHead
from tenancy.unit_of_work import Sessions, tenant_unit_of_work, within

REQUEST_SECONDS = 2.5


class SessionEnds:
    """Ends sessions; every method raises `DatabaseUnavailableError` when PostgreSQL cannot answer.

    Each returns where the tenant stands when something ended, and None when it had ended before.
    """

    def __init__(self, sessions: Sessions, *, request_seconds: float = REQUEST_SECONDS) -> None:
        """Keep where units of work come from."""
        self._sessions = sessions
        self._seconds = request_seconds

    async def end(self, ended: Sequence[Session], *, meta: ChangeMeta) -> TenantHead | None:
        """End sessions of one account.

        Raises:
            UserNotFoundError: there is no such account any more.
        """
        return await within(self._seconds, lambda: self._end(ended, meta))

    async def end_all(self, tenant_id: TenantId, user_id: UUID, *, meta: ChangeMeta) -> TenantHead:
        """End every sign-in of an account, its personal keys with them.

        Raises:
            UserNotFoundError: the tenant has no such account.
        """
        return await within(self._seconds, lambda: self._end_all(tenant_id, user_id, meta))

    async def _end(self, ended: Sequence[Session], meta: ChangeMeta) -> TenantHead | None:
        first = ended[0]
        async with tenant_unit_of_work(self._sessions, first.tenant_id) as work:
            if await lock_head(work) is None or await lock_user(work, first.user_id) is None:
                raise UserNotFoundError(f"the tenant has no account `{first.user_id}`")
            gone = [
                session
                for session in ended
                if await end_session_row(work, first.user_id, session.session_id, session.expires_at)
            ]
            if not gone:
                return None
            head = await raise_head(work)
            target = subject_ref(first.user_id)
            audit = [AuditEntry("session.end", target, detail={"session": str(each.session_id)}) for each in gone]
            await record_change(work.session, head, "user", meta, audit=audit, touched=[target])
            return head

    async def _end_all(self, tenant_id: TenantId, user_id: UUID, meta: ChangeMeta) -> TenantHead:
        async with tenant_unit_of_work(self._sessions, tenant_id) as work:
            locked = await lock_head(work)
            held = None if locked is None else await lock_user(work, user_id)
            if held is None or held.user.status is UserStatus.DELETED or not await end_all_rows(work, user_id):
                raise UserNotFoundError(f"the tenant has no account `{user_id}`")
            head = await raise_head(work)
            entry = AuditEntry("session.end_all", held.user.ref)
            await record_change(work.session, head, "user", meta, audit=[entry], touched=[held.user.ref])
            return head
