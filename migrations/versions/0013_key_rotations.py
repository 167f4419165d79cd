"""Rotations of keys: how far each has come, and what is read of all tenants' data keys for them."""

from alembic import op

from migrations.rls import force_row_level_security, own_rows
from migrations.service_role import SERVICE_ROLE

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

KEY_ROTATIONS = """
CREATE TABLE key_rotations (
    tenant_id    uuid NOT NULL REFERENCES tenants,
    rotation_id  uuid NOT NULL,
    kind         text COLLATE "C" NOT NULL CHECK (kind IN ('all', 'wrapping', 'retirement')),
    kek_id       text COLLATE "C" NOT NULL,
    phase        text COLLATE "C" NOT NULL,
    -- In this phase, what is to be done for this tenant and for those with smaller ids is done.
    after_tenant uuid,
    tenants      bigint NOT NULL DEFAULT 0,
    keys_wrapped bigint NOT NULL DEFAULT 0,
    keys_made    bigint NOT NULL DEFAULT 0,
    keys_removed bigint NOT NULL DEFAULT 0,
    sealed_anew  bigint NOT NULL DEFAULT 0,
    failed       bigint NOT NULL DEFAULT 0,
    started_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    started_by   text NOT NULL,
    phase_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at  timestamptz,
    PRIMARY KEY (tenant_id, rotation_id)
)
"""

FUNCTIONS = (
    # Which tenants have data keys: a rotation goes from one to the next, bound to each in turn.
    """
    CREATE FUNCTION tenants_with_data_keys(after_tenant uuid, most integer) RETURNS SETOF uuid
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT DISTINCT k.tenant_id FROM public.data_keys k
        WHERE after_tenant IS NULL OR k.tenant_id > after_tenant ORDER BY k.tenant_id LIMIT most
    $$
    """,
    # How many data keys each key-encryption key wraps, over all tenants: none means that it may go.
    """
    CREATE FUNCTION data_key_counts() RETURNS TABLE (kek_id text, data_keys bigint, superseded bigint, tenants bigint)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT k.kek_id, count(*), count(k.superseded_at), count(DISTINCT k.tenant_id)
        FROM public.data_keys k GROUP BY k.kek_id
    $$
    """,
)


def upgrade() -> None:
    """Create the table and the functions."""
    op.execute(KEY_ROTATIONS)
    # INVARIANT: at most one rotation is under way.
    op.execute("CREATE UNIQUE INDEX key_rotations_under_way ON key_rotations (tenant_id) WHERE finished_at IS NULL")
    for statement in (*force_row_level_security("key_rotations"), own_rows("key_rotations")):
        op.execute(statement)
    op.execute(
        "GRANT SELECT, INSERT, UPDATE (phase, after_tenant, tenants, keys_wrapped, keys_made, keys_removed, "
        f"sealed_anew, failed, phase_at, finished_at) ON key_rotations TO {SERVICE_ROLE}"
    )
    # Since when no row was seen to use a superseded key: it goes when those who may still read it are done.
    op.execute("ALTER TABLE data_keys ADD COLUMN unused_since timestamptz")
    op.execute(f"GRANT UPDATE (unused_since) ON data_keys TO {SERVICE_ROLE}")
    op.execute("CREATE POLICY owner_reads ON data_keys FOR SELECT TO CURRENT_USER USING (true)")
    for function in FUNCTIONS:
        op.execute(function)
    signatures = "tenants_with_data_keys(uuid, integer), data_key_counts()"
    op.execute(f"REVOKE ALL ON FUNCTION {signatures} FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION {signatures} TO {SERVICE_ROLE}")


def downgrade() -> None:
    """Refuse: restore a backup instead."""
    raise NotImplementedError("migrations only go forward")
