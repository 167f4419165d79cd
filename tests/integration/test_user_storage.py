"""Accounts on PostgreSQL: found by name, unique by key, locked, bound to their tenant."""

import asyncio
import random
from datetime import UTC, datetime

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from authn.errors import EmailTakenError, UsernameTakenError
from authn.user_reads import UserReader, list_query
from authn.user_rows import insert_user, lock_user, raise_auth_epoch, set_email, set_password_hash
from authn.users import NewUser, UserStatus, normalize_display_name, normalize_email, normalize_username
from tenancy.audit import AuditEntry
from tenancy.create_tenant import create_tenant
from tenancy.heads import lock_head, raise_head, record_change
from tenancy.storage import TenantStore
from tenancy.tenant import ChangeMeta
from tenancy.unit_of_work import tenant_unit_of_work

META = ChangeMeta("key:test")

pytestmark = pytest.mark.integration


def person(username, email=None, display_name=None, **more):
    """Return an account to be made, from names as typed."""
    return NewUser(
        normalize_username(username),
        None if email is None else normalize_email(email),
        None if display_name is None else normalize_display_name(display_name),
        **more,
    )


async def enter(store, tenant, new):
    """Make an account as a flow does: lock, row, head, history."""
    async with tenant_unit_of_work(store.sessions, tenant.tenant_id) as work:
        assert await lock_head(work) is not None
        user = await insert_user(work, new, created_by=META.actor)
        head = await raise_head(work, counts={"users": 1})
        entry = AuditEntry("user.create", target=user.ref)
        await record_change(work.session, head, "user", META, touched=[user.ref], audit=[entry])
    return user


@pytest.fixture
def users(store):
    """Return the store as the service has it."""
    return UserReader(store.sessions)


async def test_an_account_is_found_however_its_names_are_spelled(store, acme, users):
    """By id, username and address; in no other tenant; and what cannot be a name is nobody's."""
    made = await enter(store, acme, person("Zoë.B", "Zoe@Exämple.com", "Zoë Beck"))
    found = await users.find(acme.tenant_id, made.id)
    assert found == made
    assert (made.username, made.email, made.status) == ("Zoë.B", "Zoe@exämple.com", UserStatus.ACTIVE)
    for spelled in ("zoë.b", "ZOE\u0308.B", "zoe@xn--exmple-cua.com", "ZOE@EXÄMPLE.com"):
        assert await users.find_by_identifier(acme.tenant_id, spelled) == made, spelled
    for other in ("zoe.b", "zoe@example.com", "", "@", "' OR 1=1 --", "%", str(made.id)):
        assert await users.find_by_identifier(acme.tenant_id, other) is None, other
    beta = await create_tenant("beta", None, meta=META, tenants=TenantStore(store.sessions))
    assert await users.find(beta.tenant_id, made.id) is None
    assert await users.find_by_username(beta.tenant_id, "zoë.b") is None


async def test_names_are_unique_in_a_tenant_only(store, acme):
    """The constraint that was broken says which name is taken; another tenant has accounts of its own."""
    await enter(store, acme, person("alice", "a@example.com"))
    with pytest.raises(UsernameTakenError):
        await enter(store, acme, person("ＡLICE", "b@example.com"))
    with pytest.raises(EmailTakenError):
        await enter(store, acme, person("bob", "A@EXAMPLE.com"))
    beta = await create_tenant("beta", None, meta=META, tenants=TenantStore(store.sessions))
    assert (await enter(store, beta, person("alice", "a@example.com"))).tenant_id == beta.tenant_id


