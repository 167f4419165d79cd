"""A sign-in ends well: the one way to a session, whatever was proven and in how many steps."""

import hmac
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from authn.account_flows import tell
from authn.begin_session import Client, SignInLost, begin_session
from authn.challenges import Challenge, digest_of_hash
from authn.known_devices import NewDevice, knows_devices, note_device_used, remember_device
from authn.mails import MailKind
from authn.session_storage import SessionStore
from authn.sessions import NewSession, Proof, Session
from authn.user_rows import read_user
from authn.users import StoredUser
from tenancy.key_ring import KeyRing
from tenancy.settings_storage import read_settings
from tenancy.tenant import ChangeMeta
from tenancy.tenant_settings import SessionSettings, TenantLimits
from tenancy.unit_of_work import Sessions, TenantUnitOfWork, tenant_unit_of_work


@dataclass(frozen=True, slots=True)
class Finished:
    """All that was demanded was proven.

    `held` is the account as it was when its password was proven; `challenge_id` what this finishes, when there was more
    to prove.
    """

    held: StoredUser
    proof: Proof
    method: str
    settings: SessionSettings
    device_id: UUID | None = None
    challenge_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A session began. `device` is there for a client that asked to be known."""

    user_id: UUID
    new: NewSession
    method: str
    device: NewDevice | None = None


@dataclass(frozen=True, slots=True)
class SessionBegun:
    """A session that counts once its transaction has committed, and is nobody's before `SignInEnd.hand_out`."""

    session: Session
    method: str
    device: NewDevice | None


class SignInEnd:
    """Lets sessions begin; one per node."""

    def __init__(
        self,
        sessions: Sessions,
        store: SessionStore,
        ring: KeyRing,
        *,
        device_life: timedelta,
        limits: TenantLimits | None = None,
    ) -> None:
        """Keep where rows and sessions are, what seals, and how long devices are known."""
        self._sessions = sessions
        self._store = store
        self._ring = ring
        self.device_life = device_life
        self._limits = limits

    async def challenge_met(
        self,
        challenge: Challenge,
        proof: Proof,
        method: str,
        client: Client,
        *,
        remember_device: bool,
        meta: ChangeMeta,
    ) -> SignedIn | SignInLost:
        """Sign in whom a challenge was about, when the caller has ended it (`ChallengeStore.finish`).

        INVARIANT: it was about the account as its password was proven then: another password, or anything else that
        ended sign-ins since, ends this one, too.
        """
        async with tenant_unit_of_work(self._sessions, challenge.tenant_id) as work:
            held = await read_user(work, challenge.user_id)
            settings = (await read_settings(work, self._limits)).sessions
        if held is None or held.password_hash is None or held.auth_epoch != challenge.auth_epoch:
            return SignInLost()
        if not hmac.compare_digest(digest_of_hash(held.password_hash), challenge.password_hash_digest):
            return SignInLost()
        finished = Finished(
            held, proof, method, settings, device_id=challenge.device_id, challenge_id=challenge.challenge_id
        )
        wanted = remember_device or challenge.remember_device
        return await self.signed_in(finished, client, remember_device=wanted, meta=meta)

    async def signed_in(
        self, finished: Finished, client: Client, *, remember_device: bool, meta: ChangeMeta
    ) -> SignedIn | SignInLost:
        """Let a session begin.

        Raises:
            DatabaseUnavailableError, VolatileStoreUnavailableError: not known; nobody is signed in.
        """
        async with tenant_unit_of_work(self._sessions, finished.held.user.tenant_id) as work:
            begun = await self.begin(work, finished, client, remember_device=remember_device, meta=meta)
            if isinstance(begun, SignInLost):
                return begun
        return await self.hand_out(begun)

    async def begin(
        self, work: TenantUnitOfWork, finished: Finished, client: Client, *, remember_device: bool, meta: ChangeMeta
    ) -> SessionBegun | SignInLost:
        """Let a session begin in the caller's transaction."""
        session = await begin_session(
            work,
            finished.held,
            finished.proof,
            settings=finished.settings,
            ring=self._ring,
            meta=meta,
            client=client,
            method=finished.method,
            challenge_id=finished.challenge_id,
        )
        if isinstance(session, SignInLost):
            return session
        device = await self._note_device(work, finished, session.created_at, remember=remember_device)
        return SessionBegun(session, finished.method, device)

    async def hand_out(self, begun: SessionBegun) -> SignedIn:
        """Give a session its token, after the commit.

        Raises:
            DatabaseUnavailableError, VolatileStoreUnavailableError: not known whether it counts; nobody has its token.
        """
        new = await self._store.put(begun.session)
        return SignedIn(begun.session.user_id, new, begun.method, begun.device)

    async def _note_device(
        self, work: TenantUnitOfWork, finished: Finished, now: datetime, *, remember: bool
    ) -> NewDevice | None:
        """Keep what is known of the device; tell a person whose devices are known of one that is not."""
        user_id = finished.held.user.id
        if finished.device_id is not None:
            used_at = await note_device_used(work, user_id, finished.device_id, life=self.device_life)
            reset_at = finished.held.password_reset_at
            if used_at is not None and reset_at is not None and used_at < reset_at:
                # SECURITY: it may be that of whoever the password was reset for, who would come back unnoticed.
                await tell(work, self._ring, MailKind.NEW_DEVICE, finished.held)
            return None
        if await knows_devices(work, user_id):
            await tell(work, self._ring, MailKind.NEW_DEVICE, finished.held)
        if not remember:
            return None
        return await remember_device(work, user_id, now=now, life=self.device_life)
