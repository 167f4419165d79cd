"""Tenants and keys on PostgreSQL, and how readers learn of them."""

import secrets
from datetime import UTC, datetime, timedelta

import pytest

from authn.api_keys import ApiKeyId, new_api_key
from authn.errors import ApiKeyNotFoundError, KeyLimitExceededError, KeyTenantNotFoundError
from authn.storage import ApiKeyStore
from authz.storage import PostgresPolicyReader
from tenancy.create_tenant import create_tenant
from tenancy.database import require_safe_role
from tenancy.errors import SlugTakenError
from tenancy.ids import PLATFORM_TENANT_ID, TenantId
from tenancy.storage import TenantStore
from tenancy.tenant import ChangeMeta
from tenancy.uuid7 import make_uuid7

META = ChangeMeta("key:test", reason="because")
NOW = datetime(2026, 1, 1, tzinfo=UTC)

pytestmark = pytest.mark.integration


def make_key(tenant_id, **more):
    """Return token, key and hash of a fresh key."""
    return new_api_key(
        tenant_id,
        "billing",
        frozenset({"policy:read"}),
        key_id=make_uuid7(NOW, secrets.token_bytes(10)),
        entropy=secrets.token_bytes(36),
        now=NOW,
        **more,
    )


async def test_the_service_role_is_safe(store):
    """The role that the service becomes passes its own check."""
    await require_safe_role(store.engine)


async def test_a_tenant_is_created_once_and_found(store):
    """A slug names one tenant for ever; id, slug, list and feed agree on it."""
    tenants, reader = TenantStore(store.sessions), PostgresPolicyReader(store.sessions)
    start = await reader.poll(None)
    head = await create_tenant("acme", "Acme", meta=META, tenants=tenants)
    assert (head.revision, head.rules_revision, head.slug) == (1, 1, "acme")
    assert await reader.find_tenant(head.tenant_id) == head
    assert await reader.find_tenant_by_slug("acme") == head
    assert await reader.find_tenant_by_slug("Acme") is None
    assert await reader.find_tenant(TenantId(make_uuid7(NOW, bytes(10)))) is None
    with pytest.raises(SlugTakenError):
        await create_tenant("acme", None, meta=META, tenants=tenants)
    page = await reader.poll(start.cursor)
    assert [found.slug for found in page.heads] == ["acme"]
    assert (await reader.poll(page.cursor)).heads == []
    tenant = await tenants.find_by_slug("acme")
    assert tenant is not None
    assert tenant.display_name == "Acme"
    assert abs(page.database_time - tenant.created_at) < timedelta(minutes=1)


async def test_tenants_are_listed_by_cursor_without_the_reserved_ones(store):
    """Pages follow each other without gap or repetition."""
    tenants = TenantStore(store.sessions)
    for slug in ("c", "a", "b", "e", "d"):
        await create_tenant(slug, None, meta=META, tenants=tenants)
    seen, after = [], None
    while True:
        page = await tenants.list(after, 2)
        seen += [tenant.head.slug for tenant in page.tenants]
        if page.cursor is None:
            break
        after = page.cursor
    assert seen == ["a", "b", "c", "d", "e"]


async def test_a_key_is_found_by_its_hash_with_the_head_and_ends_when_revoked(store):
    """Creating and revoking raise `revision` and `keys_revision`, not `rules_revision`."""
    keys, reader = ApiKeyStore(store.sessions), PostgresPolicyReader(store.sessions)
    head = await create_tenant("acme", None, meta=META, tenants=TenantStore(store.sessions))
    _, key, key_hash = make_key(head.tenant_id, ttl=timedelta(days=1))
    created = await keys.create(key, key_hash, meta=META)
    assert (created.revision, created.rules_revision, created.keys_revision) == (2, 1, 2)
    found = await keys.find_by_hash(key_hash)
    assert found is not None
    assert (found.tenant_head, found.slug) == (created, "acme")
    assert found.key.is_live(NOW)
    assert not found.key.is_live(NOW + timedelta(days=1))
    assert found.key.scopes == {"policy:read", "decision:check"}
    assert await keys.find_by_hash(bytes(32)) is None
    revoked = await keys.revoke(head.tenant_id, key.id, meta=META)
    assert (revoked.revision, revoked.keys_revision) == (3, 3)
    found = await keys.find_by_hash(key_hash)
    assert found is not None
    assert not found.key.is_live(NOW)
    assert await keys.revoke(head.tenant_id, key.id, meta=META) == revoked
    assert await reader.find_tenant(head.tenant_id) == revoked
    assert [listed.id for listed in (await keys.list(head.tenant_id, None, 10)).keys] == [key.id]


async def test_keys_of_another_tenant_cannot_be_revoked_or_listed(store):
    """Another tenant's key id is as unknown as one that never was."""
    keys, tenants = ApiKeyStore(store.sessions), TenantStore(store.sessions)
    one = await create_tenant("one", None, meta=META, tenants=tenants)
    two = await create_tenant("two", None, meta=META, tenants=tenants)
    _, key, key_hash = make_key(one.tenant_id)
    await keys.create(key, key_hash, meta=META)
    with pytest.raises(ApiKeyNotFoundError):
        await keys.revoke(two.tenant_id, key.id, meta=META)
    with pytest.raises(ApiKeyNotFoundError):
        await keys.revoke(PLATFORM_TENANT_ID, key.id, meta=META)
    assert (await keys.list(two.tenant_id, None, 10)).keys == []
    nobody = TenantId(make_uuid7(NOW, b"x" * 10))
    with pytest.raises(KeyTenantNotFoundError):
        await keys.revoke(nobody, ApiKeyId(key.id), meta=META)
    with pytest.raises(KeyTenantNotFoundError):
        await keys.create(make_key(nobody)[1], bytes(32), meta=META)


async def test_a_tenant_has_a_limit_of_live_keys(store):
    """The limit counts live keys: revoking one makes room."""
    keys = ApiKeyStore(store.sessions, max_live_keys=1)
    head = await create_tenant("acme", None, meta=META, tenants=TenantStore(store.sessions))
    _, key, key_hash = make_key(head.tenant_id)
    await keys.create(key, key_hash, meta=META)
    _, second, second_hash = make_key(head.tenant_id)
    with pytest.raises(KeyLimitExceededError):
        await keys.create(second, second_hash, meta=META)
    await keys.revoke(head.tenant_id, key.id, meta=META)
    await keys.create(second, second_hash, meta=META)
