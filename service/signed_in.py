"""Sessions as callers: the token is looked up in Valkey, and what it says counts only beside its account.

SECURITY: the account comes from the same consistent look-up that decides, under the same bounds. A session is over as
soon as that says so: its account is not active, is of another epoch, or names it among its ended ones. What Valkey says
is remembered for a short while, so that its loss signs nobody out at once; it can never sign anybody in.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from authn.api_keys import SCOPES
from authn.errors import VolatileStoreUnavailableError
from authn.session_storage import SessionStore
from authn.sessions import Acr, Session, digest_of, is_session_token
from authn.users import subject_ref
from authz.errors import TenantNotFoundError
from authz.ports import EVERY_ROLE, Account, AccountState, TenantHead
from authz.request import Ref
from authz.tenant_state import Loaded
from service.caller import Caller, CallerKind
from service.edge_errors import NotAuthenticatedError, TenantSuspendedError
from tenancy.ids import PLATFORM_TENANT_ID, TenantId, TenantStatus

REMEMBERED = 10_000
REMEMBERED_SECONDS = 30.0
"""How long a node goes on without asking Valkey again about a session."""

SEEN_EVERY = timedelta(seconds=60)
"""How often at most it is written back that a session was used."""

SEEN_PARTS = 4
"""A session that may be idle for less than some minutes is written back so often in that time."""

_log = structlog.get_logger(__name__)


class SessionNode(Protocol):
    """What of the node judges a session."""

    async def load(
        self, tenant_id: TenantId, subjects: Iterable[Ref], resources: Iterable[Ref], min_revision: int | None = None
    ) -> Loaded:
        """Return what is stored about the subjects, at one confirmed revision."""

    async def watch(self, tenant_id: TenantId) -> TenantHead:
        """Return where a tenant stands, as PostgreSQL says it now."""

    def now(self) -> datetime:
        """Return the database's time, carried on."""


@dataclass(slots=True)
class _Remembered:
    session: Session
    read_at: float
    written: datetime = field(init=False)
    """When it was last used, as Valkey has it."""

    def __post_init__(self) -> None:
        self.written = self.session.last_seen_at


class SignedIn:
    """`TokenKind` of sessions; one per node."""

    def __init__(
        self, store: SessionStore, node: SessionNode, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """Keep where sessions are, and what their accounts are judged by."""
        self._store = store
        self._node = node
        self._monotonic = monotonic
        self._remembered: OrderedDict[str, _Remembered] = OrderedDict()
        self.hits = 0
        self.misses = 0
        self.refused = 0

    def matches(self, token: str) -> bool:
        """Return whether a token is a session's by its shape."""
        return is_session_token(token)

    async def authenticate(self, token: str, min_revision: int = 0) -> Caller:
        """Return the caller of a session.

        Args:
            token: Of a session's shape.
            min_revision: The revision of its tenant that the request demands.

        Raises:
            NotAuthenticatedError: unknown, over, ended, or its account's no more.
            TenantSuspendedError: its tenant is suspended, or being deleted; it goes on when that is taken back.
            VolatileStoreUnavailableError: it is not remembered and cannot be looked up.
            StaleError, StorageUnavailableError: what became of its account is not known.
        """
        digest = digest_of(token)
        held = await self._held(token, digest)
        session = held.session
        platform = session.tenant_id == PLATFORM_TENANT_ID
        # A revision that the request demands is one of a tenant; the platform counts by itself.
        account, loaded = await self._account(session, 0 if platform else min_revision)
        if account is None or account.auth_epoch < session.auth_epoch:
            # It began after a change of its account that this node has not heard of yet: a moment ago, elsewhere.
            account, loaded = await self._account(session, await self._revision(session.tenant_id))
        if account is None or not counts(session, account):
            self._forget(digest)
            raise NotAuthenticatedError
        if loaded.head.status is not TenantStatus.ACTIVE:
            raise TenantSuspendedError
        await self._note_seen(token, held)
        return Caller(
            key_id=session.session_id,
            prefix="",
            tenant_id=None if platform else session.tenant_id,
            slug=None if platform else loaded.head.slug,
            scopes=SCOPES,
            user_id=session.user_id,
            kind=CallerKind.SESSION,
            session=held.session,
            full_acr=Acr.AAL2 if account.has_factors else Acr.AAL1,
            demanded_acr=demanded_acr(account, loaded),
        )

    def forget_all(self) -> None:
        """Forget every session: the database is another one, or an older copy."""
        self._remembered.clear()

    def totals(self) -> dict[str, int]:
        """Return what metrics count."""
        return {"session_hits": self.hits, "session_misses": self.misses, "session_refused": self.refused}

    async def _held(self, token: str, digest: str) -> _Remembered:
        """Return a session that is not over, from memory or from Valkey."""
        held = self._remembered.get(digest)
        now = self._node.now()
        # One that seems to have been idle for too long may have been in use on another node.
        if held is None or held.session.is_over(now) or self._monotonic() - held.read_at > REMEMBERED_SECONDS:
            self.misses += 1
            found = await self._store.find(token)
            if found is None or found.is_over(now):
                self._forget(digest)
                raise NotAuthenticatedError
            later = found if held is None else found.seen(held.session.last_seen_at)
            held = self._remembered[digest] = _Remembered(later, self._monotonic())
            held.written = found.last_seen_at
            if len(self._remembered) > REMEMBERED:
                self._remembered.popitem(last=False)
        else:
            self.hits += 1
        self._remembered.move_to_end(digest)
        return held

    async def _revision(self, tenant_id: TenantId) -> int:
        """Return at which revision the tenant is now, as PostgreSQL says."""
        try:
            return (await self._node.watch(tenant_id)).revision
        except TenantNotFoundError:
            raise NotAuthenticatedError from None

    async def _account(self, session: Session, min_revision: int) -> tuple[Account | None, Loaded]:
        """Return the session's account, as it is at a confirmed revision."""
        ref = Ref(subject_ref(session.user_id))
        try:
            loaded = await self._node.load(session.tenant_id, [ref], [], min_revision or None)
        except TenantNotFoundError:
            raise NotAuthenticatedError from None
        return loaded.subjects[ref].record.account, loaded

    async def _note_seen(self, token: str, held: _Remembered) -> None:
        """Remember that the session was used now; tell the other nodes from time to time."""
        now = self._node.now()
        held.session = held.session.seen(now)
        every = min(SEEN_EVERY, timedelta(seconds=held.session.idle_seconds) / SEEN_PARTS)
        if now - held.written < every:
            return
        held.written = now
        try:
            await self._store.note_seen(token, held.session)
        except VolatileStoreUnavailableError:
            # It goes on for now; should this stay so, it ends a little early.
            _log.warning("sessions.not_written_back", session=str(held.session.session_id))

    def _forget(self, digest: str) -> None:
        self.refused += 1
        self._remembered.pop(digest, None)


def demanded_acr(account: Account, loaded: Loaded) -> Acr:
    """Return the level below which nobody is signed in to an account, by what is known of it at one revision.

    SECURITY: a demand counts for who is signed in already. One on roles alone makes those inactive, and no more.
    """
    of_everybody = EVERY_ROLE in loaded.state.snapshot.mfa_roles
    return Acr.AAL2 if account.mfa_required or of_everybody else Acr.AAL1


def counts(session: Session, account: Account) -> bool:
    """Return whether a session's account still has it: active, of the same epoch, and not ended by itself."""
    return (
        account.state is AccountState.ACTIVE
        and account.auth_epoch == session.auth_epoch
        and session.session_id not in account.ended_sessions
    )
