"""Invitations: who shall have an account, with which roles, and on whose word."""

from alembic import op

from migrations.rls import force_row_level_security, own_rows
from migrations.service_role import SERVICE_ROLE

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

# `user_id` is set aside for the account. The personal columns are emptied when it was made, or long after the end.
INVITATIONS = """
CREATE TABLE invitations (
    tenant_id        uuid NOT NULL REFERENCES tenants,
    invitation_id    uuid NOT NULL,
    user_id          uuid NOT NULL,
    email            text COLLATE "C",
    email_key        text COLLATE "C",
    display_name     text COLLATE "C",
    display_name_key text COLLATE "C",
    roles            text[] COLLATE "C" NOT NULL,
    inviter          text COLLATE "C" NOT NULL,
    inviter_home     uuid NOT NULL,
    inviter_scopes   text[] COLLATE "C" NOT NULL,
    created_by       text NOT NULL,
    created_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at       timestamptz NOT NULL,
    accepted_at      timestamptz,
    revoked_at       timestamptz,
    PRIMARY KEY (tenant_id, invitation_id),
    CONSTRAINT invitations_user_id_key UNIQUE (tenant_id, user_id),
    CHECK ((email IS NULL) = (email_key IS NULL)),
    CHECK ((display_name IS NULL) = (display_name_key IS NULL)),
    CHECK (accepted_at IS NULL OR num_nonnulls(email, display_name, revoked_at) = 0)
)
"""

INDEXES = (
    "CREATE INDEX invitations_email_key ON invitations (tenant_id, email_key) WHERE email_key IS NOT NULL",
    (
        "CREATE INDEX invitations_open ON invitations (tenant_id, expires_at) "
        "WHERE accepted_at IS NULL AND revoked_at IS NULL"
    ),
)

MUTABLE = "email, email_key, display_name, display_name_key, expires_at, accepted_at, revoked_at"


def upgrade() -> None:
    """Create the table, bound to its tenant."""
    op.execute(INVITATIONS)
    for statement in (*INDEXES, *force_row_level_security("invitations"), own_rows("invitations")):
        op.execute(statement)
    op.execute(f"GRANT SELECT, INSERT, UPDATE ({MUTABLE}), DELETE ON invitations TO {SERVICE_ROLE}")


def downgrade() -> None:
    """Refuse: restore a backup instead."""
    raise NotImplementedError("migrations only go forward")
