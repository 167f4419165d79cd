"""Who calls: API keys, found by the SHA-256 of the whole token and remembered per node; other tokens by their shape.

A remembered key is used only while the node is confirmed fresh for the key's tenant and that tenant's keys have not
changed since it was found, so a revocation acts on every node within the bounds of all other changes. The way of one
request is `warm` (no I/O, for the decision path) or `authenticate` (looks up what is not remembered).
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from authn.api_keys import KeyLimit, hash_token, is_token
from authn.sessions import Acr
from authz.errors import StorageUnavailableError
from authz.ports import TenantHead
from authz.tracked import Changes
from service.caller import Caller
from service.edge_errors import NotAuthenticatedError, OverloadedError
from service.key_rates import KeyRate, KeyRates
from tenancy.ids import PLATFORM_TENANT_ID, TenantId, TenantStatus


@dataclass(frozen=True, slots=True)
class FoundApiKey:
    """A key that is neither unknown nor revoked, with the head it was read under, from one SQL statement."""

    key_id: UUID
    prefix: str
    scopes: frozenset[str]
    expires_at: datetime | None
    head: TenantHead
    owner_id: UUID | None = None
    """Of a personal key."""
    service_account_id: UUID | None = None
    """Of a service account's key."""
    limit: KeyLimit | None = None
    acr: Acr = Acr.AAL1
    """Of a personal key, as `Caller` has it."""


class TokenKind(Protocol):
    """Bearer tokens of another kind than API keys."""

    def matches(self, token: str) -> bool:
        """Return whether a token has the shape of this kind."""

    async def authenticate(self, token: str, min_revision: int = 0) -> Caller:
        """Return the caller of a token of this shape; raises as `Callers.authenticate`."""


class KeyDirectory(Protocol):
    """Where keys are looked up."""

    async def find_by_hash(self, key_hash: bytes) -> FoundApiKey | None:
        """Return the key, or None when unknown or revoked; raises `StorageUnavailableError`."""


class KeyUse(Protocol):
    """Who is told that a key was used."""

    def note(self, tenant_id: TenantId, key_id: UUID) -> None:
        """Take it down; nothing waits for it."""


class Unused:
    """`KeyUse` that takes nothing down."""

    def note(self, tenant_id: TenantId, key_id: UUID) -> None:
        """Do nothing."""


