"""Second factors: what is bound to an account, recovery codes, and codes that prove a mailbox during enrolment."""

from alembic import op

from migrations.rls import force_row_level_security, own_rows
from migrations.sealed import sealed_column
from migrations.service_role import SERVICE_ROLE

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

# An authenticator that waits for its confirmation has no `confirmed_at`, and does nothing yet. `last_step` is the
# newest time step that a code was accepted for (RFC 6238 section 5.2): it only ever rises.
AUTHENTICATORS = """
CREATE TABLE authenticators (
    tenant_id        uuid NOT NULL REFERENCES tenants,
    user_id          uuid NOT NULL,
    authenticator_id uuid NOT NULL,
    kind             text COLLATE "C" NOT NULL CHECK (kind IN ('totp', 'webauthn')),
    name             text NOT NULL,
    secret           bytea,
    last_step        bigint,
    credential_id    bytea,
    public_key       bytea,
    sign_count       bigint,
    transports       text[] COLLATE "C" NOT NULL DEFAULT '{}',
    created_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    confirmed_at     timestamptz,
    last_used_at     timestamptz,
    disabled_at      timestamptz,
    PRIMARY KEY (tenant_id, user_id, authenticator_id),
    FOREIGN KEY (tenant_id, user_id) REFERENCES users,
    CONSTRAINT authenticators_credential_id_key UNIQUE (tenant_id, credential_id),
    CHECK (CASE kind
        WHEN 'totp' THEN secret IS NOT NULL AND num_nonnulls(credential_id, public_key, sign_count) = 0
        ELSE num_nonnulls(secret, last_step) = 0 AND num_nonnulls(credential_id, public_key, sign_count) = 3
    END)
)
"""

RECOVERY_CODES = """
CREATE TABLE recovery_codes (
    tenant_id  uuid NOT NULL REFERENCES tenants,
    user_id    uuid NOT NULL,
    code_hash  bytea NOT NULL CHECK (octet_length(code_hash) = 32),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    spent_at   timestamptz,
    PRIMARY KEY (tenant_id, user_id, code_hash),
    FOREIGN KEY (tenant_id, user_id) REFERENCES users
)
"""

# Eight digits are guessed from any hash, so the code is sealed. `auth_epoch`: what ends sign-ins ends the code.
ENROLMENT_CODES = """
CREATE TABLE enrolment_codes (
    tenant_id  uuid NOT NULL REFERENCES tenants,
    user_id    uuid NOT NULL,
    sealed     bytea NOT NULL,
    auth_epoch bigint NOT NULL,
    tries      integer NOT NULL DEFAULT 0 CHECK (tries >= 0),
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, user_id),
    FOREIGN KEY (tenant_id, user_id) REFERENCES users
)
"""

GRANTS = {
    "authenticators": (
        "SELECT, INSERT, DELETE, UPDATE (name, secret, last_step, sign_count, confirmed_at, last_used_at, disabled_at)"
    ),
    "recovery_codes": "SELECT, INSERT, DELETE, UPDATE (spent_at)",
    "enrolment_codes": "SELECT, INSERT, DELETE, UPDATE (sealed, auth_epoch, tries, expires_at)",
}


def upgrade() -> None:
    """Create the tables, each bound to its tenant; remember of accounts that factors were bound, and must be."""
    for table in (AUTHENTICATORS, RECOVERY_CODES, ENROLMENT_CODES):
        op.execute(table)
    for table, column in (("authenticators", "secret"), ("enrolment_codes", "sealed")):
        for statement in sealed_column(table, column):
            op.execute(statement)
    for name, rights in GRANTS.items():
        for statement in (*force_row_level_security(name), own_rows(name)):
            op.execute(statement)
        op.execute(f"GRANT {rights} ON {name} TO {SERVICE_ROLE}")
    # When the first factor was bound, ever; and whether an administrator took the factors away since, so that the
    # password alone signs nobody in before new ones are bound.
    op.execute(
        "ALTER TABLE users ADD COLUMN factors_bound_at timestamptz, "
        "ADD COLUMN enrolment_demanded boolean NOT NULL DEFAULT false"
    )
    op.execute(f"GRANT UPDATE (factors_bound_at, enrolment_demanded) ON users TO {SERVICE_ROLE}")


def downgrade() -> None:
    """Refuse: restore a backup instead."""
    raise NotImplementedError("migrations only go forward")
