"""Accounts of people, found by the keys of their names; which changes outdate what nodes remember of a subject.

An account is never removed: a deleted one loses everything personal and stays, so that its id is not given again.
"""

from alembic import op

from migrations.rls import force_row_level_security, own_rows
from migrations.service_role import SERVICE_ROLE

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

# The keys are what is unique: all spellings of one name have one key (authn/user_names.py).
USERS = """
CREATE TABLE users (
    tenant_id           uuid NOT NULL REFERENCES tenants,
    user_id             uuid NOT NULL,
    username            text COLLATE "C",
    username_key        text COLLATE "C",
    email               text COLLATE "C",
    email_key           text COLLATE "C",
    email_verified_at   timestamptz,
    display_name        text COLLATE "C",
    display_name_key    text COLLATE "C",
    status              text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'disabled', 'deleted')),
    status_reason       text,
    auth_epoch          bigint NOT NULL DEFAULT 1 CHECK (auth_epoch > 0),
    password_hash       text COLLATE "C",
    password_changed_at timestamptz,
    password_set_by     text,
    mfa_required        boolean NOT NULL DEFAULT false,
    created_at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    created_by          text NOT NULL,
    last_sign_in_at     timestamptz,
    factors_reset_at    timestamptz,
    password_reset_at   timestamptz,
    PRIMARY KEY (tenant_id, user_id),
    CONSTRAINT users_username_key UNIQUE (tenant_id, username_key),
    CONSTRAINT users_email_key UNIQUE (tenant_id, email_key),
    CHECK ((username IS NULL) = (username_key IS NULL)),
    CHECK ((email IS NULL) = (email_key IS NULL)),
    CHECK ((display_name IS NULL) = (display_name_key IS NULL)),
    CHECK (email IS NOT NULL OR email_verified_at IS NULL),
    CONSTRAINT users_named CHECK ((username IS NULL) = (status = 'deleted')),
    CONSTRAINT users_tombstone CHECK (
        status <> 'deleted' OR num_nonnulls(email, display_name, password_hash, last_sign_in_at) = 0
    )
)
"""

INDEXES = (
    "CREATE INDEX users_display_name ON users (tenant_id, display_name_key)",
    "CREATE INDEX users_status ON users (tenant_id, status, user_id)",
)

# Who and when an account was made never changes, and neither does its id.
MUTABLE = (
    "username, username_key, email, email_key, email_verified_at, display_name, display_name_key, status, "
    "status_reason, auth_epoch, password_hash, password_changed_at, password_set_by, mfa_required, updated_at, "
    "last_sign_in_at, factors_reset_at, password_reset_at"
)


def upgrade() -> None:
    """Create the table; count accounts in their tenant's head; let a change name the subjects that it outdates."""
    op.execute(USERS)
    for statement in (*INDEXES, *force_row_level_security("users"), own_rows("users")):
        op.execute(statement)
    op.execute(f"GRANT SELECT, INSERT, UPDATE ({MUTABLE}) ON users TO {SERVICE_ROLE}")
    op.execute("ALTER TABLE tenants ADD COLUMN users_count bigint NOT NULL DEFAULT 0 CHECK (users_count >= 0)")
    op.execute(f"GRANT UPDATE (users_count) ON tenants TO {SERVICE_ROLE}")
    op.execute('ALTER TABLE changes ADD COLUMN touched text[] COLLATE "C"')


def downgrade() -> None:
    """Refuse: restore a backup instead."""
    raise NotImplementedError("migrations only go forward")
