"""Service accounts and their keys; limits and last use of keys, and which key another one takes the place of.

A service account is never removed: a deleted one stays as a row, so that its id, a future OAuth `client_id`, is not
given again.
"""

from alembic import op

from migrations.rls import force_row_level_security, own_rows
from migrations.service_role import SERVICE_ROLE

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None

SERVICE_ACCOUNTS = """
CREATE TABLE service_accounts (
    tenant_id          uuid NOT NULL REFERENCES tenants,
    service_account_id uuid NOT NULL,
    name               text COLLATE "C" NOT NULL CHECK (name ~ '^[a-z][a-z0-9._-]{0,63}$'),
    description        text,
    status             text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'disabled', 'deleted')),
    status_reason      text,
    created_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    created_by         text NOT NULL,
    PRIMARY KEY (tenant_id, service_account_id)
)
"""

# A tombstone keeps its name for whoever reads the audit; another account may have it.
NAMES = (
    "CREATE UNIQUE INDEX service_accounts_name_key ON service_accounts (tenant_id, name) WHERE status <> 'deleted'",
    "CREATE INDEX service_accounts_status ON service_accounts (tenant_id, status, service_account_id)",
)

COLUMNS = (
    "ALTER TABLE api_keys ADD COLUMN service_account_id uuid, ADD COLUMN limit_per_second integer, "
    "ADD COLUMN limit_burst integer, ADD COLUMN last_used_at timestamptz, ADD COLUMN replaces uuid, "
    "ADD CONSTRAINT api_keys_service_account FOREIGN KEY (tenant_id, service_account_id) "
    "REFERENCES service_accounts (tenant_id, service_account_id), "
    "ADD CONSTRAINT api_keys_one_owner CHECK (owner_id IS NULL OR service_account_id IS NULL), "
    "ADD CONSTRAINT api_keys_limits CHECK ((limit_per_second IS NULL) = (limit_burst IS NULL) "
    "AND limit_per_second > 0 AND limit_burst > 0)"
)

# The key, its owner and where its tenant stands come from one statement, so that they belong together.
FIND_API_KEY = """
CREATE FUNCTION find_api_key(wanted_hash bytea)
RETURNS TABLE (
    tenant_id uuid, key_id uuid, prefix text, name text, scopes text[], created_at timestamptz, expires_at timestamptz,
    revoked_at timestamptz, created_by text, owner_id uuid, service_account_id uuid, limit_per_second integer,
    limit_burst integer, last_used_at timestamptz, replaces uuid, owner_lives boolean, slug text, status text,
    revision bigint, rules_revision bigint, keys_revision bigint, stamp uuid, rules_stamp uuid
)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT k.tenant_id, k.key_id, k.prefix, k.name, k.scopes, k.created_at, k.expires_at, k.revoked_at, k.created_by,
           k.owner_id, k.service_account_id, k.limit_per_second, k.limit_burst, k.last_used_at, k.replaces,
           CASE WHEN k.owner_id IS NOT NULL THEN (u.status = 'active' AND u.auth_epoch = k.owner_epoch) IS TRUE
                WHEN k.service_account_id IS NOT NULL THEN (a.status = 'active') IS TRUE
                ELSE true END,
           t.slug, t.status, t.revision, t.rules_revision, t.keys_revision, t.stamp, t.rules_stamp
    FROM public.api_keys AS k
    JOIN public.tenants AS t USING (tenant_id)
    LEFT JOIN public.users AS u ON u.tenant_id = k.tenant_id AND u.user_id = k.owner_id
    LEFT JOIN public.service_accounts AS a
        ON a.tenant_id = k.tenant_id AND a.service_account_id = k.service_account_id
    WHERE k.key_hash = wanted_hash
$$
"""

# Processes collect which keys were used, of whichever tenants. A key is written at most once a minute, and no row is
# waited for: who changes or reads it goes first.
NOTE_KEYS_USED = """
CREATE FUNCTION note_keys_used(tenants uuid[], keys uuid[], times timestamptz[]) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    noted bigint;
BEGIN
    WITH used AS (
        SELECT * FROM unnest(tenants, keys, times) AS u (tenant_id, key_id, used_at)
    ), due AS (
        SELECT k.tenant_id, k.key_id, least(u.used_at, clock_timestamp()) AS used_at
        FROM public.api_keys AS k JOIN used AS u USING (tenant_id, key_id)
        WHERE k.last_used_at IS NULL OR k.last_used_at <= u.used_at - interval '1 minute'
        FOR NO KEY UPDATE OF k SKIP LOCKED
    )
    UPDATE public.api_keys AS k SET last_used_at = due.used_at
    FROM due WHERE k.tenant_id = due.tenant_id AND k.key_id = due.key_id;
    GET DIAGNOSTICS noted = ROW_COUNT;
    RETURN noted;
END
$$
"""

MUTABLE = "name, description, status, status_reason, updated_at"
KEY_MUTABLE = "name, expires_at, limit_per_second, limit_burst"


def upgrade() -> None:
    """Create the table, let keys belong to it, and let their use be noted."""
    op.execute(SERVICE_ACCOUNTS)
    for statement in (*NAMES, *force_row_level_security("service_accounts"), own_rows("service_accounts")):
        op.execute(statement)
    op.execute(f"GRANT SELECT, INSERT, UPDATE ({MUTABLE}) ON service_accounts TO {SERVICE_ROLE}")
    op.execute("CREATE POLICY owner_reads ON service_accounts FOR SELECT TO CURRENT_USER USING (true)")
    op.execute(COLUMNS)
    op.execute(
        "CREATE INDEX api_keys_service_account_id ON api_keys (tenant_id, service_account_id, key_id) "
        "WHERE service_account_id IS NOT NULL"
    )
    op.execute(f"GRANT UPDATE ({KEY_MUTABLE}) ON api_keys TO {SERVICE_ROLE}")
    op.execute("CREATE POLICY owner_notes_use ON api_keys FOR UPDATE TO CURRENT_USER USING (true) WITH CHECK (true)")
    op.execute("DROP FUNCTION find_api_key(bytea)")
    for function, name in (
        (FIND_API_KEY, "find_api_key(bytea)"),
        (NOTE_KEYS_USED, "note_keys_used(uuid[], uuid[], timestamptz[])"),
    ):
        op.execute(function)
        op.execute(f"REVOKE ALL ON FUNCTION {name} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION {name} TO {SERVICE_ROLE}")


def downgrade() -> None:
    """Refuse: restore a backup instead."""
    raise NotImplementedError("migrations only go forward")
