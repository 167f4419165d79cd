"""Sessions in Valkey. Losing all of it signs everybody out; nothing that is put there signs anybody in.

INVARIANT: what stands here never decides alone. A session counts only together with its account as PostgreSQL has it
(`service/signed_in.py`), so that a session that ended stays ended when an older Valkey is restored.
"""

import re
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol
from uuid import UUID

import msgspec

from authn.sessions import MAX_SESSIONS, SECRET_BYTES, NewSession, Session, digest_of, home_of_session, make_token
from authn.volatile_values import VolatileValues
from tenancy.ids import TenantId

MARGIN_SECONDS = 60
"""Values stay so much longer than they count: their end is judged by the database's clock, not by Valkey's."""

MAX_READ = 4 * MAX_SESSIONS
"""Of an index, whatever somebody else put there."""

_DIGEST = re.compile(rb"[0-9a-f]{64}\Z")

_decoder = msgspec.msgpack.Decoder(Session)


class SessionStore(Protocol):
    """Where sessions are remembered; every method raises `VolatileStoreUnavailableError` when that cannot be known."""

    async def put(self, session: Session) -> NewSession:
        """Remember a session that began, under a new token; the account's oldest ends when there are too many."""

    async def find(self, token: str) -> Session | None:
        """Return the session of a token of the right shape, over or not; None when there is none."""

    async def note_seen(self, token: str, session: Session) -> None:
        """Write back when a session was used last; one that is gone stays gone."""

    async def list_of(self, tenant_id: TenantId, user_id: UUID) -> Sequence[Session]:
        """Return what is remembered of an account's sessions, the newest first."""

    async def forget(self, tenant_id: TenantId, user_id: UUID, session_ids: Sequence[UUID] | None = None) -> None:
        """Forget these sessions of an account, or all of them."""


End = Callable[[Sequence[Session]], Awaitable[None]]
"""Ends sessions for good."""


async def _leave(_: Sequence[Session]) -> None:
    """End nothing."""


