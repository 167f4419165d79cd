"""How well whoever made a personal key had proven who they are: a key brings no more than the session that made it.

Keys from before were made by a password at most.
"""

from alembic import op

from migrations.service_role import SERVICE_ROLE

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None

COLUMN = "ALTER TABLE api_keys ADD COLUMN acr text NOT NULL DEFAULT 'aal1' CHECK (acr IN ('aal1', 'aal2'))"

# The key, its owner and where its tenant stands come from one statement, so that they belong together.
FIND_API_KEY = """
CREATE FUNCTION find_api_key(wanted_hash bytea)
RETURNS TABLE (
    tenant_id uuid, key_id uuid, prefix text, name text, scopes text[], created_at timestamptz, expires_at timestamptz,
    revoked_at timestamptz, created_by text, owner_id uuid, service_account_id uuid, limit_per_second integer,
    limit_burst integer, last_used_at timestamptz, replaces uuid, acr text, owner_lives boolean, slug text, status text,
    revision bigint, rules_revision bigint, keys_revision bigint, stamp uuid, rules_stamp uuid
)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT k.tenant_id, k.key_id, k.prefix, k.name, k.scopes, k.created_at, k.expires_at, k.revoked_at, k.created_by,
           k.owner_id, k.service_account_id, k.limit_per_second, k.limit_burst, k.last_used_at, k.replaces, k.acr,
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


def upgrade() -> None:
    """Add the level, and let it be found with its key."""
    op.execute(COLUMN)
    op.execute("DROP FUNCTION find_api_key(bytea)")
    op.execute(FIND_API_KEY)
    op.execute("REVOKE ALL ON FUNCTION find_api_key(bytea) FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION find_api_key(bytea) TO {SERVICE_ROLE}")


def downgrade() -> None:
    """Refuse: restore a backup instead."""
    raise NotImplementedError("migrations only go forward")
