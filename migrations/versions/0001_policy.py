"""Tenants, their policy and its history, each behind forced row-level security.

Names may have 2,048 characters, more than a B-tree entry holds. Where a name must be found, a generated column holds
its first 256 characters, which fit; queries compare both. Text compares code point by code point (collation "C").
"""

from alembic import op

from migrations.rls import BASE, BOUND, PLATFORM, base_rows_readable, force_row_level_security, own_rows
from migrations.service_role import SERVICE_ROLE, ensure_service_role

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TENANTS = """
CREATE TABLE tenants (
    tenant_id      uuid PRIMARY KEY,
    slug           text COLLATE "C" NOT NULL CONSTRAINT tenants_slug_key UNIQUE,
    display_name   text NOT NULL,
    status         text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended', 'deleted')),
    revision       bigint NOT NULL DEFAULT 1 CHECK (revision > 0),
    rules_revision bigint NOT NULL DEFAULT 1 CHECK (rules_revision BETWEEN 1 AND revision),
    keys_revision  bigint NOT NULL DEFAULT 1 CHECK (keys_revision BETWEEN 1 AND revision),
    changed_xid    xid8 NOT NULL DEFAULT pg_current_xact_id(),
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    rules_count       bigint NOT NULL DEFAULT 0 CHECK (rules_count >= 0),
    links_count       bigint NOT NULL DEFAULT 0 CHECK (links_count >= 0),
    memberships_count bigint NOT NULL DEFAULT 0 CHECK (memberships_count >= 0),
    entities_count    bigint NOT NULL DEFAULT 0 CHECK (entities_count >= 0)
) WITH (fillfactor = 70)
"""

# The owner and source columns of every policy row.
PROVENANCE = """
    owner          text NOT NULL CHECK (owner IN ('files', 'api')),
    file           text COLLATE "C",
    line           integer CHECK (line > 0),
    CHECK ((file IS NULL) = (line IS NULL))
"""

RULES = f"""
CREATE TABLE rules (
    tenant_id      uuid NOT NULL REFERENCES tenants,
    rule_id        bytea NOT NULL CHECK (octet_length(rule_id) = 16),
    subject        text COLLATE "C" NOT NULL,
    resource       text COLLATE "C" NOT NULL,
    action         text COLLATE "C" NOT NULL,
    effect         text NOT NULL CHECK (effect IN ('allow', 'deny')),
    condition      text COLLATE "C",
    priority       bigint CHECK (priority >= 0),
    added_revision bigint NOT NULL,
    position       integer NOT NULL,
    {PROVENANCE},
    PRIMARY KEY (tenant_id, rule_id)
)
"""

ROLE_LINKS = f"""
CREATE TABLE role_links (
    tenant_id      uuid NOT NULL REFERENCES tenants,
    link_id        bytea NOT NULL CHECK (octet_length(link_id) = 16),
    kind           text NOT NULL CHECK (kind IN ('g', 'g2')),
    member         text COLLATE "C" NOT NULL,
    role           text COLLATE "C" NOT NULL,
    expires_at     timestamptz,
    added_revision bigint NOT NULL,
    position       integer NOT NULL,
    {PROVENANCE},
    PRIMARY KEY (tenant_id, link_id)
)
"""

MEMBERSHIPS = f"""
CREATE TABLE memberships (
    tenant_id      uuid NOT NULL REFERENCES tenants,
    link_id        bytea NOT NULL CHECK (octet_length(link_id) = 16),
    subject        text COLLATE "C" NOT NULL,
    role           text COLLATE "C" NOT NULL,
    subject_start  text COLLATE "C" NOT NULL GENERATED ALWAYS AS ("left"(subject, 256)) STORED,
    role_start     text COLLATE "C" NOT NULL GENERATED ALWAYS AS ("left"(role, 256)) STORED,
    expires_at     timestamptz,
    {PROVENANCE},
    PRIMARY KEY (tenant_id, link_id)
)
"""

