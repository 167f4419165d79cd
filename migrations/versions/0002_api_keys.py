"""API keys, found by the hash of the token before the tenant is known; answers kept for retried requests."""

from alembic import op

from migrations.rls import force_row_level_security, own_rows
from migrations.service_role import SERVICE_ROLE

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

API_KEYS = """
CREATE TABLE api_keys (
    tenant_id  uuid NOT NULL REFERENCES tenants,
    key_id     uuid NOT NULL,
    key_hash   bytea NOT NULL CONSTRAINT api_keys_hash_key UNIQUE CHECK (octet_length(key_hash) = 32),
    prefix     text COLLATE "C" NOT NULL,
    name       text NOT NULL,
    scopes     text[] NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz,
    revoked_at timestamptz,
    created_by text NOT NULL,
    PRIMARY KEY (tenant_id, key_id)
)
"""

# The key and where its tenant stands come from one statement, so that a node knows which revision the
# answer belongs to.
FIND_API_KEY = """
CREATE FUNCTION find_api_key(wanted_hash bytea)
RETURNS TABLE (
    tenant_id uuid, key_id uuid, prefix text, name text, scopes text[], created_at timestamptz, expires_at timestamptz,
    revoked_at timestamptz, created_by text, slug text, status text, revision bigint, rules_revision bigint,
    keys_revision bigint
)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT k.tenant_id, k.key_id, k.prefix, k.name, k.scopes, k.created_at, k.expires_at, k.revoked_at, k.created_by,
           t.slug, t.status, t.revision, t.rules_revision, t.keys_revision
    FROM public.api_keys AS k JOIN public.tenants AS t USING (tenant_id)
    WHERE k.key_hash = wanted_hash
$$
"""

IDEMPOTENCY_KEYS = """
CREATE TABLE idempotency_keys (
    tenant_id    uuid NOT NULL REFERENCES tenants,
    route        text COLLATE "C" NOT NULL,
    key_hash     bytea NOT NULL CHECK (octet_length(key_hash) = 32),
    request_hash bytea NOT NULL CHECK (octet_length(request_hash) = 32),
    status       integer,
    body         bytea,
    headers      json,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, route, key_hash),
    CHECK ((status IS NULL) = (body IS NULL))
)
"""

TABLES = ("api_keys", "idempotency_keys")


def upgrade() -> None:
    """Create both tables, each bound to its tenant."""
    op.execute(API_KEYS)
    op.execute(IDEMPOTENCY_KEYS)
    op.execute("CREATE INDEX idempotency_keys_created_at ON idempotency_keys (tenant_id, created_at)")
    for table in TABLES:
        for statement in (*force_row_level_security(table), own_rows(table)):
            op.execute(statement)
    op.execute("CREATE POLICY owner_reads ON api_keys FOR SELECT TO CURRENT_USER USING (true)")
    op.execute(FIND_API_KEY)
    op.execute("REVOKE ALL ON FUNCTION find_api_key(bytea) FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION find_api_key(bytea) TO {SERVICE_ROLE}")
    # A key is never changed but for its end, and never removed: its name stays readable in the history.
    op.execute(f"GRANT SELECT, INSERT, UPDATE (revoked_at) ON api_keys TO {SERVICE_ROLE}")
    op.execute(f"GRANT SELECT, INSERT, UPDATE (status, body, headers), DELETE ON idempotency_keys TO {SERVICE_ROLE}")


def downgrade() -> None:
    """Refuse: restore a backup instead."""
    raise NotImplementedError("migrations only go forward")
