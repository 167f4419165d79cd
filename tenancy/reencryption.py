"""Seals values anew under a tenant's primary data key, in small transactions, while others read and write them."""

import asyncio
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import text

from tenancy.encrypted_columns import EncryptedColumn
from tenancy.errors import UnsealError
from tenancy.ids import TenantId
from tenancy.key_ring import KeyRing
from tenancy.unit_of_work import Sessions, tenant_unit_of_work

BATCH = 200
MAX_UNREADABLE = 1000
PATIENCE = 25
PATIENCE_SECONDS = 0.2

_log = structlog.get_logger()


class RowsInUseError(Exception):
    """Rows stayed locked by others for long: the rotation comes back to them."""


@dataclass(slots=True)
class Reencryption:
    """Whatever one column of a tenant holds under a superseded key.

    It never waits while it holds rows: what others have locked is left for the next round. A value that does not open
    stays as it is, so its key stays, too.
    """

    sessions: Sessions
    ring: KeyRing
    tenant_id: TenantId
    column: EncryptedColumn
    key_id: UUID
    sealed_anew: int = 0
    unreadable: list[tuple[Any, ...]] = field(default_factory=list)
    """Ids of rows whose values did not open."""

    async def run(self) -> None:
        """Seal all of it anew.

        Raises:
            RowsInUseError: others hold rows for long.
            EncryptionUnavailableError, DatabaseUnavailableError: no answer; what was done is committed.
        """
        rounds = 0
        while len(self.unreadable) < MAX_UNREADABLE:
            if await self._batch():
                rounds = 0
            elif not await self._any_left():
                break
            elif (rounds := rounds + 1) == PATIENCE:
                raise RowsInUseError(f"rows of `{self.column.table}` are in use")
            else:
                await asyncio.sleep(PATIENCE_SECONDS)
        name = f"{self.column.table}.{self.column.column}"
        for ids in self.unreadable:
            _log.error(
                "encryption.unreadable", tenant=str(self.tenant_id), column=name, row=[str(part) for part in ids]
            )

    async def _batch(self) -> bool:
        """Seal some values anew in one transaction; False when every row is done, or held by others."""
        column = self.column
        where, parameters = self._left()
        query = text(
            f"SELECT {', '.join(column.row_id)}, {column.column} FROM {column.table} WHERE {where} "  # noqa: S608 - registry
            "LIMIT :batch FOR UPDATE SKIP LOCKED"
        )
        opened: list[tuple[list[Any], bytes]] = []
        async with tenant_unit_of_work(self.sessions, self.tenant_id) as work:
            rows = (await work.session.execute(query, parameters | {"batch": BATCH})).all()
            for *ids, sealed in rows:
                try:
                    opened.append((ids, await self.ring.open(work, column.place(ids), sealed)))
                except UnsealError:
                    self.unreadable.append(tuple(ids))
            if opened:
                values = [(column.place(ids), plaintext) for ids, plaintext in opened]
                anew = await self.ring.seal_all(work, values)
                await work.session.execute(*self._update([ids for ids, _ in opened], anew))
        self.sealed_anew += len(opened)
        return bool(rows)

    def _update(self, rows: list[list[Any]], sealed: list[bytes]) -> tuple[Any, list[dict[str, Any]]]:
        column = self.column
        named = " AND ".join(f"{name} = :id{place}" for place, name in enumerate(column.row_id))
        update = text(
            f"UPDATE {column.table} SET {column.column} = :sealed "  # noqa: S608 - names of the registry
            f"WHERE tenant_id = :tenant_id AND {named}"
        )
        return update, [
            {"tenant_id": self.tenant_id, "sealed": value} | {f"id{place}": part for place, part in enumerate(ids)}
            for ids, value in zip(rows, sealed, strict=True)
        ]

    async def _any_left(self) -> bool:
        where, parameters = self._left()
        query = text(f"SELECT EXISTS (SELECT FROM {self.column.table} WHERE {where})")  # noqa: S608 - registry
        async with tenant_unit_of_work(self.sessions, self.tenant_id) as work:
            left: bool = (await work.session.execute(query, parameters)).scalar_one()
        return left

    def _left(self) -> tuple[str, dict[str, Any]]:
        """Return the condition for what is under the key, but for rows that did not open."""
        where = f"tenant_id = :tenant_id AND {self.column.column}_key = :key_id"
        parameters: dict[str, Any] = {"tenant_id": self.tenant_id, "key_id": self.key_id}
        if self.unreadable:
            ids = ", ".join(f"CAST({name} AS text)" for name in self.column.row_id)
            where += f" AND NOT (jsonb_build_array({ids}) = ANY(CAST(:unreadable AS jsonb[])))"
            parameters["unreadable"] = [self.column.names(row) for row in self.unreadable]
        return where, parameters