async def test_two_at_once_make_one_account(store, acme, users):
    """Both began before either committed: one of them is told that the name is taken."""
    outcomes = await asyncio.gather(*(enter(store, acme, person("alice")) for _ in range(4)), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["User", *["UsernameTakenError"] * 3]
    assert len((await users.list(acme.tenant_id)).users) == 1


async def test_a_lost_race_for_a_name_is_found_by_the_index_alone(store, acme):
    """Without the tenant's lock the unique index still decides."""

    async def unlocked():
        async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
            await insert_user(work, person("alice"), created_by="key:test")

    outcomes = await asyncio.gather(*(unlocked() for _ in range(4)), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["NoneType", *["UsernameTakenError"] * 3]


async def test_a_password_is_replaced_only_if_it_is_the_one_that_was_read(store, acme):
    """A rehash never brings an old password back, and does not end sign-ins; a new password does."""
    made = await enter(store, acme, person("alice"))
    async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
        assert await set_password_hash(work, made.id, "first", read=None, set_by="user")
        assert not await set_password_hash(work, made.id, "second", read=None)
        assert not await set_password_hash(work, made.id, "rehashed", read="older", rehash=True)
        assert await set_password_hash(work, made.id, "rehashed", read="first", rehash=True)
        stored = await lock_user(work, made.id)
    assert (stored.password_hash, stored.auth_epoch, stored.password_set_by) == ("rehashed", 2, "user")
    assert stored.user.password_set
    assert "rehashed" not in repr(stored.user)


async def test_what_ends_sign_ins_raises_the_epoch(store, acme):
    """An epoch of its own, another address; neither for a deleted account, nor for another tenant's."""
    made = await enter(store, acme, person("alice", "a@example.com"))
    await enter(store, acme, person("bob", "b@example.com"))
    beta = await create_tenant("beta", None, meta=META, tenants=TenantStore(store.sessions))
    async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
        assert await raise_auth_epoch(work, made.id) == 2
        assert await set_email(work, made.id, normalize_email("A@new.example"), verified_at=datetime.now(UTC))
        assert (await lock_user(work, made.id)).auth_epoch == 3
    with pytest.raises(EmailTakenError):
        async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
            await set_email(work, made.id, normalize_email("B@example.com"), verified_at=None)
    async with tenant_unit_of_work(store.sessions, beta.tenant_id) as work:
        assert await lock_user(work, made.id) is None
        assert await raise_auth_epoch(work, made.id) is None
        assert not await set_email(work, made.id, None, verified_at=None)
        assert not await set_password_hash(work, made.id, "theirs", read=None)


async def test_lists_find_by_the_beginning_of_a_name(store, acme, users):
    """By username, address and display name; no character is a wildcard; pages follow each other."""
    made = [
        await enter(store, acme, person("alice", "x1@example.com", "Zed One")),
        await enter(store, acme, person("al_b", "x2@example.com", "100% Two")),
        await enter(store, acme, person("bob", "alan@example.com", "Émile")),
    ]

    async def found(search):
        return {user.username for user in (await users.list(acme.tenant_id, search=search)).users}

    assert await found("al") == {"alice", "al_b", "bob"}
    assert await found("AL_") == {"al_b"}
    assert await found("ZED") == {"alice"}
    assert await found("100%") == {"al_b"}
    assert await found("E\u0301mi") == {"bob"}
    for nothing in ("%", "_", "a%", "*", "\\", "' OR ''='", "e", "one", '"; DROP TABLE users; --'):
        assert await found(nothing) == set(), nothing
    first = await users.list(acme.tenant_id, limit=2)
    rest = await users.list(acme.tenant_id, limit=2, after=first.cursor)
    assert [*first.users, *rest.users] == made
    assert rest.cursor is None


async def test_names_of_the_longest_forms_are_stored_and_found(store, acme, users):
    """Some characters stand for eighteen in what is searched, and an index has its limit."""
    rng = random.Random(0)
    wide = "".join(rng.choice("\ufdfa\ufdfb\u33a5\u3316\u32cf\u3300") for _ in range(200))
    long = "\U0001d4d0" * 200
    local = "\u00e9" * 30
    for number, name in enumerate((wide, long)):
        made = await enter(store, acme, person(f"u{number}", f"{local}{number}@example.com", name))
        assert made.display_name == name
        for search in (name[:3], name):
            found = await users.list(acme.tenant_id, search=search)
            assert [user.id for user in found.users] == [made.id], number


async def test_a_tombstone_has_nothing_personal(store, acme):
    """The table itself refuses a deleted account that kept a name, and nothing brings one back by hand of ours."""
    made = await enter(store, acme, person("alice", "a@example.com"))
    for statement in (
        "UPDATE users SET status = 'deleted' WHERE user_id = :id",
        "UPDATE users SET username = NULL, username_key = NULL WHERE user_id = :id",
    ):
        with pytest.raises(DBAPIError) as refused:
            async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
                await work.session.execute(text(statement), {"id": made.id})
        assert refused.value.orig.diag.constraint_name in {"users_named", "users_tombstone"}
    with pytest.raises(DBAPIError, match="permission denied"):
        async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
            await work.session.execute(text("DELETE FROM users"))
    with pytest.raises(DBAPIError, match="permission denied"):
        async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
            await work.session.execute(text("UPDATE users SET user_id = gen_random_uuid()"))


def test_large_lists_use_indexes(own_database_url, store, acme):
    """With 100,000 accounts a page, a search and a filter by state read no whole table."""
    with psycopg.connect(own_database_url, autocommit=True) as owner:
        owner.execute(
            "INSERT INTO users (tenant_id, user_id, username, username_key, email, email_key, display_name, "
            "display_name_key, created_by) SELECT %s, gen_random_uuid(), 'u' || n, 'u' || n, n || '@example.com', "
            "n || '@example.com', 'Person ' || n, 'person ' || n, 'test' FROM generate_series(1, 100000) AS n",
            [acme.tenant_id],
        )
        owner.execute("ANALYZE users")
        owner.execute("SET ROLE kasbah_service")
        owner.execute("SELECT set_config('app.tenant_id', %s, false)", [str(acme.tenant_id)])
        for search, status in (
            (None, None),
            ("u", None),
            ("person", None),
            ("u99999", None),
            ("person 999", None),
            (None, UserStatus.DISABLED),
        ):
            query, parameters = list_query(search, status)
            names = parameters | {"tenant_id": acme.tenant_id, "after": "0" * 32, "limit": 101}
            statement = str(query.compile(compile_kwargs={"literal_binds": False}))
            for name in names:
                statement = statement.replace(f":{name}", f"%({name})s")
            (plan,) = owner.execute(f"EXPLAIN (FORMAT JSON) {statement}", names).fetchone()
            nodes = list(_nodes(plan[0]["Plan"]))
            assert not [node for node in nodes if node["Node Type"] == "Seq Scan"], (search, status)
            assert plan[0]["Plan"]["Total Cost"] < 1000, (search, status)


def _nodes(plan):
    yield plan
    for inner in plan.get("Plans", ()):
        yield from _nodes(inner)
