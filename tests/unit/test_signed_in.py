"""Sessions as callers: judged by Valkey, the clock and the account together, and remembered for moments."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from authn.errors import VolatileStoreUnavailableError
from authn.sessions import Acr, Session, make_token
from authz.errors import StaleError, TenantNotFoundError
from authz.ports import EVERY_ROLE, Account, AccountState, SubjectRecord, TenantHead
from service.caller import CallerKind
from service.callers import Callers
from service.edge_errors import NotAuthenticatedError, TenantSuspendedError
from service.signed_in import REMEMBERED_SECONDS, SEEN_EVERY, SignedIn
from tenancy.ids import PLATFORM_TENANT_ID, Slug, TenantId, TenantStatus
from tests.unit.test_callers import FakeDirectory, FakeNode

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
TENANT = TenantId(uuid4())
TOKEN = make_token(TENANT, b"t" * 32)


class World:
    """A store, a node and clocks that the test moves."""

    def __init__(self, **changed):
        self.time = NOW
        self.elapsed = 0.0
        self.down = False
        self.failure = None
        self.finds = 0
        self.written = []
        self.account = Account(AccountState.ACTIVE)
        self.heard = None
        self.watched = 0
        self.gone = False
        self.status = TenantStatus.ACTIVE
        self.mfa_roles = frozenset()
        plain = Session(
            session_id=uuid4(),
            tenant_id=TENANT,
            user_id=uuid4(),
            auth_epoch=1,
            acr=Acr.AAL1,
            amr=("pwd",),
            auth_time=NOW,
            created_at=NOW,
            expires_at=NOW + timedelta(hours=24),
            idle_seconds=3600,
            last_seen_at=NOW,
        )
        self.sessions = {TOKEN: replace(plain, **changed)}
        self.signed_in = SignedIn(self, self, monotonic=lambda: self.elapsed)

    async def find(self, token):
        self.finds += 1
        if self.down:
            raise VolatileStoreUnavailableError("down")
        return self.sessions.get(token)

    async def note_seen(self, token, session):
        if self.down:
            raise VolatileStoreUnavailableError("down")
        self.written.append(session.last_seen_at)
        if token in self.sessions:
            self.sessions[token] = session

    async def load(self, tenant_id, subjects, resources, min_revision=None):
        if self.failure is not None:
            raise self.failure
        self.demanded = min_revision
        head = TenantHead(tenant_id, Slug("acme"), self.status, 9, 5, 3)
        return SimpleNamespace(
            head=head,
            state=SimpleNamespace(snapshot=SimpleNamespace(mfa_roles=self.mfa_roles)),
            subjects={ref: SimpleNamespace(record=SubjectRecord(account=self.account)) for ref in subjects},
        )

    async def watch(self, tenant_id):
        self.watched += 1
        if self.gone:
            raise TenantNotFoundError("gone")
        if self.heard is not None:
            self.account = self.heard
        return TenantHead(tenant_id, Slug("acme"), self.status, 12, 5, 3)

    def now(self):
        return self.time

    def passes(self, span):
        self.time += span
        self.elapsed += span.total_seconds()

    async def is_in(self):
        try:
            await self.signed_in.authenticate(TOKEN)
        except NotAuthenticatedError:
            return False
        return True


@pytest.mark.parametrize(
    ("mfa_required", "mfa_roles", "demanded"),
    [
        (False, (), Acr.AAL1),
        (False, ("role:admin",), Acr.AAL1),
        (False, (EVERY_ROLE,), Acr.AAL2),
        (True, (), Acr.AAL2),
    ],
)
async def test_what_is_demanded_of_its_account_now_is_told(mfa_required, mfa_roles, demanded):
    """By the account itself, or of everybody; what roles demand makes those inactive."""
    world = World()
    world.account, world.mfa_roles = replace(world.account, mfa_required=mfa_required), frozenset(mfa_roles)
    assert (await world.signed_in.authenticate(TOKEN)).demanded_acr is demanded


async def test_a_session_calls_as_its_person():
    """Every scope, since the person's rights are the bound; the tenant by name; the platform's people without one."""
    world = World()
    caller = await world.signed_in.authenticate(TOKEN, 7)
    session = world.sessions[TOKEN]
    assert (caller.kind, caller.user_id, caller.slug) == (CallerKind.SESSION, session.user_id, "acme")
    assert (caller.credential, caller.actor) == (f"session:{session.session_id}", f"user:{session.user_id}")
    assert not caller.may_check, "the person's own rights are judged first"
    assert world.demanded == 7
    root = World(tenant_id=PLATFORM_TENANT_ID)
    assert ((await root.signed_in.authenticate(TOKEN, 7)).tenant_id) is None
    assert root.demanded is None, "the revision is one of the tenant that the request is about"


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize(
    "account",
    [
        None,
        Account(AccountState.DISABLED),
        Account(AccountState.DELETED),
        Account(AccountState.ACTIVE, auth_epoch=2),
        "ended",
    ],
)
async def test_the_account_decides_remembered_or_not(account, warm):
    """Whatever Valkey says, and however lately it said so."""
    world = World()
    if warm:
        assert await world.is_in()
    if account == "ended":
        account = Account(AccountState.ACTIVE, 1, frozenset({world.sessions[TOKEN].session_id}))
    world.account = account
    assert not await world.is_in()
    world.account = Account(AccountState.ACTIVE, 1, frozenset({uuid4()}))
    assert await world.is_in()


async def test_one_that_began_after_what_this_node_knows_is_asked_for_again():
    """Credentials were changed on another node, and what came of it is used here before that was heard of."""
    world = World(auth_epoch=2)
    world.heard = Account(AccountState.ACTIVE, auth_epoch=2)
    assert await world.is_in()
    assert (world.watched, world.demanded) == (1, 12)
    assert await world.is_in()
    assert world.watched == 1
    for heard in (None, Account(AccountState.ACTIVE, auth_epoch=3), Account(AccountState.DISABLED, auth_epoch=2)):
        other = World(auth_epoch=2)
        other.heard = heard
        assert not await other.is_in()
    older = World(auth_epoch=1)
    older.account = Account(AccountState.ACTIVE, auth_epoch=2)
    assert not await older.is_in()
    assert older.watched == 0, "what ended costs nothing more"


@pytest.mark.parametrize(("after", "counts"), [(3600 - 1, True), (3600, False), (3600 + 1, False)])
async def test_left_idle_it_ends(after, counts):
    """On both sides of the limit, by the node's clock, for a node that knew it and for one that did not."""
    for warm in (False, True):
        world = World()
        if warm:
            assert await world.is_in()
        world.passes(after * SECOND)
        assert await world.is_in() is counts
    assert world.sessions[TOKEN].expires_at > world.time


