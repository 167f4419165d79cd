"""Row-level security, tried from every side as the service's own role, without the application's filters."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from authn.api_keys import new_api_key
from authn.storage import ApiKeyStore
from authz.request import Ref
from authz.rules import EntityKind, Owner, RoleLink, Rule, StoredEntity
from authz.storage_write import PostgresPolicyWriter
from tenancy.create_tenant import create_tenant
from tenancy.database import open_engine, require_safe_role
from tenancy.errors import UnsafeDatabaseRoleError
from tenancy.ids import BASE_TENANT_ID
from tenancy.storage import TenantStore
from tenancy.tenant import ChangeMeta
from tenancy.unit_of_work import tenant_unit_of_work, unbound_session
from tenancy.uuid7 import make_uuid7

META = ChangeMeta("key:test")
TABLES = (
    "tenants",
    "rules",
    "role_links",
    "memberships",
    "entities",
    "changes",
    "change_items",
    "api_keys",
    "platform_model",
    "kept_answers",
    "audit_events",
    "audit_chains",
    "casbin_rule",
)
POLICY_TABLES = ("rules", "role_links", "memberships", "entities")

pytestmark = pytest.mark.integration


@pytest.fixture
async def two(store):
    """Return the heads of two tenants with a row in every table, beside base rows."""
    writer, keys = PostgresPolicyWriter(store.sessions), ApiKeyStore(store.sessions)
    heads = []
    for number, slug in enumerate(("one", "two")):
        head = await create_tenant(slug, None, meta=META, tenants=TenantStore(store.sessions))
        rows = [
            Rule(f"user:{slug}", "record:1", "read"),
            RoleLink(Ref(f"role:{slug}"), Ref("role:b")),
            RoleLink(Ref(f"user:{slug}"), Ref("role:b")),
            StoredEntity(EntityKind.SUBJECT, Ref(f"user:{slug}"), {}),
        ]
        await writer.change_rows(head.tenant_id, add=rows, remove=[], owner=Owner.API, meta=META)
        tenant = await TenantStore(store.sessions).find(head.tenant_id)
        entropy = bytes([number]) * 36
        _, key, key_hash = new_api_key(
            head.tenant_id,
            slug,
            frozenset(),
            key_id=make_uuid7(tenant.created_at, entropy),
            entropy=entropy,
            now=tenant.created_at,
        )
        await keys.create(key, key_hash, meta=META)
        heads.append(head)
    base = [Rule("role:b", "record:*", "read", base=True), RoleLink(Ref("role:c"), Ref("role:b"), base=True)]
    await writer.change_rows(BASE_TENANT_ID, add=base, remove=[], owner=Owner.API, meta=META)
    return heads


async def visible(session, table):
    """Return whose rows of a table are seen."""
    column = "v0" if table == "casbin_rule" else "tenant_id"
    return {row[0] for row in (await session.execute(text(f"SELECT {column} FROM {table}"))).all()}


async def test_without_a_tenant_there_are_no_rows(store, two):
    """Neither on a fresh connection nor on one that a tenant used before."""
    async with store.engine.connect() as connection:
        for table in TABLES:
            assert await visible(connection, table) == set()
        await connection.execute(text("SELECT set_config('app.tenant_id', :id, true)"), {"id": str(two[0].tenant_id)})
        assert len(await visible(connection, "rules")) == 2
        await connection.rollback()
        for table in TABLES:
            assert await visible(connection, table) == set()
        await connection.execute(text("SELECT set_config('app.tenant_id', 'x', true)"))
        with pytest.raises(DBAPIError):
            await connection.execute(text("SELECT * FROM rules"))


async def test_a_tenant_sees_its_own_rows_and_the_base_rules(store, two):
    """No query without a filter returns a row of another tenant."""
    one = two[0].tenant_id
    async with tenant_unit_of_work(store.sessions, one) as work:
        for table in TABLES:
            seen = await visible(work.session, table)
            if table in {"rules", "role_links"}:
                assert seen == {one, BASE_TENANT_ID}
            elif table == "casbin_rule":
                assert seen == {"user:one", "role:one", "role:b", "role:c"}
            elif table == "platform_model":
                assert len(seen) == 1
            elif table != "kept_answers":
                assert seen == {one}, table


async def test_a_tenant_cannot_write_anothers_rows(store, two):
    """Inserts are errors; updates and deletes find nothing, of other tenants and of the base."""
    one, other = (head.tenant_id for head in two)
    for target in (other, BASE_TENANT_ID):
        for table in POLICY_TABLES:
            async with tenant_unit_of_work(store.sessions, one) as work:
                changed = await work.session.execute(
                    text(f"UPDATE {table} SET owner = 'files' WHERE tenant_id = :t"), {"t": target}
                )
                assert changed.rowcount == 0
                gone = await work.session.execute(text(f"DELETE FROM {table} WHERE tenant_id = :t"), {"t": target})
                assert gone.rowcount == 0
        with pytest.raises(DBAPIError, match="row-level security"):
            async with tenant_unit_of_work(store.sessions, one) as work:
                await work.session.execute(
                    text(
                        "INSERT INTO memberships (tenant_id, link_id, subject, role, owner) VALUES (:t, decode(repeat('00', 16), 'hex'), 'user:x', 'role:b', 'api')"
                    ),
                    {"t": target},
                )
        with pytest.raises(DBAPIError, match="row-level security"):
            async with tenant_unit_of_work(store.sessions, one) as work:
                await work.session.execute(text("UPDATE rules SET tenant_id = :t"), {"t": target})
    async with tenant_unit_of_work(store.sessions, one) as work:
        raised = await work.session.execute(text("UPDATE tenants SET revision = revision + 100"))
        assert raised.rowcount == 1
        # These read no column, so that the policies for reading take no part.
        named = await work.session.execute(text("UPDATE tenants SET display_name = 'mine'"))
        assert named.rowcount == 1
        modelled = await work.session.execute(text("UPDATE platform_model SET text = 'mine'"))
        assert modelled.rowcount == 0
        await work.session.rollback()


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE mine (x int)",
        "CREATE SCHEMA mine",
        "ALTER TABLE rules DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE rules NO FORCE ROW LEVEL SECURITY",
        "DROP POLICY own_rows ON rules",
        "CREATE POLICY all_rows ON rules USING (true)",
        "TRUNCATE rules",
        "DROP TABLE rules",
        "CREATE OR REPLACE FUNCTION find_tenant_id(wanted_slug text) RETURNS uuid LANGUAGE sql AS 'SELECT NULL::uuid'",
        "ALTER ROLE kasbah_service BYPASSRLS",
        "DELETE FROM changes",
        "UPDATE changes SET actor = 'nobody'",
        "UPDATE tenants SET slug = 'mine'",
        "DELETE FROM tenants",
        "DELETE FROM api_keys",
        "UPDATE api_keys SET key_hash = NULL",
        "COPY rules TO PROGRAM 'cat'",
        "UPDATE alembic_version SET version_num = '0'",
    ],
)
async def test_the_service_cannot_change_the_schema_or_the_past(store, statement):
    """Each is refused for want of rights."""
    with pytest.raises(DBAPIError) as caught:
        async with unbound_session(store.sessions) as session:
            await session.execute(text(statement))
    assert caught.value.orig.sqlstate == "42501"


async def test_resetting_the_role_leads_back_to_the_service_role(store):
    """The role comes with the connection: `RESET ROLE` and `DISCARD ALL` give no rights back."""
    async with store.engine.connect() as connection:
        autocommit = await connection.execution_options(isolation_level="AUTOCOMMIT")
        for statement in ("RESET ROLE", "RESET ALL", "DISCARD ALL"):
            await autocommit.execute(text(statement))
            assert (await autocommit.execute(text("SELECT current_user"))).scalar_one() == "kasbah_service"


async def test_a_role_that_could_bypass_is_refused_at_start(store):
    """The owner's own login is told apart from the service's role."""
    engine = open_engine(store.url, role=None)
    try:
        with pytest.raises(UnsafeDatabaseRoleError, match="owns_tables|superuser"):
            await require_safe_role(engine)
    finally:
        await engine.dispose()
    for attribute, fault in (("SUPERUSER", "superuser"), ("BYPASSRLS", "bypasses_row_level_security")):
        with store.owner() as owner:
            owner.execute(f"ALTER ROLE kasbah_service {attribute}")
        try:
            with pytest.raises(UnsafeDatabaseRoleError, match=rf"\b{fault}\b"):
                await require_safe_role(store.engine)
        finally:
            with store.owner() as owner:
                owner.execute(f"ALTER ROLE kasbah_service NO{attribute}")
    with store.owner() as owner:
        owner.execute("ALTER TABLE rules NO FORCE ROW LEVEL SECURITY")
    with pytest.raises(UnsafeDatabaseRoleError, match="without_row_level_security"):
        await require_safe_role(store.engine)
