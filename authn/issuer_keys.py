"""Keys of an issuer as a node holds them: fetched beside requests, kept while the issuer is down, never without end."""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

import structlog
from jwt import PyJWK

from authn.access_tokens import TokenHeader
from authn.errors import BadKeySetError, IssuerUnavailableError
from authn.jwks import KeySet, read_key_set

_log = structlog.get_logger()


class KeySetSource(Protocol):
    """Where the issuer publishes its keys."""

    async def fetch_keys(self) -> bytes:
        """Return the JWK Set; raises `IssuerUnavailableError`. Bounded in time."""


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """How long keys are taken, and how often the issuer is asked; all in seconds."""

    fresh: float = 300.0
    """After this long they are asked for anew, beside requests: a key that the issuer took back is then no more."""
    stale: float = 3600.0
    """While the issuer does not answer they are taken for so long; then nothing is known."""
    unknown: float = 10.0
    """A key id that is not there has the issuer asked at most so often: anybody can make such ids up."""
    retry: float = 2.0
    """After a failure the issuer is left alone for so long."""


class IssuerKeys:
    """The keys of one issuer; one per process."""

    def __init__(
        self,
        source: KeySetSource,
        algorithms: Collection[str],
        limits: KeyLimits | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keep where keys come from; nothing is asked yet."""
        self._source = source
        self._algorithms = tuple(algorithms)
        self._limits = limits or KeyLimits()
        self._monotonic = monotonic
        self._keys: KeySet | None = None
        self._asked_at = float("-inf")
        self._answered_at = float("-inf")
        self._fetching: asyncio.Task[None] | None = None
        self._fetched = 0
        self._failed = 0

    async def find(self, header: TokenHeader) -> PyJWK | None:
        """Return the key that a token names, or None when the issuer has no such key.

        Raises:
            IssuerUnavailableError: which keys the issuer has is not known, or no longer.
        """
        keys = await self._held()
        key = keys.find(header)
        if key is not None:
            return key
        # SECURITY: ids that are not there leave nothing behind, and one question serves all of them.
        if self._fetching is None and not self._failing and self._age(self._asked_at) < self._limits.unknown:
            return None
        await self._fetch()
        key = (await self._held()).find(header)
        if key is None and self._failing:
            raise IssuerUnavailableError("the issuer's keys could not be fetched, and may be others by now")
        return key

    async def close(self) -> None:
        """End a fetch that is under way."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)

    def totals(self) -> Mapping[str, int]:
        """Return what metrics count."""
        return {"issuer_keys_fetched": self._fetched, "issuer_keys_failed": self._failed}

    @property
    def _failing(self) -> bool:
        """Whether the last question had no answer, as far as there was one."""
        return self._asked_at > self._answered_at

    def _age(self, moment: float) -> float:
        return self._monotonic() - moment

    async def _held(self) -> KeySet:
        """Return the keys that may be used now, fetching them when there are none."""
        age = self._age(self._answered_at)
        if self._keys is None or age >= self._limits.stale:
            self._keys = None
            await self._fetch()
        elif age >= self._limits.fresh:
            self._begin()
        if self._keys is None:
            raise IssuerUnavailableError("the issuer's keys could not be fetched")
        return self._keys

    async def _fetch(self) -> None:
        """Wait for a fetch, one for all who wait; who goes away does not end it for the others."""
        task = self._begin()
        if task is not None:
            await asyncio.shield(task)

    def _begin(self) -> asyncio.Task[None] | None:
        """Begin a fetch if none is under way, and return it; None while the issuer is left alone after a failure."""
        if self._fetching is None:
            if self._failing and self._age(self._asked_at) < self._limits.retry:
                return None
            self._asked_at = now = self._monotonic()
            self._fetching = asyncio.create_task(self._ask(now), name="issuer-keys")
        return self._fetching

    async def _ask(self, asked_at: float) -> None:
        try:
            self._keys = read_key_set(await self._source.fetch_keys(), self._algorithms)
            self._answered_at = asked_at
            self._fetched += 1
        except (IssuerUnavailableError, BadKeySetError) as error:
            # What is held stays: an issuer that answers nonsense is one that does not answer.
            self._failed += 1
            _log.warning("access_tokens.keys_not_fetched", error=str(error))
        finally:
            self._fetching = None
