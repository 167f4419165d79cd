"""Tries of a sign-in, counted before they are judged: by account, identifier, network and tenant, over several nodes."""

import asyncio
from dataclasses import replace
from uuid import uuid4

import pytest

from authn.sign_in_settings import SignInLimits
from authn.sign_in_throttles import BUCKETS, Attempt, SignInThrottles, Taken, forgive, give_back
from authn.tries import LockedOut, MustWait
from tenancy.database import open_engine, open_sessions
from tenancy.tenant_settings import SignInSettings
from tenancy.unit_of_work import tenant_unit_of_work
from tests.support.accounts import Accounts
from tests.support.servers import patient

pytestmark = pytest.mark.integration

KEY = b"k" * 32
QUICK = SignInSettings(failures_before_wait=5, first_wait_seconds=30, longest_wait_seconds=3600, max_failures=100)
WIDE = SignInLimits(network_failures=100_000)


@pytest.fixture
async def accounts(store, acme):
    made = Accounts(store.sessions, acme.tenant_id)
    yield made
    made.hasher.close()


@pytest.fixture
async def jane(accounts):
    return await accounts.add("jane")


@pytest.fixture
def throttles(store):
    return SignInThrottles(store.sessions, KEY, WIDE)


@pytest.fixture
async def other_node(store):
    engine = open_engine(store.url, patient(pool_size=8, max_overflow=0))
    yield open_sessions(engine)
    await engine.dispose()


def attempt(accounts, user_id=None, **more) -> Attempt:
    return replace(Attempt(accounts.tenant_id, user_id, "password", 7, 9, 0, known_device=False), **more)


def passed(store, seconds: int) -> None:
    """Let time go by: everything that was written is that much older."""
    with store.owner() as owner:
        owner.execute(
            "UPDATE credential_failures SET blocked_until = blocked_until - make_interval(secs => %s)", [seconds]
        )
        owner.execute(
            "UPDATE sign_in_throttles SET blocked_until = blocked_until - make_interval(secs => %s), "
            "counted_at = counted_at - make_interval(secs => %s)",
            [seconds, seconds],
        )


def rows(store, table="sign_in_throttles", columns="kind, failures"):
    with store.owner() as owner:
        return owner.execute(f"SELECT {columns} FROM {table} ORDER BY 1, 2").fetchall()  # type: ignore[arg-type]


@pytest.mark.parametrize("known", [True, False], ids=["account", "identifier of nobody"])
async def test_waits_grow_alike_for_accounts_and_for_nobody(store, accounts, jane, throttles, known):
    """Six wrong ones, then 30 s, doubling with each; what an answer says does not tell whether there is an account."""
    tried = attempt(accounts, jane.id if known else None)
    for _ in range(6):
        assert isinstance(await throttles.take(tried, QUICK), Taken)
    for wait in (30, 60, 120, 240, 480, 960, 1920, 3600, 3600):
        assert await throttles.take(tried, QUICK) == MustWait(wait)
        passed(store, wait - 2)
        assert isinstance(await throttles.take(tried, QUICK), MustWait)
        passed(store, 2)
        assert isinstance(await throttles.take(tried, QUICK), Taken)


@pytest.mark.parametrize("known", [True, False], ids=["account", "identifier of nobody"])
async def test_two_hundred_at_once_over_two_nodes_never_exceed_the_limit(store, other_node, accounts, jane, known):
    """Counted before they are judged, and by the database alone."""
    nodes = [SignInThrottles(sessions, KEY, WIDE) for sessions in (store.sessions, other_node)]
    turns = [asyncio.Semaphore(6), asyncio.Semaphore(6)]
    tried = attempt(accounts, jane.id if known else None)

    async def guess(number: int):
        async with turns[number % 2]:
            return await nodes[number % 2].take(tried, QUICK)

    found = await asyncio.gather(*(guess(number) for number in range(200)))
    assert sum(isinstance(one, Taken) for one in found) == 6
    free = replace(QUICK, failures_before_wait=100_000)
    passed(store, 30)

    async def freely(number: int):
        async with turns[number % 2]:
            return await nodes[number % 2].take(tried, free)

    found = await asyncio.gather(*(freely(number) for number in range(200)))
    assert sum(isinstance(one, Taken) for one in found) == QUICK.max_failures - 6
    assert [one.last for one in found if isinstance(one, Taken)].count(True) == 1
    assert isinstance(await nodes[0].take(tried, free), LockedOut)


async def test_a_right_proof_forgives_the_account_and_gives_the_rest_back(store, accounts, jane, throttles):
    """Only the counter that was used is cleared; what others failed in the same network stays counted."""
    await throttles.take(attempt(accounts, None), QUICK)
    for _ in range(3):
        taken = await throttles.take(attempt(accounts, jane.id), QUICK)
    assert isinstance(taken, Taken)
    async with tenant_unit_of_work(store.sessions, accounts.tenant_id) as work:
        await forgive(work, taken)
    assert rows(store) == [("identifier", 1), ("network", 3), ("tenant", 3)]
    assert rows(store, "credential_failures", "authenticator, failures") == []


