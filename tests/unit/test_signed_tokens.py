"""Verified tokens: remembered while nothing that proved them changed, and never beyond."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from authn import signed_tokens
from authn.access_tokens import Expected, Refusal
from authn.errors import AccessTokenRefusedError
from authn.issuer_keys import IssuerKeys, KeyLimits
from authn.signed_tokens import SignedTokens
from tests.support.issuer import AUDIENCE, Issuer, new_key
from tests.unit.test_issuer_keys import Publisher, settled

BEGAN = 1_800_000_000
OLD, NEW = new_key(kid="one"), new_key(kid="one")
"""Two keys under one id."""

ISSUER = Issuer(keys=[OLD], now=lambda: BEGAN)


class World:
    """Tokens over a publisher, with a clock and a count of verifications."""

    def __init__(self, monkeypatch, remembered=10):
        self.passed = 0.0
        self.verified = 0
        self.publisher = Publisher(OLD)
        keys = IssuerKeys(self.publisher, ["ES256"], KeyLimits(fresh=60), monotonic=lambda: self.passed)
        self.tokens = SignedTokens(keys, Expected(ISSUER.issuer, AUDIENCE), self.now, remembered)
        verify = signed_tokens.verified_payload

        def count(token, key):
            self.verified += 1
            return verify(token, key)

        monkeypatch.setattr(signed_tokens, "verified_payload", count)

    def now(self):
        return datetime.fromtimestamp(BEGAN, UTC) + timedelta(seconds=self.passed)

    async def refusal(self, token):
        with pytest.raises(AccessTokenRefusedError) as refused:
            await self.tokens.find(token)
        return refused.value.refusal


async def test_a_token_is_verified_once_while_its_key_is_held(monkeypatch):
    """And again with the next set of keys."""
    world = World(monkeypatch)
    token = ISSUER.token("alice", "kasbah:policy:read")
    first = await world.tokens.find(token)
    assert await world.tokens.find(token) is first
    assert world.verified == 1
    world.passed = 60
    assert await world.tokens.find(token) is first
    await settled()
    assert await world.tokens.find(token) == first
    assert (world.verified, world.publisher.fetches) == (2, 2)


async def test_a_key_that_was_replaced_under_its_id_takes_its_tokens_with_it(monkeypatch):
    """Remembered is not trusted: the signature is looked at again, by the key that is there now."""
    world = World(monkeypatch)
    token = ISSUER.token("alice")
    await world.tokens.find(token)
    world.publisher.keys = [NEW]
    world.passed = 60
    await world.tokens.find(token)
    await settled()
    assert await world.refusal(token) == Refusal.SIGNATURE


async def test_a_key_that_was_taken_back_takes_its_tokens_with_it(monkeypatch):
    """And what was remembered is let go."""
    world = World(monkeypatch)
    token = ISSUER.token("alice")
    await world.tokens.find(token)
    world.publisher.keys = [new_key(kid="two")]
    world.passed = 60
    await world.tokens.find(token)
    await settled()
    assert await world.refusal(token) == Refusal.KEY
    assert not world.tokens._verified


async def test_a_remembered_token_ends_when_it_ends(monkeypatch):
    """With the leeway, to the second."""
    world = World(monkeypatch)
    token = ISSUER.token("alice", exp=BEGAN + 30)
    await world.tokens.find(token)
    world.passed = 39.9
    await world.tokens.find(token)
    world.passed = 40
    assert await world.refusal(token) == Refusal.TIME
    assert await world.refusal(token) == Refusal.TIME
    assert not world.tokens._verified


async def test_only_what_was_verified_is_remembered_and_not_without_end(monkeypatch):
    """Ten thousand forgeries take no place; of good tokens the oldest gives way."""
    world = World(monkeypatch, remembered=4)
    good = ISSUER.token("alice")
    for number in range(200):
        head, body, signature = good.split(".")
        await world.refusal(f"{head}.{body}.{signature[:-8]}{number:08d}")
    assert not world.tokens._verified
    for number in range(8):
        await world.tokens.find(ISSUER.token(f"person-{number}"))
    assert len(world.tokens._verified) == 4


async def test_what_is_used_stays_and_the_rest_gives_way(monkeypatch):
    """The place that is needed is that of the token nobody came with for longest."""
    world = World(monkeypatch, remembered=2)
    used, unused, new = (ISSUER.token(name) for name in ("used", "unused", "new"))
    for token in (used, unused, used, new, used):
        await world.tokens.find(token)
    assert world.verified == 3
    await world.tokens.find(unused)
    assert world.verified == 4


async def test_metrics_tell_what_was_remembered_from_what_was_verified(monkeypatch):
    """Each token that was looked at once, and no refusal of its shape or key."""
    world = World(monkeypatch)
    assert world.tokens.totals() == {
        "signed_token_hits": 0,
        "signed_token_misses": 0,
        "issuer_keys_fetched": 0,
        "issuer_keys_failed": 0,
    }
    for token in [*[ISSUER.token("alice")] * 3, ISSUER.token("bob")]:
        await world.tokens.find(token)
    assert await world.refusal("no.token.\ud800") == Refusal.FORM
    told = world.tokens.totals()
    assert (told["signed_token_hits"], told["signed_token_misses"], told["issuer_keys_fetched"]) == (2, 2, 1)


async def test_closing_ends_the_fetch_of_keys(monkeypatch):
    """Nothing goes on after the service has ended."""
    world = World(monkeypatch)
    world.publisher.gate = asyncio.Event()
    finding = asyncio.create_task(world.tokens.find(ISSUER.token("alice")))
    await settled()
    await world.tokens.close()
    with pytest.raises(asyncio.CancelledError):
        await finding
