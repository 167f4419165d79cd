"""SQL that ties a column of sealed values to the data keys that they name."""

from collections.abc import Iterator


def sealed_column(table: str, column: str) -> Iterator[str]:
    """Yield the statements that add `<column>_key`, read from the value itself, and have it refer to `data_keys`.

    So a data key cannot go while a row uses it, and what uses a key is found by an index.
    """
    key_id = f"encode(substring({column} FROM 2 FOR 16), 'hex')::uuid"
    yield f"ALTER TABLE {table} ADD COLUMN {column}_key uuid GENERATED ALWAYS AS ({key_id}) STORED"
    yield (
        f"ALTER TABLE {table} ADD CONSTRAINT {table}_{column}_key_fkey "
        f"FOREIGN KEY (tenant_id, {column}_key) REFERENCES data_keys (tenant_id, key_id)"
    )
    yield f"CREATE INDEX {table}_{column}_key ON {table} (tenant_id, {column}_key)"
