"""The audit: events in hash chains, one for each tenant, that the service can add to and read, nothing else.

Events are written by `append_audit` alone, which numbers and hashes them under the lock of the chain's row. The service
has no right to write the tables, so what is written stays as it was: only an owner of the tables can change it, and
then the hashes no longer hold (`tenancy/audit_chain.py` says what is hashed).

Time does not fall along a chain, so the oldest months of all chains are their beginnings, and whole partitions can go.
"""

from alembic import op

from migrations.rls import BOUND, PLATFORM, force_row_level_security, own_rows
from migrations.service_role import SERVICE_ROLE

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

# `seq` and `hash` are those of the newest event; `first_seq` is the oldest that is kept, `first_previous` the hash that
# it follows. `unsealed_since` is when the oldest event happened that has not reached the sink.
AUDIT_CHAINS = """
CREATE TABLE audit_chains (
    tenant_id      uuid NOT NULL REFERENCES tenants,
    chain          text COLLATE "C" NOT NULL CHECK (chain IN ('tenant', 'sign_in')),
    seq            bigint NOT NULL DEFAULT 0 CHECK (seq >= 0),
    hash           bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex') CHECK (octet_length(hash) = 32),
    last_at        timestamptz NOT NULL DEFAULT '-infinity',
    first_seq      bigint NOT NULL DEFAULT 1 CHECK (first_seq BETWEEN 1 AND seq + 1),
    first_previous bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex') CHECK (octet_length(first_previous) = 32),
    unsealed_since timestamptz,
    PRIMARY KEY (tenant_id, chain)
) WITH (fillfactor = 50)
"""

# `json`, not `jsonb`: the text is kept as it was hashed. What is searched for comes from it and cannot say otherwise.
AUDIT_EVENTS = """
CREATE TABLE audit_events (
    tenant_id  uuid NOT NULL,
    chain      text COLLATE "C" NOT NULL,
    seq        bigint NOT NULL CHECK (seq > 0),
    at         timestamptz NOT NULL,
    previous   bytea NOT NULL CHECK (octet_length(previous) = 32),
    hash       bytea NOT NULL CHECK (octet_length(hash) = 32),
    event      json NOT NULL,
    action     text COLLATE "C" NOT NULL GENERATED ALWAYS AS (event ->> 'action') STORED,
    outcome    text COLLATE "C" NOT NULL GENERATED ALWAYS AS (event ->> 'outcome') STORED,
    actor      text COLLATE "C" NOT NULL GENERATED ALWAYS AS ("left"(event ->> 'actor', 256)) STORED,
    target     text COLLATE "C" GENERATED ALWAYS AS ("left"(event ->> 'target', 256)) STORED,
    request_id text COLLATE "C" GENERATED ALWAYS AS ("left"(event ->> 'request_id', 256)) STORED,
    PRIMARY KEY (tenant_id, chain, seq, at)
) PARTITION BY RANGE (at)
"""

INDEXES = (
    "CREATE INDEX audit_chains_unsealed_since ON audit_chains (unsealed_since) WHERE unsealed_since IS NOT NULL",
    "CREATE INDEX audit_events_action ON audit_events (tenant_id, chain, action, seq)",
    "CREATE INDEX audit_events_actor ON audit_events (tenant_id, chain, actor, seq)",
    "CREATE INDEX audit_events_target ON audit_events (tenant_id, chain, target, seq)",
    "CREATE INDEX audit_events_request ON audit_events (tenant_id, chain, request_id, seq)",
)

# How far the sink may be behind before nothing may be changed any more; no row or NULL: there is no sink to wait for.
AUDIT_SINK = """
CREATE TABLE audit_sink (
    tenant_id  uuid PRIMARY KEY REFERENCES tenants,
    max_behind interval
)
"""

