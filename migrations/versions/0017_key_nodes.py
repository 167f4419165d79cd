"""Which nodes know which key-encryption keys, so that none of them is gone over to before all have it."""

from alembic import op

from migrations.rls import force_row_level_security, own_rows
from migrations.service_role import SERVICE_ROLE

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

KEY_NODES = """
CREATE TABLE key_nodes (
    tenant_id uuid NOT NULL REFERENCES tenants,
    node_id   uuid NOT NULL,
    -- Names of keys, and for each what tells it from another of the same name: never a key.
    keys      text[] NOT NULL,
    marks     text[] NOT NULL CHECK (cardinality(marks) = cardinality(keys)),
    seen_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, node_id)
)
"""


def upgrade() -> None:
    """Create the table, of the platform alone."""
    op.execute(KEY_NODES)
    for statement in (*force_row_level_security("key_nodes"), own_rows("key_nodes")):
        op.execute(statement)
    op.execute(f"GRANT SELECT, INSERT, UPDATE (keys, marks, seen_at), DELETE ON key_nodes TO {SERVICE_ROLE}")


def downgrade() -> None:
    """Refuse: restore a backup instead."""
    raise NotImplementedError("migrations only go forward")
