"""No key ends later than it was made to end, whoever writes its row: a rotation can only bring the end nearer."""

from alembic import op

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None

NOT_PROLONGED = """
CREATE FUNCTION key_not_prolonged() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION 'a key never ends later than it was made to' USING ERRCODE = 'insufficient_privilege';
END
$$
"""

TRIGGER = """
CREATE TRIGGER key_not_prolonged BEFORE UPDATE ON api_keys FOR EACH ROW
WHEN (coalesce(NEW.expires_at, 'infinity') > coalesce(OLD.expires_at, 'infinity')
    OR (OLD.revoked_at IS NOT NULL AND (NEW.revoked_at IS NULL OR NEW.revoked_at > OLD.revoked_at)))
EXECUTE FUNCTION key_not_prolonged()
"""


def upgrade() -> None:
    """Refuse what would let a key live on."""
    op.execute(NOT_PROLONGED)
    op.execute(TRIGGER)


def downgrade() -> None:
    """Refuse: restore a backup instead."""
    raise NotImplementedError("migrations only go forward")
