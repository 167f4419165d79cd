"""A key-encryption key in HashiCorp Vault (or OpenBao): its transit engine wraps and unwraps, and never gives the key.

https://developer.hashicorp.com/vault/api-docs/secret/transit: `POST /v1/<mount>/encrypt/<key>` and `…/decrypt/<key>`.
The token needs `update` on those two paths and nothing else, so that Vault makes no key that nobody asked for.

What a data key is bound to goes into what is encrypted, as a hash: engines that are older than `associated_data`, or
keys of a type that ignores it, keep the binding, too.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec
import structlog

from authz.circuit_breaker import CircuitBreaker
from tenancy.envelope import KEY_BYTES
from tenancy.errors import EncryptionUnavailableError, WrappedKeyRefusedError

MAX_ANSWER_BYTES = 64 * 1024
MAX_CALLS = 4
"""Calls under way at once. Others wait within their own time, so that many cold tenants do not become a flood."""

FAILURES = 3
PAUSE_SECONDS = 1.0

_log = structlog.get_logger()


class VaultRefusedError(EncryptionUnavailableError):
    """Vault answered, and will not do it: the token, the key or the value is wrong. `status` is HTTP's."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class VaultCertificateError(EncryptionUnavailableError):
    """What answered is not the Vault that was meant."""


@dataclass(frozen=True, slots=True)
class VaultAddress:
    """Where Vault is, which key, and how long a call may take. Exactly one of `token` and `token_file` is given."""

    url: str
    mount: str
    key: str
    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    namespace: str | None = None
    ca_file: Path | None = None
    timeout_seconds: float = 2.0

    @property
    def id(self) -> str:
        """Return what stored keys name this key-encryption key by."""
        return f"vault:{self.mount}/{self.key}"


class VaultTransit:
    """`KeyEncryption` over HTTP. Made in a running event loop; `close` it."""

    def __init__(self, address: VaultAddress) -> None:
        """Connect to nothing yet."""
        self._address = address
        self._breaker = CircuitBreaker(FAILURES, PAUSE_SECONDS)
        self._calls = asyncio.Semaphore(MAX_CALLS)
        trusted = ssl.create_default_context(cafile=address.ca_file)
        self._client = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=trusted, limit=MAX_CALLS),
            timeout=aiohttp.ClientTimeout(total=address.timeout_seconds),
            trust_env=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    @property
    def id(self) -> str:
        """What stored keys name it by."""
        return self._address.id

    @property
    def mark(self) -> str:
        """Which Vault it is: an address alone could be another one for each node."""
        return hashlib.sha256(f"{self._address.namespace}/{self.id}".encode()).hexdigest()[:16]

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def wrap(self, key: bytes, bound: bytes) -> bytes:
        """Return Vault's ciphertext, `vault:v<version>:…`."""
        answer = await self._call("encrypt", {"plaintext": _b64(key + hashlib.sha256(bound).digest())})
        ciphertext = answer.get("ciphertext")
        if not isinstance(ciphertext, str) or not ciphertext.startswith("vault:"):
            raise EncryptionUnavailableError("Vault answered without a ciphertext")
        return ciphertext.encode()

    async def unwrap(self, wrapped: bytes, bound: bytes) -> bytes:
        """Return the data key; one that was bound to something else is refused."""
        answer = await self._call("decrypt", {"ciphertext": wrapped.decode("utf-8", "replace")})
        try:
            plaintext = base64.b64decode(str(answer.get("plaintext")), validate=True)
        except (binascii.Error, ValueError):
            raise EncryptionUnavailableError("Vault answered without a plaintext") from None
        key, digest = plaintext[:KEY_BYTES], plaintext[KEY_BYTES:]
        if not hmac.compare_digest(digest, hashlib.sha256(bound).digest()):
            raise WrappedKeyRefusedError(f"a data key does not open with `{self.id}`")
        return key

    async def _call(self, operation: str, body: dict[str, str]) -> dict[str, Any]:
        """Ask Vault, within the time that one call may take.

        SECURITY: neither answers nor errors of the connection are logged or told: they may repeat what was sent.
        """
        if not self._breaker.allows():
            raise EncryptionUnavailableError("Vault did not answer lately")
        try:
            async with asyncio.timeout(self._address.timeout_seconds), self._calls:
                status, answer = await self._send(operation, body)
        except aiohttp.ClientConnectorCertificateError:
            self._failed(operation, "certificate")
            raise VaultCertificateError("Vault's certificate is not one to trust") from None
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            self._failed(operation, type(error).__name__)
            raise EncryptionUnavailableError("Vault did not answer") from None
        if status >= 500 or status == 429:  # noqa: PLR2004 - sealed (503), failing, or too busy
            self._failed(operation, str(status))
            raise EncryptionUnavailableError(f"Vault is not available (HTTP {status})")
        self._breaker.succeeded()
        data = answer.get("data") if isinstance(answer, dict) else None
        if status != 200 or not isinstance(data, dict):  # noqa: PLR2004 - OK; a redirect is not followed with a token
            _log.warning("encryption.vault_refused", operation=operation, status=status)
            if operation == "decrypt" and status == 400:  # noqa: PLR2004 - damaged, or of a key that is not there
                raise WrappedKeyRefusedError(f"a data key does not open with `{self.id}`")
            raise VaultRefusedError(f"Vault refused to {operation} (HTTP {status})", status)
        return data

    async def _send(self, operation: str, body: dict[str, str]) -> tuple[int, Any]:
        address = self._address
        path = f"/v1/{quote(address.mount)}/{operation}/{quote(address.key, safe='')}"
        headers = {"X-Vault-Token": await self._token(), "X-Vault-Request": "true"}
        if address.namespace is not None:
            headers["X-Vault-Namespace"] = address.namespace
        async with self._client.post(
            f"{address.url}{path}", json=body, headers=headers, allow_redirects=False
        ) as response:
            text = await response.content.read(MAX_ANSWER_BYTES)
            while len(text) < MAX_ANSWER_BYTES and (more := await response.content.read(MAX_ANSWER_BYTES - len(text))):
                text += more
            try:
                return response.status, msgspec.json.decode(text)
            except msgspec.DecodeError:
                return response.status, None

    async def _token(self) -> str:
        """Return the token; a file is read each time, since Vault's agent renews it there."""
        if self._address.token is not None:
            return self._address.token
        path = self._address.token_file
        text = "" if path is None else (await asyncio.to_thread(path.read_text, "utf-8")).strip()
        if not text.isascii() or not text.isprintable() or not text:
            raise ValueError("no token")
        return text

    def _failed(self, operation: str, reason: str) -> None:
        self._breaker.failed()
        _log.warning("encryption.vault_failed", operation=operation, reason=reason)


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