# `json`, not `jsonb`: the text is kept as written, so 1, 1.0 and 1e16 stay what they were; conditions tell them apart.
ENTITIES = f"""
CREATE TABLE entities (
    tenant_id      uuid NOT NULL REFERENCES tenants,
    entity_id      bytea NOT NULL CHECK (octet_length(entity_id) = 16),
    kind           text NOT NULL CHECK (kind IN ('subject', 'resource')),
    ref            text COLLATE "C" NOT NULL,
    ref_start      text COLLATE "C" NOT NULL GENERATED ALWAYS AS ("left"(ref, 256)) STORED,
    properties     json NOT NULL,
    {PROVENANCE},
    PRIMARY KEY (tenant_id, entity_id)
)
"""

CHANGES = """
CREATE TABLE changes (
    tenant_id      uuid NOT NULL REFERENCES tenants,
    revision       bigint NOT NULL,
    rules_revision bigint NOT NULL,
    kind           text NOT NULL,
    actor          text NOT NULL,
    reason         text,
    git_commit     text,
    request_id     text,
    at             timestamptz NOT NULL DEFAULT clock_timestamp(),
    added          bigint NOT NULL DEFAULT 0,
    removed        bigint NOT NULL DEFAULT 0,
    rolled_back_to bigint,
    PRIMARY KEY (tenant_id, revision)
)
"""

# `moved_from` holds the former provenance of a row that only moved in its file: neither added nor removed, yet part of
# what a rollback restores. `subject` and `resource` name what cached lookups the change outdates.
CHANGE_ITEMS = """
CREATE TABLE change_items (
    tenant_id  uuid NOT NULL,
    revision   bigint NOT NULL,
    position   integer NOT NULL,
    added      boolean NOT NULL,
    "row"      json NOT NULL,
    moved_from json,
    subject    text COLLATE "C",
    resource   text COLLATE "C",
    PRIMARY KEY (tenant_id, revision, position),
    FOREIGN KEY (tenant_id, revision) REFERENCES changes
)
"""

PLATFORM_MODEL = """
CREATE TABLE platform_model (
    tenant_id uuid PRIMARY KEY REFERENCES tenants,
    text      text NOT NULL,
    digest    text NOT NULL,
    -- What the view for other Casbins needs of it: the names in `p = …`, and which links name a domain.
    columns      text[] NOT NULL,
    domain_links text[] NOT NULL
)
"""

MODEL_TEXT = """\
[request_definition]
r = sub, dom, obj, act

[policy_definition]
p = sub, dom, obj, act, eft, cond

[role_definition]
g = _, _, _

[policy_effect]
e = some(where (p.eft == allow)) && !some(where (p.eft == deny))

[matchers]
m = (g(r.sub, p.sub, r.dom) || keyMatch(r.sub, p.sub)) && (p.dom == r.dom || p.dom == "*") \
&& keyMatch(r.obj, p.obj) && (p.act == "*" || r.act == p.act)
"""

INDEXES = (
    "CREATE INDEX tenants_changed_xid ON tenants (changed_xid)",
    "CREATE INDEX memberships_subject ON memberships (tenant_id, subject_start)",
    "CREATE INDEX memberships_role ON memberships (tenant_id, role_start, link_id)",
    "CREATE INDEX entities_ref ON entities (tenant_id, kind, ref_start)",
)

MUTABLE = (
    "display_name, status, revision, rules_revision, keys_revision, changed_xid, "
    "rules_count, links_count, memberships_count, entities_count"
)

POLICY_TABLES = ("rules", "role_links", "memberships", "entities")

# Every head update writes the current transaction id. A reader that polls from the oldest transaction still running
# cannot miss one, whatever the order of commits. STABLE: the function sees the snapshot of the statement that calls it.
CHANGED_SINCE = """
CREATE FUNCTION tenants_changed_since(horizon xid8)
RETURNS TABLE (tenant_id uuid, slug text, status text, revision bigint, rules_revision bigint, keys_revision bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT t.tenant_id, t.slug, t.status, t.revision, t.rules_revision, t.keys_revision
    FROM public.tenants AS t WHERE t.changed_xid >= horizon
$$
"""

FIND_TENANT = """
CREATE FUNCTION find_tenant_id(wanted_slug text) RETURNS uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT t.tenant_id FROM public.tenants AS t WHERE t.slug = wanted_slug COLLATE "C" $$
"""


