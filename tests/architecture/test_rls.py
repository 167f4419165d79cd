"""No table of tenants without forced row-level security, no way past it that is not on the list."""

import psycopg
import pytest

from tenancy.purge import KEPT_TABLES, PURGED_TABLES

pytestmark = pytest.mark.integration

SECURITY_DEFINER = {
    "claim_audit_numbers(integer)": "checkpoints of all tenants have one order",
    "keep_audit_checkpoints(uuid[],text[],bigint[],timestamp with time zone[],bigint[],text[])": "checkpoints of every tenant",
    "note_audit_delivered(bigint)": "the service may not write the chains; the sink has them up to here",
    "set_audit_sink(double precision)": "one setting of the whole installation",
    "claim_mails(double precision,integer,integer,integer)": "who sends mails sends those of every tenant",
    "append_audit(uuid,text,text[])": "the service may not write the audit; what it adds is numbered and hashed here",
    "find_account(text,uuid)": "an access token names an account, and the account the tenant",
    "find_link(bytea)": "the link names the tenant",
    "find_api_key(bytea)": "the key names the tenant",
    "note_keys_used(uuid[],uuid[],timestamp with time zone[])": "a process saw keys of many tenants; one time of each",
    "destroy_subject_keys(uuid)": "the platform's people act in every tenant, and are erased from all",
    "data_key_counts()": "a rotation covers all tenants: numbers of keys alone",
    "tenants_with_data_keys(uuid,integer)": "a rotation goes from one tenant to the next",
    "find_tenant_id(text)": "the slug names the tenant",
    "make_audit_partitions(integer)": "the service owns no table; the audit needs one for each month",
    "purge_tenant_rows(text,integer)": "the service may not remove history and keys; a deleted tenant's are removed here",
    "tenants_changed_since(xid8)": "a node follows all tenants",
}
"""Every function that reads past row-level security, and why it must."""

WITHOUT_TENANT = {"alembic_version"}
"""Tables that hold nothing of a tenant's."""

CROSS_TENANT_POLICIES = {
    ("tenants", "own_head"),
    ("tenants", "own_head_update"),
    ("tenants", "platform_insert"),
    ("tenants", "owner_reads"),
    ("changes", "platform_insert"),
    ("platform_model", "all_read"),
    ("platform_model", "platform_update"),
    ("key_encryption", "all_read"),
    ("data_keys", "owner_reads"),
    ("subject_keys", "owner_reads"),
    ("subject_keys", "owner_erases"),
    ("key_encryption", "platform_update"),
    ("rules", "base_rows"),
    ("role_links", "base_rows"),
    ("api_keys", "owner_reads"),
    ("api_keys", "owner_notes_use"),
    ("service_accounts", "owner_reads"),
    ("links", "owner_reads"),
    ("users", "owner_reads"),
    ("mails", "owner_claims"),
    ("audit_chains", "owner_acts"),
    ("audit_chains", "platform_reads"),
    ("audit_checkpoints", "owner_acts"),
    ("audit_checkpoints", "platform_reads"),
    ("audit_events", "owner_acts"),
    ("audit_signed", "owner_acts"),
    ("audit_signed", "platform_reads"),
    ("audit_sink", "owner_acts"),
}
"""Every policy that shows or takes more than the bound tenant's own rows."""


@pytest.fixture(scope="module")
def owner(database_url):
    """Connect as the owner of the tables."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def test_every_table_of_a_tenant_forces_row_level_security(owner):
    """`tenant_id` comes first in the key; security binds the owner too; at least one policy exists."""
    rows = owner.execute(
        """
        SELECT c.relname, c.relrowsecurity AND c.relforcerowsecurity,
            (SELECT a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
             WHERE i.indrelid = c.oid AND i.indisprimary),
            (SELECT count(*) FROM pg_policy p WHERE p.polrelid = c.oid)
        FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'm', 'f')
        """
    ).fetchall()
    assert len(rows) > 10
    wrong = [row for row in rows if row[0] not in WITHOUT_TENANT and not (row[1] and row[2] == "tenant_id" and row[3])]
    assert wrong == []


def test_every_table_is_purged_with_its_tenant_or_kept_for_a_reason(owner):
    """A table that is on neither list would keep a deleted tenant's rows for ever; partitions go as their table does."""
    rows = owner.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') "
        "AND NOT relispartition"
    ).fetchall()
    assert {row[0] for row in rows} - WITHOUT_TENANT == {*PURGED_TABLES, *KEPT_TABLES}
    assert not {*PURGED_TABLES} & {*KEPT_TABLES}
    assert all(KEPT_TABLES.values())


def test_tables_are_purged_before_what_they_refer_to(owner):
    """Else a batch would fail on a foreign key, and with it every later one."""
    rows = owner.execute(
        "SELECT conrelid::regclass::text, confrelid::regclass::text FROM pg_constraint "
        "WHERE contype = 'f' AND connamespace = 'public'::regnamespace AND conparentid = 0"
    ).fetchall()
    order = {table: place for place, table in enumerate(PURGED_TABLES)}
    wrong = [row for row in rows if row[0] in order and row[1] in order and order[row[0]] >= order[row[1]]]
    assert wrong == []


