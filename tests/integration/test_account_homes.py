"""The tenant of an account by its id, and the moment since when its sign-ins count, in PostgreSQL."""

import asyncio
from datetime import UTC, datetime
from uuid import uuid4

import psycopg
import pytest
from alembic import command

from authn.account_homes import AccountHome, AccountKind, PostgresAccountDirectory
from authn.errors import UserStorageUnavailableError
from authn.user_rows import insert_user, raise_auth_epoch
from authn.users import NewUser, normalize_username
from authz.request import Ref
from authz.storage import PostgresPolicyReader
from migrations import runner
from tenancy.database import open_engine, open_sessions
from tenancy.ids import Slug
from tenancy.unit_of_work import tenant_unit_of_work
from tests.support.seeding import seed
from tests.support.servers import patient

pytestmark = pytest.mark.integration


@pytest.fixture
async def sessions(own_database_url):
    """Sessions as the service has them, with tenants acme and beta."""
    engine = open_engine(own_database_url, patient())
    yield open_sessions(engine)
    await engine.dispose()


async def person(sessions, tenant_id, user_id=None):
    async with tenant_unit_of_work(sessions, tenant_id) as work:
        return await insert_user(work, NewUser(normalize_username("carol")), created_by="test", user_id=user_id)


async def account(sessions, tenant_id, ref):
    found = await PostgresPolicyReader(sessions).lookup(tenant_id, [Ref(ref)], [])
    return found.subjects[Ref(ref)].account


async def test_an_account_is_found_by_its_id_and_kind(sessions, own_database_url):
    """A person is no service, an unknown id is nobody, and a deleted tenant has nobody."""
    made = await seed(own_database_url, {"acme": [], "beta": []})
    carol = await person(sessions, made.tenants["beta"])
    directory = PostgresAccountDirectory(sessions)
    home = AccountHome(made.tenants["beta"], Slug("beta"))
    assert await directory.find_home(AccountKind.PERSON, carol.id) == home
    assert await directory.find_home(AccountKind.SERVICE, carol.id) is None
    assert await directory.find_home(AccountKind.PERSON, uuid4()) is None
    with psycopg.connect(own_database_url, autocommit=True) as owner:
        service = uuid4()
        owner.execute(
            "INSERT INTO service_accounts (tenant_id, service_account_id, name, created_by) VALUES (%s, %s, 'a', 't')",
            (made.tenants["acme"], service),
        )
        assert (await directory.find_home(AccountKind.SERVICE, service)).slug == "acme"
        assert await directory.find_home(AccountKind.PERSON, service) is None
        owner.execute("UPDATE tenants SET status = 'deleted' WHERE slug = 'beta'")
    assert await directory.find_home(AccountKind.PERSON, carol.id) is None


async def test_an_id_that_two_tenants_have_names_nobody(sessions, own_database_url):
    """Ids are made once; a row that was copied by hand makes no one of one tenant somebody of another."""
    made = await seed(own_database_url, {"acme": [], "beta": []})
    carol = await person(sessions, made.tenants["acme"])
    await person(sessions, made.tenants["beta"], carol.id)
    assert await PostgresAccountDirectory(sessions).find_home(AccountKind.PERSON, carol.id) is None


async def test_a_database_that_does_not_answer_is_no_answer():
    """Unknown is not nobody."""
    engine = open_engine("postgresql://nobody@127.0.0.1:1/none")
    try:
        with pytest.raises(UserStorageUnavailableError):
            await PostgresAccountDirectory(open_sessions(engine)).find_home(AccountKind.PERSON, uuid4())
    finally:
        await engine.dispose()


async def test_the_end_of_all_sign_ins_is_noted_by_the_database_itself(sessions, own_database_url):
    """By a raised epoch and by a change of state, in whatever way; not by other changes."""
    made = await seed(own_database_url, {"acme": []})
    acme = made.tenants["acme"]
    carol = await person(sessions, acme)
    assert (await account(sessions, acme, carol.ref)).signed_out_at is None
    began = datetime.now(UTC)
    async with tenant_unit_of_work(sessions, acme) as work:
        await raise_auth_epoch(work, carol.id)
    first = (await account(sessions, acme, carol.ref)).signed_out_at
    assert began <= first <= datetime.now(UTC)
    with psycopg.connect(own_database_url, autocommit=True) as owner:
        owner.execute("UPDATE users SET last_sign_in_at = now(), updated_at = now()")
        assert (await account(sessions, acme, carol.ref)).signed_out_at == first
        owner.execute("UPDATE users SET status = 'disabled'")
        second = (await account(sessions, acme, carol.ref)).signed_out_at
        assert second > first
        service = uuid4()
        owner.execute(
            "INSERT INTO service_accounts (tenant_id, service_account_id, name, created_by) VALUES (%s, %s, 'a', 't')",
            (acme, service),
        )
        assert (await account(sessions, acme, f"service:{service}")).signed_out_at is None
        owner.execute("UPDATE service_accounts SET description = 'b'")
        assert (await account(sessions, acme, f"service:{service}")).signed_out_at is None
        owner.execute("UPDATE service_accounts SET status = 'disabled'")
        assert (await account(sessions, acme, f"service:{service}")).signed_out_at >= second


async def test_accounts_from_before_count_from_the_migration_on(empty_database_url, monkeypatch):
    """When their sign-ins were ended is not known, so no token from before is taken."""
    with monkeypatch.context() as earlier:
        upgrade = command.upgrade
        earlier.setattr(command, "upgrade", lambda config, _: upgrade(config, "0028"))
        await asyncio.to_thread(runner.upgrade, empty_database_url)
    acme, carol = uuid4(), uuid4()
    add = "INSERT INTO users (tenant_id, user_id, username, username_key, created_by) VALUES (%s, %s, %s, %s, 'test')"
    with psycopg.connect(empty_database_url, autocommit=True) as owner:
        owner.execute("INSERT INTO tenants (tenant_id, slug, display_name) VALUES (%s, 'acme', 'Acme')", (acme,))
        owner.execute(add, (acme, carol, "carol", "carol"))
        began = datetime.now(UTC)
        await asyncio.to_thread(runner.upgrade, empty_database_url)
        owner.execute(add, (acme, uuid4(), "dave", "dave"))
        found = dict(owner.execute("SELECT username, signed_out_at FROM users").fetchall())
    assert found["carol"] >= began
    assert found["dave"] is None
