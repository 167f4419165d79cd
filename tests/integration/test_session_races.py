"""Sessions beside what ends them, all at once, on a real PostgreSQL and a real Valkey."""

import asyncio
import secrets
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from sqlalchemy import text

from authn.begin_session import Client, SignInLost, begin_session, renew_session
from authn.end_sessions import SessionEnds
from authn.errors import SessionEndedError, UserNotFoundError
from authn.session_rows import MAX_ENDED, require_session
from authn.session_storage import ValkeySessionStore
from authn.sessions import Acr, Proof, Session
from authn.user_rows import lock_user, raise_auth_epoch, read_user, set_password_hash
from authn.users import UserStatus
from authn.volatile_values import VolatileValues
from authz.ports import AccountState
from tenancy.audit import AuditEntry
from tenancy.change_tenant import Asked, TenantChanges
from tenancy.database import open_engine, open_sessions
from tenancy.errors import DatabaseUnavailableError
from tenancy.heads import lock_head, raise_head, record_change
from tenancy.tenant import ChangeMeta
from tenancy.tenant_life import TenantAct
from tenancy.tenant_settings import SessionSettings, TenantLimits
from tenancy.unit_of_work import tenant_unit_of_work
from tests.support.accounts import Accounts
from tests.support.servers import patient

pytestmark = pytest.mark.integration

META = ChangeMeta("test")


class World:
    """One tenant with its accounts, and a store of sessions."""

    def __init__(self, sessions, tenant_id, redis_url):
        self.tenant_id = tenant_id
        self.accounts = Accounts(sessions, tenant_id)
        self.sessions = sessions
        self.values = VolatileValues(redis_url, secrets.token_bytes(32))
        self.store = ValkeySessionStore(self.values)
        self.ends = SessionEnds(sessions)

    def work(self):
        return tenant_unit_of_work(self.sessions, self.tenant_id)

    async def held(self, user):
        async with self.work() as work:
            return await read_user(work, user.id)

    async def begin(self, held, **more):
        proof = Proof(Acr.AAL1, ("pwd",), datetime.now(UTC))
        async with self.work() as work:
            return await begin_session(
                work,
                held,
                proof,
                settings=SessionSettings(),
                ring=self.accounts.ring,
                meta=META,
                client=Client(),
                **more,
            )

    async def lives(self, session):
        """Whether PostgreSQL says that a session counts."""
        try:
            async with self.work() as work:
                await require_session(work, session)
        except SessionEndedError:
            return False
        return True

    async def renew(self, session):
        """Change a credential in that session, as its person."""
        async with self.work() as work:
            await lock_head(work)
            held = await lock_user(work, session.user_id)
            await raise_auth_epoch(work, session.user_id)
            head = await raise_head(work)
            entry = AuditEntry("password.change", f"user:{session.user_id}")
            await record_change(work.session, head, "user", META, audit=[entry])
            return await renew_session(work, session, held, meta=META)

    async def scalar(self, query):
        async with self.work() as work:
            return (await work.session.execute(text(query))).scalar_one()


@pytest.fixture
async def world(store, acme, redis_url):
    """A tenant, and connections enough for all that is done at once."""
    engine = open_engine(store.url, patient(pool_size=50))
    made = World(open_sessions(engine), acme.tenant_id, redis_url)
    yield made
    made.accounts.hasher.close()
    await made.values.close()
    await engine.dispose()


async def test_a_session_begins_with_its_audit_and_its_time(world):
    """In one transaction: the event, the time of the sign-in; the absolute end by the database's clock."""
    user = await world.accounts.add("alice", stored="a hash")
    session = await world.begin(await world.held(user))
    assert isinstance(session, Session)
    assert (await world.held(user)).user.last_sign_in_at == session.created_at
    assert (session.expires_at - session.created_at).total_seconds() == 86_400
    assert await world.lives(session)


