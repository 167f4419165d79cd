"""What is sealed under data keys, a rotation finds, and PostgreSQL keeps the keys for."""

import psycopg
import pytest

from tenancy.encrypted_columns import ENCRYPTED_COLUMNS

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def owner(database_url):
    """Connect as the owner of the tables."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def test_every_encrypted_column_refers_to_data_keys_and_no_other_does(owner):
    """By a generated column of its own, which nobody can write; and every such column is in the list."""
    rows = owner.execute(
        """
        SELECT c.conrelid::regclass::text, a.attname, a.attgenerated, pg_get_constraintdef(c.oid)
        FROM pg_constraint c JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[2]
        WHERE c.contype = 'f' AND c.confrelid = 'data_keys'::regclass AND c.conparentid = 0
        """
    ).fetchall()
    assert {(row[0], row[1]) for row in rows} == {(one.table, f"{one.column}_key") for one in ENCRYPTED_COLUMNS}
    for table, column, generated, definition in rows:
        assert generated == "s", table
        assert definition == f"FOREIGN KEY (tenant_id, {column}) REFERENCES data_keys(tenant_id, key_id)"


@pytest.mark.parametrize("column", ENCRYPTED_COLUMNS, ids=lambda column: f"{column.table}.{column.column}")
def test_a_rotation_can_reseal_the_column(owner, column):
    """The service may read and write it; its rows are named by their key; values are found by the key they name."""
    for privilege in ("SELECT", "UPDATE"):
        query = "SELECT has_column_privilege('kasbah_service', %s, %s, %s)"
        assert owner.execute(query, (column.table, column.column, privilege)).fetchone() == (True,)
    (key,) = owner.execute(
        "SELECT array_agg(a.attname::text ORDER BY k.place) FROM pg_index i, "
        "unnest(i.indkey) WITH ORDINALITY AS k(number, place), pg_attribute a "
        "WHERE i.indrelid = %s::regclass AND i.indisprimary AND a.attrelid = i.indrelid AND a.attnum = k.number",
        (column.table,),
    ).fetchone()
    assert key == ["tenant_id", *column.row_id]
    indexes = owner.execute("SELECT indexdef FROM pg_indexes WHERE tablename = %s", (column.table,)).fetchall()
    assert any(f"(tenant_id, {column.column}_key)" in row[0] for row in indexes)
