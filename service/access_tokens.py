"""Access tokens as callers: what the issuer proves, whose account that is here, and how that account stands now.

SECURITY: a token says who and for which scopes; everything else is Kasbah's. The account comes from the same look-up
that decides, under the same bounds: disabled, deleted, or signed out since the token was issued, it is nobody's. What
the account may do is judged live, and the token's scopes are a bound upon that.
"""

import hashlib
import re
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from uuid import UUID

import structlog
from aiohttp import web

from authn.access_tokens import MAX_TOKEN, AccessToken, Refusal, is_jwt
from authn.account_homes import AccountHome, AccountHomes, AccountKind, PostgresAccountDirectory
from authn.api_keys import SCOPES
from authn.errors import AccessTokenRefusedError, IssuerUnavailableError
from authn.introspections import Introspections
from authn.issuer_keys import IssuerKeys
from authn.sessions import Acr
from authn.signed_tokens import SignedTokens
from authz.errors import TenantNotFoundError
from authz.ports import Account, AccountState
from authz.request import Ref
from authz.tenant_state import Loaded
from service.app import Part
from service.caller import OWN_PREFIX, Caller, CallerKind
from service.edge_errors import InsufficientAuthenticationError, NotAuthenticatedError
from service.issuer_client import IssuerClient
from service.keys import CALLERS, METRICS, NODE, SESSIONS
from service.oauth_settings import OAuthSettings
from service.signed_in import SessionNode, demanded_acr
from tenancy.ids import PLATFORM_TENANT_ID

_OPAQUE = re.compile(r"[A-Za-z0-9._~+/-]+=*\Z")
"""RFC 6750 section 2.1."""

_ACCOUNT_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")

_log = structlog.get_logger(__name__)


class AccessTokens:
    """`TokenKind` of access tokens; one per node."""

    def __init__(
        self,
        node: SessionNode,
        homes: AccountHomes,
        *,
        signed: SignedTokens | None = None,
        introspections: Introspections | None = None,
    ) -> None:
        """Keep what judges accounts, and what proves tokens: signatures, the issuer's word, or both."""
        self._node = node
        self._homes = homes
        self._signed = signed
        self._introspections = introspections
        self._counts = Counter[str]({f"access_token_refused_{refusal.value}": 0 for refusal in Refusal})
        self._counts.update(access_token_taken=0, access_token_unknown=0)

    def matches(self, token: str) -> bool:
        """Return whether a token may be the issuer's by its shape."""
        # SECURITY: a damaged credential of Kasbah's own is no token of the issuer's, and is not sent there.
        if token.startswith(OWN_PREFIX):
            return False
        if self._signed is not None and is_jwt(token):
            return True
        return self._introspections is not None and len(token) <= MAX_TOKEN and _OPAQUE.match(token) is not None

    async def authenticate(self, token: str, min_revision: int = 0) -> Caller:
        """Return the caller of a token.

        Args:
            token: Of a shape that `matches`.
            min_revision: The revision of the account's tenant that the request demands.

        Raises:
            NotAuthenticatedError: it is not taken, or its account is no more, or was signed out.
            InsufficientAuthenticationError: its account must prove a second factor, and it does not say that it did.
            IssuerUnavailableError: whether it is good is not known.
            StaleError, StorageUnavailableError, UserStorageUnavailableError: how its account stands is not known.
        """
        try:
            found = await self._proven(token)
            caller = await self._caller(found, min_revision)
        except AccessTokenRefusedError as error:
            self._counts[f"access_token_refused_{error.refusal}"] += 1
            _log.debug("access_token.refused", reason=error.refusal)
            raise NotAuthenticatedError from None
        except IssuerUnavailableError:
            self._counts["access_token_unknown"] += 1
            raise
        self._counts["access_token_taken"] += 1
        return caller

    def totals(self) -> Mapping[str, int]:
        """Return what metrics count."""
        return dict(self._counts)

    async def _proven(self, token: str) -> AccessToken:
        """Return what a token says, once its issuer has proven that it said so."""
        if self._signed is not None and is_jwt(token):
            return await self._signed.find(token)
        if self._introspections is None:
            raise AccessTokenRefusedError(Refusal.FORM)
        return await self._introspections.find(token)

    async def _caller(self, token: AccessToken, min_revision: int) -> Caller:
        """Return the account that a token is of as a caller."""
        # SECURITY: a client that acts for itself is never a person, whatever id it was given, nor a person a client.
        kind = AccountKind.SERVICE if token.of_client else AccountKind.PERSON
        if _ACCOUNT_ID.match(token.subject) is None:
            raise AccessTokenRefusedError(Refusal.ACCOUNT)
        account_id = UUID(token.subject)
        home = await self._homes.find(kind, account_id)
        if home is None:
            raise AccessTokenRefusedError(Refusal.ACCOUNT)
        platform = home.tenant_id == PLATFORM_TENANT_ID
        # A revision that the request demands is one of its tenant; the platform counts by itself.
        account, loaded = await self._account(Ref(f"{kind}:{account_id}"), home, 0 if platform else min_revision)
        require_standing(token, account)
        person = kind is AccountKind.PERSON
        if person:
            require_level(token, demanded_acr(account, loaded))
        return Caller(
            key_id=_credential_id(account_id, token.client_id),
            prefix="",
            tenant_id=None if platform else home.tenant_id,
            slug=None if platform else home.slug,
            scopes=token.scopes & SCOPES,
            expires_at=token.expires_at,
            user_id=account_id if person else None,
            service_account_id=None if person else account_id,
            kind=CallerKind.ACCESS_TOKEN,
            full_acr=Acr.AAL2 if account.has_factors else Acr.AAL1,
            client_id=token.client_id,
            sign_in=token.sign_in if person else None,
        )

    async def _account(self, ref: Ref, home: AccountHome, min_revision: int) -> tuple[Account, Loaded]:
        """Return the account as it is at a confirmed revision."""
        try:
            loaded = await self._node.load(home.tenant_id, [ref], [], min_revision or None)
        except TenantNotFoundError:
            raise AccessTokenRefusedError(Refusal.ACCOUNT) from None
        account = loaded.subjects[ref].record.account
        if account is None:
            raise AccessTokenRefusedError(Refusal.ACCOUNT)
        return account, loaded