@pytest.mark.parametrize("what", ["disable", "delete", "epoch", "password", "suspend", "unknown"])
async def test_a_sign_in_slower_than_what_ends_sign_ins_loses(world, what):
    """The password was right when it was typed; it begins nothing any more, and leaves no trace of a sign-in."""
    user = await world.accounts.add("alice", stored="a hash")
    held = await world.held(user)
    if what == "suspend":
        await TenantChanges(world.sessions, TenantLimits()).act(world.tenant_id, TenantAct.SUSPEND, Asked(META))
    else:
        async with world.work() as work:
            await lock_head(work)
            if what == "epoch":
                await raise_auth_epoch(work, user.id)
            elif what == "password":
                # The same epoch, as after a restored backup: the proven password is another one all the same.
                query = "UPDATE users SET password_hash = 'another' WHERE user_id = :user_id"
                await work.session.execute(text(query), {"user_id": user.id})
            elif what != "unknown":
                status = UserStatus.DISABLED if what == "disable" else UserStatus.DELETED
                query = "UPDATE users SET status = :status, username = NULL, username_key = NULL, password_hash = NULL "
                plain = "UPDATE users SET status = :status "
                where = "WHERE user_id = :user_id"
                chosen = (query if what == "delete" else plain) + where
                await work.session.execute(text(chosen), {"status": status.value, "user_id": user.id})
    if what == "unknown":
        held = replace(held, user=replace(held.user, id=uuid4()))
    assert await world.begin(held) == SignInLost()
    assert await world.scalar("SELECT count(*) FROM audit_events WHERE event::json->>'action' = 'session.begin'") == 0


