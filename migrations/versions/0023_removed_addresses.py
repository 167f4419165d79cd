"""A change of address may also take the address away: then there is no new one."""

from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Let the new address be none."""
    op.execute(
        "ALTER TABLE address_changes ALTER COLUMN new_email DROP NOT NULL, ALTER COLUMN new_email_key DROP NOT NULL, "
        "ADD CHECK ((new_email IS NULL) = (new_email_key IS NULL))"
    )


def downgrade() -> None:
    """Refuse: restore a backup instead."""
    raise NotImplementedError("migrations only go forward")
