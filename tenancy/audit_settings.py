"""Settings of the audit's checkpoints. The edge fills them from the environment; nothing here has a side effect."""

import base64
import binascii
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from tenancy.audit_signatures import SEED_BYTES

SYSLOG_SCHEMES = frozenset({"syslog+udp", "syslog+tcp", "syslog+tls"})
SCHEMES = frozenset({"file", "http", "https"}) | SYSLOG_SCHEMES


class AuditSettings(BaseModel):
    """How the audit's chains are signed, and where that goes. Durations are in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    sink: str | None = None
    """Where signed checkpoints go: `file:///path`, `https://…` (POST, `http://` on a network you trust), \
`syslog+tls://host:6514`, `syslog+tcp://host:601` or `syslog+udp://host:514`. Without it they stay in the database."""
    sink_token: SecretStr | None = None
    """Bearer token for an HTTP sink."""
    sink_ca_file: Path | None = None
    """PEM file with the authority of the sink's certificate; by default the system's."""
    sink_seconds: float = Field(default=5.0, gt=0, le=60)
    """Longest wait for the sink to take one batch."""
    max_behind_seconds: float = Field(default=300.0, ge=1, le=86_400)
    """How long an event may wait for the sink; then nothing is changed any more, until it is there (503)."""
    signing_key: SecretStr | None = None
    """Ed25519 key that signs, base64 of 32 random bytes (`openssl rand -base64 32`); by default one is made and kept \
sealed in the database."""
    checkpoint_seconds: float = Field(default=60.0, ge=1, le=3600)
    """How long a chain that grows goes without a checkpoint …"""
    checkpoint_rows: int = Field(default=1000, ge=1, le=1_000_000)
    """… and by how many events."""

    @field_validator("signing_key")
    @classmethod
    def _seed(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            try:
                seed = base64.b64decode(value.get_secret_value(), validate=True)
            except binascii.Error:
                seed = b""
            if len(seed) != SEED_BYTES:
                message = "base64 of 32 random bytes"
                raise ValueError(message)
        return value

    @field_validator("sink_ca_file")
    @classmethod
    def _readable(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_file():
            message = "no such file"
            raise ValueError(message)
        return value

    @field_validator("sink")
    @classmethod
    def _url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        known = parts.scheme in SCHEMES and (parts.path.startswith("/") if parts.scheme == "file" else parts.hostname)
        if not known or (parts.scheme in SYSLOG_SCHEMES and parts.port is None) or parts.username:
            message = "file:///path, https://host/path, or syslog+tls://host:port (also syslog+tcp, syslog+udp)"
            raise ValueError(message)
        return value

    @property
    def seed(self) -> bytes | None:
        """The key of the settings, or None."""
        return None if self.signing_key is None else base64.b64decode(self.signing_key.get_secret_value())
