"""Settings of the keys that encrypt what is stored; `service/settings.py` composes them with the other parts."""

import re
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from tenancy.key_encryption import DERIVED, InvalidKeysError, parse_keys

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_PATH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*\Z")


class EncryptionSettings(BaseModel):
    """Which key-encryption keys a node knows, and how long it holds what they wrap."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: SecretStr | None = None
    """Key-encryption keys, `id:base64` of 32 random bytes each (`openssl rand -base64 32`), separated by commas. \
Without any, one is made from `KASBAH_SECRET_KEY`, under the id `derived`."""
    keys_file: Path | None = None
    """File with the same, one key a line, instead."""
    vault_url: str | None = None
    """HashiCorp Vault (or OpenBao) that wraps data keys: `https://…`; `http://` on this machine alone."""
    vault_key: str = Field(default="kasbah", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the transit key; its token needs `update` on `encrypt` and `decrypt` of it."""
    vault_mount: str = "transit"
    """Path of the transit engine."""
    vault_namespace: str | None = None
    """Namespace (Vault Enterprise)."""
    vault_token: SecretStr | None = None
    """Token, or …"""
    vault_token_file: Path | None = None
    """… the file that Vault's agent keeps one in; it is read for each call."""
    vault_ca_file: Path | None = None
    """PEM file with the authority of Vault's certificate; by default the system's."""
    vault_timeout_seconds: float = Field(default=1.5, gt=0, le=2.0)
    """Longest wait for Vault; then the operation is answered with 503."""
    primary: str | None = None
    """Id of the key that `kasbah keys rotate` goes over to: `vault:<mount>/<key>`, or one of the above. By default \
Vault's where there is one, else the first."""
    cache_keys: int = Field(default=4096, ge=16)
    """Data keys of tenants that one process holds unwrapped, at most."""
    cache_seconds: float = Field(default=600.0, gt=0, le=86_400)
    """How long it holds one."""

    @field_validator("keys")
    @classmethod
    def _usable(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            parse_keys(value.get_secret_value())
        return value

    @field_validator("keys_file")
    @classmethod
    def _usable_file(cls, value: Path | None) -> Path | None:
        if value is not None:
            parse_keys(_text_of(value))
        return value

    @field_validator("vault_url")
    @classmethod
    def _safe(cls, value: str | None) -> str | None:
        """SECURITY: without TLS, the token and every data key would travel in the clear."""
        if value is None:
            return None
        parts = urlsplit(value)
        if (
            parts.scheme not in {"http", "https"}
            or not parts.hostname
            or parts.query
            or parts.fragment
            or parts.username
        ):
            raise ValueError("must be the URL of a server: https://vault.example:8200")
        if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            raise ValueError("must begin with `https://`, unless Vault's agent listens on this machine")
        return value.rstrip("/")

    @field_validator("vault_mount")
    @classmethod
    def _path(cls, value: str) -> str:
        if _PATH.match(value) is None:
            raise ValueError("is no path of an engine: `transit`")
        return value

    @field_validator("vault_token_file", "vault_ca_file")
    @classmethod
    def _there(cls, value: Path | None) -> Path | None:
        if value is not None:
            _text_of(value)
        return value

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.keys is not None and self.keys_file is not None:
            raise ValueError("set `KEYS` or `KEYS_FILE`, not both")
        if self.vault_url is not None and (self.vault_token is None) == (self.vault_token_file is None):
            raise ValueError("`VAULT_URL` needs `VAULT_TOKEN` or `VAULT_TOKEN_FILE`, and not both")
        if self.primary is not None and self.primary not in self.ids:
            raise ValueError(f"`PRIMARY` names `{self.primary}`, which is none of: {', '.join(self.ids)}")
        return self

    @property
    def vault_id(self) -> str:
        """Return what stored keys name Vault's key by."""
        return f"vault:{self.vault_mount}/{self.vault_key}"

    @property
    def ids(self) -> tuple[str, ...]:
        """Return the ids of all key-encryption keys, in the order in which they are preferred."""
        vault = () if self.vault_url is None else (self.vault_id,)
        return (*vault, *self.local_keys(), DERIVED)

    @property
    def preferred(self) -> str:
        """Return the id of the key that a rotation goes over to."""
        return self.primary or self.ids[0]

    def local_keys(self) -> dict[str, bytes]:
        """Return the keys of this process by id, in their order."""
        if self.keys is not None:
            return parse_keys(self.keys.get_secret_value())
        return {} if self.keys_file is None else parse_keys(_text_of(self.keys_file))


def _text_of(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        raise InvalidKeysError([f"cannot read `{path}`"]) from None