def upgrade() -> None:
    """Create everything that decisions and policy changes need."""
    ensure_service_role(op.get_bind())
    for statement in (
        TENANTS,
        RULES,
        ROLE_LINKS,
        MEMBERSHIPS,
        ENTITIES,
        CHANGES,
        CHANGE_ITEMS,
        PLATFORM_MODEL,
        *INDEXES,
    ):
        op.execute(statement)
    _seed()
    for statement in (*_row_level_security(), CHANGED_SINCE, FIND_TENANT, *_rights()):
        op.execute(statement)


def downgrade() -> None:
    """Refuse: restore a backup instead."""
    raise NotImplementedError("migrations only go forward")


def _seed() -> None:
    op.execute(
        "INSERT INTO tenants (tenant_id, slug, display_name) VALUES "  # noqa: S608 - constants of this file
        f"({BASE}, '_base', 'Base rules'), ({PLATFORM}, '_platform', 'Platform')"
    )
    op.execute(
        "INSERT INTO changes (tenant_id, revision, rules_revision, kind, actor) VALUES "  # noqa: S608 - as above
        f"({BASE}, 1, 1, 'tenant', 'migration'), ({PLATFORM}, 1, 1, 'tenant', 'migration')"
    )
    text = MODEL_TEXT.replace("'", "''").replace(":", r"\:")
    op.execute(
        "INSERT INTO platform_model (tenant_id, text, digest, columns, domain_links) VALUES "  # noqa: S608 - as above
        f"({PLATFORM}, '{text}', "
        f"encode(sha256(convert_to('{text}', 'UTF8')), 'hex'), "
        "ARRAY['sub', 'dom', 'obj', 'act', 'eft', 'cond'], ARRAY['g'])"
    )


def _row_level_security() -> list[str]:
    statements: list[str] = []
    for table in ("tenants", *POLICY_TABLES, "changes", "change_items", "platform_model"):
        statements += force_row_level_security(table)
    for table in (*POLICY_TABLES, "changes", "change_items"):
        statements.append(own_rows(table))
    statements += [
        base_rows_readable("rules"),
        base_rows_readable("role_links"),
        # The platform creates tenants, and raises all of them when the base or the model changes.
        f"CREATE POLICY own_head ON tenants FOR SELECT USING (tenant_id = {BOUND} OR {BOUND} = {PLATFORM})",
        f"CREATE POLICY own_head_update ON tenants FOR UPDATE USING (tenant_id = {BOUND} OR {BOUND} = {PLATFORM})",
        f"CREATE POLICY platform_insert ON tenants FOR INSERT WITH CHECK ({BOUND} = {PLATFORM})",
        f"CREATE POLICY platform_insert ON changes FOR INSERT WITH CHECK ({BOUND} = {PLATFORM})",
        f"CREATE POLICY all_read ON platform_model FOR SELECT USING ({BOUND} IS NOT NULL)",
        f"CREATE POLICY platform_update ON platform_model FOR UPDATE USING ({BOUND} = {PLATFORM})",
        # What the SECURITY DEFINER functions read when their owner is no superuser: forced policies bind them too.
        "CREATE POLICY owner_reads ON tenants FOR SELECT TO CURRENT_USER USING (true)",
    ]
    return statements


def _rights() -> list[str]:
    policy_tables = ", ".join(POLICY_TABLES)
    return [
        f"GRANT USAGE ON SCHEMA public TO {SERVICE_ROLE}",
        f"GRANT SELECT ON alembic_version TO {SERVICE_ROLE}",
        # Slug, id and creation time never change; nothing removes a tenant or its history.
        f"GRANT SELECT, INSERT, UPDATE ({MUTABLE}) ON tenants TO {SERVICE_ROLE}",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON {policy_tables} TO {SERVICE_ROLE}",
        f"GRANT SELECT, INSERT ON changes, change_items TO {SERVICE_ROLE}",
        f"GRANT SELECT, UPDATE (text, digest, columns, domain_links) ON platform_model TO {SERVICE_ROLE}",
        "REVOKE ALL ON FUNCTION tenants_changed_since(xid8), find_tenant_id(text) FROM PUBLIC",
        f"GRANT EXECUTE ON FUNCTION tenants_changed_since(xid8), find_tenant_id(text) TO {SERVICE_ROLE}",
    ]
