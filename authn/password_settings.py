"""Settings of password hashing. The edge fills them from the environment; nothing here has a side effect."""

import base64
import binascii
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from authn.breached_list import BreachedList, BreachedListError

MIN_PEPPER_BYTES = 32
MAX_MEMORY_PASSES_MIB = 512
"""Memory times iterations; `authn/password_hash_forms.py` reads no hash that costs more."""
_KEY_ID = re.compile(r"[A-Za-z0-9_-]{1,32}\Z")


class PasswordSettings(BaseModel):
    """What a password hash costs, and how many are computed at once for each worker that decides."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    memory_mib: int = Field(default=64, ge=19, le=128)
    """Memory of one Argon2id hash (RFC 9106), in MiB; at least 19. Hashes of another cost are renewed when used."""
    iterations: int = Field(default=3, ge=2, le=8)
    """Passes over that memory; at least 2. Memory times passes is at most 512 MiB."""
    parallelism: int = Field(default=1, ge=1, le=8)
    """Lanes of one hash, each a thread."""
    threads: int = Field(default=1, ge=1, le=64)
    """Hashes computed at once for each worker; they take this times the memory of one hash (imported ones: 128 MiB)."""
    queue: int = Field(default=16, ge=0, le=1024)
    """Hashes that may wait for their turn for each worker; what comes above that is answered with 503 at once."""
    niceness: int = Field(default=10, ge=0, le=19)
    """How far the processes that hash give way to all others: 10 leaves them a tenth of a core that others want."""
    wait_seconds: float = Field(default=2.5, gt=0, le=30)
    """How long a hash may take with its waiting; then 503."""
    peppers: SecretStr | None = None
    """Keys outside the database that every new hash depends on: `id:base64` of 32 bytes or more, comma-separated. The
    first is used for new hashes, the others are kept until every hash was renewed."""
    breached_list: Path | None = None
    """File of breached passwords that `kasbah passwords build-list` made; looked up in place."""
    breached_range_url: str | None = None
    """Range server (`https://api.pwnedpasswords.com` or your own) that is asked first; only five digits of a hash
    leave the machine. When it does not answer, the list decides."""
    breached_range_seconds: float = Field(default=1.0, gt=0, le=10)
    """How long it is waited for."""

    @field_validator("peppers")
    @classmethod
    def _keys(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            read_peppers(value.get_secret_value())
        return value

    @field_validator("breached_list")
    @classmethod
    def _whole(cls, value: Path | None) -> Path | None:
        if value is not None:
            try:
                BreachedList(value).close()
            except OSError as error:
                raise ValueError(f"cannot read `{value}`: {error.strerror}") from None
            except BreachedListError as error:
                raise ValueError(str(error)) from None
        return value

    @field_validator("breached_range_url")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("https://", "http://")):
            raise ValueError("must begin with `https://`, or with `http://` for a server beside this one")
        return value

    @model_validator(mode="after")
    def _readable(self) -> Self:
        if self.memory_mib * self.iterations > MAX_MEMORY_PASSES_MIB:
            raise ValueError(f"memory times iterations is at most {MAX_MEMORY_PASSES_MIB} MiB")
        return self

    def pepper_keys(self) -> Mapping[str, bytes]:
        """Return the keys by id; the first one is for new hashes."""
        return {} if self.peppers is None else read_peppers(self.peppers.get_secret_value())


def read_peppers(text: str) -> dict[str, bytes]:
    """Return keys by id from `id:base64,id:base64`; raises ValueError, never with a key in it."""
    keys: dict[str, bytes] = {}
    for number, part in enumerate(filter(None, (part.strip() for part in text.split(","))), 1):
        key_id, colon, encoded = part.partition(":")
        if not colon or _KEY_ID.match(key_id) is None:
            raise ValueError(f"key {number}: write `id:base64`, the id of letters, digits, `_` and `-`")
        if key_id in keys:
            raise ValueError(f"two keys are called `{key_id}`")
        try:
            key = base64.b64decode(encoded, validate=True)
        except binascii.Error:
            raise ValueError(f"key `{key_id}` is not base64") from None
        if len(key) < MIN_PEPPER_BYTES:
            raise ValueError(f"key `{key_id}` has fewer than {MIN_PEPPER_BYTES} bytes")
        keys[key_id] = key
    if not keys:
        raise ValueError("no key is given: leave the variable out, or write `id:base64`")
    return keys
