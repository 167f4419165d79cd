"""Whether somebody signed in from a known device since it became known: a reset by mail makes one known before that."""

from alembic import op

from migrations.service_role import SERVICE_ROLE

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; of devices that are there it is not known, so they are left as they are."""
    op.execute("ALTER TABLE known_devices ADD COLUMN signed_in boolean NOT NULL DEFAULT true")
    op.execute(f"GRANT UPDATE (signed_in) ON known_devices TO {SERVICE_ROLE}")


def downgrade() -> None:
    """Refuse: restore a backup instead."""
    raise NotImplementedError("migrations only go forward")
