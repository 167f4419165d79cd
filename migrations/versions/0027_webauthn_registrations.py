"""Security keys that somebody is about to add: the bytes that the new key must sign, kept for one answer."""

from alembic import op

from migrations.rls import force_row_level_security, own_rows
from migrations.service_role import SERVICE_ROLE

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

REGISTRATIONS = """
CREATE TABLE webauthn_registrations (
    tenant_id       uuid NOT NULL REFERENCES tenants,
    user_id         uuid NOT NULL,
    registration_id uuid NOT NULL,
    -- Who asked: another session of the same account does not answer.
    session_id      uuid NOT NULL,
    name            text NOT NULL,
    nonce           bytea NOT NULL CHECK (octet_length(nonce) = 32),
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, user_id),
    FOREIGN KEY (tenant_id, user_id) REFERENCES users
)
"""


def upgrade() -> None:
    """Create the table, bound to its tenant."""
    op.execute(REGISTRATIONS)
    for statement in (*force_row_level_security("webauthn_registrations"), own_rows("webauthn_registrations")):
        op.execute(statement)
    op.execute(
        "GRANT SELECT, INSERT, DELETE, UPDATE (registration_id, session_id, name, nonce, created_at) "
        f"ON webauthn_registrations TO {SERVICE_ROLE}"
    )


def downgrade() -> None:
    """Refuse: restore a backup instead."""
    raise NotImplementedError("migrations only go forward")
