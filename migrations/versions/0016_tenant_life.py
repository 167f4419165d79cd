"""The life of tenants: deleted ones can be restored for a while; then all is removed but their slugs and audits."""

from alembic import op

from migrations.rls import BOUND
from migrations.service_role import SERVICE_ROLE

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

# What the service has no right to remove, this removes for it: rows of the bound tenant, once that is deleted and its
# grace over. Never its entry in the registry, never the audit. Bounded, so that a statement and its locks stay short.
PURGE_TENANT_ROWS = f"""
CREATE FUNCTION purge_tenant_rows(wanted_table text, batch integer) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    bound uuid := {BOUND};
    removed bigint;
BEGIN
    IF NOT EXISTS (SELECT FROM public.tenants AS t WHERE t.tenant_id = bound AND t.status = 'deleted'
            AND t.purged_at IS NULL AND t.purge_after <= clock_timestamp()) THEN
        RAISE EXCEPTION 'this tenant is not to be removed' USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF wanted_table ~ '^(tenants$|key_encryption$|key_rotations$|audit_|platform_|alembic_)' OR NOT EXISTS (
            SELECT FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
            WHERE c.relnamespace = 'public'::regnamespace AND c.relname = wanted_table AND c.relkind = 'r'
                AND c.relforcerowsecurity AND a.attname = 'tenant_id' AND NOT a.attisdropped) THEN
        RAISE EXCEPTION 'rows of this table are kept' USING ERRCODE = 'insufficient_privilege';
    END IF;
    EXECUTE format('DELETE FROM public.%1$I WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM public.%1$I WHERE tenant_id = $1 LIMIT $2))', wanted_table)
    USING bound, least(batch, 10000);
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN removed;
END
$$
"""  # noqa: S608 - constants of this file


def upgrade() -> None:
    """Add the status, when a deleted tenant goes, what it was before, and the function that removes its rows."""
    op.execute("ALTER TABLE tenants DROP CONSTRAINT tenants_status_check")
    op.execute(
        "ALTER TABLE tenants ADD COLUMN purge_after timestamptz, ADD COLUMN purged_at timestamptz, "
        "ADD COLUMN status_before text, "
        "ADD CONSTRAINT tenants_status_check CHECK (status IN ('active', 'suspended', 'deleting', 'deleted')), "
        "ADD CONSTRAINT tenants_purge_check CHECK ((status = 'deleting') <= (purge_after IS NOT NULL) "
        "AND (purged_at IS NULL OR status = 'deleted')), "
        "ADD CONSTRAINT tenants_before_check CHECK (status_before IN ('active', 'suspended'))"
    )
    op.execute(
        "CREATE INDEX tenants_purge ON tenants (purge_after) "
        "WHERE purged_at IS NULL AND status IN ('deleting', 'deleted')"
    )
    op.execute(f"GRANT UPDATE (purge_after, purged_at, status_before) ON tenants TO {SERVICE_ROLE}")
    op.execute(PURGE_TENANT_ROWS)
    op.execute("REVOKE ALL ON FUNCTION purge_tenant_rows(text, integer) FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION purge_tenant_rows(text, integer) TO {SERVICE_ROLE}")


def downgrade() -> None:
    """Refuse: restore a backup instead."""
    raise NotImplementedError("migrations only go forward")