def test_the_list_of_security_definer_functions_is_complete(owner):
    """Each pins its search path, belongs to the owner of the tables, and is executable by the service alone."""
    rows = owner.execute(
        """
        SELECT p.oid::regprocedure::text, p.proconfig, p.proowner = (SELECT relowner FROM pg_class WHERE relname = 'tenants'),
            ARRAY(SELECT grantee::regrole::text FROM aclexplode(p.proacl) WHERE grantee <> p.proowner)
        FROM pg_proc p WHERE p.prosecdef AND p.pronamespace = 'public'::regnamespace
        """
    ).fetchall()
    assert {row[0] for row in rows} == set(SECURITY_DEFINER)
    for name, settings, owned, grantees in rows:
        assert settings == ["search_path=pg_catalog, pg_temp"], name
        assert owned, name
        assert grantees == ["kasbah_service"], name


def test_the_list_of_policies_beyond_own_rows_is_complete(owner):
    """Every other policy is `own_rows`: the tenant's own, for reading and writing."""
    rows = owner.execute("SELECT tablename, policyname, permissive, qual, with_check FROM pg_policies").fetchall()
    others = {(row[0], row[1]) for row in rows if row[1] != "own_rows"}
    assert others == CROSS_TENANT_POLICIES
    for table, name, permissive, reads, writes in rows:
        assert permissive == "PERMISSIVE"
        if name == "own_rows":
            assert reads == writes, table
            assert reads.startswith("(tenant_id = "), table
            assert " OR " not in reads, table


def test_views_run_with_the_rights_of_who_reads_them(owner):
    """A view of the owner's would show every tenant's rows."""
    rows = owner.execute(
        "SELECT relname, coalesce(reloptions, '{}') FROM pg_class "
        "WHERE relnamespace = 'public'::regnamespace AND relkind = 'v'"
    ).fetchall()
    assert {row[0] for row in rows} == {"casbin_rule", "casbin_rule_status"}
    assert all("security_invoker=true" in row[1] for row in rows)


def test_the_service_role_can_do_little(owner):
    """No login, no power of its own, no ownership, no membership; history and slugs are out of its reach."""
    role = owner.execute(
        "SELECT rolcanlogin, rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, rolreplication FROM pg_roles "
        "WHERE rolname = 'kasbah_service'"
    ).fetchone()
    assert role == (False,) * 6
    assert owner.execute("SELECT count(*) FROM pg_class WHERE relowner = 'kasbah_service'::regrole").fetchone() == (0,)
    assert owner.execute(
        "SELECT count(*) FROM pg_auth_members WHERE member = 'kasbah_service'::regrole"
    ).fetchone() == (0,)
    granted = owner.execute(
        "SELECT table_name, privilege_type FROM information_schema.role_table_grants WHERE grantee = 'kasbah_service'"
    ).fetchall()
    assert {row[1] for row in granted} <= {"SELECT", "INSERT", "UPDATE", "DELETE"}
    never = {("tenants", "DELETE"), ("tenants", "UPDATE"), ("api_keys", "DELETE"), ("platform_model", "DELETE")}
    never |= {(table, verb) for table in ("changes", "change_items") for verb in ("UPDATE", "DELETE")}
    assert {row for row in granted if row[0].startswith("audit_")} == {
        ("audit_chains", "SELECT"),
        ("audit_events", "SELECT"),
        ("audit_checkpoints", "SELECT"),
        ("audit_keys", "INSERT"),
        ("audit_keys", "SELECT"),
        ("audit_signed", "SELECT"),
        ("audit_sink", "SELECT"),
    }
    assert not never & set(granted)


def test_migrations_have_one_head():
    """Two heads would make the order of migrations a matter of luck."""
    from alembic.script import ScriptDirectory

    from migrations import runner

    assert ScriptDirectory.from_config(runner._config()).get_heads() == [runner.head()]


GONE_WITH_ACCOUNTS = {
    "former_passwords",
    "credential_failures",
    "links",
    "address_changes",
    "authenticators",
    "recovery_codes",
    "enrolment_codes",
    "webauthn_registrations",
    "ended_sessions",
    "known_devices",
}
"""What `UserStore.delete` empties of an account; `integration/test_user_races.py` looks at each."""

KEPT_OF_ACCOUNTS = {"api_keys": "a key ends with its owner's account; its name stays readable in the history"}


def test_what_refers_to_accounts_goes_with_them_or_says_why_not(owner):
    """A new table about people would keep what a deletion promises to erase."""
    referring = owner.execute(
        "SELECT DISTINCT conrelid::regclass::text FROM pg_constraint WHERE contype = 'f' AND confrelid = 'users'::regclass"
    ).fetchall()
    assert {name for (name,) in referring} == GONE_WITH_ACCOUNTS | KEPT_OF_ACCOUNTS.keys()
