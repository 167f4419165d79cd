"""Answers kept for repeated requests, sealed, and written by the transaction that they answer for.

They take the place of `idempotency_keys`, whose answers came in a transaction of their own, too late for a crash.
"""

from alembic import op

from migrations.rls import force_row_level_security, own_rows
from migrations.service_role import SERVICE_ROLE

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

KEPT_ANSWERS = """
CREATE TABLE kept_answers (
    tenant_id    uuid NOT NULL REFERENCES tenants,
    route        text COLLATE "C" NOT NULL,
    key_hash     bytea NOT NULL CHECK (octet_length(key_hash) = 32),
    request_hash bytea NOT NULL CHECK (octet_length(request_hash) = 32),
    sealed       bytea NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, route, key_hash)
)
"""


def upgrade() -> None:
    """Create the new table and drop the old one: nothing in it is older than a day."""
    op.execute(KEPT_ANSWERS)
    op.execute("CREATE INDEX kept_answers_created_at ON kept_answers (tenant_id, created_at)")
    for statement in (*force_row_level_security("kept_answers"), own_rows("kept_answers")):
        op.execute(statement)
    op.execute(f"GRANT SELECT, INSERT, UPDATE (sealed), DELETE ON kept_answers TO {SERVICE_ROLE}")
    op.execute("DROP TABLE idempotency_keys")


def downgrade() -> None:
    """Refuse: restore a backup instead."""
    raise NotImplementedError("migrations only go forward")
