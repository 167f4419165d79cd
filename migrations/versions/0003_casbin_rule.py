"""`casbin_rule`: the current tenant's policy in the layout of Casbin's SQLAlchemy adapters, to read.

The view runs with the rights of whoever reads it, so row-level security decides whose rows these are. It fails closed:
where the rows alone would allow more than Kasbah does, there are none (`casbin_rule_status` says why); docs/adr tells
more.
"""

from alembic import op

from migrations.rls import BASE, BOUND
from migrations.service_role import SERVICE_ROLE

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

PLACES = 6
MAX_LINKS = 9

# What PyCasbin's text form of a row cannot carry: it splits at commas, counts brackets and trims Unicode blanks.
FITS = r"""
CREATE FUNCTION casbin_fits(name text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN name !~ '[,\[\]()\u0001-\u001f\u007f-\u009f\u2028\u2029]'
    AND name !~ '^[ \u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]'
    AND name !~ '[ \u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]$'
"""

RULE_FITS = "casbin_fits(subject) AND casbin_fits(resource) AND casbin_fits(action)"
LINK_FITS = "casbin_fits(member) AND casbin_fits(role)"
VISIBLE_TENANTS = f"IN ({BOUND}, {BASE})"
VISIBLE = f"tenant_id {VISIBLE_TENANTS}"

# A deny that cannot be shown would be missing, so nothing is shown. A link that cannot be shown matters only where
# there are denies: they might act on the role it gives. Allows that cannot be shown are left out: that only
# allows less. PyCasbin follows nine links from a subject and no further, so a deny on a role behind them would not act.
STATUS = f"""
CREATE VIEW casbin_rule_status WITH (security_invoker = true) AS
SELECT t.tenant_id, t.slug, m.columns, m.domain_links, CASE
    WHEN t.status <> 'active' THEN 'the tenant is ' || t.status
    WHEN cardinality(m.columns) > {PLACES} THEN 'the model has more columns than v0 to v5'
    WHEN EXISTS (SELECT 1 FROM rules WHERE {VISIBLE} AND effect = 'deny' AND condition IS NOT NULL)
        THEN 'a deny rule has a condition'
    WHEN EXISTS (SELECT 1 FROM rules WHERE {VISIBLE} AND effect = 'deny' AND NOT ({RULE_FITS}))
        THEN 'a deny rule has a name that Casbin cannot load'
    WHEN EXISTS (SELECT 1 FROM rules WHERE {VISIBLE} AND effect = 'deny') AND (
            EXISTS (SELECT 1 FROM role_links WHERE {VISIBLE} AND NOT ({LINK_FITS}))
            OR EXISTS (SELECT 1 FROM memberships
                       WHERE tenant_id = {BOUND} AND NOT (casbin_fits(subject) AND casbin_fits(role))))
        THEN 'there are deny rules, and a link has a name that Casbin cannot load'
    WHEN EXISTS (SELECT 1 FROM rules WHERE {VISIBLE} AND effect = 'deny') AND EXISTS (
            WITH RECURSIVE reached (name, links) AS (
                SELECT role, 1 FROM role_links WHERE {VISIBLE} AND kind = 'g'
                UNION
                SELECT l.role, r.links + 1 FROM reached AS r JOIN role_links AS l ON l.member = r.name
                WHERE l.tenant_id {VISIBLE_TENANTS} AND l.kind = 'g' AND r.links < {MAX_LINKS}
            ) SELECT 1 FROM reached WHERE links >= {MAX_LINKS})
        THEN 'there are deny rules, and a chain of roles is longer than Casbin follows'
    END AS withheld
FROM tenants AS t CROSS JOIN platform_model AS m
WHERE t.tenant_id = {BOUND}
"""  # noqa: S608 - constants of this file


def _rule_value(place: int) -> str:
    domain = f"CASE WHEN r.tenant_id = {BASE} THEN '*' ELSE s.slug END"
    return (
        f"CASE s.columns[{place}] WHEN 'sub' THEN r.subject WHEN 'dom' THEN {domain} WHEN 'obj' THEN r.resource "
        "WHEN 'act' THEN r.action WHEN 'eft' THEN r.effect WHEN 'cond' THEN '' "
        "WHEN 'priority' THEN r.priority::text END"
    )


def _rule_view() -> str:
    values = ", ".join(f"{_rule_value(place)} AS v{place - 1}" for place in range(1, PLACES + 1))
    names = ", ".join(f"v{place}" for place in range(PLACES))
    domain = f"CASE WHEN s.tenant_id = {BASE} THEN '*' ELSE s.slug END"
    return f"""
CREATE VIEW casbin_rule WITH (security_invoker = true) AS
WITH s AS MATERIALIZED (SELECT * FROM casbin_rule_status WHERE withheld IS NULL),
lines AS (
    SELECT 1 AS part, r.priority, (r.tenant_id <> {BASE}) AS own, (r.owner <> 'files') AS api, r.file, r.line,
        r.added_revision, r.position, 'p' AS ptype, {values}
    FROM rules AS r CROSS JOIN s
    WHERE r.tenant_id {VISIBLE_TENANTS} AND r.condition IS NULL
        AND ('eft' = ANY(s.columns) OR r.effect = 'allow') AND {RULE_FITS}
    UNION ALL
    SELECT 2, NULL, (l.tenant_id <> {BASE}), (l.owner <> 'files'), l.file, l.line, l.added_revision, l.position,
        l.kind, l.member, l.role, CASE WHEN l.kind = ANY(s.domain_links) THEN {domain} END, NULL, NULL, NULL
    FROM role_links AS l CROSS JOIN s
    WHERE l.tenant_id {VISIBLE_TENANTS} AND (l.expires_at IS NULL OR l.expires_at > now())
        AND {LINK_FITS}
    UNION ALL
    SELECT 3, NULL, true, (m.owner <> 'files'), m.file, m.line, 0, 0,
        'g', m.subject, m.role, CASE WHEN 'g' = ANY(s.domain_links) THEN {domain} END, NULL, NULL, NULL
    FROM memberships AS m CROSS JOIN s
    WHERE m.tenant_id = {BOUND} AND (m.expires_at IS NULL OR m.expires_at > now())
        AND casbin_fits(m.subject) AND casbin_fits(m.role)
)
SELECT row_number() OVER (
        ORDER BY part, priority, own, api, file, line, added_revision, position, v0, v1)::integer AS id,
    ptype, {names}
FROM lines ORDER BY id
"""  # noqa: S608 - constants of this file


def upgrade() -> None:
    """Create the view and what it rests on."""
    for statement in (FITS, STATUS, _rule_view()):
        # The colon of a cast is no parameter, and backslashes are PostgreSQL's.
        op.get_bind().exec_driver_sql(statement)
    op.execute(f"GRANT SELECT ON casbin_rule, casbin_rule_status TO {SERVICE_ROLE}")


def downgrade() -> None:
    """Refuse: restore a backup instead."""
    raise NotImplementedError("migrations only go forward")
