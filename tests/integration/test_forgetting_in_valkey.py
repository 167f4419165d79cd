"""Every key of a removed tenant leaves Valkey, whoever wrote it; no other does."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from authn.session_storage import ValkeySessionStore
from authn.sessions import Acr, Session
from authn.volatile_values import VolatileValues
from authz.settings import CacheSettings
from authz.snapshot_cache import ValkeySnapshotCache
from tenancy.ids import TenantId

pytestmark = pytest.mark.integration


def cache_at(url: str) -> ValkeySnapshotCache:
    return ValkeySnapshotCache(CacheSettings(url=url, secret="s" * 40))


async def test_the_keys_of_a_tenant_are_forgotten_and_no_others(redis_url: str) -> None:
    """Among thousands: those with its hash tag, of this deployment."""
    ours, theirs = TenantId(uuid4()), TenantId(uuid4())
    cache = cache_at(redis_url)
    prefix = cache._prefix
    gone = [f"{prefix}:rules:{{{ours}}}", f"{prefix}:rules:{{{ours}}}:{uuid4()}"]
    gone += [f"{prefix}:throttle:{{{ours}}}:{number}" for number in range(2500)]
    kept = [f"{prefix}:rules:{{{theirs}}}", f"kasbah:other:rules:{{{ours}}}", f"{prefix}:rules:{ours}"]
    async with Redis.from_url(redis_url) as valkey:
        await valkey.mset(dict.fromkeys([*gone, *kept], b"x"))
        assert await cache.forget_tenant(ours) is True
        assert {key.decode() for key in await valkey.keys("*")} == {*kept}
        assert await cache.forget_tenant(ours) is True
        await valkey.flushdb()
    await cache.close()


async def test_sign_ins_of_a_tenant_are_forgotten_with_it(redis_url: str) -> None:
    """What they tell of people (device, address) goes: sessions, and the index of each account's."""
    ours, theirs = TenantId(uuid4()), TenantId(uuid4())
    cache = cache_at(redis_url)
    values = VolatileValues(redis_url, b"s" * 40)
    store = ValkeySessionStore(values)
    gone, kept = [await store.put(session_of(tenant_id)) for tenant_id in (ours, theirs)]
    assert await cache.forget_tenant(ours) is True
    assert await store.find(gone.token) is None
    assert await store.find(kept.token) == kept.session
    async with Redis.from_url(redis_url) as valkey:
        assert [key for key in await valkey.keys("*") if str(ours) in key.decode()] == []
        await valkey.flushdb()
    await values.close()
    await cache.close()


def session_of(tenant_id: TenantId) -> Session:
    """A session of nobody."""
    now = datetime.now(UTC)
    return Session(uuid4(), tenant_id, uuid4(), 1, Acr.AAL1, ("pwd",), now, now, now + timedelta(hours=1), 3600, now)


async def test_a_valkey_that_is_not_there_is_not_called_empty() -> None:
    """So the removal of a tenant is not called done."""
    cache = cache_at("redis://127.0.0.1:1")
    assert await cache.forget_tenant(TenantId(uuid4())) is False
    await cache.close()
