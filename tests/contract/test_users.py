"""A store of accounts does what one in memory does, whatever is asked of it, in whatever order."""

import random
from uuid import UUID

import pytest
from sqlalchemy import text

from authn.errors import AuthnError
from authn.user_edits import UNCHANGED, UserEdit
from authn.user_storage import UserStore
from authn.users import NewUser, UserStatus, normalize_display_name, normalize_email, normalize_username
from authz.subject_rows import PostgresSubjectPolicy
from tenancy.create_tenant import create_tenant
from tenancy.database import open_engine, open_sessions
from tenancy.key_encryption import KeyEncryptionKeys, LocalKeyEncryption
from tenancy.key_ring import KeyRing
from tenancy.storage import TenantStore
from tenancy.tenant import ChangeMeta
from tenancy.unit_of_work import tenant_unit_of_work
from tests.support.memory_users import MemoryUsers
from tests.support.servers import patient

META = ChangeMeta("key:test", reason="because")
NAMES = ["alice", "ALICE", "bob", "Bob", "carol"]
ADDRESSES = ["a@example.com", "A@example.com", "b@example.com"]
DISPLAYED = ["Alice", "Bob"]
MAX_USERS = 3

pytestmark = pytest.mark.integration


@pytest.fixture
async def sessions(database_url):
    engine = open_engine(database_url, patient())
    yield open_sessions(engine)
    await engine.dispose()


def some(rng, values, normalize, *others):
    """Pick a name, normalised, or one of `others`."""
    picked = rng.choice([*values, *others])
    return normalize(picked) if isinstance(picked, str) else picked


async def outcome(work):
    """Return the error's class, or the result."""
    try:
        return await work
    except AuthnError as error:
        return type(error)


def refusal(work, *arguments):
    """Return the class of what a call of the plain store raises, or None."""
    try:
        work(*arguments)
    except AuthnError as error:
        return type(error)
    return None


@pytest.mark.parametrize("seed", range(3))
async def test_random_histories(sessions, seed):
    """The same refusals, the same accounts, the same revisions, and one event of the audit for each revision."""
    rng = random.Random(seed)
    tenant = await create_tenant(f"acme-{seed}", None, meta=META, tenants=TenantStore(sessions))
    ring = KeyRing(sessions, KeyEncryptionKeys([LocalKeyEncryption("test", bytes(range(32)))], "test"))
    store = UserStore(sessions, ring, PostgresSubjectPolicy(), max_users=MAX_USERS)
    memory = MemoryUsers(MAX_USERS)
    unknown = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
    refused = set()
    for _ in range(50):
        user_id = rng.choice([*memory.accounts, unknown])
        verb = rng.choice(["create", "create", "update", "update", "set_status", "delete"])
        if verb == "create":
            new = NewUser(
                some(rng, NAMES, normalize_username),
                some(rng, ADDRESSES, normalize_email, None),
                some(rng, DISPLAYED, normalize_display_name, None),
                mfa_required=rng.random() < 0.5,
            )
            told = await outcome(store.create(tenant.tenant_id, new, meta=META))
            expected = refusal(memory.create, None if isinstance(told, type) else told.user.id, new)
        elif verb == "update":
            edit = UserEdit(
                some(rng, NAMES, normalize_username, UNCHANGED),
                some(rng, ADDRESSES, normalize_email, None, UNCHANGED),
                some(rng, DISPLAYED, normalize_display_name, None, UNCHANGED),
                rng.choice([True, False, UNCHANGED]),
            )
            told = await outcome(store.update(tenant.tenant_id, user_id, edit, meta=META))
            expected = refusal(memory.update, user_id, edit)
        elif verb == "set_status":
            status = rng.choice([UserStatus.ACTIVE, UserStatus.DISABLED])
            told = await outcome(store.set_status(tenant.tenant_id, user_id, status, meta=META))
            expected = refusal(memory.set_status, user_id, status, "because")
        else:
            told = await outcome(store.delete(tenant.tenant_id, user_id, meta=META))
            expected = refusal(memory.delete, user_id)
        assert expected is (told if isinstance(told, type) else None)
        refused.add(expected)
    assert len(refused) >= 4
    await compare(sessions, store, tenant, memory)


async def compare(sessions, store, tenant, memory):
    """Hold every account, every look-up and the counts against the plain store."""
    found = {}
    for status in UserStatus:
        page = await store.list(tenant.tenant_id, status=status, limit=1000)
        found |= {user.id: user for user in page.users}
        assert page.head.revision == tenant.revision + memory.revision
    for user_id, user in found.items():
        expected = memory.accounts[user_id]
        shown = [name and name[0] for name in (expected.username, expected.email, expected.display_name)]
        assert [user.username, user.email, user.display_name] == shown
        assert (user.status, user.status_reason, user.mfa_required) == (
            expected.status,
            expected.reason,
            expected.mfa_required,
        )
        assert user.email_verified_at is None
    assert found.keys() == memory.accounts.keys()
    for name in (*NAMES, *ADDRESSES):
        normalize = normalize_email if "@" in name else normalize_username
        key = normalize(name)[1]
        expected_ids = [
            user_id
            for user_id, account in memory.accounts.items()
            if key in {each[1] for each in (account.username, account.email) if each is not None}
        ]
        user = await store.find_by_identifier(tenant.tenant_id, name)
        assert ([] if user is None else [user.id]) == expected_ids
    alive = [account for account in memory.accounts.values() if account.status is not UserStatus.DELETED]
    async with tenant_unit_of_work(sessions, tenant.tenant_id) as work:
        query = (
            "SELECT users_count, (SELECT count(*) FROM audit_events AS a WHERE a.tenant_id = t.tenant_id "
            "AND a.event->>'action' LIKE 'user.%') FROM tenants AS t WHERE tenant_id = :tenant_id"
        )
        counted = (await work.session.execute(text(query), {"tenant_id": tenant.tenant_id})).one()
    assert tuple(counted) == (len(alive), memory.revision)
