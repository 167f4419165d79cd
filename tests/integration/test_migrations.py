"""Migrations: from anywhere, by several at once, by an owner with few rights, and honest about what is missing."""

import asyncio
import secrets
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from uuid import uuid4

import psycopg
import pytest
from alembic import command
from click.testing import CliRunner
from psycopg import sql
from sqlalchemy.engine import make_url

from authn.api_keys import new_api_key
from authn.key_uses import KeyUses
from authn.storage import ApiKeyStore
from authz.request import Ref
from authz.rules import Owner, RoleLink, Rule
from authz.storage import PostgresPolicyReader
from authz.storage_write import PostgresPolicyWriter
from migrations import runner
from migrations.service_role import ServiceRoleError
from service.cli.database import migrate
from tenancy.create_tenant import create_tenant
from tenancy.database import open_engine, open_sessions, require_safe_role
from tenancy.ids import BASE_TENANT_ID
from tenancy.storage import TenantStore
from tenancy.tenant import ChangeMeta
from tenancy.uuid7 import make_uuid7

META = ChangeMeta("key:test")
NOW = datetime(2026, 6, 1, tzinfo=UTC)

pytestmark = pytest.mark.integration


@pytest.fixture
def few_rights(empty_database_url, servers):
    """Yield the URL of a database owned by a login that is no superuser and may not create roles."""
    url = make_url(empty_database_url)
    name = f"owner_{url.database}"
    with psycopg.connect(empty_database_url, autocommit=True) as admin:
        admin.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'secret' NOSUPERUSER NOCREATEROLE").format(sql.Identifier(name))
        )
        admin.execute(
            sql.SQL("ALTER DATABASE {} OWNER TO {}").format(sql.Identifier(str(url.database)), sql.Identifier(name))
        )
        try:
            yield url.set(username=name, password="secret").render_as_string(hide_password=False), admin, name
        finally:
            admin.execute(sql.SQL("REASSIGN OWNED BY {0} TO CURRENT_USER").format(sql.Identifier(name)))
            admin.execute(sql.SQL("DROP OWNED BY {0}").format(sql.Identifier(name)))
            admin.execute(sql.SQL("DROP ROLE {0}").format(sql.Identifier(name)))


def test_several_migrators_do_not_collide(empty_database_url, monkeypatch, tmp_path):
    """One applies everything, the others find nothing to do; from any directory."""
    monkeypatch.chdir(tmp_path)
    with ThreadPoolExecutor(3) as pool:
        applied = list(pool.map(runner.upgrade, [empty_database_url] * 3))
    assert [len(revisions) for revisions in sorted(applied)[:2]] == [0, 0]
    assert sorted(applied)[2][-1] == runner.head()
    assert runner.pending(empty_database_url) == []


def test_the_command_migrates_checks_and_tells(empty_database_url):
    """`--check` exits 4 while something is pending; a second run has nothing to do; no password is printed."""
    cli = CliRunner()
    checked = cli.invoke(migrate, ["--check", "--database-url", empty_database_url])
    assert checked.exit_code == 4
    assert "pending" in checked.output
    done = cli.invoke(migrate, ["--output", "json"], env={"KASBAH_DATABASE_URL": empty_database_url})
    assert done.exit_code == 0
    assert '"0001"' in done.output
    again = cli.invoke(migrate, ["--check"], env={"KASBAH_MIGRATION_DATABASE_URL": empty_database_url})
    assert again.exit_code == 0
    assert "up to date" in again.output
    password = make_url(empty_database_url).password
    assert password is None or password not in checked.output + done.output + again.output


def test_the_command_says_what_is_wrong(empty_database_url):
    """No URL, no URL at all, nobody there, a newer schema: each its own exit code and one line."""
    cli = CliRunner()
    unset = {"KASBAH_DATABASE_URL": None, "KASBAH_MIGRATION_DATABASE_URL": None}
    assert cli.invoke(migrate, [], env=unset).exit_code == 2
    assert cli.invoke(migrate, ["--database-url", "nonsense"]).exit_code == 2
    nobody = cli.invoke(migrate, ["--database-url", "postgresql://x:hidden@127.0.0.1:1/x"])
    assert nobody.exit_code == 3
    assert "hidden" not in nobody.output
    runner.upgrade(empty_database_url)
    with psycopg.connect(empty_database_url, autocommit=True) as owner:
        owner.execute("UPDATE alembic_version SET version_num = '9999'")
    newer = cli.invoke(migrate, ["--database-url", empty_database_url])
    assert newer.exit_code == 5
    assert "9999" in newer.output


def test_an_owner_who_may_not_create_the_role_is_told_what_to_run(few_rights, template_database):
    """The message holds the SQL; after an administrator ran it, migrating works."""
    url, admin, name = few_rights
    with pytest.raises(ServiceRoleError, match=f"GRANT kasbah_service TO {name}"):
        runner.upgrade(url)
    assert runner.pending(url)[0] == "0001"
    admin.execute(sql.SQL("GRANT kasbah_service TO {}").format(sql.Identifier(name)))
    assert runner.upgrade(url)[0] == "0001"


