"""What limits sign-ins beside an account's own counters, and the devices that its person knows.

Throttles have a bounded number of rows for each tenant: identifiers and networks are counted in buckets, since anybody
may send as many of them as they like.
"""

from alembic import op

from migrations.rls import force_row_level_security, own_rows
from migrations.service_role import SERVICE_ROLE

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

# In PostgreSQL and not in Valkey: losing a cache must not give a guesser more tries.
THROTTLES = """
CREATE TABLE sign_in_throttles (
    tenant_id     uuid NOT NULL REFERENCES tenants,
    kind          text COLLATE "C" NOT NULL CHECK (kind IN ('identifier', 'network', 'tenant')),
    bucket        integer NOT NULL CHECK (bucket BETWEEN 0 AND 65535),
    failures      integer NOT NULL CHECK (failures >= 0),
    blocked_until timestamptz,
    counted_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, kind, bucket)
)
"""

DEVICES = """
CREATE TABLE known_devices (
    tenant_id    uuid NOT NULL REFERENCES tenants,
    user_id      uuid NOT NULL,
    device_id    uuid NOT NULL,
    token_hash   bytea NOT NULL CHECK (octet_length(token_hash) = 32),
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_used_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at   timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, user_id, device_id),
    CONSTRAINT known_devices_token_hash_key UNIQUE (tenant_id, token_hash),
    FOREIGN KEY (tenant_id, user_id) REFERENCES users
)
"""

GRANTS = {
    "sign_in_throttles": "SELECT, INSERT, UPDATE (failures, blocked_until, counted_at), DELETE",
    "known_devices": "SELECT, INSERT, UPDATE (last_used_at, expires_at), DELETE",
}


def upgrade() -> None:
    """Create both tables."""
    for table in (THROTTLES, DEVICES):
        op.execute(table)
    for name, rights in GRANTS.items():
        for statement in (*force_row_level_security(name), own_rows(name)):
            op.execute(statement)
        op.execute(f"GRANT {rights} ON {name} TO {SERVICE_ROLE}")


def downgrade() -> None:
    """Refuse: restore a backup instead."""
    raise NotImplementedError("migrations only go forward")
