"""Erases people of the platform from the tenants, too, whose audits hold where they acted from."""

from alembic import op

from migrations.rls import PLATFORM
from migrations.service_role import SERVICE_ROLE

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

# One look by key for each tenant: the table of keys has no index that does not begin with the tenant.
DESTROY = f"""
CREATE FUNCTION destroy_subject_keys(erased uuid) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    one uuid;
    changed bigint;
    destroyed bigint := 0;
BEGIN
    IF nullif(current_setting('app.tenant_id', true), '')::uuid IS DISTINCT FROM {PLATFORM} THEN
        RAISE EXCEPTION 'only the platform erases in every tenant' USING ERRCODE = '42501';
    END IF;
    FOR one IN SELECT t.tenant_id FROM public.tenants t LOOP
        UPDATE public.subject_keys SET wrapped = NULL, destroyed_at = clock_timestamp()
        WHERE tenant_id = one AND subject_id = erased AND wrapped IS NOT NULL;
        GET DIAGNOSTICS changed = ROW_COUNT;
        destroyed := destroyed + changed;
    END LOOP;
    RETURN destroyed;
END
$$
"""  # noqa: S608 - a constant


def upgrade() -> None:
    """Create the function, which nobody but the platform can make do anything."""
    op.execute(DESTROY)
    op.execute("CREATE POLICY owner_reads ON subject_keys FOR SELECT TO CURRENT_USER USING (true)")
    op.execute(
        "CREATE POLICY owner_erases ON subject_keys FOR UPDATE TO CURRENT_USER "
        "USING (true) WITH CHECK (wrapped IS NULL)"
    )
    op.execute("REVOKE ALL ON FUNCTION destroy_subject_keys(uuid) FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION destroy_subject_keys(uuid) TO {SERVICE_ROLE}")


def downgrade() -> None:
    """Refuse: restore a backup instead."""
    raise NotImplementedError("migrations only go forward")
