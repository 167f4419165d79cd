"""Nodes say which key-encryption keys they were given, and a rotation goes over to none that one of them lacks."""

from collections.abc import Mapping
from uuid import uuid4

from sqlalchemy import text

from tenancy.ids import PLATFORM_TENANT_ID
from tenancy.key_encryption import KeyEncryptionKeys
from tenancy.unit_of_work import Sessions, TenantUnitOfWork, tenant_unit_of_work

ANNOUNCE_SECONDS = 10.0
LIVE_SECONDS = 60
"""A node that was not heard of for so long is taken to be gone."""

_LIVE = f"tenant_id = :platform AND seen_at > clock_timestamp() - interval '{LIVE_SECONDS} seconds'"


class KeyNode:
    """One node, as the others know it while it runs."""

    def __init__(self, sessions: Sessions, keks: KeyEncryptionKeys) -> None:
        """Keep what it tells, under a name that no other start of a node has."""
        self._sessions = sessions
        self._keks = keks
        self._id = uuid4()

    async def announce(self) -> None:
        """Say that this node is there, and forget those that are not."""
        marks = self._keks.marks
        said = text(
            "INSERT INTO key_nodes (tenant_id, node_id, keys, marks) VALUES (:platform, :node_id, :keys, :marks) "
            "ON CONFLICT (tenant_id, node_id) DO UPDATE SET keys = excluded.keys, marks = excluded.marks, "
            "seen_at = clock_timestamp()"
        )
        gone = text(f"DELETE FROM key_nodes WHERE tenant_id = :platform AND NOT ({_LIVE})")  # noqa: S608 - constants
        own = {"platform": PLATFORM_TENANT_ID, "node_id": self._id, "keys": list(marks), "marks": list(marks.values())}
        async with tenant_unit_of_work(self._sessions, PLATFORM_TENANT_ID) as work:
            await work.session.execute(said, own)
            await work.session.execute(gone, {"platform": PLATFORM_TENANT_ID})

    async def leave(self) -> None:
        """Say that this node ends."""
        query = text("DELETE FROM key_nodes WHERE tenant_id = :platform AND node_id = :node_id")
        async with tenant_unit_of_work(self._sessions, PLATFORM_TENANT_ID) as work:
            await work.session.execute(query, {"platform": PLATFORM_TENANT_ID, "node_id": self._id})


async def count_nodes(platform: TenantUnitOfWork, marks: Mapping[str, str]) -> tuple[int, dict[str, int]]:
    """Return how many nodes live, and how many of them know each of these keys, which are told by their marks."""
    query = text(f"SELECT keys, marks FROM key_nodes WHERE {_LIVE}")  # noqa: S608 - constants
    rows = (await platform.session.execute(query, {"platform": PLATFORM_TENANT_ID})).all()
    known = [dict(zip(keys, theirs, strict=True)) for keys, theirs in rows]
    return len(known), {name: sum(node.get(name) == mark for node in known) for name, mark in marks.items()}
