"""Tokens that only their issuer can read (RFC 7662), and what it said of them, remembered for moments."""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from authn.access_tokens import AccessToken, Expected, Refusal, judge_introspection, read_object
from authn.bounded import keep
from authn.errors import AccessTokenRefusedError, IssuerUnavailableError

MAX_ANSWER_BYTES = 64 * 1024


class Introspector(Protocol):
    """The issuer's introspection endpoint."""

    async def introspect(self, token: str) -> bytes:
        """Return what it says of a token; raises `IssuerUnavailableError`. Bounded in time."""


@dataclass(frozen=True, slots=True)
class IntrospectionLimits:
    """Bounds of what is remembered (`seconds`: for how long), and of questions under way."""

    seconds: float = 10.0
    remembered: int = 10_000
    refused: int = 4_096
    questions: int = 16
    waiting: int = 256


class Introspections:
    """Answers about tokens; one per process. Tokens are remembered by their SHA-256."""

    def __init__(
        self,
        introspector: Introspector,
        expected: Expected,
        now: Callable[[], datetime],
        limits: IntrospectionLimits | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keep who is asked, what is taken, and the clocks: `now` judges tokens, `monotonic` what is remembered."""
        self._introspector = introspector
        self._expected = expected
        self._now = now
        self._limits = limits or IntrospectionLimits()
        self._monotonic = monotonic
        self._good: OrderedDict[bytes, tuple[float, AccessToken]] = OrderedDict()
        self._bad: OrderedDict[bytes, tuple[float, str]] = OrderedDict()
        self._under_way: dict[bytes, asyncio.Task[AccessToken]] = {}
        self._questions = asyncio.Semaphore(self._limits.questions)
        self._asked = 0
        self._remembered = 0

    async def find(self, token: str) -> AccessToken:
        """Return what the issuer says of a token, now or moments ago.

        Raises:
            AccessTokenRefusedError: not active, or not as `judge_introspection` has it.
            IssuerUnavailableError: it did not answer, or too many questions wait.
        """
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        now = self._monotonic()
        good = self._good.get(digest)
        if good is not None and now < good[0] and self._now() < good[1].expires_at:
            self._remembered += 1
            return good[1]
        bad = self._bad.get(digest)
        if bad is not None and now < bad[0]:
            self._remembered += 1
            raise AccessTokenRefusedError(bad[1])
        task = self._under_way.get(digest)
        if task is None:
            # SECURITY: tokens that nobody issued cost a question each; a flood of them must not queue without end.
            if len(self._under_way) >= self._limits.waiting:
                raise IssuerUnavailableError("too many tokens wait for the issuer")
            task = self._under_way[digest] = asyncio.create_task(self._ask(token, digest), name="introspection")
            task.add_done_callback(lambda done: self._done(digest, done))
        return await asyncio.shield(task)

    async def close(self) -> None:
        """End the questions that are under way."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def totals(self) -> Mapping[str, int]:
        """Return what metrics count."""
        return {"introspection_hits": self._remembered, "introspection_misses": self._asked}

    async def _ask(self, token: str, digest: bytes) -> AccessToken:
        # What the issuer says was so when it was asked, not when its answer came.
        asked_at = self._monotonic()
        until = asked_at + self._limits.seconds
        async with self._questions:
            self._asked += 1
            answer = await self._introspector.introspect(token)
        try:
            found = judge_introspection(read_object(answer, Refusal.CLAIMS), self._expected, self._now())
        except AccessTokenRefusedError as error:
            self._good.pop(digest, None)
            keep(self._bad, digest, (until, error.refusal), self._limits.refused)
            raise
        keep(self._good, digest, (until, found), self._limits.remembered)
        return found

    def _done(self, digest: bytes, task: asyncio.Task[AccessToken]) -> None:
        self._under_way.pop(digest, None)
        if not task.cancelled():
            task.exception()  # whoever waited has been told; perhaps nobody waits any more