@pytest.mark.parametrize(("before", "counts"), [(1, True), (0, False), (-1, False)])
async def test_in_use_it_ends_at_its_absolute_end(before, counts):
    """However busy it was."""
    world = World()
    while world.time < NOW + timedelta(hours=24) - timedelta(minutes=30):
        world.passes(timedelta(minutes=20))
        assert await world.is_in()
    world.passes(NOW + timedelta(hours=24) - before * SECOND - world.time)
    assert await world.is_in() is counts


async def test_use_is_written_back_now_and_then_so_that_other_nodes_know():
    """At most once a minute, and often enough for a short idle limit."""
    world = World()
    for _ in range(600):
        world.passes(SECOND)
        assert await world.is_in()
    assert len(world.written) == 600 // int(SEEN_EVERY.total_seconds())
    short = World(idle_seconds=60)
    for _ in range(10):
        short.passes(20 * SECOND)
        assert await short.is_in()
    assert short.sessions[TOKEN].last_seen_at == short.time


async def test_one_that_was_used_on_another_node_is_not_idle_here():
    """What is remembered is asked for again before it is refused."""
    world = World(idle_seconds=20)
    assert await world.is_in()
    world.passes(18 * SECOND)
    world.sessions[TOKEN] = world.sessions[TOKEN].seen(world.time)
    world.passes(10 * SECOND)
    assert await world.is_in()


async def test_valkey_may_be_away_for_a_while():
    """Who is known goes on for half a minute; who is not known is not refused, and not let in; then nobody is."""
    world = World()
    assert await world.is_in()
    world.down = True
    world.passes(REMEMBERED_SECONDS * SECOND)
    assert await world.is_in()
    world.passes(SECOND)
    with pytest.raises(VolatileStoreUnavailableError):
        await world.is_in()
    other = World()
    other.down = True
    with pytest.raises(VolatileStoreUnavailableError):
        await other.is_in()


