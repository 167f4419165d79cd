"""When a person confirmed a new address: until it cannot be taken back any more, its mailbox binds no second factor."""

from alembic import op

from migrations.service_role import SERVICE_ROLE

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; of changes that are there it is not known, and of what an administrator set there is none."""
    op.execute("ALTER TABLE address_changes ADD COLUMN confirmed_at timestamptz")
    op.execute(f"GRANT UPDATE (confirmed_at) ON address_changes TO {SERVICE_ROLE}")


def downgrade() -> None:
    """Refuse: restore a backup instead."""
    raise NotImplementedError("migrations only go forward")