# The lock of the chain's row orders the writers; all later steps see what the one before left. The time is taken under
# the lock, so it does not fall even when a clock does.
APPEND_AUDIT = f"""
CREATE FUNCTION append_audit(wanted_tenant uuid, wanted_chain text, wanted_events text[]) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    bound uuid := nullif(current_setting('app.tenant_id', true), '')::uuid;
    overdue timestamptz := (SELECT clock_timestamp() - s.max_behind FROM public.audit_sink AS s);
    head public.audit_chains;
    said text;
    event_at timestamptz;
    event_hash bytea;
BEGIN
    IF bound IS NULL OR bound NOT IN (wanted_tenant, {PLATFORM}) THEN
        RAISE EXCEPTION 'this audit belongs to another tenant' USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF overdue IS NOT NULL AND EXISTS (SELECT FROM public.audit_chains AS c WHERE c.unsealed_since < overdue) THEN
        RAISE EXCEPTION 'the audit has not reached its sink for too long' USING ERRCODE = 'KA001';
    END IF;
    SELECT * INTO head FROM public.audit_chains AS c
    WHERE c.tenant_id = wanted_tenant AND c.chain = wanted_chain FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        INSERT INTO public.audit_chains (tenant_id, chain) VALUES (wanted_tenant, wanted_chain) ON CONFLICT DO NOTHING;
        SELECT * INTO STRICT head FROM public.audit_chains AS c
        WHERE c.tenant_id = wanted_tenant AND c.chain = wanted_chain FOR NO KEY UPDATE;
    END IF;
    FOREACH said IN ARRAY wanted_events LOOP
        event_at := greatest(clock_timestamp(), head.last_at);
        event_hash := sha256(convert_to(concat_ws(E'\\n', 'kasbah-audit-1', wanted_tenant, wanted_chain, head.seq + 1,
            to_char(event_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), encode(head.hash, 'hex'), said),
            'UTF8'));
        INSERT INTO public.audit_events (tenant_id, chain, seq, at, previous, hash, event)
        VALUES (wanted_tenant, wanted_chain, head.seq + 1, event_at, head.hash, event_hash, said::json);
        head.seq := head.seq + 1;
        head.hash := event_hash;
        head.last_at := event_at;
        head.unsealed_since := coalesce(head.unsealed_since, event_at);
    END LOOP;
    UPDATE public.audit_chains AS c
    SET seq = head.seq, hash = head.hash, last_at = head.last_at, unsealed_since = head.unsealed_since
    WHERE c.tenant_id = wanted_tenant AND c.chain = wanted_chain;
    RETURN head.seq;
END
$$
"""  # noqa: S608 - constants of this file

# A partition is made beside the table and attached, which lets writers go on. What came too early for it lies in the
# default partition and stays there: then this month has none.
MAKE_PARTITIONS = f"""
CREATE FUNCTION make_audit_partitions(months integer) RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    made integer := 0;
    starts timestamp;
    name text;
BEGIN
    IF months NOT BETWEEN 1 AND 24 THEN
        RAISE EXCEPTION 'from 1 to 24 months' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    FOR step IN 0 .. months - 1 LOOP
        starts := date_trunc('month', clock_timestamp() AT TIME ZONE 'UTC') + make_interval(months => step);
        name := 'audit_events_' || to_char(starts, 'YYYY_MM');
        CONTINUE WHEN to_regclass('public.' || name) IS NOT NULL
            OR EXISTS (SELECT FROM public.audit_events AS e WHERE e.at >= starts AT TIME ZONE 'UTC'
                AND e.at < (starts + interval '1 month') AT TIME ZONE 'UTC');
        EXECUTE format('CREATE TABLE public.%I (LIKE public.audit_events INCLUDING ALL)', name);
        EXECUTE format('ALTER TABLE public.%I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY own_rows ON public.%I USING (tenant_id = {BOUND.replace("'", "''")}) '
            'WITH CHECK (tenant_id = {BOUND.replace("'", "''")})', name);
        EXECUTE format('ALTER TABLE public.audit_events ATTACH PARTITION public.%I FOR VALUES FROM (%L) TO (%L)',
            name, starts AT TIME ZONE 'UTC', (starts + interval '1 month') AT TIME ZONE 'UTC');
        made := made + 1;
    END LOOP;
    RETURN made;
END
$$
"""  # noqa: S608 - constants of this file

FUNCTIONS = "append_audit(uuid, text, text[]), make_audit_partitions(integer)"


def upgrade() -> None:
    """Create the tables, their functions and the first partitions."""
    for statement in (AUDIT_CHAINS, AUDIT_EVENTS, AUDIT_SINK, *INDEXES):
        op.execute(statement)
    op.execute("CREATE TABLE audit_events_default PARTITION OF audit_events DEFAULT")
    for table in ("audit_chains", "audit_events", "audit_events_default", "audit_sink"):
        for statement in (*force_row_level_security(table), own_rows(table)):
            op.execute(statement)
    # The functions append for the platform to any chain; forced policies bind their owner, too.
    for table in ("audit_chains", "audit_events", "audit_sink"):
        op.execute(f"CREATE POLICY owner_acts ON {table} TO CURRENT_USER USING (true) WITH CHECK (true)")
    op.execute(f"CREATE POLICY platform_reads ON audit_chains FOR SELECT USING ({BOUND} = {PLATFORM})")
    for function in (APPEND_AUDIT, MAKE_PARTITIONS):
        op.get_bind().exec_driver_sql(function.replace("%", "%%"))
    op.execute(f"REVOKE ALL ON FUNCTION {FUNCTIONS} FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION {FUNCTIONS} TO {SERVICE_ROLE}")
    op.execute(f"GRANT SELECT ON audit_chains, audit_events, audit_sink TO {SERVICE_ROLE}")
    op.execute("SELECT make_audit_partitions(3)")


def downgrade() -> None:
    """Refuse: restore a backup instead."""
    raise NotImplementedError("migrations only go forward")
