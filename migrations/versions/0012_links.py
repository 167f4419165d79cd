"""Links that work once, found by their token before the tenant is known; changes of address; attempts, counted."""

from alembic import op

from migrations.rls import force_row_level_security, own_rows
from migrations.service_role import SERVICE_ROLE

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

LINKS = """
CREATE TABLE links (
    tenant_id  uuid NOT NULL REFERENCES tenants,
    link_id    uuid NOT NULL,
    token_hash bytea NOT NULL CONSTRAINT links_token_hash_key UNIQUE CHECK (octet_length(token_hash) = 32),
    purpose    text COLLATE "C" NOT NULL,
    -- NULL for an invitation: its account is not made yet.
    user_id    uuid,
    about_id   uuid,
    email_hash bytea CHECK (octet_length(email_hash) = 32),
    auth_epoch bigint,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL,
    spent_at   timestamptz,
    PRIMARY KEY (tenant_id, link_id),
    FOREIGN KEY (tenant_id, user_id) REFERENCES users,
    CHECK (num_nonnulls(user_id, about_id) > 0)
)
"""

ADDRESS_CHANGES = """
CREATE TABLE address_changes (
    tenant_id       uuid NOT NULL REFERENCES tenants,
    change_id       uuid NOT NULL,
    user_id         uuid NOT NULL,
    old_email       text COLLATE "C",
    old_email_key   text COLLATE "C",
    old_verified_at timestamptz,
    new_email       text COLLATE "C" NOT NULL,
    new_email_key   text COLLATE "C" NOT NULL,
    state           text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'dropped', 'confirmed', 'undone')),
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, change_id),
    FOREIGN KEY (tenant_id, user_id) REFERENCES users,
    CHECK ((old_email IS NULL) = (old_email_key IS NULL))
)
"""

THROTTLES = """
CREATE TABLE throttles (
    tenant_id uuid NOT NULL REFERENCES tenants,
    name      text COLLATE "C" NOT NULL,
    key_hash  bytea NOT NULL CHECK (octet_length(key_hash) = 32),
    count     integer NOT NULL DEFAULT 1,
    ends_at   timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, name, key_hash)
)
"""

INDEXES = (
    "CREATE INDEX links_user_id ON links (tenant_id, user_id)",
    "CREATE INDEX links_about_id ON links (tenant_id, about_id)",
    "CREATE INDEX links_expires_at ON links (tenant_id, expires_at)",
    "CREATE INDEX address_changes_user_id ON address_changes (tenant_id, user_id)",
    "CREATE INDEX address_changes_created_at ON address_changes (tenant_id, created_at)",
    "CREATE INDEX throttles_ends_at ON throttles (tenant_id, ends_at)",
)

# SECURITY: it says where a token belongs and no more; whether it is good is asked inside that tenant.
FIND_LINK = """
CREATE FUNCTION find_link(wanted_hash bytea)
RETURNS TABLE (tenant_id uuid, slug text, status text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT l.tenant_id, t.slug, t.status FROM public.links AS l JOIN public.tenants AS t USING (tenant_id)
    WHERE l.token_hash = wanted_hash
$$
"""

GRANTS = {
    "links": "SELECT, INSERT, UPDATE (spent_at), DELETE",
    "address_changes": "SELECT, INSERT, UPDATE (state), DELETE",
    "throttles": "SELECT, INSERT, UPDATE (count, ends_at), DELETE",
}


def upgrade() -> None:
    """Create the tables, each bound to its tenant, and the way to a token's tenant."""
    for table in (LINKS, ADDRESS_CHANGES, THROTTLES):
        op.execute(table)
    for index in INDEXES:
        op.execute(index)
    for name, rights in GRANTS.items():
        for statement in (*force_row_level_security(name), own_rows(name)):
            op.execute(statement)
        op.execute(f"GRANT {rights} ON {name} TO {SERVICE_ROLE}")
    op.execute("CREATE POLICY owner_reads ON links FOR SELECT TO CURRENT_USER USING (true)")
    op.execute(FIND_LINK)
    op.execute("REVOKE ALL ON FUNCTION find_link(bytea) FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION find_link(bytea) TO {SERVICE_ROLE}")


def downgrade() -> None:
    """Refuse: restore a backup instead."""
    raise NotImplementedError("migrations only go forward")
