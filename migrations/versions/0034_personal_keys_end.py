"""A person's keys say that they ended: what raises their owner's `auth_epoch` marks them, in the same transaction.

They were refused before, since the epoch tells; but lists showed them as live, and they counted against how many a
person may have.
"""

from alembic import op

revision = "0034"
down_revision = "0033"
branch_labels = None
depends_on = None

# Runs as whoever changes the account, bound to its tenant. Rows are locked in the order of their ids, as everywhere.
OWNERS_CHANGED = """
CREATE OR REPLACE FUNCTION owners_changed() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF EXISTS (
        SELECT FROM public.api_keys
        WHERE tenant_id = NEW.tenant_id AND owner_id = NEW.user_id AND revoked_at IS NULL AND expires_at > now()
    ) THEN
        PERFORM set_config('app.owners_changed', NEW.tenant_id::text, true);
    END IF;
    UPDATE public.api_keys SET revoked_at = clock_timestamp()
    WHERE tenant_id = NEW.tenant_id AND revoked_at IS NULL AND key_id IN (
        SELECT key_id FROM public.api_keys
        WHERE tenant_id = NEW.tenant_id AND owner_id = NEW.user_id AND owner_epoch < NEW.auth_epoch
            AND revoked_at IS NULL
        ORDER BY key_id FOR NO KEY UPDATE
    );
    RETURN NULL;
END
$$
"""


def upgrade() -> None:
    """Let the trigger that notices the end of keys write it down; keys that ended before stay as they are."""
    op.execute(OWNERS_CHANGED)


def downgrade() -> None:
    """Refuse: restore a backup instead."""
    raise NotImplementedError("migrations only go forward")
