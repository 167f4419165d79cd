"""Whether an account must prove a second factor, by the roles that it has now."""

from collections.abc import Iterable
from datetime import datetime
from typing import Protocol

from authn.users import User
from authz.request import Ref
from authz.tenant_state import Loaded
from tenancy.ids import TenantId
from tenancy.tenant_settings import MfaDemand, TenantSettings


class DemandNode(Protocol):
    """What of the node tells roles."""

    async def load(
        self, tenant_id: TenantId, subjects: Iterable[Ref], resources: Iterable[Ref], min_revision: int | None = None
    ) -> Loaded:
        """Return what is stored about the subjects, at one confirmed revision."""

    def now(self) -> datetime:
        """Return the database's time, carried on."""


class NodeDemands:
    """`MfaDemands` on the node that decides."""

    def __init__(self, node: DemandNode) -> None:
        self._node = node

    async def demanded(self, user: User, settings: TenantSettings, revision: int) -> bool:
        """Answer for the account, its tenant and its roles; what the platform demands is in the settings already."""
        mfa = settings.mfa
        if user.mfa_required or mfa.demand is MfaDemand.REQUIRED:
            return True
        if mfa.demand is not MfaDemand.ROLES:
            return False
        ref = Ref(user.ref)
        loaded = await self._node.load(user.tenant_id, (ref,), (), revision)
        grants = loaded.subjects[ref].record.grants
        names = loaded.state.snapshot.hierarchy.closure(ref, grants, self._node.now().timestamp())[0]
        return not names.isdisjoint(mfa.roles)
