"""Asks the issuer of access tokens over HTTP: for its keys, and what it says of a token. Bounded in time and size.

Addresses come from the settings alone; no redirect is followed, and no proxy is taken from the environment.
"""

import asyncio
import base64
import ssl
from urllib.parse import quote_plus

import aiohttp
import structlog

from authn.errors import IssuerUnavailableError
from authn.introspections import MAX_ANSWER_BYTES
from authn.jwks import MAX_KEY_SET_BYTES
from authz.circuit_breaker import CircuitBreaker
from service.oauth_settings import OAuthSettings

MAX_CONNECTIONS = 16
FAILURES = 3
PAUSE_SECONDS = 1.0

_log = structlog.get_logger()


class IssuerClient:
    """`KeySetSource` and `Introspector` over HTTP. Made in a running event loop; `close` it."""

    def __init__(self, settings: OAuthSettings) -> None:
        """Connect to nothing yet."""
        self._settings = settings
        self._breaker = CircuitBreaker(FAILURES, PAUSE_SECONDS)
        self._credential = _credential_of(settings)
        trusted = ssl.create_default_context(cafile=settings.ca_file)
        self._client = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=trusted, limit=MAX_CONNECTIONS),
            timeout=aiohttp.ClientTimeout(total=settings.timeout_seconds),
            headers={"Accept": "application/json", "User-Agent": "kasbah"},
            auto_decompress=False,
            skip_auto_headers=["Accept-Encoding"],
            trust_env=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def fetch_keys(self) -> bytes:
        """Return the JWK Set of the issuer.

        Raises:
            IssuerUnavailableError: no good answer in time.
        """
        if self._settings.jwks_url is None:
            raise IssuerUnavailableError("no address of keys is configured")
        return await self._ask("GET", self._settings.jwks_url, MAX_KEY_SET_BYTES)

    async def introspect(self, token: str) -> bytes:
        """Return what the issuer says of a token (RFC 7662 section 2).

        Raises:
            IssuerUnavailableError: no good answer in time, or none a moment ago.
        """
        if self._settings.introspection_url is None:
            raise IssuerUnavailableError("no introspection endpoint is configured")
        if not self._breaker.allows():
            raise IssuerUnavailableError("the introspection endpoint did not answer lately")
        form = {"token": token, "token_type_hint": "access_token"}
        try:
            answer = await self._ask("POST", self._settings.introspection_url, MAX_ANSWER_BYTES, form, self._credential)
        except IssuerUnavailableError as error:
            self._breaker.failed()
            _log.warning("access_tokens.not_introspected", error=str(error))
            raise
        self._breaker.succeeded()
        return answer

    async def _ask(
        self,
        method: str,
        url: str,
        limit: int,
        form: dict[str, str] | None = None,
        credential: dict[str, str] | None = None,
    ) -> bytes:
        """Return the body of a 200 of at most `limit` bytes.

        SECURITY: neither what was sent nor what came is told or logged: the one is a token, the other may repeat it.
        """
        try:
            async with (
                asyncio.timeout(self._settings.timeout_seconds),
                self._client.request(method, url, data=form, headers=credential, allow_redirects=False) as answer,
            ):
                body = await answer.content.read(limit + 1)
                while len(body) <= limit and (more := await answer.content.read(limit + 1 - len(body))):
                    body += more
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise IssuerUnavailableError(f"the issuer did not answer ({type(error).__name__})") from None
        if answer.status != 200:  # noqa: PLR2004 - OK; a redirect leads to nobody who was configured
            raise IssuerUnavailableError(f"the issuer answered with HTTP {answer.status}")
        if len(body) > limit:
            raise IssuerUnavailableError("the issuer's answer is too large")
        return body


def _credential_of(settings: OAuthSettings) -> dict[str, str]:
    """Return the header by which Kasbah authenticates to the introspection endpoint."""
    if settings.introspection_token is not None:
        return {"Authorization": f"Bearer {settings.introspection_token.get_secret_value()}"}
    if settings.introspection_client_id is None or settings.introspection_client_secret is None:
        return {}
    # RFC 6749 section 2.3.1: each of the two is form-encoded before it becomes a part of HTTP's Basic scheme.
    parts = (settings.introspection_client_id, settings.introspection_client_secret.get_secret_value())
    pair = ":".join(quote_plus(part) for part in parts)
    return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
