"""Valkey killed, flushed, frozen and poisoned under a running node: nothing wrong is answered, and nothing waits long."""

import asyncio
import struct
import time
from typing import Any

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from authz.rule_set_codec import HEADER, MAC_BYTES
from authz.snapshot_cache import ValkeySnapshotCache
from tests.support.live_node import READERS, LiveNode, cache_settings, live_node, tenants_with_readers
from tests.support.outside_checker import PATIENCE_SECONDS

pytestmark = [pytest.mark.integration]


@pytest.fixture
def valkey_url(own_valkey) -> str:
    return own_valkey.url


async def until(condition) -> None:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < PATIENCE_SECONDS, "it did not come true in time"
        await asyncio.sleep(0.01)


async def until_listening(url: str, *nodes: LiveNode) -> None:
    """Wait until these nodes are told of notices."""
    channel = valkey_of(nodes[0])._channel
    async with Redis.from_url(url) as client, asyncio.timeout(PATIENCE_SECONDS):
        while (await client.pubsub_numsub(channel))[0][1] < len(nodes):  # noqa: ASYNC110 (a state of Valkey's)
            await asyncio.sleep(0.01)


def valkey_of(node: LiveNode) -> ValkeySnapshotCache:
    assert isinstance(node.cache, ValkeySnapshotCache)
    return node.cache


async def test_a_change_reaches_the_other_node_by_notice(own_database_url, valkey_url):
    """With a poll every ten minutes only the notice can have told the other node."""
    (tenant,) = await tenants_with_readers(own_database_url, "acme")
    settings: dict[str, Any] = {"poll_interval": 600, "max_staleness": 3600}
    async with (
        live_node(own_database_url, valkey_url, **settings) as first,
        live_node(own_database_url, valkey_url, **settings) as second,
    ):
        assert await first.allows(tenant)
        assert await second.allows(tenant)
        await until_listening(valkey_url, first, second)
        for _ in range(10):
            head = await first.revoke(tenant)
            await first.node.note_write(head)
            assert not await first.allows(tenant)
            await second.until_answer(tenant, wanted=False)
            head = await first.grant(tenant)
            await first.node.note_write(head)
            await second.until_answer(tenant, wanted=True)
        assert second.node.notices >= 10


async def test_a_killed_valkey_changes_no_answer_and_is_taken_up_again(own_database_url, own_valkey):
    """Warm and cold decisions and changes go on without it; when it is back, notices and rule sets flow again."""
    first, second = await tenants_with_readers(own_database_url, "acme", "globex")
    async with live_node(own_database_url, own_valkey.url) as one, live_node(own_database_url, own_valkey.url) as two:
        assert await one.allows(first)
        assert await two.allows(first)
        own_valkey.kill()
        assert await one.allows(first)
        assert await one.allows(second)
        await one.node.note_write(await one.revoke(first))
        assert not await one.allows(first)
        await two.until_answer(first, wanted=False)
        own_valkey.start_again()
        heard = two.node.notices
        head = await one.grant(first)

        async def publish() -> bool:
            await one.cache.publish(head)
            await asyncio.sleep(0.05)
            return two.node.notices > heard

        deadline = time.monotonic() + PATIENCE_SECONDS
        while not await publish():
            assert time.monotonic() < deadline, "notices did not come back"
        async with live_node(own_database_url, own_valkey.url) as three:
            assert await three.allows(second)
            await until(lambda: valkey_of(three).stored == 1)


async def test_a_frozen_valkey_delays_little(own_database_url, own_valkey):
    """A Valkey that holds connections and says nothing costs a few timeouts and one a second, not one per tenant."""
    tenants = await tenants_with_readers(own_database_url, *[f"tenant-{n}" for n in range(12)])
    async with live_node(own_database_url, own_valkey.url) as one:
        assert await one.allows(tenants[0])
        own_valkey.freeze()
        began, before = time.monotonic(), valkey_of(one).failures
        for tenant in tenants[1:]:
            assert await one.allows(tenant)
        head = await one.revoke(tenants[0])
        await one.node.note_write(head)
        settings = cache_settings(own_valkey.url)
        most = settings.breaker_failures + (time.monotonic() - began) / settings.breaker_pause.total_seconds() + 1
        assert 0 < valkey_of(one).failures - before <= most
        assert not await one.allows(tenants[0])
        own_valkey.thaw()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not await valkey_of(one).ping():  # noqa: ASYNC110 (a state of Valkey's)
                await asyncio.sleep(0.05)


