"""Who calls, as the edge knows them: an authenticated credential, whose it is, and what it may be taken for."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from uuid import UUID

from authn.access_tokens import SignIn
from authn.api_keys import KeyLimit
from authn.sessions import Acr, Session
from authz.request import Ref
from service.edge_errors import NotAuthenticatedError
from tenancy.ids import PLATFORM_SLUG, PLATFORM_TENANT_ID, Slug, TenantId

OWN_PREFIX = "kasbah_"
"""How every credential that Kasbah itself makes begins."""


class CallerKind(Enum):
    """What proved who calls."""

    SERVICE_KEY = "service key"
    PERSONAL_KEY = "personal key"
    SESSION = "session"
    SERVICE_ACCOUNT = "service account"
    ACCESS_TOKEN = "access token"  # noqa: S105 - no token


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, authenticated. `tenant_id` and `slug` are None for the platform's.

    `key_id` names the credential: the key, or the session; for an access token, its account and client. `user_id` is
    the person whose it is, for a personal key, a session or an access token, `service_account_id` the service account;
    then its scopes are a bound, and its owner's rights count besides. `judged` says that they were looked at for this
    request, and that `scopes` holds no decision scope beyond them. `session` is there for one alone.
    """

    key_id: UUID
    prefix: str
    tenant_id: TenantId | None
    slug: Slug | None
    scopes: frozenset[str]
    expires_at: datetime | None = None
    user_id: UUID | None = None
    service_account_id: UUID | None = None
    limit: KeyLimit | None = None
    judged: bool = field(default=False, compare=False)
    kind: CallerKind = CallerKind.SERVICE_KEY
    """A key with an owner is always a personal one."""
    session: Session | None = field(default=None, compare=False)
    acr: Acr = Acr.AAL1
    """Of a personal key: how well whoever made it had proven who they are."""
    full_acr: Acr = field(default=Acr.AAL1, compare=False)
    """Of a session: how well its account can prove who it is."""
    demanded_acr: Acr = field(default=Acr.AAL1, compare=False)
    """Of a session: how well its account must, by now; one from before the demand may be below."""
    client_id: str | None = None
    """Of an access token: who it was issued to."""
    sign_in: SignIn | None = field(default=None, compare=False)
    """Of an access token: how its person signed in, as far as its issuer says."""
    may_check: bool = field(init=False, compare=False)
    may_assert: bool = field(init=False, compare=False)
    may_explain: bool = field(init=False, compare=False)

    def __post_init__(self) -> None:
        if self.kind is CallerKind.SERVICE_KEY and self.user_id is not None:
            object.__setattr__(self, "kind", CallerKind.PERSONAL_KEY)
        elif self.kind is CallerKind.SERVICE_KEY and self.service_account_id is not None:
            object.__setattr__(self, "kind", CallerKind.SERVICE_ACCOUNT)
        # SECURITY: what decisions take on the scope's word alone, a key with an owner has only once that was judged.
        scopes = self.scopes if self.owner is None or self.judged else frozenset[str]()
        object.__setattr__(self, "may_check", "decision:check" in scopes)
        object.__setattr__(self, "may_assert", "decision:assert" in scopes)
        object.__setattr__(self, "may_explain", "decision:explain" in scopes)

    @property
    def maker(self) -> UUID | Session:
        """What must still hold under the tenant's lock when the caller makes a key."""
        return self.session or self.key_id

    @property
    def owner(self) -> Ref | None:
        """Whose rights bound what the caller may do: a person or a service account; None where scopes decide alone."""
        if self.user_id is not None:
            return Ref(f"user:{self.user_id}")
        return None if self.service_account_id is None else Ref(f"service:{self.service_account_id}")

    @property
    def subject(self) -> Ref:
        """Who acts, as the engine knows them: the owner of the key, or the key itself."""
        return self.owner or Ref(f"key:{self.key_id}")

    @property
    def home(self) -> TenantId:
        """The domain of the caller's rights: its tenant, or the platform."""
        return PLATFORM_TENANT_ID if self.tenant_id is None else self.tenant_id

    @property
    def home_slug(self) -> str:
        """The name of `home`."""
        return PLATFORM_SLUG if self.slug is None else self.slug

    @property
    def actor(self) -> str:
        """How histories and logs name this caller."""
        return self.owner or f"key:{self.prefix}"

    @property
    def credential(self) -> str:
        """How histories name what proved who calls."""
        if self.client_id is not None:
            return f"client:{self.client_id}"
        return f"key:{self.prefix}" if self.session is None else f"session:{self.session.session_id}"

    @property
    def credential_ref(self) -> str:
        """The credential as the target of an event."""
        return f"key:{self.key_id}" if self.session is None and self.client_id is None else self.credential


def bearer_token(values: list[str]) -> str:
    """Return the token of the `Authorization` headers of a request.

    Raises:
        NotAuthenticatedError: none, several, or another scheme.
    """
    if len(values) != 1:
        raise NotAuthenticatedError
    scheme, _, token = values[0].partition(" ")
    if scheme.lower() != "bearer":
        raise NotAuthenticatedError
    return token.strip(" ")