async def test_a_try_that_was_not_judged_is_given_back(store, accounts, jane, throttles):
    """Also the wait that it began, and no other one."""
    for user_id in (jane.id, None):
        for _ in range(6):
            taken = await throttles.take(attempt(accounts, user_id), QUICK)
        assert isinstance(taken, Taken)
        assert taken.wait_until is not None
        async with tenant_unit_of_work(store.sessions, accounts.tenant_id) as work:
            await give_back(work, taken)
        again = await throttles.take(attempt(accounts, user_id), QUICK)
        assert isinstance(again, Taken)
        async with tenant_unit_of_work(store.sessions, accounts.tenant_id) as work:
            await give_back(work, taken)  # of a wait that another try has begun since
        assert isinstance(await throttles.take(attempt(accounts, user_id), QUICK), MustWait)


async def test_networks_wait_whatever_they_try(store, accounts, throttles):
    """Guessing one password at many accounts is what counters of accounts do not see."""
    throttles = SignInThrottles(store.sessions, KEY, SignInLimits())
    for number in range(21):
        tried = attempt(accounts, None, identifier=number)
        assert isinstance(await throttles.take(tried, QUICK), Taken)
    assert await throttles.take(attempt(accounts, None, identifier=500), QUICK) == MustWait(30)
    assert isinstance(await throttles.take(attempt(accounts, None, identifier=500, network=10), QUICK), Taken)
    passed(store, 30)
    assert isinstance(await throttles.take(attempt(accounts, None, identifier=501), QUICK), Taken)
    assert await throttles.take(attempt(accounts, None, identifier=502), QUICK) == MustWait(60)
    passed(store, 3601)
    for number in range(600, 621):
        assert isinstance(await throttles.take(attempt(accounts, None, identifier=number), QUICK), Taken)


async def test_a_waiting_network_counts_nothing_elsewhere(store, accounts, jane):
    """An attacker who must wait cannot lock accounts meanwhile."""
    throttles = SignInThrottles(store.sessions, KEY, SignInLimits(network_failures=1))
    for number in range(2):
        await throttles.take(attempt(accounts, None, identifier=number), QUICK)
    before = rows(store)
    for _ in range(5):
        assert isinstance(await throttles.take(attempt(accounts, jane.id), QUICK), MustWait)
    assert rows(store) == before
    assert rows(store, "credential_failures", "authenticator, failures") == []


async def test_an_attacked_tenant_leaves_fresh_networks_a_try(store, accounts):
    """Many networks together: each has few tries left, and who failed nowhere can still sign in."""
    limits = SignInLimits(tenant_failures=10, attacked_network_failures=2)
    throttles = SignInThrottles(store.sessions, KEY, limits)
    for number in range(10):
        tried = attempt(accounts, None, identifier=number, network=number)
        assert isinstance(await throttles.take(tried, QUICK), Taken)
    for _ in range(3):
        assert isinstance(await throttles.take(attempt(accounts, None, identifier=99, network=99), QUICK), Taken)
    assert await throttles.take(attempt(accounts, None, identifier=99, network=99), QUICK) == MustWait(30)
    passed(store, 601)
    for number in range(20, 24):
        tried = attempt(accounts, None, identifier=98, network=98)
        assert isinstance(await throttles.take(tried, QUICK), Taken), number


async def test_a_known_device_is_asked_about_nobody_elses_failures(store, accounts, jane):
    """Its own counter, and neither network nor tenant."""
    throttles = SignInThrottles(store.sessions, KEY, SignInLimits(network_failures=1, tenant_failures=1))
    device = attempt(accounts, jane.id, authenticator=f"password@{uuid4()}", known_device=True)
    for number in range(30):
        await throttles.take(attempt(accounts, jane.id, identifier=number), replace(QUICK, failures_before_wait=10_000))
    assert isinstance(await throttles.take(attempt(accounts, jane.id), QUICK), MustWait)
    before = rows(store)
    for _ in range(6):
        assert isinstance(await throttles.take(device, QUICK), Taken)
    assert await throttles.take(device, QUICK) == MustWait(30)
    assert rows(store) == before


async def test_invented_identifiers_and_networks_share_bounded_rows(accounts, throttles):
    """However many are sent, there are 65,536 rows of a kind at most; who has no key cannot tell which are shared."""
    names = [f"name {number}" for number in range(20_000)]
    found = [throttles.bucket(accounts.tenant_id, "identifier", name) for name in names]
    assert all(0 <= one < BUCKETS for one in found)
    assert len(set(found)) > 16_000
    others = SignInThrottles(accounts.sessions, b"x" * 32, WIDE)
    assert [others.bucket(accounts.tenant_id, "identifier", name) for name in names[:50]] != found[:50]
    assert throttles.bucket(accounts.tenant_id, "network", names[0]) != found[0]


async def test_a_network_in_its_wait_is_never_judged_however_many_come_at_once(store, other_node, accounts):
    """The network's row is asked again when it is counted: what came between gives the account's try back."""
    nodes = [SignInThrottles(s, KEY, SignInLimits(network_failures=5)) for s in (store.sessions, other_node)]
    turns = [asyncio.Semaphore(6), asyncio.Semaphore(6)]

    async def guess(number: int):
        async with turns[number % 2]:
            return await nodes[number % 2].take(attempt(accounts, None, identifier=number), QUICK)

    found = await asyncio.gather(*(guess(number) for number in range(120)))
    assert sum(isinstance(one, Taken) for one in found) == 6
    assert sum(failures for kind, failures in rows(store) if kind == "identifier") == 6
