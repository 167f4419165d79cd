"""Builders of tenants' files from their texts, without a disk."""

from authz.policy_files import PolicyColumns, TenantFiles, parse_cases, parse_entities, parse_policy


def tenant_files(
    slug: str, policy: str, columns: PolicyColumns | None = None, *, entities: str = "", cases: str = ""
) -> TenantFiles:
    """Return what reading a directory with these texts gives."""
    rows = parse_policy(policy, slug, columns or PolicyColumns())
    stored = parse_entities(entities, slug)
    golden = parse_cases(cases, slug)
    return TenantFiles(
        slug,
        tuple(rows.rules),
        tuple(rows.links),
        tuple(stored.entities),
        tuple(golden.cases),
        (*rows.findings, *stored.findings, *golden.findings),
        policy_lines=rows.lines,
        entity_columns=stored.columns,
    )
