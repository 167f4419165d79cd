"""Failed proofs of a password, counted for each account, and former passwords where a tenant's rules ask for them."""

from alembic import op

from migrations.rls import force_row_level_security, own_rows
from migrations.service_role import SERVICE_ROLE

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

# In PostgreSQL and not in Valkey: losing a cache must not give a guesser another hundred tries.
FAILURES = """
CREATE TABLE credential_failures (
    tenant_id     uuid NOT NULL REFERENCES tenants,
    user_id       uuid NOT NULL,
    authenticator text COLLATE "C" NOT NULL,
    failures      integer NOT NULL CHECK (failures >= 0),
    blocked_until timestamptz,
    PRIMARY KEY (tenant_id, user_id, authenticator),
    FOREIGN KEY (tenant_id, user_id) REFERENCES users
)
"""

HISTORY = """
CREATE TABLE former_passwords (
    tenant_id     uuid NOT NULL REFERENCES tenants,
    user_id       uuid NOT NULL,
    replaced_at   timestamptz NOT NULL,
    password_hash text COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant_id, user_id, replaced_at),
    FOREIGN KEY (tenant_id, user_id) REFERENCES users
)
"""


def upgrade() -> None:
    """Create both tables."""
    for table, statement in (("credential_failures", FAILURES), ("former_passwords", HISTORY)):
        op.execute(statement)
        for policy in (*force_row_level_security(table), own_rows(table)):
            op.execute(policy)
    op.execute(
        f"GRANT SELECT, INSERT, UPDATE (failures, blocked_until), DELETE ON credential_failures TO {SERVICE_ROLE}"
    )
    op.execute(f"GRANT SELECT, INSERT, DELETE ON former_passwords TO {SERVICE_ROLE}")


def downgrade() -> None:
    """Refuse: restore a backup instead."""
    raise NotImplementedError("migrations only go forward")
