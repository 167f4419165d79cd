"""A random stamp with each revision: a database that is put back counts on, and gives a number to another state."""

from alembic import op

from migrations.service_role import SERVICE_ROLE

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

CHANGED_SINCE = """
CREATE FUNCTION tenants_changed_since(horizon xid8)
RETURNS TABLE (
    tenant_id uuid, slug text, status text, revision bigint, rules_revision bigint, keys_revision bigint, stamp uuid,
    rules_stamp uuid
)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT t.tenant_id, t.slug, t.status, t.revision, t.rules_revision, t.keys_revision, t.stamp, t.rules_stamp
    FROM public.tenants AS t WHERE t.changed_xid >= horizon
$$
"""

FIND_API_KEY = """
CREATE FUNCTION find_api_key(wanted_hash bytea)
RETURNS TABLE (
    tenant_id uuid, key_id uuid, prefix text, name text, scopes text[], created_at timestamptz, expires_at timestamptz,
    revoked_at timestamptz, created_by text, slug text, status text, revision bigint, rules_revision bigint,
    keys_revision bigint, stamp uuid, rules_stamp uuid
)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT k.tenant_id, k.key_id, k.prefix, k.name, k.scopes, k.created_at, k.expires_at, k.revoked_at, k.created_by,
           t.slug, t.status, t.revision, t.rules_revision, t.keys_revision, t.stamp, t.rules_stamp
    FROM public.api_keys AS k JOIN public.tenants AS t USING (tenant_id)
    WHERE k.key_hash = wanted_hash
$$
"""


def upgrade() -> None:
    """Stamp every head, and every change from now on; both functions that return heads return the stamps too."""
    op.execute(
        "ALTER TABLE tenants ADD COLUMN stamp uuid NOT NULL DEFAULT gen_random_uuid(), "
        "ADD COLUMN rules_stamp uuid NOT NULL DEFAULT gen_random_uuid()"
    )
    op.execute("ALTER TABLE changes ADD COLUMN stamp uuid")
    op.execute(f"GRANT UPDATE (stamp, rules_stamp) ON tenants TO {SERVICE_ROLE}")
    op.execute("DROP FUNCTION tenants_changed_since(xid8), find_api_key(bytea)")
    op.execute(CHANGED_SINCE)
    op.execute(FIND_API_KEY)
    op.execute("REVOKE ALL ON FUNCTION tenants_changed_since(xid8), find_api_key(bytea) FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION tenants_changed_since(xid8), find_api_key(bytea) TO {SERVICE_ROLE}")


def downgrade() -> None:
    """Refuse: restore a backup instead."""
    raise NotImplementedError("migrations only go forward")
