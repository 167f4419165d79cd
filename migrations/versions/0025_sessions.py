"""What of sign-ins must outlive the loss of Valkey: sessions that were ended, and challenges that were spent.

Sessions themselves live in Valkey. A row here keeps one that was ended from coming back with an older copy of it, and a
challenge that was finished from being finished again.
"""

from alembic import op

from migrations.rls import force_row_level_security, own_rows
from migrations.service_role import SERVICE_ROLE

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

ENDED_SESSIONS = """
CREATE TABLE ended_sessions (
    tenant_id  uuid NOT NULL REFERENCES tenants,
    user_id    uuid NOT NULL,
    session_id uuid NOT NULL,
    ended_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- When it would have ended by itself: from then on the row says nothing.
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, user_id, session_id),
    FOREIGN KEY (tenant_id, user_id) REFERENCES users
)
"""

SPENT_CHALLENGES = """
CREATE TABLE spent_challenges (
    tenant_id    uuid NOT NULL REFERENCES tenants,
    challenge_id uuid NOT NULL,
    spent_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, challenge_id)
)
"""

INDEXES = (
    "CREATE INDEX ended_sessions_expires_at ON ended_sessions (tenant_id, expires_at)",
    "CREATE INDEX spent_challenges_spent_at ON spent_challenges (tenant_id, spent_at)",
)


def upgrade() -> None:
    """Create the tables, each bound to its tenant."""
    for table in (ENDED_SESSIONS, SPENT_CHALLENGES):
        op.execute(table)
    for index in INDEXES:
        op.execute(index)
    for name in ("ended_sessions", "spent_challenges"):
        for statement in (*force_row_level_security(name), own_rows(name)):
            op.execute(statement)
        op.execute(f"GRANT SELECT, INSERT, DELETE ON {name} TO {SERVICE_ROLE}")


def downgrade() -> None:
    """Refuse: restore a backup instead."""
    raise NotImplementedError("migrations only go forward")