class Heads(Protocol):
    """What of the node decides whether a remembered key still holds."""

    changes: Changes
    """Counts whatever can end it, but for time."""

    @property
    def heads(self) -> Mapping[TenantId, TenantHead]:
        """Every watched tenant."""

    def fresh(self, tenant_id: TenantId) -> bool:
        """Whether PostgreSQL confirmed this tenant within `max_staleness`."""

    async def watch(self, tenant_id: TenantId) -> object:
        """Keep this tenant's head up to date."""

    def now(self) -> datetime:
        """The node's time."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """A key as it was found; `Callers.holds` says whether it still does."""

    caller: Caller
    home: TenantId
    revision: int
    keys_revision: int
    expires_at: datetime | None
    generation: int


@dataclass(frozen=True, slots=True)
class CallerLimits:
    """Bounds of what is remembered and of lookups under way."""

    remembered: int = 10_000
    refused: int = 1_024
    refused_seconds: float = 1.0
    lookups: int = 8
    waiting: int = 256
    lookup_seconds: float = 2.5
    """Longest wait for a look-up, its turn included."""


class Callers:
    """Authenticates API keys, and hands tokens of other kinds to who does; one per node."""

    def __init__(
        self,
        directory: KeyDirectory,
        node: Heads,
        limits: CallerLimits | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        others: Sequence[TokenKind] = (),
        *,
        rates: KeyRates | None = None,
        uses: KeyUse | None = None,
    ) -> None:
        self.others: list[TokenKind] = list(others)
        """Kinds of tokens that are no API keys; the first whose shape fits judges."""
        self.rates = rates
        """Holds keys against their limits; None where that was done before, by whoever hands requests on."""
        self.uses = uses or Unused()
        self._directory = directory
        self._node = node
        self._limits = limits or CallerLimits()
        self._monotonic = monotonic
        self._remembered: OrderedDict[bytes, Remembered] = OrderedDict()
        self._refused: OrderedDict[bytes, float] = OrderedDict()
        self._lookups = asyncio.Semaphore(self._limits.lookups)
        self._waiting = 0
        self._generation = 0
        self.hits = 0
        self.misses = 0

    def warm(self, token: str) -> Caller | None:
        """Return the caller of a remembered key that still holds; None says nothing about the key."""
        found = self.remembered(token)
        if found is None or not self.holds(found):
            return None
        self.hits += 1
        return found.caller

    def remembered(self, token: str) -> Remembered | None:
        """Return what is remembered of a key, whether it still holds or not: ask `holds` each time it is used."""
        return self._remembered.get(hash_token(token))

    def forget_all(self) -> None:
        """Forget every key: the database is another one, or an older copy, whose keys may be others."""
        self._generation += 1
        self._node.changes.count += 1
        self._remembered.clear()
        self._refused.clear()

    async def authenticate(self, token: str, min_revision: int = 0) -> Caller:
        """Return the caller of `token`.

        Args:
            token: What the request carries.
            min_revision: The revision of the key's tenant that the request demands: a revocation is such a revision.

        Raises:
            NotAuthenticatedError: no known form, unknown, revoked, expired, or of a deleted tenant.
            StorageUnavailableError: the key is not remembered and cannot be looked up.
            OverloadedError: too many lookups wait already.
        """
        if not is_token(token):
            return await self._other(token, min_revision)
        key_hash = hash_token(token)
        remembered = self._remembered.get(key_hash)
        if remembered is not None and self.holds(remembered) and self._reaches(remembered, min_revision):
            self._remembered.move_to_end(key_hash)
            self.hits += 1
            self.uses.note(remembered.home, remembered.caller.key_id)
            return remembered.caller
        refused_until = self._refused.get(key_hash)
        if refused_until is not None and self._monotonic() < refused_until:
            raise NotAuthenticatedError
        return await self._look_up(key_hash)

    async def _other(self, token: str, min_revision: int) -> Caller:
        for kind in self.others:
            if kind.matches(token):
                return await kind.authenticate(token, min_revision)
        raise NotAuthenticatedError

    def totals(self) -> Mapping[str, int]:
        """Return what metrics count."""
        refused = 0 if self.rates is None else self.rates.refused
        return {"key_hits": self.hits, "key_misses": self.misses, "key_rate_refusals": refused}

    async def _look_up(self, key_hash: bytes) -> Caller:
        self.misses += 1
        generation = self._generation
        # SECURITY: unknown tokens of the right form cost a query each; a flood of them must not queue without end.
        if self._waiting >= self._limits.waiting:
            raise OverloadedError
        self._waiting += 1
        try:
            async with asyncio.timeout(self._limits.lookup_seconds), self._lookups:
                found = await self._directory.find_by_hash(key_hash)
        except TimeoutError as error:
            raise StorageUnavailableError("the key directory did not answer in time") from error
        finally:
            self._waiting -= 1
        if found is None or found.head.status is TenantStatus.DELETED or self._expired(found.expires_at):
            if self._remembered.pop(key_hash, None) is not None:
                # SECURITY: refused once, it is not taken again, though the node may hear of its revocation later.
                self._node.changes.count += 1
            self._refuse(key_hash)
            raise NotAuthenticatedError
        home = found.head.tenant_id
        platform = home == PLATFORM_TENANT_ID
        caller = Caller(
            key_id=found.key_id,
            prefix=found.prefix,
            tenant_id=None if platform else home,
            slug=None if platform else found.head.slug,
            scopes=found.scopes,
            expires_at=found.expires_at,
            user_id=found.owner_id,
            acr=found.acr,
            service_account_id=found.service_account_id,
            limit=found.limit,
        )
        await self._node.watch(home)
        self._remembered[key_hash] = Remembered(
            caller, home, found.head.revision, found.head.keys_revision, found.expires_at, generation
        )
        self._remembered.move_to_end(key_hash)
        if len(self._remembered) > self._limits.remembered:
            self._remembered.popitem(last=False)
        self.uses.note(home, caller.key_id)
        return caller

    def rate_of(self, caller: Caller) -> KeyRate | None:
        """Return the bucket of a caller's key, or None when nothing limits it."""
        return None if self.rates is None else self.rates.of(caller.key_id, caller.limit)

    def spend(self, caller: Caller) -> None:
        """Count a request of this caller; raises `KeyRateExceededError` beyond its key's limit."""
        rate = self.rate_of(caller)
        if rate is not None:
            rate.spend()

    def holds(self, found: Remembered) -> bool:
        """Return whether the key is known to be good now."""
        head = self._node.heads.get(found.home)
        # INVARIANT: a key read at keys_revision n holds while the confirmed head is at most n. A head older than the
        # read only means that the node has not polled yet.
        return (
            head is not None
            and found.generation == self._generation
            and head.keys_revision <= found.keys_revision
            and head.status is not TenantStatus.DELETED
            and self._node.fresh(found.home)
            and not self._expired(found.expires_at)
        )

    def is_suspended(self, caller: Caller) -> bool:
        """Return whether the tenant that a key is bound to is suspended, or being deleted."""
        head = None if caller.tenant_id is None else self._node.heads.get(caller.tenant_id)
        return head is not None and head.status is not TenantStatus.ACTIVE

    def _reaches(self, found: Remembered, min_revision: int) -> bool:
        """Return whether the key is known to hold at a demanded revision; platform keys have revisions of their own."""
        if found.caller.tenant_id is None or found.revision >= min_revision:
            return True
        head = self._node.heads.get(found.home)
        return head is not None and head.revision >= min_revision

    def _expired(self, expires_at: datetime | None) -> bool:
        return expires_at is not None and self._node.now() >= expires_at

    def _refuse(self, key_hash: bytes) -> None:
        self._refused[key_hash] = self._monotonic() + self._limits.refused_seconds
        self._refused.move_to_end(key_hash)
        if len(self._refused) > self._limits.refused:
            self._refused.popitem(last=False)