async def test_an_empty_valkey_signs_out():
    """Within the time that is remembered, and for good."""
    world = World()
    assert await world.is_in()
    kept = world.sessions.pop(TOKEN)
    world.passes((REMEMBERED_SECONDS + 1) * SECOND)
    assert not await world.is_in()
    assert world.signed_in._remembered == {}
    world.sessions[TOKEN] = kept
    assert await world.is_in(), "it came back, and its account still has it"


async def test_what_is_not_known_of_the_account_is_no_answer():
    """503, never an allow; a tenant that is gone has nobody who is signed in."""
    world = World()
    assert await world.is_in()
    world.failure = StaleError("no confirmation")
    with pytest.raises(StaleError):
        await world.is_in()
    world.failure = TenantNotFoundError("gone")
    assert not await world.is_in()


async def test_an_account_that_the_node_has_not_heard_of_is_asked_for():
    """It was made on another node a moment ago; one that nobody knows, and one of a tenant that is gone, is nobody."""
    world = World()
    world.account, world.heard = None, Account(AccountState.ACTIVE)
    assert await world.is_in()
    other = World()
    other.account = None
    assert not await other.is_in()
    other.gone = True
    assert not await other.is_in()
    assert other.watched == 2


@pytest.mark.parametrize("status", [TenantStatus.SUSPENDED, TenantStatus.DELETING])
async def test_nobody_of_a_suspended_tenant_is_signed_in(status):
    """By the same look-up that judges the account; when the suspension is taken back, so is that."""
    world = World()
    assert await world.is_in()
    world.status = status
    with pytest.raises(TenantSuspendedError):
        await world.is_in()
    world.status = TenantStatus.ACTIVE
    assert await world.is_in()


async def test_valkey_is_asked_once_in_a_while():
    """Not for each request."""
    world = World()
    for _ in range(60):
        world.passes(SECOND)
        assert await world.is_in()
    assert world.finds <= 3
    assert world.signed_in.totals()["session_hits"] >= 57


async def test_callers_hand_tokens_to_who_knows_their_shape():
    """The first kind that fits; what fits none is nobody's, and is not looked up."""
    world = World()
    directory = FakeDirectory()
    callers = Callers(directory, FakeNode(), others=[world.signed_in])
    assert (await callers.authenticate(TOKEN)).kind is CallerKind.SESSION
    assert callers.warm(TOKEN) is None, "the fast way leaves sessions to the ordinary one"
    for nothing in ("", "kasbah_session_", TOKEN + "x", "a.b.c"):
        with pytest.raises(NotAuthenticatedError):
            await callers.authenticate(nothing)
    assert (directory.lookups, world.finds) == (0, 1)


async def test_sessions_are_forgotten_when_the_database_is_another_one():
    """Valkey is asked again about each."""
    world = World()
    await world.signed_in.authenticate(TOKEN)
    world.signed_in.forget_all()
    await world.signed_in.authenticate(TOKEN)
    assert world.finds == 2
    assert world.signed_in.totals() == {"session_hits": 0, "session_misses": 2, "session_refused": 0}


async def test_remembered_sessions_are_bounded(monkeypatch):
    """The one that was used longest ago is asked for again."""
    monkeypatch.setattr("service.signed_in.REMEMBERED", 2)
    world = World()
    tokens = [make_token(TENANT, bytes([number]) * 32) for number in range(3)]
    world.sessions |= dict.fromkeys(tokens, world.sessions[TOKEN])
    for number in (0, 1, 0, 2, 0):
        await world.signed_in.authenticate(tokens[number])
    assert world.finds == 3
    await world.signed_in.authenticate(tokens[1])
    assert world.finds == 4


async def test_a_use_that_cannot_be_written_back_ends_nothing():
    """It is told, and tried again after as long as ever."""
    world = World()
    await world.signed_in.authenticate(TOKEN)
    world.time += SEEN_EVERY
    world.elapsed = 0
    world.down = True
    with capture_logs() as logs:
        assert await world.signed_in.authenticate(TOKEN)
    assert [line["event"] for line in logs] == ["sessions.not_written_back"]
    world.down = False
    world.time += SEEN_EVERY
    await world.signed_in.authenticate(TOKEN)
    assert world.written == [world.time]
