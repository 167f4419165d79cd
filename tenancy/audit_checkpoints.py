"""Signs the heads of chains that grew, and hands that to a sink, in order and at least once."""

import os
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, text

from tenancy.audit import AuditChain
from tenancy.audit_settings import AuditSettings
from tenancy.audit_signatures import SignedHead, SigningKey
from tenancy.audit_sinks import AuditSink, AuditSinkError
from tenancy.cluster_lock import once_in_cluster
from tenancy.encrypted_columns import AUDIT_KEYS
from tenancy.ids import PLATFORM_TENANT_ID, TenantId
from tenancy.key_ring import KeyRing
from tenancy.unit_of_work import Sessions, TenantUnitOfWork, tenant_unit_of_work

BATCH = 500
"""Checkpoints that one transaction makes, or one message to the sink holds."""

MAX_BATCHES = 200
"""Of one run; what is left then is done by the next one."""

_TO_SIGN = text(
    "SELECT c.tenant_id, c.chain, c.seq, c.hash, c.last_at, clock_timestamp() AS now "
    "FROM audit_chains AS c LEFT JOIN audit_signed AS s USING (tenant_id, chain) "
    "WHERE c.unsealed_since IS NOT NULL AND c.seq > coalesce(s.seq, 0) AND (c.seq - coalesce(s.seq, 0) >= :rows "
    "OR coalesce(s.at, '-infinity') <= clock_timestamp() - make_interval(secs => :seconds)) "
    "ORDER BY c.unsealed_since LIMIT :limit"
)
_CLAIM = text("SELECT claim_audit_numbers(:wanted)")
_KEEP = text(
    "SELECT keep_audit_checkpoints(CAST(:tenants AS uuid[]), CAST(:chains AS text[]), CAST(:seqs AS bigint[]), "
    "CAST(:untils AS timestamptz[]), CAST(:numbers AS bigint[]), CAST(:lines AS text[]))"
)
_TO_DELIVER = text(
    "SELECT number, line FROM audit_checkpoints WHERE number > (SELECT delivered_number FROM audit_sink) "
    "ORDER BY number LIMIT :limit"
)
_DELIVERED = text("SELECT note_audit_delivered(:upto)")
_BEHIND = text(
    "SELECT coalesce(extract(epoch FROM clock_timestamp() - min(unsealed_since)), 0) AS seconds FROM audit_chains"
)


class AuditKeys:
    """The key that signs: that of the settings, or one of the database's own, made on first use and kept sealed."""

    def __init__(self, sessions: Sessions, ring: KeyRing, seed: bytes | None = None) -> None:
        self._sessions = sessions
        self._ring = ring
        self._given = None if seed is None else SigningKey(seed)

    async def signing_key(self, work: TenantUnitOfWork) -> SigningKey:
        """Return the key that signs now; its public half is stored before it signs anything."""
        if self._given is not None:
            await self._store(work, self._given, None)
            return self._given
        query = text("SELECT key_id, sealed FROM audit_keys WHERE sealed IS NOT NULL ORDER BY created_at DESC LIMIT 1")
        row = (await work.session.execute(query)).one_or_none()
        if row is not None:
            return SigningKey(await self._ring.open(work, AUDIT_KEYS.place([row.key_id]), bytes(row.sealed)))
        key = SigningKey(os.urandom(32))
        await self._store(work, key, await self._ring.seal(work, AUDIT_KEYS.place([key.key_id]), key.seed))
        return key

    async def public_keys(self) -> Sequence[Row[Any]]:
        """Return every key that ever signed: `key_id`, `public_key`, `created_at`, oldest first."""
        query = text("SELECT key_id, public_key, created_at FROM audit_keys ORDER BY created_at, key_id")
        async with tenant_unit_of_work(self._sessions, PLATFORM_TENANT_ID) as work:
            return (await work.session.execute(query)).all()

    @staticmethod
    async def _store(work: TenantUnitOfWork, key: SigningKey, sealed: bytes | None) -> None:
        query = text(
            "INSERT INTO audit_keys (tenant_id, key_id, public_key, sealed) "
            "VALUES (:tenant_id, :key_id, :public_key, :sealed) ON CONFLICT DO NOTHING"
        )
        named = {"tenant_id": work.tenant_id, "key_id": key.key_id, "public_key": key.public_key, "sealed": sealed}
        await work.session.execute(query, named)