async def test_disables_and_sign_ins_at_once_leave_nobody_signed_in(world):
    """Whichever came first: after the disable was acknowledged no session of before counts."""
    for number in range(8):
        user = await world.accounts.add(f"user{number}", stored="a hash")
        held = await world.held(user)

        async def disable(user=user):
            async with world.work() as work:
                await lock_head(work)
                await lock_user(work, user.id)
                query = "UPDATE users SET status = 'disabled', auth_epoch = auth_epoch + 1 WHERE user_id = :user_id"
                await work.session.execute(text(query), {"user_id": user.id})

        outcomes = await asyncio.gather(world.begin(held), disable(), world.begin(held), return_exceptions=True)
        begun = [outcome for outcome in outcomes if isinstance(outcome, Session)]
        assert not [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        assert [await world.lives(session) for session in begun] == [False] * len(begun)
        assert await world.begin(await world.held(user)) == SignInLost()


async def test_a_challenge_begins_one_session_whatever_valkey_says(world):
    """Finished twenty times at once, and again after an older Valkey brought it back."""
    user = await world.accounts.add("alice", stored="a hash")
    held = await world.held(user)
    challenge_id = uuid4()
    outcomes = await asyncio.gather(*(world.begin(held, challenge_id=challenge_id) for _ in range(20)))
    assert [isinstance(outcome, Session) for outcome in outcomes].count(True) == 1
    assert await world.begin(held, challenge_id=challenge_id) == SignInLost()
    assert isinstance(await world.begin(held, challenge_id=uuid4()), Session)


async def test_of_fifty_renewals_at_once_one_is_made(world):
    """The others are refused, with all that they would have changed: what was stolen cannot outrun its end."""
    user = await world.accounts.add("alice", stored="a hash")
    session = await world.begin(await world.held(user))
    outcomes = await asyncio.gather(*(world.renew(session) for _ in range(50)), return_exceptions=True)
    renewed = [outcome for outcome in outcomes if isinstance(outcome, Session)]
    assert len(renewed) == 1
    # On a busy machine some wait too long for their turn, which is no answer and changes nothing.
    assert {type(outcome) for outcome in outcomes} <= {Session, SessionEndedError, DatabaseUnavailableError}
    assert SessionEndedError in {type(outcome) for outcome in outcomes}
    assert (await world.held(user)).auth_epoch == session.auth_epoch + 1
    assert (await world.lives(renewed[0]), await world.lives(session)) == (True, False)


async def test_ends_and_renewals_at_once_leave_one_or_none(world):
    """A session that was ended before its renewal has none; the renewal of before is not the one that was ended."""
    user = await world.accounts.add("alice", stored="a hash")
    for _ in range(8):
        session = await world.begin(await world.held(user))
        ended, renewed = await asyncio.gather(
            world.ends.end([session], meta=META), world.renew(session), return_exceptions=True
        )
        assert not await world.lives(session)
        assert ended is not None
        assert isinstance(renewed, Session | SessionEndedError)
        if isinstance(renewed, Session):
            assert await world.lives(renewed)


async def test_what_is_ended_reaches_every_look_up(world, reader):
    """The account's state, its epoch and its ended sessions come from the statement that decisions use."""
    user = await world.accounts.add("alice", stored="a hash")
    session = await world.begin(await world.held(user))
    head = await world.ends.end([session], meta=META)
    found = await reader.lookup(world.tenant_id, [user.ref], [])
    account = found.subjects[user.ref].account
    assert (account.state, account.auth_epoch) == (AccountState.ACTIVE, 1)
    assert account.ended_sessions == {session.session_id}
    touched = await reader.touched_since(world.tenant_id, head.revision - 1)
    assert touched.subjects == {user.ref}
    assert await world.ends.end([session], meta=META) is None
    await world.ends.end_all(world.tenant_id, user.id, meta=META)
    account = (await reader.lookup(world.tenant_id, [user.ref], [])).subjects[user.ref].account
    assert (account.auth_epoch, account.ended_sessions) == (2, frozenset())


async def test_ended_sessions_do_not_grow_without_end(world):
    """More of them than may be read with each look-up, and all sign-ins end instead; what is past is swept."""
    user = await world.accounts.add("alice", stored="a hash")
    async with world.work() as work:
        query = (
            "INSERT INTO ended_sessions (tenant_id, user_id, session_id, expires_at) "
            "SELECT :tenant_id, :user_id, gen_random_uuid(), clock_timestamp() + interval '1 day' "
            "FROM generate_series(1, :many)"
        )
        named = {"tenant_id": world.tenant_id, "user_id": user.id}
        await work.session.execute(text(query), named | {"many": MAX_ENDED})
        past = query.replace("+ interval '1 day'", "- interval '2 hours'")
        other = await world.accounts.add("bob", stored="a hash")
        await work.session.execute(text(past), named | {"many": 10, "user_id": other.id})
    session, bystander = await world.begin(await world.held(user)), await world.begin(await world.held(user))
    await world.ends.end([session], meta=META)
    assert (await world.lives(session), await world.lives(bystander)) == (False, False)
    assert (await world.held(user)).auth_epoch == 2
    assert await world.scalar("SELECT count(*) FROM ended_sessions") == 0


async def test_nobody_ends_what_nobody_has(world):
    """An account that is gone, or never was."""
    with pytest.raises(UserNotFoundError):
        await world.ends.end_all(world.tenant_id, uuid4(), meta=META)
    user = await world.accounts.add("alice", stored="a hash")
    session = await world.begin(await world.held(user))
    with pytest.raises(UserNotFoundError):
        await world.ends.end([replace(session, user_id=uuid4())], meta=META)


async def test_the_store_forgets_what_is_over_and_keeps_what_is_written_back(world):
    """A session that was forgotten is not brought back by a node that still wrote when it was used last."""
    user = await world.accounts.add("alice", stored="a hash")
    session = await world.begin(await world.held(user))
    new = await world.store.put(session)
    later = session.seen(session.created_at.replace(microsecond=0))
    await world.store.note_seen(new.token, later)
    assert (await world.store.find(new.token)) == later
    await world.store.forget(world.tenant_id, user.id, [session.session_id])
    await world.store.note_seen(new.token, later)
    assert await world.store.find(new.token) is None
    assert await world.store.list_of(world.tenant_id, user.id) == []


async def test_a_session_is_seen_as_long_as_it_lasts(world):
    """Also when others that end sooner began after it: the tenant shortened how long sessions last."""
    user = await world.accounts.add("alice", stored="a hash")
    held = await world.held(user)
    index = world.store._index_of(world.tenant_id, user.id)
    long = replace(await world.begin(held), expires_at=datetime.now(UTC) + timedelta(days=30))
    short = replace(long, session_id=uuid4(), expires_at=datetime.now(UTC) + timedelta(minutes=1))
    await world.store.put(long)
    await world.store.put(short)
    assert await world.values.client.ttl(index) > timedelta(days=29).total_seconds()
    longer = replace(long, session_id=uuid4(), expires_at=datetime.now(UTC) + timedelta(days=60))
    await world.store.put(longer)
    assert await world.values.client.ttl(index) > timedelta(days=59).total_seconds()


async def test_the_index_of_an_account_shows_nothing_that_is_not_its_own(world):
    """Whoever writes to Valkey can hide a session, and cannot show one of somebody else."""
    alice, bob = [await world.accounts.add(name, stored="a hash") for name in ("alice", "bob")]
    mine, other = [await world.begin(await world.held(user)) for user in (alice, bob)]
    await world.store.put(mine)
    await world.store.put(other)
    client = world.values.client
    of_bob = await client.zrange(world.store._index_of(world.tenant_id, bob.id), 0, -1)
    index = world.store._index_of(world.tenant_id, alice.id)
    await client.zadd(index, {of_bob[0]: 1, b"\xff\xfe nonsense": 2})
    assert [session.user_id for session in await world.store.list_of(world.tenant_id, alice.id)] == [alice.id]
    assert await client.zcard(index) == 1


async def test_a_rehash_beside_a_sign_in_does_not_lose_it(world):
    """The sign-in proved the password under the hash that is stored now."""
    user = await world.accounts.add("alice", stored="an old hash")
    async with world.work() as work:
        assert await set_password_hash(work, user.id, "a new hash", read="an old hash", rehash=True)
    assert isinstance(await world.begin(await world.held(user)), Session)