def _credential_id(account_id: UUID, client_id: str) -> UUID:
    """Return one name for all tokens of an account at a client: what is remembered of a credential belongs to both."""
    return UUID(bytes=hashlib.sha256(account_id.bytes + client_id.encode()).digest()[:16])


def require_standing(token: AccessToken, account: Account) -> None:
    """Refuse a token whose account is not active, or whose sign-in has been ended.

    A token carries no epoch, only when it was issued, and perhaps when its person signed in: both have to be later than
    the last end of all the account's sign-ins.

    Raises:
        AccessTokenRefusedError: with the reason.
    """
    if account.state is not AccountState.ACTIVE:
        raise AccessTokenRefusedError(Refusal.ACCOUNT)
    ended = account.signed_out_at
    if ended is not None and min(token.issued_at, token.sign_in.time or token.issued_at) < ended:
        raise AccessTokenRefusedError(Refusal.SIGNED_OUT)


def require_level(token: AccessToken, demanded: Acr) -> None:
    """Refuse a token that does not say two factors were proven, of a person who must prove them.

    Raises:
        InsufficientAuthenticationError: the issuer has to be asked for more (RFC 9470).
    """
    if demanded is Acr.AAL2 and token.sign_in.acr != Acr.AAL2:
        raise InsufficientAuthenticationError(demanded, None)


def access_tokens(settings: OAuthSettings | None) -> Part:
    """Return the part that takes access tokens, if an issuer is configured; opens after the node and the callers."""

    async def part(app: web.Application) -> AsyncIterator[None]:
        if settings is None:
            yield
            return
        node, expected = app[NODE], settings.expected
        homes = AccountHomes(PostgresAccountDirectory(app[SESSIONS]))
        client = IssuerClient(settings)
        signed = introspections = None
        if settings.jwks_url is not None:
            keys = IssuerKeys(client, settings.algorithms, settings.key_limits)
            signed = SignedTokens(keys, expected, node.now)
            app[METRICS].add_source(signed.totals)
        if settings.introspection_url is not None:
            introspections = Introspections(client, expected, node.now, settings.introspection_limits)
            app[METRICS].add_source(introspections.totals)
        tokens = AccessTokens(node, homes, signed=signed, introspections=introspections)
        app[CALLERS].others.append(tokens)
        app[METRICS].add_source(tokens.totals)
        app[METRICS].add_source(homes.totals)
        node.on_reset.append(homes.forget_all)
        yield
        for opened in (signed, introspections, client):
            if opened is not None:
                await opened.close()

    return part
