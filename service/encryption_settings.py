"""Settings of the keys that encrypt what is stored; `service/settings.py` composes them with the other parts."""

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from tenancy.key_encryption import InvalidKeysError, parse_keys


class EncryptionSettings(BaseModel):
    """Which key-encryption keys a node knows, and how long it holds what they wrap."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: SecretStr | None = None
    """Key-encryption keys, `id:base64` of 32 random bytes each (`openssl rand -base64 32`), separated by commas. \
`kasbah keys rotate` goes over to the first one. Without any, one is made from `KASBAH_SECRET_KEY`."""
    keys_file: Path | None = None
    """File with the same, one key a line, instead."""
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

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.keys is not None and self.keys_file is not None:
            raise ValueError("set `KEYS` or `KEYS_FILE`, not both")
        return self

    def local_keys(self) -> dict[str, bytes]:
        """Return the keys of this process by id, the preferred one first."""
        if self.keys is not None:
            return parse_keys(self.keys.get_secret_value())
        return {} if self.keys_file is None else parse_keys(_text_of(self.keys_file))


def _text_of(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        raise InvalidKeysError([f"cannot read `{path}`"]) from None
