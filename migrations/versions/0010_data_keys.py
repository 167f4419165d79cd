"""Data keys of tenants, wrapped; keys of subjects, wrapped by those; and which key-encryption key wraps new ones."""

from alembic import op

from migrations.rls import BOUND, PLATFORM, force_row_level_security, own_rows
from migrations.sealed import sealed_column
from migrations.service_role import SERVICE_ROLE

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

DATA_KEYS = """
CREATE TABLE data_keys (
    tenant_id     uuid NOT NULL REFERENCES tenants,
    key_id        uuid NOT NULL,
    -- The key-encryption key that wraps it, by the name that nodes know it under.
    kek_id        text COLLATE "C" NOT NULL,
    wrapped       bytea NOT NULL,
    wrapped_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- About how many values it sealed: counted in steps, by each process.
    uses          bigint NOT NULL DEFAULT 0,
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- NULL: new values are sealed with this one.
    superseded_at timestamptz,
    PRIMARY KEY (tenant_id, key_id)
)
"""

SUBJECT_KEYS = """
CREATE TABLE subject_keys (
    tenant_id    uuid NOT NULL REFERENCES tenants,
    subject_id   uuid NOT NULL,
    -- NULL once destroyed. The row stays: no second key is made for a subject who was erased.
    wrapped      bytea,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    destroyed_at timestamptz,
    PRIMARY KEY (tenant_id, subject_id),
    CHECK ((wrapped IS NULL) = (destroyed_at IS NOT NULL))
)
"""

KEY_ENCRYPTION = """
CREATE TABLE key_encryption (
    tenant_id uuid PRIMARY KEY REFERENCES tenants,
    -- Wraps new data keys on every node; NULL until the first one is made.
    active    text COLLATE "C"
)
"""


def upgrade() -> None:
    """Create the three tables."""
    op.execute(DATA_KEYS)
    # INVARIANT: at most one data key of a tenant seals. Two nodes that make the first one at once: one is taken.
    op.execute("CREATE UNIQUE INDEX data_keys_primary ON data_keys (tenant_id) WHERE superseded_at IS NULL")
    op.execute(SUBJECT_KEYS)
    op.execute(KEY_ENCRYPTION)
    for statement in sealed_column("subject_keys", "wrapped"):
        op.execute(statement)
    op.execute(f"INSERT INTO key_encryption (tenant_id) VALUES ({PLATFORM})")  # noqa: S608 - a constant
    for table in ("data_keys", "subject_keys"):
        for statement in (*force_row_level_security(table), own_rows(table)):
            op.execute(statement)
    for statement in force_row_level_security("key_encryption"):
        op.execute(statement)
    op.execute(f"CREATE POLICY all_read ON key_encryption FOR SELECT USING ({BOUND} IS NOT NULL)")
    op.execute(f"CREATE POLICY platform_update ON key_encryption FOR UPDATE USING ({BOUND} = {PLATFORM})")
    op.execute(
        "GRANT SELECT, INSERT, UPDATE (kek_id, wrapped, wrapped_at, uses, superseded_at), DELETE ON data_keys "
        f"TO {SERVICE_ROLE}"
    )
    op.execute(f"GRANT SELECT, INSERT, UPDATE (wrapped, destroyed_at), DELETE ON subject_keys TO {SERVICE_ROLE}")
    op.execute(f"GRANT SELECT, UPDATE (active) ON key_encryption TO {SERVICE_ROLE}")


def downgrade() -> None:
    """Refuse: restore a backup instead."""
    raise NotImplementedError("migrations only go forward")
