"""Settings of each tenant: what it set, as one document; the rest has its default."""

from alembic import op

from migrations.rls import force_row_level_security, own_rows
from migrations.service_role import SERVICE_ROLE

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

TENANT_SETTINGS = """
CREATE TABLE tenant_settings (
    tenant_id uuid PRIMARY KEY REFERENCES tenants,
    settings  json NOT NULL CHECK (json_typeof(settings) = 'object')
)
"""


def upgrade() -> None:
    """Create the table, bound to its tenant."""
    op.execute(TENANT_SETTINGS)
    for statement in (*force_row_level_security("tenant_settings"), own_rows("tenant_settings")):
        op.execute(statement)
    op.execute(f"GRANT SELECT, INSERT, UPDATE (settings) ON tenant_settings TO {SERVICE_ROLE}")


def downgrade() -> None:
    """Refuse: restore a backup instead."""
    raise NotImplementedError("migrations only go forward")
