"""Policies that ask how people signed in, and sign-ins to ask them with."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from uuid import UUID, uuid4

from authn.api_keys import SCOPES
from authn.sessions import Acr, Session, is_session_token, make_token
from authz.offline import OfflinePolicy
from authz.request import AAL1, AAL2, Auth
from authz.snapshot import build_snapshot
from service.caller import Caller, CallerKind
from service.edge_errors import NotAuthenticatedError, TenantSuspendedError
from tenancy.ids import Slug, TenantId
from tests.support.policies import NOW, policy


def signed_in(acr: str = AAL2, amr: Sequence[str] | None = None, *, seconds_ago: float = 0) -> Auth:
    """Return a sign-in of some time ago; with one factor or two by its level, unless methods are given."""
    methods = tuple(amr) if amr is not None else ("pwd",) if acr == AAL1 else ("pwd", "otp", "mfa")
    return Auth(acr, methods, NOW - timedelta(seconds=seconds_ago))


def demanding(text: str, *roles: str) -> OfflinePolicy:
    """Return the policy that `text` writes, of a tenant in which these roles demand a second factor."""
    small: OfflinePolicy = policy(text)
    small.snapshot = build_snapshot(replace(small.snapshot.rule_set, mfa_roles=roles), small.snapshot.model)
    return small


@dataclass
class SessionsInMemory:
    """Sessions by token, as `service.signed_in` finds them."""

    held: dict[str, Caller] = field(default_factory=dict)
    is_suspended: bool = False

    def matches(self, token: str) -> bool:
        return is_session_token(token)

    async def authenticate(self, token: str, min_revision: int = 0) -> Caller:
        if token not in self.held:
            raise NotAuthenticatedError
        if self.is_suspended:
            raise TenantSuspendedError
        return self.held[token]

    def begin(
        self,
        tenant_id: TenantId,
        slug: str,
        who: UUID,
        acr: Acr = Acr.AAL2,
        *,
        seconds_ago: float = 0,
        must_enrol: bool = False,
    ) -> str:
        """Sign somebody in, and return the token."""
        auth = signed_in(acr.value, seconds_ago=seconds_ago)
        assert auth.time is not None
        session = Session(
            uuid4(),
            tenant_id,
            who,
            1,
            acr,
            auth.amr or (),
            auth.time,
            auth.time,
            NOW + timedelta(days=1),
            3600,
            NOW,
            must_enrol=must_enrol,
        )
        token = make_token(tenant_id, uuid4().bytes + uuid4().bytes)
        self.held[token] = Caller(
            key_id=session.session_id,
            prefix="",
            tenant_id=tenant_id,
            slug=Slug(slug),
            scopes=SCOPES,
            user_id=who,
            kind=CallerKind.SESSION,
            session=session,
        )
        return token
