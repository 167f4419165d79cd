"""Roles that an invitation brings: whether its inviter may grant them still, and the rows that grant them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text

from authn.invitations import Inviter
from authz.errors import GrantRefusedError, LimitExceededError
from authz.granting import GrantNode, Grantor, require_grantable
from authz.policy_limits import PolicyLimits
from authz.request import Ref
from authz.row_changes import RowChanges
from authz.rules import Owner, RoleLink, row_id
from authz.storage_tables import read_rows, write_changes, write_items
from tenancy.ids import TenantId
from tenancy.unit_of_work import Sessions, TenantUnitOfWork, tenant_unit_of_work

_KEY_LIVES = text(
    "SELECT 1 FROM api_keys WHERE tenant_id = :tenant_id AND key_id = :id AND revoked_at IS NULL "
    "AND (expires_at IS NULL OR expires_at > clock_timestamp())"
)
_PERSON_LIVES = text("SELECT 1 FROM users WHERE tenant_id = :tenant_id AND user_id = :id AND status = 'active'")
_SERVICE_LIVES = text(
    "SELECT 1 FROM service_accounts WHERE tenant_id = :tenant_id AND service_account_id = :id AND status = 'active'"
)
_LIVES = {"user": _PERSON_LIVES, "service": _SERVICE_LIVES}
_ROOM = text("SELECT memberships_count, users_count FROM tenants WHERE tenant_id = :tenant_id")


@dataclass(frozen=True, slots=True)
class NewRoles:
    """Roles of an account that is being made; `authn.accept_invitation.PreparedRoles`."""

    changes: RowChanges

    @property
    def growth(self) -> Mapping[str, int]:
        """How many rows of each kind the tenant gains."""
        return self.changes.growth()

    @property
    def count(self) -> int:
        """How many roles there are."""
        return len(self.changes.added)

    async def write(self, work: TenantUnitOfWork, revision: int) -> None:
        """Write them, and what the history of `revision`, whose entry is there, says of each."""
        if not self.changes.is_empty:
            await write_changes(work, self.changes, revision)
            await write_items(work, self.changes, revision)


class PolicyRoleGrants:
    """`authn.accept_invitation.RoleGrants` on the engine and the tables of policy rows."""

    def __init__(self, sessions: Sessions, node: GrantNode, limits: PolicyLimits) -> None:
        """Keep what answers, and how many memberships a tenant may hold."""
        self._sessions = sessions
        self._node = node
        self._limits = limits

    async def may_grant(self, tenant_id: TenantId, inviter: Inviter, roles: Sequence[str]) -> bool:
        """Whether the inviter is still there, and may grant these roles now."""
        if not await self._lives(inviter):
            return False
        owner = Ref(inviter.subject) if inviter.subject.partition(":")[0] in _LIVES else None
        grantor = Grantor(inviter.scopes, inviter.home, owner)
        try:
            await require_grantable(grantor, tenant_id, [Ref(role) for role in roles], node=self._node)
        except GrantRefusedError:
            return False
        return True

    async def prepare(self, work: TenantUnitOfWork, subject: str, roles: Sequence[str]) -> NewRoles:
        """Return the grants that a subject lacks; raises `LimitExceededError`.

        Its id is told with the invitation, so somebody may have granted it roles before there is an account.
        """
        wanted = [RoleLink(Ref(subject), Ref(role), owner=Owner.API) for role in roles]
        present = {
            found async for found, _ in read_rows(work, "memberships", ids=[row_id(link.key) for link in wanted])
        }
        links = [link for link in wanted if row_id(link.key) not in present]
        held = (await work.session.execute(_ROOM, {"tenant_id": work.tenant_id})).one()
        if held.users_count >= self._limits.users:
            raise LimitExceededError(f"the tenant may have {self._limits.users} accounts")
        if held.memberships_count + len(links) > self._limits.memberships:
            raise LimitExceededError(f"the tenant may have {self._limits.memberships} memberships")
        return NewRoles(RowChanges(added={row_id(link.key): link for link in links}))

    async def _lives(self, inviter: Inviter) -> bool:
        kind, _, identifier = inviter.subject.partition(":")
        query = _LIVES.get(kind, _KEY_LIVES)
        named = {"tenant_id": inviter.home, "id": UUID(identifier)}
        async with tenant_unit_of_work(self._sessions, inviter.home) as work:
            return (await work.session.execute(query, named)).one_or_none() is not None
