"""Keys of people: they end with their owner's account, and with whatever ends the owner's sign-ins.

A node remembers a key until the head's `keys_revision` moves. A change of an account that ends its owner's keys moves
it: `owners_changed` marks the transaction, `tenancy.heads.raise_head` reads the mark, and `owners_noted` refuses to
commit a transaction that raised the head too early to see it.
"""

from alembic import op

from migrations.service_role import SERVICE_ROLE

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

COLUMNS = (
    "ALTER TABLE api_keys ADD COLUMN owner_id uuid, ADD COLUMN owner_epoch bigint, "
    "ADD CONSTRAINT api_keys_owner FOREIGN KEY (tenant_id, owner_id) REFERENCES users (tenant_id, user_id), "
    "ADD CONSTRAINT api_keys_personal CHECK ((owner_id IS NULL) = (owner_epoch IS NULL) "
    "AND (owner_id IS NULL OR expires_at IS NOT NULL))"
)

# The key, its owner and where its tenant stands come from one statement, so that they belong together.
FIND_API_KEY = """
CREATE FUNCTION find_api_key(wanted_hash bytea)
RETURNS TABLE (
    tenant_id uuid, key_id uuid, prefix text, name text, scopes text[], created_at timestamptz, expires_at timestamptz,
    revoked_at timestamptz, created_by text, owner_id uuid, owner_lives boolean, slug text, status text,
    revision bigint, rules_revision bigint, keys_revision bigint, stamp uuid, rules_stamp uuid
)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT k.tenant_id, k.key_id, k.prefix, k.name, k.scopes, k.created_at, k.expires_at, k.revoked_at, k.created_by,
           k.owner_id, k.owner_id IS NULL OR (u.status = 'active' AND u.auth_epoch = k.owner_epoch) IS TRUE,
           t.slug, t.status, t.revision, t.rules_revision, t.keys_revision, t.stamp, t.rules_stamp
    FROM public.api_keys AS k
    JOIN public.tenants AS t USING (tenant_id)
    LEFT JOIN public.users AS u ON u.tenant_id = k.tenant_id AND u.user_id = k.owner_id
    WHERE k.key_hash = wanted_hash
$$
"""

# Runs as whoever changes the account, bound to its tenant.
OWNERS_CHANGED = """
CREATE FUNCTION owners_changed() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF EXISTS (
        SELECT FROM public.api_keys
        WHERE tenant_id = NEW.tenant_id AND owner_id = NEW.user_id AND revoked_at IS NULL AND expires_at > now()
    ) THEN
        PERFORM set_config('app.owners_changed', NEW.tenant_id::text, true);
    END IF;
    RETURN NULL;
END
$$
"""

OWNERS_NOTED = """
CREATE FUNCTION owners_noted() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF current_setting('app.owners_changed', true) = NEW.tenant_id::text AND EXISTS (
        SELECT FROM public.tenants WHERE tenant_id = NEW.tenant_id AND keys_revision <> revision
    ) THEN
        RAISE EXCEPTION 'the head was raised before the account was changed';
    END IF;
    RETURN NULL;
END
$$
"""

_CHANGED = "OLD.status IS DISTINCT FROM NEW.status OR OLD.auth_epoch IS DISTINCT FROM NEW.auth_epoch"

TRIGGERS = (
    f"""
    CREATE TRIGGER owners_changed AFTER UPDATE ON users FOR EACH ROW WHEN ({_CHANGED})
    EXECUTE FUNCTION owners_changed()
    """,
    f"""
    CREATE CONSTRAINT TRIGGER owners_noted AFTER UPDATE ON users DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN ({_CHANGED}) EXECUTE FUNCTION owners_noted()
    """,
)


def upgrade() -> None:
    """Let keys have owners, and end with them."""
    op.execute(COLUMNS)
    op.execute("CREATE INDEX api_keys_owner_id ON api_keys (tenant_id, owner_id, key_id) WHERE owner_id IS NOT NULL")
    op.execute("CREATE POLICY owner_reads ON users FOR SELECT TO CURRENT_USER USING (true)")
    op.execute("DROP FUNCTION find_api_key(bytea)")
    op.execute(FIND_API_KEY)
    op.execute("REVOKE ALL ON FUNCTION find_api_key(bytea) FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION find_api_key(bytea) TO {SERVICE_ROLE}")
    for function in (OWNERS_CHANGED, OWNERS_NOTED):
        op.execute(function)
    for trigger in TRIGGERS:
        op.execute(trigger)


def downgrade() -> None:
    """Refuse: restore a backup instead."""
    raise NotImplementedError("migrations only go forward")
