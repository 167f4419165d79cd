"""A table of sealed values for tests, made as a migration makes one; two key-encryption keys, and nodes that hold them."""

from collections.abc import Sequence
from datetime import timedelta

import psycopg
from sqlalchemy import text

from migrations.rls import force_row_level_security, own_rows
from migrations.sealed import sealed_column
from tenancy.encrypted_columns import SUBJECT_KEYS, EncryptedColumn
from tenancy.envelope import Place
from tenancy.ids import TenantId
from tenancy.key_encryption import KeyEncryption, KeyEncryptionKeys, LocalKeyEncryption
from tenancy.key_maker import KeyMaker
from tenancy.key_ring import KeyRing
from tenancy.rotate_keys import KeyRotator
from tenancy.unit_of_work import Sessions, tenant_unit_of_work

OLD, NEW = LocalKeyEncryption("old", bytes(range(1, 65, 2))), LocalKeyEncryption("new", bytes(range(2, 66, 2)))
THINGS = EncryptedColumn("things", "sealed", ("kind", "thing_id"))
COLUMNS = (SUBJECT_KEYS, THINGS)

TABLE = """
CREATE TABLE things (
    tenant_id uuid NOT NULL REFERENCES tenants,
    kind      text NOT NULL,
    thing_id  bigint NOT NULL,
    sealed    bytea NOT NULL,
    PRIMARY KEY (tenant_id, kind, thing_id)
)
"""


def make_things(owner: psycopg.Connection) -> None:
    """Make the table, in the database of one test."""
    owner.execute(TABLE)
    for statement in (*sealed_column("things", "sealed"), *force_row_level_security("things"), own_rows("things")):
        owner.execute(statement.encode())
    owner.execute("GRANT SELECT, INSERT, UPDATE (sealed), DELETE ON things TO kasbah_service")


class SealingNode:
    """One node: its key-encryption keys (the first is preferred), a ring, and what carries rotations out."""

    def __init__(
        self,
        sessions: Sessions,
        keks: Sequence[KeyEncryption] = (OLD,),
        *,
        columns: Sequence[EncryptedColumn] = COLUMNS,
        grace: float = 0,
    ) -> None:
        self.sessions = sessions
        known = KeyEncryptionKeys(keks, keks[0].id)
        self.preferred = known.get(known.preferred)
        self.ring = KeyRing(sessions, known, columns=columns)
        maker = KeyMaker(sessions, known)
        self.rotator = KeyRotator(sessions, self.ring, maker, columns=columns, grace=timedelta(seconds=grace))

    async def write(self, tenant_id: TenantId, thing: int, value: bytes, kind: str = "a/b") -> None:
        """Store a value, or another one in its place."""
        async with tenant_unit_of_work(self.sessions, tenant_id) as work:
            sealed = await self.ring.seal(work, THINGS.place([kind, thing]), value)
            query = text(
                "INSERT INTO things (tenant_id, kind, thing_id, sealed) VALUES (:tenant_id, :kind, :thing, :sealed) "
                "ON CONFLICT (tenant_id, kind, thing_id) DO UPDATE SET sealed = excluded.sealed"
            )
            parameters = {"tenant_id": tenant_id, "kind": kind, "thing": thing, "sealed": sealed}
            await work.session.execute(query, parameters)

    async def read(self, tenant_id: TenantId, thing: int, kind: str = "a/b") -> bytes:
        """Return a stored value."""
        async with tenant_unit_of_work(self.sessions, tenant_id) as work:
            query = text(
                "SELECT sealed FROM things WHERE tenant_id = :tenant_id AND kind = :kind AND thing_id = :thing"
            )
            parameters = {"tenant_id": tenant_id, "kind": kind, "thing": thing}
            sealed = (await work.session.execute(query, parameters)).scalar_one()
            return await self.ring.open(work, self.place(thing, kind), sealed)

    @staticmethod
    def place(thing: int, kind: str = "a/b") -> Place:
        """Return where a value stands."""
        return THINGS.place([kind, thing])
