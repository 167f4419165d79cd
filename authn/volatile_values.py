"""Values in Valkey that may be lost at any time, and that somebody else may have written: our MAC says which count.

Challenges and sessions live here. Losing all of it makes people sign in anew; nothing in it is ever the only thing that
stops somebody: tries, spent codes and ended sign-ins are in PostgreSQL.
"""

import asyncio
import hashlib
import hmac
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from authn.errors import VolatileStoreUnavailableError

MAC_BYTES = 32
TIMEOUT_SECONDS = 0.3
CONNECTIONS = 16

T = TypeVar("T")


class VolatileValues:
    """A connection pool, names of one deployment, and the MAC; one for each process, closed at its end."""

    def __init__(
        self, url: str, secret: bytes, *, timeout_seconds: float = TIMEOUT_SECONDS, connections: int = CONNECTIONS
    ) -> None:
        """Connect to nothing yet: the first call does.

        Args:
            url: `redis://`, `rediss://` or `unix://`.
            secret: The deployment's secret key; the key of the MAC is derived from it (HKDF-SHA-256, RFC 5869).
            timeout_seconds: Bound of one operation, connecting included.
            connections: Of the pool.
        """
        self._secret = secret
        self._key = _derived(secret, "volatile-mac", 32)
        # Deployments that share a Valkey but not the secret stay out of each other's way.
        self._prefix = f"kasbah:{_derived(secret, 'valkey-namespace', 6).hex()}"
        self._timeout = timeout_seconds
        # Who finds no connection free waits for one, under the same bound, and is not refused at once.
        pool: BlockingConnectionPool = BlockingConnectionPool.from_url(
            url,
            timeout=timeout_seconds,
            socket_timeout=timeout_seconds,
            socket_connect_timeout=timeout_seconds,
            socket_keepalive=True,
            max_connections=connections,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )
        self.client = Redis.from_pool(pool)

    def derived(self, purpose: str) -> bytes:
        """Return a key for another purpose of the same deployment, alike on every node."""
        return _derived(self._secret, purpose, 32)

    def name(self, kind: str, place: str, rest: str = "") -> str:
        """Return the name of a key; `place` is what keeps keys together on one node of a cluster (its hash tag)."""
        return f"{self._prefix}:{kind}:{{{place}}}{rest and ':' + rest}"

    def seal(self, name: str, payload: bytes) -> bytes:
        """Return a payload under a MAC that holds in this place alone."""
        return self._mac(name, payload) + payload

    def unseal(self, name: str, value: bytes | None) -> bytes | None:
        """Return what was sealed for this place; None for anything else, however it came there."""
        if value is None or len(value) < MAC_BYTES:
            return None
        given, payload = value[:MAC_BYTES], value[MAC_BYTES:]
        return payload if hmac.compare_digest(given, self._mac(name, payload)) else None

    async def call(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Run one operation.

        Raises:
            VolatileStoreUnavailableError: Valkey did not answer in time; not known whether it acted.
        """
        try:
            async with asyncio.timeout(self._timeout):
                return await operation()
        except (RedisError, OSError, TimeoutError) as error:
            raise VolatileStoreUnavailableError(type(error).__name__) from error

    async def run(self, script: str, name: str, *arguments: Any) -> Any:
        """Run a Lua script on one key: several steps that nobody comes between."""
        return await self.call(lambda: self.client.eval(script, 1, name, *arguments))

    async def close(self) -> None:
        """Close all connections."""
        try:
            async with asyncio.timeout(self._timeout):
                await self.client.aclose()
        except (RedisError, OSError, TimeoutError):
            return

    def _mac(self, name: str, payload: bytes) -> bytes:
        place = name.encode()
        return hmac.digest(self._key, len(place).to_bytes(4, "big") + place + payload, "sha256")


def token_hash(token: str) -> bytes:
    """Return what is stored of an unguessable token: tokens have 256 random bits, so a plain hash is enough."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _derived(secret: bytes, purpose: str, length: int) -> bytes:
    return HKDF(SHA256(), length=length, salt=None, info=f"kasbah/{purpose}".encode()).derive(secret)
