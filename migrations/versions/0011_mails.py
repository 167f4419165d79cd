"""The mail queue: what is told is written by the transaction of what happened, and sent afterwards."""

from alembic import op

from migrations.rls import force_row_level_security, own_rows
from migrations.sealed import sealed_column
from migrations.service_role import SERVICE_ROLE

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

# `sealed` holds recipient and values, a link's token among them; it is emptied when the mail was sent or has failed.
MAILS = """
CREATE TABLE mails (
    tenant_id       uuid NOT NULL REFERENCES tenants,
    mail_id         uuid NOT NULL,
    kind            text COLLATE "C" NOT NULL,
    user_id         uuid,
    sealed          bytea,
    state           text NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'sent', 'failed')),
    attempts        integer NOT NULL DEFAULT 0,
    claim           uuid,
    reason          text,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at      timestamptz NOT NULL,
    next_attempt_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    attempted_at    timestamptz,
    ended_at        timestamptz,
    PRIMARY KEY (tenant_id, mail_id),
    CHECK ((sealed IS NULL) = (state <> 'queued')),
    CHECK ((ended_at IS NULL) = (state = 'queued'))
)
"""

INDEXES = (
    "CREATE INDEX mails_due ON mails (tenant_id, next_attempt_at) WHERE state = 'queued'",
    "CREATE INDEX mails_attempted_at ON mails (attempted_at)",
    "CREATE INDEX mails_ended_at ON mails (tenant_id, ended_at) WHERE ended_at IS NOT NULL",
    "CREATE INDEX mails_user_id ON mails (tenant_id, user_id) WHERE state = 'queued'",
)

# Who sends must find what is due in every tenant. It learns names of mails, nothing in them. One claim at a time, so
# that the throttles count; a mail whose claim is older than its lease is due again: who held it is gone.
CLAIM_MAILS = """
CREATE FUNCTION claim_mails(lease_seconds double precision, most integer, per_minute integer, tenant_per_minute integer)
RETURNS TABLE (tenant_id uuid, mail_id uuid, claim uuid)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    this_moment timestamptz;
    minute_ago timestamptz;
    room bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('kasbah.claim_mails', 0));
    this_moment := clock_timestamp();
    minute_ago := this_moment - interval '1 minute';
    SELECT least(most, per_minute - count(*)) INTO room
    FROM public.mails AS tried WHERE tried.attempted_at > minute_ago;
    IF room <= 0 THEN
        RETURN;
    END IF;
    RETURN QUERY
    WITH RECURSIVE waiting AS (
        (SELECT m.tenant_id FROM public.mails AS m WHERE m.state = 'queued' ORDER BY m.tenant_id LIMIT 1)
        UNION ALL
        SELECT (SELECT m.tenant_id FROM public.mails AS m WHERE m.state = 'queued' AND m.tenant_id > w.tenant_id
                ORDER BY m.tenant_id LIMIT 1)
        FROM waiting AS w WHERE w.tenant_id IS NOT NULL
    ), due AS (
        SELECT d.tenant_id, d.mail_id
        FROM waiting AS w JOIN public.tenants AS t ON t.tenant_id = w.tenant_id AND t.status = 'active'
        CROSS JOIN LATERAL (
            SELECT m.tenant_id, m.mail_id, m.next_attempt_at FROM public.mails AS m
            WHERE m.tenant_id = w.tenant_id AND m.state = 'queued' AND m.next_attempt_at <= this_moment
            ORDER BY m.next_attempt_at
            LIMIT greatest(0, least(room, tenant_per_minute - (
                SELECT count(*) FROM public.mails AS tried
                WHERE tried.tenant_id = w.tenant_id AND tried.attempted_at > minute_ago)))
            FOR UPDATE SKIP LOCKED
        ) AS d
        ORDER BY d.next_attempt_at LIMIT room
    )
    UPDATE public.mails AS m
    SET claim = gen_random_uuid(), attempts = m.attempts + 1, attempted_at = this_moment,
        next_attempt_at = this_moment + make_interval(secs => lease_seconds)
    FROM due WHERE m.tenant_id = due.tenant_id AND m.mail_id = due.mail_id
    RETURNING m.tenant_id, m.mail_id, m.claim;
END
$$
"""


def upgrade() -> None:
    """Create the queue and the way to find what is due."""
    op.execute(MAILS)
    for index in INDEXES:
        op.execute(index)
    for statement in (*sealed_column("mails", "sealed"), *force_row_level_security("mails"), own_rows("mails")):
        op.execute(statement)
    op.execute("CREATE POLICY owner_claims ON mails TO CURRENT_USER USING (true) WITH CHECK (true)")
    op.execute(CLAIM_MAILS)
    signature = "claim_mails(double precision, integer, integer, integer)"
    op.execute(f"REVOKE ALL ON FUNCTION {signature} FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION {signature} TO {SERVICE_ROLE}")
    op.execute(
        "GRANT SELECT, INSERT, DELETE, UPDATE (sealed, state, attempts, claim, reason, next_attempt_at, ended_at) "
        f"ON mails TO {SERVICE_ROLE}"
    )


def downgrade() -> None:
    """Refuse: restore a backup instead."""
    raise NotImplementedError("migrations only go forward")
