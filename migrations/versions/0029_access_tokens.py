"""What access tokens need: the tenant of an account by its id, and since when an account's sign-ins count.

Such a token names an account and no tenant. It carries no epoch either, only when it was issued: `signed_out_at` is
when the account's epoch or state last changed, kept by a trigger so that no way to change them can forget it. For
accounts from before, whose changes are not known, it is the moment of this migration.
"""

from alembic import op

from migrations.service_role import SERVICE_ROLE

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None

FIND_ACCOUNT = """
CREATE FUNCTION find_account(wanted_kind text, wanted_id uuid)
RETURNS TABLE (tenant_id uuid, slug text, status text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT t.tenant_id, t.slug, t.status
    FROM public.users AS u JOIN public.tenants AS t USING (tenant_id)
    WHERE wanted_kind = 'user' AND u.user_id = wanted_id
    UNION ALL
    SELECT t.tenant_id, t.slug, t.status
    FROM public.service_accounts AS a JOIN public.tenants AS t USING (tenant_id)
    WHERE wanted_kind = 'service' AND a.service_account_id = wanted_id
$$
"""

NOTE_SIGNED_OUT = """
CREATE FUNCTION note_signed_out() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    NEW.signed_out_at := clock_timestamp();
    RETURN NEW;
END
$$
"""

TRIGGERS = {
    "users": "OLD.auth_epoch IS DISTINCT FROM NEW.auth_epoch OR OLD.status IS DISTINCT FROM NEW.status",
    "service_accounts": "OLD.status IS DISTINCT FROM NEW.status",
}


def upgrade() -> None:
    """Find accounts by their ids, and note when their sign-ins end."""
    op.execute(NOTE_SIGNED_OUT)
    for table, changed in TRIGGERS.items():
        # The default is for the rows that are there; it is kept with the column, and no row is written.
        op.execute(f"ALTER TABLE {table} ADD COLUMN signed_out_at timestamptz DEFAULT now()")
        op.execute(f"ALTER TABLE {table} ALTER COLUMN signed_out_at DROP DEFAULT")
        op.execute(
            f"CREATE TRIGGER note_signed_out BEFORE UPDATE ON {table} FOR EACH ROW "
            f"WHEN ({changed}) EXECUTE FUNCTION note_signed_out()"
        )
    op.execute("CREATE INDEX users_user_id ON users (user_id)")
    op.execute("CREATE INDEX service_accounts_id ON service_accounts (service_account_id)")
    op.execute(FIND_ACCOUNT)
    op.execute("REVOKE ALL ON FUNCTION find_account(text, uuid) FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION find_account(text, uuid) TO {SERVICE_ROLE}")


def downgrade() -> None:
    """Refuse: restore a backup instead."""
    raise NotImplementedError("migrations only go forward")