class ValkeySessionStore:
    """`SessionStore` on Valkey: a value for each session, and for each account a sorted set of their digests."""

    def __init__(self, values: VolatileValues, end: End = _leave) -> None:
        """Keep where values live, and what ends the sessions that one too many displaces."""
        self._values = values
        self._end = end
        self.rejected = 0
        """Values that were there and were not ours, for metrics."""

    async def put(self, session: Session) -> NewSession:
        """Remember a session that began, under a new token; the account's oldest ends when there are too many."""
        token = make_token(session.tenant_id, secrets.token_bytes(SECRET_BYTES))
        name, index = self._name(session.tenant_id, digest_of(token)), self._index(session)
        value = self._values.seal(name, msgspec.msgpack.encode(session))
        await self._displace(session)

        async def store() -> None:
            async with self._values.client.pipeline(transaction=True) as steps:
                _ = steps.set(name, value, exat=_keep_until(session))
                _ = steps.zadd(index, {digest_of(token): session.created_at.timestamp()})
                # As long as the longest of them: what lasts beyond the index, nobody would see, and nothing displace.
                _ = steps.expire(index, _index_seconds(session), nx=True)
                _ = steps.expire(index, _index_seconds(session), gt=True)
                await steps.execute()

        await self._values.call(store)
        return NewSession(token, session)

    async def find(self, token: str) -> Session | None:
        """Return the session of a token of the right shape, over or not; None when there is none."""
        tenant_id = home_of_session(token)
        name = self._name(tenant_id, digest_of(token))
        value: Any = await self._values.call(lambda: self._values.client.get(name))
        return None if value is None else self._opened(name, value, tenant_id)

    async def note_seen(self, token: str, session: Session) -> None:
        """Write back when a session was used last; one that is gone stays gone."""
        name = self._name(session.tenant_id, digest_of(token))
        value = self._values.seal(name, msgspec.msgpack.encode(session))
        await self._values.call(lambda: self._values.client.set(name, value, xx=True, exat=_keep_until(session)))

    async def list_of(self, tenant_id: TenantId, user_id: UUID) -> Sequence[Session]:
        """Return what is remembered of an account's sessions, the newest first."""
        found = [session for _, session in await self._all(tenant_id, user_id)]
        return sorted(found, key=lambda session: session.session_id, reverse=True)

    async def forget(self, tenant_id: TenantId, user_id: UUID, session_ids: Sequence[UUID] | None = None) -> None:
        """Forget these sessions of an account, or all of them."""
        held = await self._all(tenant_id, user_id)
        gone = [digest for digest, session in held if session_ids is None or session.session_id in session_ids]
        if gone:
            await self._remove(tenant_id, user_id, gone)

    async def _displace(self, session: Session) -> None:
        """Make room for one more session of an account."""
        held = await self._all(session.tenant_id, session.user_id)
        live = sorted((pair for pair in held if not _is_dead(pair[1], session)), key=lambda pair: pair[1].session_id)
        over = live[: max(0, len(live) - MAX_SESSIONS + 1)]
        if over:
            # INVARIANT: ended in PostgreSQL first. Forgotten here alone, an older Valkey would bring them back.
            await self._end([displaced for _, displaced in over])
        kept = {digest for digest, _ in live[len(over) :]}
        gone = [digest for digest, _ in held if digest not in kept]
        if gone:
            await self._remove(session.tenant_id, session.user_id, gone)

    async def _all(self, tenant_id: TenantId, user_id: UUID) -> list[tuple[str, Session]]:
        """Return an account's sessions with their digests; what the index names and is not there leaves the index."""
        index = self._index_of(tenant_id, user_id)
        members: Any = await self._values.call(lambda: self._values.client.zrange(index, 0, MAX_READ))
        if not members:
            return []
        lost: list[bytes | str] = [member for member in members if not _DIGEST.match(member)]
        digests = [member.decode() for member in members if _DIGEST.match(member)]
        names = [self._name(tenant_id, digest) for digest in digests]
        values: Any = await self._values.call(lambda: self._values.client.mget(names)) if names else []
        found: list[tuple[str, Session]] = []
        for digest, name, value in zip(digests, names, values, strict=True):
            session = None if value is None else self._opened(name, value, tenant_id)
            if session is None or session.user_id != user_id:
                lost.append(digest)
            else:
                found.append((digest, session))
        if lost:
            await self._values.call(lambda: self._values.client.zrem(index, *lost))
        return found

    async def _remove(self, tenant_id: TenantId, user_id: UUID, digests: Sequence[str]) -> None:
        index = self._index_of(tenant_id, user_id)

        async def remove() -> None:
            async with self._values.client.pipeline(transaction=True) as steps:
                _ = steps.unlink(*(self._name(tenant_id, digest) for digest in digests))
                _ = steps.zrem(index, *digests)
                await steps.execute()

        await self._values.call(remove)

    def _opened(self, name: str, value: bytes, tenant_id: TenantId) -> Session | None:
        payload = self._values.unseal(name, value)
        if payload is None:
            self.rejected += 1
            return None
        try:
            session = _decoder.decode(payload)
        except msgspec.DecodeError:
            # Ours, of another release: it is as if it were lost.
            self.rejected += 1
            return None
        return session if session.tenant_id == tenant_id else None

    def _name(self, tenant_id: TenantId, digest: str) -> str:
        return self._values.name("session", str(tenant_id), digest)

    def _index(self, session: Session) -> str:
        return self._index_of(session.tenant_id, session.user_id)

    def _index_of(self, tenant_id: TenantId, user_id: UUID) -> str:
        return self._values.name("sessions", str(tenant_id), str(user_id))


def _is_dead(session: Session, begun: Session) -> bool:
    """Return whether a session is over for good, whatever an older Valkey says, when another one of its account begins.

    Epochs only rise, and what was remembered of a session before says no later end.
    """
    return session.auth_epoch < begun.auth_epoch or session.is_over(begun.last_seen_at)


def _keep_until(session: Session) -> int:
    return int(session.ends_at.timestamp()) + MARGIN_SECONDS


def _index_seconds(session: Session) -> int:
    return int((session.expires_at - session.created_at).total_seconds()) + MARGIN_SECONDS