def test_a_service_role_that_is_too_powerful_is_refused(few_rights, template_database):
    """Nobody's database is opened to a role that bypasses row-level security."""
    url, admin, name = few_rights
    admin.execute(sql.SQL("GRANT kasbah_service TO {}").format(sql.Identifier(name)))
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    admin.execute("ALTER ROLE kasbah_service BYPASSRLS")
    try:
        with pytest.raises(ServiceRoleError, match="NOBYPASSRLS"):
            runner.upgrade(url)
    finally:
        admin.execute("ALTER ROLE kasbah_service NOBYPASSRLS")


async def test_everything_works_for_an_owner_who_is_no_superuser(few_rights, template_database):
    """Forced row-level security binds such an owner too, so also the functions that find keys, slugs and changes."""
    url, admin, name = few_rights
    admin.execute(sql.SQL("GRANT kasbah_service TO {}").format(sql.Identifier(name)))
    await asyncio.to_thread(runner.upgrade, url)
    engine = open_engine(url)
    try:
        await require_safe_role(engine)
        sessions = open_sessions(engine)
        reader, writer = PostgresPolicyReader(sessions), PostgresPolicyWriter(sessions)
        cursor = (await reader.poll(None)).cursor
        head = await create_tenant("acme", None, meta=META, tenants=TenantStore(sessions))
        assert await reader.find_tenant_by_slug("acme") == head
        assert (await reader.poll(cursor)).heads == [head]
        rows = [Rule("role:r", "record:1", "read"), RoleLink(Ref("user:a"), Ref("role:r"))]
        await writer.change_rows(head.tenant_id, add=rows, remove=[], owner=Owner.API, meta=META)
        base = [Rule("role:r", "record:1", "write", base=True)]
        await writer.change_rows(BASE_TENANT_ID, add=base, remove=[], owner=Owner.API, meta=META)
        assert len((await reader.load_rules(head.tenant_id)).rules) == 2
        keys, key_id = ApiKeyStore(sessions), make_uuid7(NOW, bytes(10))
        assert await keys.find_by_hash(bytes(32)) is None
        _, key, key_hash = new_api_key(
            head.tenant_id, "ci", frozenset(), key_id=key_id, entropy=secrets.token_bytes(36), now=NOW
        )
        await keys.create(key, key_hash, meta=META)
        uses = KeyUses(sessions)
        uses.note(head.tenant_id, key_id)
        await uses.flush()
        found = await keys.find_by_hash(key_hash)
        assert found is not None
        assert found.key.last_used_at is not None
    finally:
        await engine.dispose()
    with psycopg.connect(url) as owner:
        assert owner.execute("SELECT count(*) FROM rules").fetchone() == (0,)
        owner.execute("SELECT set_config('app.tenant_id', %s, true)", (str(head.tenant_id),))
        assert owner.execute("SELECT count(*) FROM rules").fetchone() == (2,)


async def test_a_database_with_tenants_is_brought_up(empty_database_url, monkeypatch):
    """From the schema before there were stamps: every tenant gets some, and its history from before is believed."""
    with monkeypatch.context() as earlier:
        upgrade = command.upgrade
        earlier.setattr(command, "upgrade", lambda config, _: upgrade(config, "0004"))
        await asyncio.to_thread(runner.upgrade, empty_database_url)
    acme = uuid4()
    with psycopg.connect(empty_database_url, autocommit=True) as owner:
        owner.execute(
            "INSERT INTO tenants (tenant_id, slug, display_name, revision) VALUES (%s, 'acme', 'Acme', 2)", (acme,)
        )
        owner.execute(
            "INSERT INTO changes (tenant_id, revision, rules_revision, kind, actor) "
            "SELECT %s, revision, 1, 'api', 'key:test' FROM generate_series(1, 2) AS revision",
            (acme,),
        )
    assert (await asyncio.to_thread(runner.upgrade, empty_database_url))[:2] == ["0005", "0006"]
    engine = open_engine(empty_database_url)
    try:
        sessions = open_sessions(engine)
        reader, writer = PostgresPolicyReader(sessions), PostgresPolicyWriter(sessions)
        heads = (await reader.poll(0)).heads
        assert len({stamp for head in heads for stamp in (head.stamp, head.rules_stamp)}) == 2 * len(heads)
        before = next(head for head in heads if head.slug == "acme")
        grant = RoleLink(Ref("user:a"), Ref("role:r"))
        result = await writer.change_rows(before.tenant_id, add=[grant], remove=[], owner=Owner.API, meta=META)
        touched = await reader.touched_since(before.tenant_id, *before.version)
        assert (touched.same_history, touched.everything, touched.subjects) == (True, False, {"user:a"})
        assert touched.head == result.head
        assert result.head.rules_version == before.rules_version
    finally:
        await engine.dispose()