async def test_a_flushed_valkey_loses_nothing(own_database_url, own_valkey):
    """Everything in it can be rebuilt: a node that starts after FLUSHALL reads PostgreSQL and stores it again."""
    (tenant,) = await tenants_with_readers(own_database_url, "acme")
    async with live_node(own_database_url, own_valkey.url) as one:
        assert await one.allows(tenant)
        await until(lambda: valkey_of(one).stored == 1)
    async with Redis.from_url(own_valkey.url) as client:
        await client.flushall()
        async with live_node(own_database_url, own_valkey.url) as two:
            assert await two.allows(tenant)
            await until(lambda: valkey_of(two).stored == 1)
            assert two.node.statistics()["snapshots_from_database"] == 1
    async with live_node(own_database_url, own_valkey.url) as three:
        assert await three.allows(tenant)
        assert three.node.statistics()["snapshots_from_cache"] == 1


async def test_poisoned_rule_sets_are_rebuilt_from_postgresql(own_database_url, own_valkey):
    """Whatever stands in the place of a rule set, the answer is PostgreSQL's, and the place is mended."""
    acme, globex = await tenants_with_readers(own_database_url, "acme", "globex")
    async with live_node(own_database_url, own_valkey.url) as one:
        assert await one.allows(acme)
        assert await one.allows(globex)
        await until(lambda: valkey_of(one).stored == 2)
        old_key = valkey_of(one)._rules_key(acme)
        async with Redis.from_url(own_valkey.url) as client:
            older = await client.get(old_key)
            foreign = await client.get(valkey_of(one)._rules_key(globex))
        # From here on nobody may read in acme.
        head = await one.change(acme, remove=[READERS])
        assert not await one.allows(acme, min_revision=head.revision)
        await until(lambda: valkey_of(one).stored == 3)
        async with Redis.from_url(own_valkey.url) as client:
            good = await client.get(old_key)
    newer = HEADER.pack(*HEADER.unpack(older[: HEADER.size])[:2], head.rules_revision) + older[HEADER.size :]
    flipped = bytearray(good)
    flipped[-20] ^= 0x40
    poisons = {
        "older": older,
        "older, relabelled": newer,
        "another tenant's": foreign,
        "truncated": good[: len(good) // 2],
        "header alone": good[: HEADER.size + MAC_BYTES],
        "bit flip": bytes(flipped),
        "old format": struct.pack(">4s8sQ", b"KsRs", b"\0" * 8, head.rules_revision) + good[HEADER.size :],
        "a pickle": b"\x80\x04cos\nsystem\n(S'touch /tmp/pwned'\ntR.",
        "garbage": b"\0" * 100_000,
        "empty": b"",
    }
    for name, value in poisons.items():
        async with Redis.from_url(own_valkey.url) as client:
            await client.set(old_key, value)
        async with live_node(own_database_url, own_valkey.url) as fresh:
            with capture_logs() as logs:
                assert not await fresh.allows(acme), name
            # An older one is there after every change, and no news.
            told = [entry["event"] for entry in logs if entry["event"] == "authz.cache.rejected"]
            assert len(told) == (1 if value and "older" not in valkey_of(fresh).rejected else 0), name
            statistics = fresh.node.statistics()
            assert statistics["snapshots_from_database"] == 1, name
            assert sum(valkey_of(fresh).rejected.values()) == (1 if value else 0), name
            await until(lambda fresh=fresh: valkey_of(fresh).stored == 1)
        async with live_node(own_database_url, own_valkey.url) as next_one:
            assert not await next_one.allows(acme), name
            assert next_one.node.statistics()["snapshots_from_cache"] == 1, name


async def test_another_type_or_size_under_the_key_is_a_miss(own_database_url, own_valkey):
    """A list where a string should be, or a value above the limit, costs no memory and no answer."""
    (tenant,) = await tenants_with_readers(own_database_url, "acme")
    settings = cache_settings(own_valkey.url, max_snapshot_bytes=50_000)
    async with live_node(own_database_url, own_valkey.url, cache=settings) as one:
        key = valkey_of(one)._rules_key(tenant)
        async with Redis.from_url(own_valkey.url) as client:
            await client.rpush(key, "x")
            assert await one.allows(tenant)
            await client.delete(key)
            await client.set(key, b"x" * 10_000_000)
        async with live_node(own_database_url, own_valkey.url, cache=settings) as two:
            assert await two.allows(tenant)
            assert valkey_of(two).rejected["too_large"] == 1


async def test_garbage_on_the_channel_is_ignored(own_database_url, own_valkey):
    """Messages that are no notices are counted; the listener goes on."""
    (tenant,) = await tenants_with_readers(own_database_url, "acme")
    async with live_node(own_database_url, own_valkey.url) as one, Redis.from_url(own_valkey.url) as client:
        assert await one.allows(tenant)
        cache = valkey_of(one)
        await until_listening(own_valkey.url, one)
        for garbage in [b"", b"\xff\xfe", b"x" * 10_000, b"not-a-uuid 1", b"\0" * 40]:
            await client.publish(cache._channel, garbage)
        await until(lambda: cache.bad_notices == 5)
        await client.publish(cache._channel, f"{tenant} 99999999")
        await until(lambda: one.node.notices == 1)
        assert await one.allows(tenant)
