"""Signed checkpoints of the audit's chains, and how far an external sink has them.

The service signs and delivers; here it can only go forward: numbers have no gap, and what was signed stays as it was.
"""

from alembic import op

from migrations.rls import BOUND, PLATFORM, force_row_level_security, own_rows
from migrations.sealed import sealed_column
from migrations.service_role import SERVICE_ROLE

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

# `sealed` holds the private key; NULL when it comes from the service's settings.
AUDIT_KEYS = """
CREATE TABLE audit_keys (
    tenant_id  uuid NOT NULL REFERENCES tenants,
    key_id     text COLLATE "C" NOT NULL,
    public_key bytea NOT NULL CHECK (octet_length(public_key) = 32),
    sealed     bytea,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, key_id)
)
"""

AUDIT_CHECKPOINTS = """
CREATE TABLE audit_checkpoints (
    tenant_id uuid NOT NULL REFERENCES tenants,
    number    bigint NOT NULL CONSTRAINT audit_checkpoints_number_key UNIQUE,
    chain     text COLLATE "C" NOT NULL,
    seq       bigint NOT NULL,
    at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    until     timestamptz NOT NULL,
    line      text NOT NULL,
    PRIMARY KEY (tenant_id, chain, seq, number)
)
"""

# How far a chain is signed and delivered; `delivered_until` is the time of its last delivered event. Apart from the
# chain's own row, which writers hold locked.
AUDIT_SIGNED = """
CREATE TABLE audit_signed (
    tenant_id       uuid NOT NULL REFERENCES tenants,
    chain           text COLLATE "C" NOT NULL,
    seq             bigint NOT NULL,
    at              timestamptz NOT NULL,
    delivered_seq   bigint NOT NULL DEFAULT 0,
    delivered_until timestamptz,
    PRIMARY KEY (tenant_id, chain)
)
"""

CLAIM_NUMBERS = """
CREATE FUNCTION claim_audit_numbers(wanted integer) RETURNS bigint
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE public.audit_sink AS s SET last_number = s.last_number + greatest(wanted, 0)
    RETURNING s.last_number - greatest(wanted, 0) + 1
$$
"""

KEEP_CHECKPOINTS = """
CREATE FUNCTION keep_audit_checkpoints(
    tenants uuid[], chains text[], seqs bigint[], untils timestamptz[], numbers bigint[], lines text[]
) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    WITH given AS (
        SELECT g.* FROM unnest(tenants, chains, seqs, untils, numbers, lines)
            AS g (tenant_id, chain, seq, until, number, line)
    ), kept AS (
        INSERT INTO public.audit_checkpoints (tenant_id, number, chain, seq, until, line)
        SELECT g.tenant_id, g.number, g.chain, g.seq, g.until, g.line FROM given AS g
    )
    INSERT INTO public.audit_signed AS s (tenant_id, chain, seq, at)
    SELECT g.tenant_id, g.chain, g.seq, clock_timestamp() FROM given AS g
    ON CONFLICT (tenant_id, chain) DO UPDATE SET seq = excluded.seq, at = excluded.at WHERE s.seq < excluded.seq
$$
"""

# Chains whose row a writer holds are left to the next call.
NOTE_DELIVERED = """
CREATE FUNCTION note_audit_delivered(upto bigint) RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    before bigint;
    cleared integer;
BEGIN
    SELECT s.delivered_number INTO before FROM public.audit_sink AS s FOR UPDATE;
    UPDATE public.audit_sink AS s SET delivered_number = greatest(s.delivered_number, least(upto, s.last_number));
    UPDATE public.audit_signed AS s SET delivered_seq = d.seq, delivered_until = d.until
    FROM (SELECT p.tenant_id, p.chain, max(p.seq) AS seq, max(p.until) AS until FROM public.audit_checkpoints AS p
          WHERE p.number > before AND p.number <= upto GROUP BY p.tenant_id, p.chain) AS d
    WHERE s.tenant_id = d.tenant_id AND s.chain = d.chain AND s.delivered_seq < d.seq;
    WITH free AS (
        SELECT c.tenant_id, c.chain, c.seq AS last_seq, s.delivered_seq
        FROM public.audit_chains AS c JOIN public.audit_signed AS s USING (tenant_id, chain)
        WHERE c.unsealed_since IS NOT NULL AND c.unsealed_since <= s.delivered_until
        FOR NO KEY UPDATE OF c SKIP LOCKED
    )
    UPDATE public.audit_chains AS c SET unsealed_since = (
        SELECT e.at FROM public.audit_events AS e WHERE e.tenant_id = f.tenant_id AND e.chain = f.chain
            AND e.seq = f.delivered_seq + 1 AND f.delivered_seq < f.last_seq LIMIT 1)
    FROM free AS f WHERE c.tenant_id = f.tenant_id AND c.chain = f.chain;
    GET DIAGNOSTICS cleared = ROW_COUNT;
    RETURN cleared;
END
$$
"""

SET_SINK = """
CREATE FUNCTION set_audit_sink(seconds double precision) RETURNS boolean
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    WITH changed AS (
        UPDATE public.audit_sink AS s SET max_behind = make_interval(secs => seconds)
        WHERE s.max_behind IS DISTINCT FROM make_interval(secs => seconds) RETURNING 1
    )
    SELECT EXISTS (SELECT FROM changed)
$$
"""

FUNCTIONS = (
    "claim_audit_numbers(integer), "
    "keep_audit_checkpoints(uuid[], text[], bigint[], timestamptz[], bigint[], text[]), "
    "note_audit_delivered(bigint), set_audit_sink(double precision)"
)
TABLES = ("audit_keys", "audit_checkpoints", "audit_signed")


def upgrade() -> None:
    """Create the tables and what the service may do with them."""
    for statement in (AUDIT_KEYS, AUDIT_CHECKPOINTS, AUDIT_SIGNED):
        op.execute(statement)
    op.execute(
        "ALTER TABLE audit_sink ADD COLUMN last_number bigint NOT NULL DEFAULT 0, "
        "ADD COLUMN delivered_number bigint NOT NULL DEFAULT 0"
    )
    for statement in sealed_column("audit_keys", "sealed"):
        op.execute(statement)
    for table in TABLES:
        for statement in (*force_row_level_security(table), own_rows(table)):
            op.execute(statement)
    for table in ("audit_checkpoints", "audit_signed"):
        op.execute(f"CREATE POLICY owner_acts ON {table} TO CURRENT_USER USING (true) WITH CHECK (true)")
        op.execute(f"CREATE POLICY platform_reads ON {table} FOR SELECT USING ({BOUND} = {PLATFORM})")
    for function in (CLAIM_NUMBERS, KEEP_CHECKPOINTS, NOTE_DELIVERED, SET_SINK):
        op.execute(function)
    op.execute(f"REVOKE ALL ON FUNCTION {FUNCTIONS} FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION {FUNCTIONS} TO {SERVICE_ROLE}")
    op.execute(f"GRANT SELECT ON audit_checkpoints, audit_signed TO {SERVICE_ROLE}")
    op.execute(f"GRANT SELECT, INSERT, UPDATE (sealed) ON audit_keys TO {SERVICE_ROLE}")
    op.execute(f"INSERT INTO audit_sink (tenant_id) VALUES ({PLATFORM}) ON CONFLICT DO NOTHING")  # noqa: S608 - a constant


def downgrade() -> None:
    """Refuse: restore a backup instead."""
    raise NotImplementedError("migrations only go forward")
