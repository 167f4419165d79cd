"""Challenges in a real Valkey: whose they are, how often they are tried, and that a finished one is dead."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from authn.challenge_storage import ChallengeStore
from authn.challenges import CHALLENGE_LIFE, CHALLENGE_PREFIX, MAX_TRIES, Challenge, ChallengeStep, client_of
from authn.errors import ChallengeExpiredError, VolatileStoreUnavailableError
from authn.volatile_values import VolatileValues
from tenancy.ids import TenantId

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OURS = client_of("192.0.2.1", "browser")


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
async def values(redis_url: str) -> AsyncIterator[VolatileValues]:
    opened = VolatileValues(redis_url, secrets.token_bytes(32))
    yield opened
    await opened.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(values: VolatileValues, clock: Clock) -> ChallengeStore:
    return ChallengeStore(values, clock)


def challenge(**more) -> Challenge:
    wanted = Challenge(
        challenge_id=uuid4(),
        tenant_id=TenantId(uuid4()),
        user_id=uuid4(),
        auth_epoch=3,
        password_hash_digest=b"\1" * 32,
        step=ChallengeStep.MFA,
        methods=("totp", "webauthn"),
        client=OURS,
        issued_at=NOW,
        expires_at=NOW + CHALLENGE_LIFE,
        device_id=uuid4(),
    )
    return replace(wanted, **more)


async def only_key(values: VolatileValues) -> bytes:
    (name,) = [name async for name in values.client.scan_iter(match=f"{values.name('challenge', '')[:-2]}*")]
    return name


async def test_challenge_comes_back_as_it_was(store):
    wanted = challenge()
    token = await store.open(wanted)
    assert token.startswith(CHALLENGE_PREFIX)
    assert len(token) == len(CHALLENGE_PREFIX) + 43
    assert await store.find(token, OURS) == wanted


async def test_token_is_nowhere_in_valkey(store, values):
    """Whoever reads Valkey can go on with no sign-in."""
    token = await store.open(challenge())
    name = await only_key(values)
    stored = await values.client.hgetall(name)
    secret = token.removeprefix(CHALLENGE_PREFIX).encode()
    assert secret not in name
    assert all(secret not in part for pair in stored.items() for part in pair)


async def test_unknown_expired_and_foreign_look_alike(store, clock):
    """Another client, another token and another time get the same answer."""
    token = await store.open(challenge())
    faults = []
    for wrong, client in ((token + "x", OURS), ("", OURS), (token, client_of("192.0.2.1", "other"))):
        with pytest.raises(ChallengeExpiredError) as caught:
            await store.find(wrong, client)
        faults.append(str(caught.value))
    with pytest.raises(ChallengeExpiredError):
        await store.find(token, client_of("192.0.2.2", "browser"))
    clock.now = NOW + CHALLENGE_LIFE - timedelta(microseconds=1)
    await store.find(token, OURS)
    clock.now = NOW + CHALLENGE_LIFE
    with pytest.raises(ChallengeExpiredError) as caught:
        await store.find(token, OURS)
    assert {*faults, str(caught.value)} == {""}


async def test_another_tenants_name_finds_none(store):
    """Who names no tenant, or the right one, finds it."""
    token = await store.open(challenge(slug="acme"))
    for named in (None, "acme"):
        assert (await store.find(token, OURS, named=named)).slug == "acme"
    with pytest.raises(ChallengeExpiredError):
        await store.find(token, OURS, named="beta")


async def test_valkey_forgets_it_by_itself(store, values):
    await store.open(challenge())
    assert 0 < await values.client.pttl(await only_key(values)) <= CHALLENGE_LIFE.total_seconds() * 1000


async def test_tries_are_counted_however_many_at_once(store):
    token = await store.open(challenge())
    taken = await asyncio.gather(*(store.take_try(token) for _ in range(50)))
    assert sum(taken) == MAX_TRIES
    with pytest.raises(ChallengeExpiredError):
        await store.find(token, OURS)


async def test_exactly_one_finishes(store):
    token = await store.open(challenge())
    done = await asyncio.gather(*(store.finish(token) for _ in range(50)))
    assert sum(done) == 1
    assert not await store.take_try(token)
    with pytest.raises(ChallengeExpiredError):
        await store.find(token, OURS)
    with pytest.raises(ChallengeExpiredError):
        await store.keep(token, {})


async def test_nothing_brings_a_finished_one_back(store, values):
    """Counting or keeping leaves no key behind that would live for ever."""
    token = await store.open(challenge())
    await store.finish(token)
    await store.take_try(token)
    with pytest.raises(ChallengeExpiredError):
        await store.keep(token, {"a": 1})
    assert [name async for name in values.client.scan_iter(match=values.name("challenge", "")[:-2] + "*")] == []


async def test_factors_keep_what_they_need(store):
    token = await store.open(challenge())
    await store.keep(token, {"challenge": b"\0\1", "id": "x"})
    assert (await store.find(token, OURS)).data == {"challenge": b"\0\1", "id": "x"}


@pytest.mark.parametrize("field", ["value", "data"])
async def test_forged_values_are_worth_nothing(store, values, field):
    """A flipped bit in what was proven ends the challenge; in what a factor keeps, it is as if nothing was kept."""
    token = await store.open(challenge())
    await store.keep(token, {"a": 1})
    name = await only_key(values)
    stored = bytearray(await values.client.hget(name, field))
    stored[-1] ^= 1
    await values.client.hset(name, field, bytes(stored))
    if field == "value":
        with pytest.raises(ChallengeExpiredError):
            await store.find(token, OURS)
    else:
        assert (await store.find(token, OURS)).data == {}


async def test_value_of_another_challenge_does_not_hold(store, values):
    """Who writes to Valkey cannot put an own challenge's proof, or what a factor kept, into another's place."""
    first = await store.open(challenge())
    name = await only_key(values)
    await store.keep(first, {"a": 1})
    mine = await values.client.hgetall(name)
    await values.client.unlink(name)
    second = await store.open(challenge())
    other = await only_key(values)
    await values.client.hset(other, "data", mine[b"data"])
    assert (await store.find(second, OURS)).data == {}
    await values.client.hset(other, "data", mine[b"value"])
    assert (await store.find(second, OURS)).data == {}
    await values.client.hset(other, "value", mine[b"value"])
    with pytest.raises(ChallengeExpiredError):
        await store.find(second, OURS)


async def test_tries_that_are_no_number_are_too_many(store, values):
    token = await store.open(challenge())
    await values.client.hset(await only_key(values), "tries", b"-1000")
    with pytest.raises(ChallengeExpiredError):
        await store.find(token, OURS)


async def test_lost_valkey_is_said_and_nothing_is_skipped():
    """No method takes silence for an answer."""
    away = VolatileValues("redis://127.0.0.1:1", secrets.token_bytes(32))
    store = ChallengeStore(away, Clock())
    for call in (store.open(challenge()), store.find("x", OURS), store.take_try("x"), store.finish("x")):
        with pytest.raises(VolatileStoreUnavailableError):
            await call