class CheckpointKeeper:
    """Signs and delivers; run again and again, on one node at a time."""

    def __init__(
        self,
        sessions: Sessions,
        keys: AuditKeys,
        sink: AuditSink | None,
        settings: AuditSettings,
        count: Callable[[str], None] = lambda _event: None,
    ) -> None:
        """Keep what it works with; `count` takes the names of events for metrics."""
        self._sessions = sessions
        self._keys = keys
        self._sink = sink
        self._settings = settings
        self._count = count

    async def run(self) -> None:
        """Sign what grew and deliver what was signed.

        Raises:
            AuditSinkError: the sink did not take it; what is left is sent by the next run.
            DatabaseUnavailableError: not now.
        """
        async with once_in_cluster(self._sessions, "audit-checkpoints") as mine:
            if not mine:
                return
            await self._announce()
            for _ in range(MAX_BATCHES):
                if await self.sign() < BATCH:
                    break
            for _ in range(MAX_BATCHES):
                if await self.deliver() < BATCH:
                    break

    async def behind_seconds(self) -> float:
        """Return for how long the oldest event has waited for the sink."""
        async with tenant_unit_of_work(self._sessions, PLATFORM_TENANT_ID) as work:
            return float((await work.session.execute(_BEHIND)).scalar_one())

    async def sign(self) -> int:
        """Sign the heads that are due, those that waited longest first; return how many."""
        settings = self._settings
        due = {"rows": settings.checkpoint_rows, "seconds": settings.checkpoint_seconds, "limit": BATCH}
        async with tenant_unit_of_work(self._sessions, PLATFORM_TENANT_ID) as work:
            rows = (await work.session.execute(_TO_SIGN, due)).all()
            if not rows:
                return 0
            key = await self._keys.signing_key(work)
            # Locks the counter until the commit, so numbers are given in the order in which they are seen.
            first = (await work.session.execute(_CLAIM, {"wanted": len(rows)})).scalar_one()
            heads = [_head(number, row) for number, row in enumerate(rows, first)]
            await work.session.execute(
                _KEEP,
                {
                    "tenants": [head.tenant_id for head in heads],
                    "chains": [head.chain.value for head in heads],
                    "seqs": [head.seq for head in heads],
                    "untils": [row.last_at for row in rows],
                    "numbers": [head.number for head in heads],
                    "lines": [key.line(head) for head in heads],
                },
            )
        for _ in heads:
            self._count("audit_checkpoints_signed")
        return len(heads)

    async def deliver(self) -> int:
        """Send the oldest checkpoints that the sink has not taken; return how many."""
        async with tenant_unit_of_work(self._sessions, PLATFORM_TENANT_ID) as work:
            rows = (await work.session.execute(_TO_DELIVER, {"limit": BATCH})).all()
        if rows and self._sink is not None:
            try:
                await self._sink.send([row.line for row in rows])
            except AuditSinkError:
                self._count("audit_sink_failures")
                raise
        # Also without new ones: a chain that was busy when it was delivered is looked at again.
        upto = rows[-1].number if rows else 0
        async with tenant_unit_of_work(self._sessions, PLATFORM_TENANT_ID) as work:
            await work.session.execute(_DELIVERED, {"upto": upto})
        for _ in rows:
            self._count("audit_checkpoints_delivered")
        return len(rows)

    async def _announce(self) -> None:
        """Tell the database how far the sink may be behind; without a sink, nothing waits for one."""
        seconds = None if self._sink is None else self._settings.max_behind_seconds
        async with tenant_unit_of_work(self._sessions, PLATFORM_TENANT_ID) as work:
            await work.session.execute(text("SELECT set_audit_sink(:seconds)"), {"seconds": seconds})


def _head(number: int, row: Row[Any]) -> SignedHead:
    at: datetime = row.now
    return SignedHead(number, at, TenantId(row.tenant_id), AuditChain(row.chain), row.seq, bytes(row.hash))
