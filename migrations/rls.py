"""SQL pieces that every tenant table needs: who is bound, and the policies that follow from it."""

from collections.abc import Iterator

BASE = "'00000000-0000-7000-8000-000000000001'::uuid"
PLATFORM = "'00000000-0000-7000-8000-000000000002'::uuid"

# A scalar subquery runs once per statement, so the policy is an index condition. An unset or empty setting is NULL,
# which equals nothing; a setting that is no UUID is an error. Both show no rows.
BOUND = "(SELECT nullif(current_setting('app.tenant_id', true), '')::uuid)"


def force_row_level_security(table: str) -> Iterator[str]:
    """Yield the statements that bind `table` to the tenant of the transaction, for its owner too."""
    yield f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY"
    yield f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY"


def own_rows(table: str) -> str:
    """Return the policy that lets a tenant read and write its own rows."""
    return f"CREATE POLICY own_rows ON {table} USING (tenant_id = {BOUND}) WITH CHECK (tenant_id = {BOUND})"


def base_rows_readable(table: str) -> str:
    """Return the policy that lets every bound tenant read, never write, the base rows."""
    return f"CREATE POLICY base_rows ON {table} FOR SELECT USING (tenant_id = {BASE} AND {BOUND} IS NOT NULL)"
