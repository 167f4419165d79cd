"""Policies in PostgreSQL, as administration writes them: one transaction per change, or nothing."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar
from weakref import WeakValueDictionary

from sqlalchemy import func, select

from authz.change_audit import entry_of
from authz.errors import LimitExceededError, RevisionConflictError, TenantNotFoundError
from authz.policy_limits import PolicyLimits
from authz.ports import StagedRules, StoredModel, TenantHead
from authz.row_changes import KINDS, RowChanges, changes_to, index_rows, kind_of, kind_of_key
from authz.rules import Owner, Row, RuleId, row_id
from authz.storage_history import SECONDS_PER_ROW, PostgresPolicyHistory
from authz.storage_model import replace_model, require_place_for_rows, require_same_model, served_columns
from authz.storage_rows import bounded, read_rule_set
from authz.storage_tables import read_rows, write_changes, write_items
from authz.write_ports import ChangeKind, ChangeResult, Judge, RuleSetShelf
from tenancy.heads import lock_head, raise_all_other_heads, raise_head, record_change
from tenancy.ids import BASE_TENANT_ID, TenantId
from tenancy.kept_answers import claim, keep
from tenancy.once import Once
from tenancy.tenant import ChangeMeta
from tenancy.unit_of_work import Sessions, TenantUnitOfWork, tenant_unit_of_work

T = TypeVar("T")

FindChanges = Callable[[TenantUnitOfWork, Mapping[str, int]], Awaitable[RowChanges]]
"""Compares what is wanted with what the locked tenant has; is given its row counts."""

REQUEST_SECONDS = 2.5
BASE_SECONDS = 20.0
MAX_WRITES = 4
_LARGE = 2000
"""From so many rows on, comparing them goes to a thread, so that decisions on the same node do not wait."""

SHARED_ROWS = 2000
"""From so many rules and links on, whoever replaces a policy leaves its rule set for the nodes that decide by it."""


@dataclass(frozen=True, slots=True)
class _Write:
    """What is the same in every step of one write."""

    owner: Owner
    kind: ChangeKind
    meta: ChangeMeta
    expected_revision: int | None
    checked_model: str | None
    seconds: float
    rolled_back_to: int | None = None
    once: Once[ChangeResult] | None = None
    judge: Judge | None = None


class PostgresPolicyWriter(PostgresPolicyHistory):
    """`PolicyWriter` on PostgreSQL."""

    def __init__(
        self,
        sessions: Sessions,
        *,
        limits: PolicyLimits | None = None,
        request_seconds: float = REQUEST_SECONDS,
        max_writes: int = MAX_WRITES,
        shelf: RuleSetShelf | None = None,
    ) -> None:
        """Keep where units of work come from, what a tenant may hold, and how long a small write may take.

        `max_writes` is how many connections of the pool writes may hold at once: the rest is for decisions. On the
        `shelf` large rule sets are left, so that nodes need not read every row after a policy was replaced.
        """
        super().__init__(sessions, request_seconds=request_seconds)
        self._limits = limits or PolicyLimits()
        self._shelf = shelf
        self._turns = asyncio.Semaphore(max_writes)
        self._queues: WeakValueDictionary[TenantId, asyncio.Lock] = WeakValueDictionary()

    async def change_rows(
        self,
        tenant_id: TenantId,
        *,
        add: Sequence[Row],
        remove: Sequence[tuple[str, ...]],
        owner: Owner,
        meta: ChangeMeta,
        expected_revision: int | None = None,
        checked_model: str | None = None,
        once: Once[ChangeResult] | None = None,
        judge: Judge | None = None,
    ) -> ChangeResult:
        """Add rows and remove rows by key, all or nothing. Present rows and absent keys are no error, and no change."""
        seconds = self._seconds_for(tenant_id, len(add) + len(remove))
        write = _Write(owner, ChangeKind.API, meta, expected_revision, checked_model, seconds, once=once, judge=judge)
        desired = await self._indexed(add, owner, tenant_id)
        removed = {row_id(key): kind_of_key(key) for key in remove}

        async def find(work: TenantUnitOfWork, _: Mapping[str, int]) -> RowChanges:
            kinds = removed | {identifier: kind_of_key(row.key) for identifier, row in desired.items()}
            present: dict[RuleId, Row] = {}
            for kind in KINDS:
                ids = [identifier for identifier, of in kinds.items() if of == kind]
                present |= {identifier: row async for identifier, row in read_rows(work, kind, ids=ids)}
            return await _in_thread_if(
                len(kinds) >= _LARGE, lambda: changes_to(desired, present, owner=owner, remove=removed)
            )

        return await bounded(seconds, lambda: self._in_turn(tenant_id, lambda: self._write(tenant_id, write, find)))

    async def replace_file_rows(
        self,
        tenant_id: TenantId,
        desired: Sequence[Row],
        *,
        meta: ChangeMeta,
        expected_revision: int,
        kind: ChangeKind = ChangeKind.APPLY,
        rolled_back_to: int | None = None,
        checked_model: str | None = None,
        judge: Judge | None = None,
    ) -> ChangeResult:
        """Make the file-owned rows exactly `desired`; API-owned rows stay. Only differing rows are written."""
        wanted = await self._indexed(desired, Owner.FILES, tenant_id)
        # Also what the files own today is read, and it may be more than what they want.
        seconds = self._seconds_for(tenant_id, len(wanted) + await self._count_rows(tenant_id))
        write = _Write(Owner.FILES, kind, meta, expected_revision, checked_model, seconds, rolled_back_to, judge=judge)
        # A rollback leaves what the API took over since; an apply must say whose row it is.
        leave_others = kind is ChangeKind.ROLLBACK

        async def find(work: TenantUnitOfWork, counts: Mapping[str, int]) -> RowChanges:
            present: dict[RuleId, Row] = {}
            for name in KINDS:
                owned = {identifier: row async for identifier, row in read_rows(work, name, owner=Owner.FILES)}
                present |= owned
                if len(owned) == counts[name]:
                    continue  # the API owns no row of this kind, so it owns none that the files want
                unknown = [key for key, row in wanted.items() if key not in owned and kind_of(row) == name]
                present |= {identifier: row async for identifier, row in read_rows(work, name, ids=unknown)}
            gone = [key for key, row in present.items() if row.owner is Owner.FILES and key not in wanted]
            return await _in_thread_if(
                len(present) + len(wanted) >= _LARGE,
                lambda: changes_to(wanted, present, owner=Owner.FILES, remove=gone, leave_others=leave_others),
            )

        return await bounded(seconds, lambda: self._in_turn(tenant_id, lambda: self._write(tenant_id, write, find)))

    async def set_model(self, model: StoredModel, *, meta: ChangeMeta, replaces: str | None = None) -> None:
        """Replace the model; raises every tenant's revisions when it differs."""

        async def replace() -> None:
            async with tenant_unit_of_work(
                self._sessions, BASE_TENANT_ID, statement_timeout=timedelta(seconds=BASE_SECONDS)
            ) as work:
                await _wait_for_locks(work, BASE_SECONDS)
                await replace_model(work, model, meta, replaces)

        await bounded(BASE_SECONDS + self._seconds, replace)

    async def require_model(self, model: StoredModel) -> None:
        """Raise `ModelTooNarrowError` when `set_model` would; changes nothing."""
        columns = served_columns(model)

        async def look() -> None:
            async with tenant_unit_of_work(
                self._sessions, BASE_TENANT_ID, statement_timeout=timedelta(seconds=BASE_SECONDS)
            ) as work:
                await require_place_for_rows(work.session, columns)

        await bounded(BASE_SECONDS + self._seconds, look)

    async def _in_turn(self, tenant_id: TenantId, work: Callable[[], Awaitable[T]]) -> T:
        """Let writers of one tenant queue here, not with a connection each at the row lock."""
        queue = self._queues.setdefault(tenant_id, asyncio.Lock())
        async with queue, self._turns:
            return await work()

    async def _write(self, tenant_id: TenantId, write: _Write, find: FindChanges) -> ChangeResult:
        is_base = tenant_id == BASE_TENANT_ID
        async with tenant_unit_of_work(
            self._sessions, tenant_id, statement_timeout=timedelta(seconds=write.seconds)
        ) as work:
            if is_base:
                await _wait_for_locks(work, BASE_SECONDS)
            await claim(work, write.once)
            locked = await lock_head(work)
            if locked is None:
                raise TenantNotFoundError(f"no tenant has the id `{tenant_id}`")
            head, counts = locked
            if write.expected_revision is not None and write.expected_revision != head.revision:
                raise RevisionConflictError(write.expected_revision, head.revision)
            if write.checked_model is not None:
                await require_same_model(work.session, write.checked_model)
            changes = await find(work, counts)
            staged = None
            if changes.is_empty:
                result = ChangeResult(head, 0, 0)
            else:
                if write.judge is not None:
                    await write.judge.judge(head, changes)
                growth = changes.growth()
                self._require_room(counts, growth)
                head = await raise_head(work, rules=is_base or changes.touches_rules, counts=growth)
                await write_changes(work, changes, head.revision)
                result = await self._conclude(work, head, changes, write)
                if write.owner is Owner.FILES and not is_base:
                    rows = sum(counts[name] + growth[name] for name in ("rules", "links"))
                    staged = await self._staged(work, head, rows)
            await keep(work, write.once, result)
        if staged is not None and self._shelf is not None:
            await self._shelf.release_rules(staged)
        return result

    async def _staged(self, work: TenantUnitOfWork, head: TenantHead, rows: int) -> StagedRules | None:
        """Bring the rule set that this write makes over to where nodes look, while nobody can use it yet.

        INVARIANT: it is read in the writing transaction, under the tenant's lock, so it is what `head.rules_revision`
        will stand for. A change of the base or the model needs that lock, too, and raises the revision again.
        """
        if self._shelf is None or rows < SHARED_ROWS or head.rules_revision != head.revision:
            return None
        return await self._shelf.stage_rules(await read_rule_set(work, head))

    async def _conclude(
        self, work: TenantUnitOfWork, head: TenantHead, changes: RowChanges, write: _Write
    ) -> ChangeResult:
        added = len(changes.added) + len(changes.updated)
        removed = len(changes.removed) + len(changes.updated)
        entry = await _in_thread_if(
            added + removed >= _LARGE,
            lambda: entry_of(head.tenant_id, write.kind.value, changes, rolled_back_to=write.rolled_back_to),
        )
        await record_change(
            work.session,
            head,
            write.kind.value,
            write.meta,
            added=added,
            removed=removed,
            rolled_back_to=write.rolled_back_to,
            audit=[entry],
        )
        await write_items(work, changes, head.revision)
        if head.tenant_id == BASE_TENANT_ID:
            await raise_all_other_heads(work, ChangeKind.BASE.value, write.meta)
        return ChangeResult(head, added, removed)

    def _require_room(self, counts: dict[str, int], growth: dict[str, int]) -> None:
        for name, more in growth.items():
            limit: int = getattr(self._limits, name)
            if more > 0 and counts[name] + more > limit:
                raise LimitExceededError(f"the tenant would have {counts[name] + more} {name}; it may have {limit}")

    def _seconds_for(self, tenant_id: TenantId, rows: int) -> float:
        seconds = self._seconds + rows * SECONDS_PER_ROW
        return seconds + BASE_SECONDS if tenant_id == BASE_TENANT_ID else seconds

    async def _indexed(self, rows: Sequence[Row], owner: Owner, tenant_id: TenantId) -> dict[RuleId, Row]:
        base = tenant_id == BASE_TENANT_ID
        return await _in_thread_if(len(rows) >= _LARGE, lambda: index_rows(rows, owner=owner, base=base))


async def _in_thread_if(large: bool, work: Callable[[], T]) -> T:  # noqa: FBT001 - reads as a condition
    return await asyncio.to_thread(work) if large else work()


async def _wait_for_locks(work: TenantUnitOfWork, seconds: float) -> None:
    """Let a change that concerns every tenant wait for the writes that are under way."""
    await work.session.execute(select(func.set_config("lock_timeout", str(int(seconds * 1000)), True)))
