"""Settings of the HTTP edge; `service/settings.py` composes them with the other packages'."""

from ipaddress import ip_network
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator


class ForwardAuthSettings(BaseModel):
    """Header names of `ANY /v1/forward-auth`; the gateway must overwrite every one that it forwards.

    Where several headers may tell the same thing (nginx's names, then Traefik's), all that are present must agree.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key_header: str = "X-Kasbah-Key"
    """Header that holds the gateway's API key."""
    subject_header: str = "X-Kasbah-Subject"
    """Header that names the subject."""
    method_headers: tuple[str, ...] = ("X-Original-Method", "X-Forwarded-Method")
    """Headers that hold the method of the original request, those present must agree."""
    host_headers: tuple[str, ...] = ("X-Original-Host", "X-Forwarded-Host")
    """Headers that hold its host, those present must agree."""
    uri_headers: tuple[str, ...] = ("X-Original-URI", "X-Forwarded-Uri")
    """Headers that hold its path and query, those present must agree."""
    subject_type: str = "user"
    """Type of every subject: the header holds an id, and what looks like `role:admin` in it is an id all the same."""
    session_header: str | None = None
    """Header that holds the token of the subject's own session. With it the subject is the session's (one that
    `subject_header` names must be the same), nobody comes through without, and a deny that another sign-in would turn
    is 401 as RFC 9470 says."""


class DecisionLogSettings(BaseModel):
    """What is written about decisions, one JSON object a line."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Literal["off", "denies", "sampled", "all"] = "off"
    """Which decisions are written: `off`, `denies`, `sampled` or `all`."""
    sample_rate: float = Field(default=0.01, ge=0.0, le=1.0)
    """Share of decisions that `sampled` writes, 0 to 1."""
    path: str = "-"
    """File to append to; `-` is standard output."""
    masked: tuple[str, ...] = ("password", "secret", "token", "authorization", "ssn", "email")
    """Attribute names, at any depth and without case, whose values are replaced by `***`."""
    queue_size: int = Field(default=10_000, ge=1)
    """Decisions that wait to be written; more are dropped and counted, never waited for."""


class HttpSettings(BaseModel):
    """Limits and names of the HTTP edge. Durations are in seconds, sizes in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    public_url: str = "http://127.0.0.1:8080"
    """Absolute, without a trailing slash; what the metadata documents are made of."""
    base_domain: str | None = None
    """`kasbah.example` when `acme.kasbah.example` names the tenant `acme`."""
    keepalive_seconds: float = Field(default=75.0, gt=0)
    """How long an idle connection stays open; longer than a proxy's own, or it races with it."""
    head_seconds: float = Field(default=10.0, gt=0)
    """From the first byte of a request (or from the connection) to the end of its headers."""
    body_seconds: float = Field(default=10.0, gt=0)
    """From the end of the headers to the end of the body."""
    send_seconds: float = Field(default=30.0, gt=0)
    """How long an answer may wait for a client that does not read it."""
    trusted_proxies: tuple[str, ...] = ()
    """Networks (`["10.0.0.0/8"]`) whose `X-Forwarded-For` is believed about who calls; nobody's by default."""
    page_token_secret: SecretStr | None = None
    """Authenticates page tokens; the same on every node, or paging breaks when the node changes."""
    metrics_token: SecretStr | None = None
    """Bearer token that opens /metrics beside a platform key with the scope `metrics:read`."""
    decision_log: DecisionLogSettings = DecisionLogSettings()
    forward_auth: ForwardAuthSettings = ForwardAuthSettings()

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            ip_network(text)
        return value

    @field_validator("public_url")
    @classmethod
    def _absolute(cls, value: str) -> str:
        url = value.rstrip("/")
        if not url.startswith(("http://", "https://")) or "?" in url or "#" in url:
            message = "an absolute http(s) URL without query or fragment"
            raise ValueError(message)
        return url
