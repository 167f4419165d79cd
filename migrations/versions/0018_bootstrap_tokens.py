"""One-time tokens for the first administrator: made by whoever has the database, spent over HTTP."""

from alembic import op

from migrations.rls import PLATFORM, force_row_level_security, own_rows
from migrations.service_role import SERVICE_ROLE

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

# `administrators` is how many there were when the token was made: more of them since then void it.
BOOTSTRAP_TOKENS = f"""
CREATE TABLE bootstrap_tokens (
    tenant_id      uuid NOT NULL REFERENCES tenants CHECK (tenant_id = {PLATFORM}),
    token_hash     bytea NOT NULL CHECK (octet_length(token_hash) = 32),
    administrators bigint NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at     timestamptz NOT NULL,
    spent_at       timestamptz,
    PRIMARY KEY (tenant_id, token_hash)
)
"""


def upgrade() -> None:
    """Create the table; only the platform has rows in it."""
    op.execute(BOOTSTRAP_TOKENS)
    for statement in (*force_row_level_security("bootstrap_tokens"), own_rows("bootstrap_tokens")):
        op.execute(statement)
    op.execute(f"GRANT SELECT, INSERT, UPDATE (spent_at) ON bootstrap_tokens TO {SERVICE_ROLE}")


def downgrade() -> None:
    """Refuse: restore a backup instead."""
    raise NotImplementedError("migrations only go forward")
