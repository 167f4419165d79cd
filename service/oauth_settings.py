"""Settings of the issuer whose access tokens are taken; `service/settings.py` composes them with the other parts."""

from datetime import timedelta
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationInfo, field_validator, model_validator

from authn.access_tokens import Expected
from authn.introspections import IntrospectionLimits
from authn.issuer_keys import KeyLimits

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_LONGEST_NAME = 255


class OAuthSettings(BaseModel):
    """OAuth 2 access tokens (RFC 9068, RFC 7662). None are taken unless one of these is set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    issuer: str | None = Field(default=None, validate_default=True)
    """The one issuer, as its tokens have it in `iss`, letter by letter. Needed."""
    audience: str | None = Field(default=None, validate_default=True)
    """Kasbah's own name at the issuer: it must be in a token's `aud`. Needed."""
    introspection_url: str | None = None
    """RFC 7662 endpoint, for tokens that are no JWTs; without `KASBAH_OAUTH__JWKS_URL`, for all. `https://…`; \
`http://` on this machine alone."""
    jwks_url: str | None = Field(default=None, validate_default=True)
    """Where the issuer publishes its keys, for JWTs. This or `KASBAH_OAUTH__INTROSPECTION_URL` is needed."""
    algorithms: tuple[Literal["ES256", "ES384", "EdDSA", "PS256", "RS256"], ...] = (
        "ES256",
        "ES384",
        "EdDSA",
        "PS256",
        "RS256",
    )
    """Algorithms of signatures that are taken: some of these. There are no others."""
    token_types: tuple[Literal["at+jwt", "jwt"], ...] = ("at+jwt",)
    """Values of `typ` that are taken. Add `jwt` for an issuer that does not mark its access tokens (Ory Hydra): ID \
tokens are then told by their claims alone."""
    clients: tuple[str, ...] = ()
    """Clients whose tokens are taken; all of the issuer's, if empty."""
    scope_prefix: str = Field(default="kasbah:", max_length=100, pattern=r"^[!#-\[\]-~]*$")
    """What stands before Kasbah's own scopes at the issuer: `kasbah:policy:read` is `policy:read` here."""
    leeway_seconds: float = Field(default=10.0, ge=0, le=60)
    """How far the issuer's clock may be off."""
    longest_life_seconds: int = Field(default=86_400, ge=60, le=604_800)
    """Tokens that were made for longer are not taken: a token of its own ends by time alone."""
    introspection_client_id: str | None = None
    """Name of Kasbah as a client of the introspection endpoint, and …"""
    introspection_client_secret: SecretStr | None = None
    """… its secret; or …"""
    introspection_token: SecretStr | None = None
    """… a bearer token. Without either, none is sent, as for Ory Hydra's administrative port."""
    ca_file: Path | None = None
    """PEM file with the authority of the issuer's certificate; by default the system's."""
    timeout_seconds: float = Field(default=2.0, gt=0, le=2.0)
    """Longest wait for the issuer."""
    keys_fresh_seconds: float = Field(default=300.0, ge=1, le=3600)
    """How often keys are fetched anew: a key that the issuer took back is refused after so long."""
    keys_stale_seconds: float = Field(default=3600.0, ge=60, le=86_400)
    """How long keys are taken while the issuer does not answer; then tokens are answered with 503."""
    unknown_key_seconds: float = Field(default=10.0, ge=1, le=300)
    """A key id that is not known has keys fetched at most so often."""
    introspection_seconds: float = Field(default=10.0, ge=0, le=30)
    """How long an answer about a token is remembered, as far as the token lives."""

    @field_validator("issuer")
    @classmethod
    def _issuer(cls, value: str | None) -> str:
        if value is None:
            raise ValueError("is missing: whose access tokens are taken")
        fault = _url_fault(value)
        if fault is not None or urlsplit(value).query:
            raise ValueError(fault or "an issuer has no query (RFC 8414 section 2)")
        return value

    @field_validator("audience")
    @classmethod
    def _audience(cls, value: str | None) -> str:
        if value is None or not value.strip():
            raise ValueError("is missing: Kasbah's own name, which tokens must have in `aud`")
        if len(value) > _LONGEST_NAME or not value.isprintable():
            raise ValueError(f"is no name of at most {_LONGEST_NAME} printable characters")
        return value

    @field_validator("introspection_url")
    @classmethod
    def _endpoint(cls, value: str | None) -> str | None:
        fault = None if value is None else _url_fault(value)
        if fault is not None:
            raise ValueError(fault)
        return value

    @field_validator("jwks_url")
    @classmethod
    def _keys(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None and info.data.get("introspection_url", "") is None:
            raise ValueError("is missing: tokens are verified by it, or by KASBAH_OAUTH__INTROSPECTION_URL")
        fault = None if value is None else _url_fault(value)
        if fault is not None:
            raise ValueError(fault)
        return value

    @field_validator("algorithms", "token_types")
    @classmethod
    def _some(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("is empty: then no token could be taken")
        return value

    @field_validator("ca_file")
    @classmethod
    def _readable(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_file():
            raise ValueError(f"cannot read `{value}`")
        return value

    @model_validator(mode="after")
    def _one_credential(self) -> Self:
        if (self.introspection_client_id is None) != (self.introspection_client_secret is None):
            raise ValueError("`INTROSPECTION_CLIENT_ID` and `INTROSPECTION_CLIENT_SECRET`: both or none")
        credential = self.introspection_client_id or self.introspection_token
        if self.introspection_client_id is not None and self.introspection_token is not None:
            raise ValueError("set `INTROSPECTION_CLIENT_ID` or `INTROSPECTION_TOKEN`, not both")
        if credential is not None and self.introspection_url is None:
            raise ValueError("`INTROSPECTION_URL` is missing, and there is a credential for it")
        if self.keys_fresh_seconds > self.keys_stale_seconds:
            raise ValueError("`KEYS_FRESH_SECONDS` is longer than `KEYS_STALE_SECONDS`")
        return self

    @property
    def expected(self) -> Expected:
        """What a token must say."""
        return Expected(
            issuer=self.issuer or "",
            audience=self.audience or "",
            algorithms=frozenset(self.algorithms),
            types=frozenset(self.token_types),
            clients=frozenset(self.clients),
            scope_prefix=self.scope_prefix,
            leeway=timedelta(seconds=self.leeway_seconds),
            longest_life=timedelta(seconds=self.longest_life_seconds),
        )

    @property
    def key_limits(self) -> KeyLimits:
        """How long keys are taken."""
        return KeyLimits(self.keys_fresh_seconds, self.keys_stale_seconds, self.unknown_key_seconds)

    @property
    def introspection_limits(self) -> IntrospectionLimits:
        """How long answers are taken."""
        return IntrospectionLimits(self.introspection_seconds)


def _url_fault(value: str) -> str | None:
    """Return what is wrong with an address of the issuer.

    SECURITY: keys and answers that come without TLS are whoever's is on the way.
    """
    try:
        parts = urlsplit(value)
        port_is_good = parts.port is None or parts.port > 0
    except ValueError:
        return "is no URL"
    if (
        parts.scheme not in {"http", "https"}
        or not parts.hostname
        or parts.fragment
        or parts.username
        or parts.password
    ):
        return "must be an absolute URL without user and fragment: https://issuer.example"
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        return "must begin with `https://`, unless it is on this machine"
    return None if port_is_good and value.isprintable() and " " not in value else "is no URL"
