"""What the stored rows of all tenants need of a model, so that none is set that has no place for them."""

from alembic import op

from migrations.rls import PLATFORM
from migrations.service_role import SERVICE_ROLE

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# A model is for all tenants, so is the look before it changes: bound to one tenant after the other, as the service
# itself could be, so that no way past row-level security is needed. All ids are read first: a cursor would go on under
# another binding. The names of needs are those of `authz.model_needs.Need`.
POLICY_NEEDS = f"""
CREATE FUNCTION policy_needs() RETURNS TABLE (slug text, need text, row_count bigint)
LANGUAGE plpgsql VOLATILE SECURITY INVOKER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    bound text := current_setting('app.tenant_id', true);
    ids uuid[];
    slugs text[];
    memberships bigint[];
BEGIN
    PERFORM set_config('app.tenant_id', {PLATFORM}::text, true);
    SELECT array_agg(t.tenant_id), array_agg(t.slug), array_agg(t.memberships_count) INTO ids, slugs, memberships
    FROM public.tenants AS t;
    FOR place IN 1 .. cardinality(ids) LOOP
        PERFORM set_config('app.tenant_id', ids[place]::text, true);
        RETURN QUERY
        SELECT slugs[place], n.need, sum(n.row_count)::bigint FROM (
            SELECT v.need, v.row_count FROM (
                SELECT count(r.condition) AS with_condition, count(*) FILTER (WHERE r.effect = 'deny') AS denies,
                    count(r.priority) AS with_priority, count(*) - count(r.priority) AS without_priority
                FROM public.rules AS r WHERE r.tenant_id = ids[place]
            ) AS s CROSS JOIN LATERAL (VALUES
                ('condition', s.with_condition), ('deny', s.denies),
                ('priority', s.with_priority), ('no-priority', s.without_priority)
            ) AS v (need, row_count)
            UNION ALL
            SELECT l.kind, count(*) FROM public.role_links AS l WHERE l.tenant_id = ids[place] GROUP BY l.kind
            UNION ALL
            SELECT 'g', memberships[place]
        ) AS n (need, row_count)
        GROUP BY n.need HAVING sum(n.row_count) > 0;
    END LOOP;
    PERFORM set_config('app.tenant_id', coalesce(bound, ''), true);
END
$$
"""  # noqa: S608 - constants of this file


def upgrade() -> None:
    """Create the function for the service alone."""
    op.get_bind().exec_driver_sql(POLICY_NEEDS)
    op.execute("REVOKE ALL ON FUNCTION policy_needs() FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION policy_needs() TO {SERVICE_ROLE}")


def downgrade() -> None:
    """Refuse: restore a backup instead."""
    raise NotImplementedError("migrations only go forward")
