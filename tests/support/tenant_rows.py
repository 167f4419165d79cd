"""Rows of a tenant in every table, whatever tables there are: what is removed with a tenant is found, not listed."""

from uuid import UUID

import psycopg
from psycopg import sql

from tenancy.purge import PURGED_TABLES

ROWS = 7

_VALUES = {
    "uuid": "gen_random_uuid()",
    "text": "'row ' || n || ' ' || gen_random_uuid()",
    "bytea": "decode(md5(random()::text) || md5(random()::text), 'hex')",
    "timestamp with time zone": "clock_timestamp()",
    "bigint": "1000000 + n",
    "integer": "1000 + n",
    "smallint": "n",
    "boolean": "true",
    "json": "'{}'",
    "jsonb": "'{}'",
    "interval": "interval '1 second'",
    "inet": "'192.0.2.1'",
    "double precision": "n",
}


def fill_tenant(url: str, tenant_id: UUID, rows: int = ROWS) -> None:
    """Write rows into every table that is purged, as the owner; what they say need not make sense.

    Checks are dropped for it, and foreign keys not looked at: use a database of the test's own.
    """
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute("SET session_replication_role = replica")
        for table in reversed(PURGED_TABLES):
            _drop_checks(owner, table)
            columns = owner.execute(
                "SELECT attname, format_type(atttypid, NULL) FROM pg_attribute WHERE attrelid = %s::regclass "
                "AND attnum > 0 AND NOT attisdropped AND attgenerated = '' AND attname <> 'tenant_id'",
                [table],
            ).fetchall()
            values = ["'{}'" if kind.endswith("[]") else _VALUES[kind] for _, kind in columns]
            one_for_all = not columns or [name for name, _ in columns] == ["settings"]
            if one_for_all:
                owner.execute(sql.SQL("DELETE FROM {} WHERE tenant_id = %s").format(sql.Identifier(table)), [tenant_id])
            statement = sql.SQL("INSERT INTO {} ({}) SELECT {}, {} FROM generate_series(1, %s) AS n").format(
                sql.Identifier(table),
                sql.SQL(", ").join(sql.Identifier(name) for name in ("tenant_id", *(name for name, _ in columns))),
                sql.Literal(tenant_id),
                sql.SQL(", ").join(sql.SQL(value) for value in values),
            )
            owner.execute(statement, [1 if one_for_all else rows])


def rows_of(url: str, tenant_id: UUID) -> dict[str, int]:
    """Return how many rows of a tenant each table holds, for every table that has a column for it."""
    with psycopg.connect(url, autocommit=True) as owner:
        tables = owner.execute(
            "SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' "
            "WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition"
        ).fetchall()
        counts = {}
        for (table,) in tables:
            query = sql.SQL("SELECT count(*) FROM {} WHERE tenant_id = %s").format(sql.Identifier(table))
            counts[str(table)] = int(owner.execute(query, [tenant_id]).fetchone()[0])  # type: ignore[index]
    return counts


def _drop_checks(owner: psycopg.Connection, table: str) -> None:
    checks = owner.execute(
        "SELECT conname FROM pg_constraint WHERE conrelid = %s::regclass AND contype = 'c'", [table]
    ).fetchall()
    for (name,) in checks:
        statement = sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(sql.Identifier(table), sql.Identifier(name))
        owner.execute(statement)
    unique = owner.execute(
        "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = %s::regclass AND indpred IS NOT NULL "
        "AND indisunique",
        [table],
    ).fetchall()
    for (name,) in unique:
        owner.execute(sql.SQL("DROP INDEX {}").format(sql.Identifier(name)))
