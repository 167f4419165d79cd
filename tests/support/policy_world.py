"""A database of policies in memory with its whole history, and a reader of it as unreliable as wanted.

With an event loop of virtual time, so that a test knows which answer was true at which revision and when.
"""

import asyncio
import itertools
import random
import selectors
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

from authz.errors import StorageUnavailableError, TenantNotFoundError
from authz.ports import (
    Account,
    AccountState,
    ChangedRow,
    FeedPage,
    Grant,
    Lookup,
    RuleSet,
    StagedRules,
    StoredModel,
    SubjectRecord,
    TenantHead,
    Touched,
)
from authz.request import NO_PROPERTIES, Ref
from authz.rules import Effect, RoleLink, Rule
from authz.served_model import ColumnMatch, PolicyEffect, ServedModel
from authz.snapshot import Facts
from tenancy.ids import Slug, TenantId, TenantStatus
from tenancy.tenant import NO_STAMP

T = TypeVar("T")

ALL_READS = frozenset({"find_tenant", "find_tenant_by_slug", "load_rules", "lookup", "touched_since", "poll"})

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
MODEL = StoredModel("[matchers]\nm = true\n", "d" * 64)
SERVED = ServedModel(
    "d" * 64,
    PolicyEffect.ALLOW_AND_DENY,
    ("sub", "dom", "obj", "act"),
    ColumnMatch(prefix=True, roles="g"),
    ColumnMatch(prefix=True),
    ColumnMatch(exact=True, star=True),
)


def tenant_id(number: int) -> TenantId:
    return TenantId(UUID(int=0x0197_0000_0000_7000_8000_0000_0000_0000 + number))


@dataclass(frozen=True)
class Version:
    """A tenant at one revision, whole."""

    head: TenantHead
    rules: tuple[Rule, ...] = ()
    links: tuple[RoleLink, ...] = ()
    members: dict[Ref, tuple[Grant, ...]] = field(default_factory=dict)
    subjects: dict[Ref, dict[str, Any]] = field(default_factory=dict)
    resources: dict[Ref, dict[str, Any]] = field(default_factory=dict)
    accounts: dict[Ref, AccountState] = field(default_factory=dict)
    touched_subjects: frozenset[Ref] = frozenset()
    touched_resources: frozenset[Ref] = frozenset()
    committed_at: float = 0.0
    position: int = 0

    def allows(self, subject: Ref, resource: Ref) -> bool:
        """The truth, worked out with nothing of the product: deny overrides allow, expiry aside."""
        if self.accounts.get(subject, AccountState.ACTIVE) is not AccountState.ACTIVE:
            return False
        names = {str(subject)} | {str(grant.role) for grant in self.members.get(subject, ())}
        while True:
            more = {str(link.role) for link in self.links if link.member in names} - names
            if not more:
                break
            names |= more
        hits = {rule.effect for rule in self.rules if rule.subject in names and rule.resource == resource}
        return Effect.ALLOW in hits and Effect.DENY not in hits


class World:
    """All tenants with their history. `clock` gives the time of commits, in seconds."""

    def __init__(self, clock: Callable[[], float] = lambda: 0.0) -> None:
        self.clock = clock
        self.tenants: dict[TenantId, list[Version]] = {}
        self.position = 0
        self.stamps = 0

    def stamp(self) -> UUID:
        """One that no other revision has, also when the world is put back."""
        self.stamps += 1
        return UUID(int=self.stamps)

    def put_back(self, key: TenantId, revision: int) -> None:
        """Lose every later revision of a tenant."""
        self.tenants[key] = [version for version in self.tenants[key] if version.head.revision <= revision]

    def create(self, number: int, *, key: TenantId | None = None, **contents: Any) -> TenantId:
        key = key or tenant_id(number)
        stamp = self.stamp()
        head = TenantHead(key, Slug(f"tenant-{number}"), TenantStatus.ACTIVE, 1, 1, 1, stamp, stamp)
        self.position += 1
        self.tenants[key] = [Version(head, committed_at=self.clock(), position=self.position, **contents)]
        return key

    def current(self, key: TenantId) -> Version:
        return self.tenants[key][-1]

    def at(self, key: TenantId, revision: int) -> Version:
        return next(v for v in self.tenants[key] if v.head.revision == revision)

    def superseded_at(self, key: TenantId, revision: int) -> float:
        """When the next revision was committed; infinite for the current one."""
        return next((v.committed_at for v in self.tenants[key] if v.head.revision > revision), float("inf"))

    def commit(
        self, key: TenantId, *, status: TenantStatus | None = None, keys: bool = False, **changed: Any
    ) -> TenantHead:
        """Commit the next revision; `changed` replaces fields of the current version."""
        before = self.current(key)
        after = replace(before, **changed)
        rules_moved = "rules" in changed or "links" in changed
        revision = before.head.revision + 1
        stamp = self.stamp()
        head = replace(
            before.head,
            revision=revision,
            rules_revision=revision if rules_moved else before.head.rules_revision,
            keys_revision=revision if keys else before.head.keys_revision,
            stamp=stamp,
            rules_stamp=stamp if rules_moved else before.head.rules_stamp,
            status=status or before.head.status,
        )
        subjects = {
            ref
            for old, new in (
                (before.members, after.members),
                (before.subjects, after.subjects),
                (before.accounts, after.accounts),
            )
            for ref in {*old, *new}
            if old.get(ref) != new.get(ref)
        }
        resources = {
            ref
            for ref in {*before.resources, *after.resources}
            if before.resources.get(ref) != after.resources.get(ref)
        }
        self.position += 1
        self.tenants[key].append(
            replace(
                after,
                head=head,
                touched_subjects=frozenset(subjects),
                touched_resources=frozenset(resources),
                committed_at=self.clock(),
                position=self.position,
            )
        )
        return head

    def grant(self, key: TenantId, subject: str, *roles: str) -> TenantHead:
        """Commit that a subject has exactly these roles."""
        members = dict(self.current(key).members)
        members[Ref(subject)] = tuple(Grant(Ref(role)) for role in roles)
        return self.commit(key, members=members)


def changed_rows(versions: Sequence[Version]) -> tuple[ChangedRow, ...]:
    """Return what each version has more or less than the one before it."""
    found: list[ChangedRow] = []
    for before, after in itertools.pairwise(versions):
        old: list[Rule | RoleLink] = [*before.rules, *before.links]
        new: list[Rule | RoleLink] = [*after.rules, *after.links]
        found += [ChangedRow(False, row) for row in old if row not in new]
        found += [ChangedRow(True, row) for row in new if row not in old]
    return tuple(found)


class WorldReader:
    """`PolicyReader` over a `World`. `before` and `after` run around the moment at which a read sees the world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.calls: list[str] = []
        self.down = False
        self.hanging = False
        self.faulty: Collection[str] = ALL_READS
        """Which reads `down` and `hanging` concern."""
        self.before: Callable[[str], Coroutine[Any, Any, None]] = self._nothing
        self.after: Callable[[str], Coroutine[Any, Any, None]] = self._nothing
        self.time_offset = timedelta(0)
        self.lineage = ""
        self.run = ""

    async def _nothing(self, _: str) -> None:
        return

    async def _around(self, name: str, see: Callable[[], T]) -> T:
        self.calls.append(name)
        await self.before(name)
        if self.hanging and name in self.faulty:
            await asyncio.Event().wait()
        if self.down and name in self.faulty:
            raise StorageUnavailableError("down")
        seen = see()
        await self.after(name)
        if self.down and name in self.faulty:
            raise StorageUnavailableError("down")
        return seen

    def count(self, name: str) -> int:
        return self.calls.count(name)

    async def find_tenant(self, key: TenantId) -> TenantHead | None:
        return await self._around(
            "find_tenant", lambda: self.world.current(key).head if key in self.world.tenants else None
        )

    async def find_tenant_by_slug(self, slug: str) -> TenantHead | None:
        heads = [versions[-1].head for versions in self.world.tenants.values()]
        return await self._around("find_tenant_by_slug", lambda: next((h for h in heads if h.slug == slug), None))

    async def load_rules(self, key: TenantId) -> RuleSet:
        def see() -> RuleSet:
            if key not in self.world.tenants:
                raise TenantNotFoundError("gone")
            version = self.world.current(key)
            return RuleSet(version.head, MODEL, version.rules, version.links)

        return await self._around("load_rules", see)

    async def lookup(self, key: TenantId, subjects: Sequence[Ref], resources: Sequence[Ref]) -> Lookup:
        def see() -> Lookup:
            version = self.world.current(key)
            return Lookup(
                version.head,
                {
                    ref: SubjectRecord(
                        version.members.get(ref, ()),
                        version.subjects.get(ref, NO_PROPERTIES),
                        Account(version.accounts[ref]) if ref in version.accounts else None,
                    )
                    for ref in subjects
                    if ref in version.members or ref in version.subjects or ref in version.accounts
                },
                {ref: version.resources[ref] for ref in resources if ref in version.resources},
            )

        return await self._around("lookup", see)

    async def touched_since(self, key: TenantId, revision: int, stamp: UUID = NO_STAMP) -> Touched:
        def see() -> Touched:
            versions = self.world.tenants[key]
            then = [v.head.stamp for v in versions if v.head.revision == revision]
            if then not in ([], [stamp]):
                return Touched(versions[-1].head, everything=True, same_history=False)
            later = [v for v in versions if v.head.revision > revision]
            return Touched(
                versions[-1].head,
                everything=False,
                subjects=frozenset().union(*(v.touched_subjects for v in later)),
                resources=frozenset().union(*(v.touched_resources for v in later)),
                changed_rows=changed_rows([v for v in versions if v.head.revision >= revision]),
            )

        return await self._around("touched_since", see)

    async def poll(self, cursor: int | None) -> FeedPage:
        def see() -> FeedPage:
            moved = [v[-1] for v in self.world.tenants.values() if cursor is not None and v[-1].position > cursor]
            time = EPOCH + timedelta(seconds=self.world.clock()) + self.time_offset
            return FeedPage([v.head for v in moved], self.world.position, time, lineage=self.lineage, run=self.run)

        return await self._around("poll", see)

    async def list_subject_candidates(self, key: TenantId, kind: str, after: str, limit: int) -> Sequence[str]:
        raise NotImplementedError

    async def list_resource_candidates(self, key: TenantId, kind: str, after: str, limit: int) -> Sequence[str]:
        raise NotImplementedError


class MemoryCache:
    """`SnapshotCache` in memory; `nodes` that listen get every notice, unless it is dropped."""

    def __init__(self) -> None:
        self.rule_sets: dict[tuple[TenantId, int], RuleSet] = {}
        self.staged: dict[str, RuleSet] = {}
        self.published: list[TenantHead] = []
        self.listeners: list[asyncio.Queue[TenantId]] = []
        self.enabled = True

    async def find_rules(self, head: TenantHead, model_digest: str, lineage: str = "") -> RuleSet | None:
        return self.rule_sets.get((head.tenant_id, head.rules_revision)) if self.enabled else None

    async def store_rules(self, rule_set: RuleSet, lineage: str = "") -> None:
        self.rule_sets[rule_set.head.tenant_id, rule_set.head.rules_revision] = rule_set

    async def stage_rules(self, rule_set: RuleSet, lineage: str = "") -> StagedRules | None:
        name = str(len(self.staged))
        self.staged[name] = rule_set
        return StagedRules(rule_set.head.tenant_id, name)

    async def release_rules(self, staged: StagedRules) -> None:
        await self.store_rules(self.staged.pop(staged.name))

    async def publish(self, head: TenantHead) -> None:
        self.published.append(head)
        self.say(head.tenant_id)

    def say(self, key: TenantId) -> None:
        for queue in self.listeners:
            queue.put_nowait(key)

    async def notices(self) -> AsyncIterator[TenantId]:
        queue: asyncio.Queue[TenantId] = asyncio.Queue()
        self.listeners.append(queue)
        while True:
            yield await queue.get()


class SimpleSnapshot:
    """As much of a snapshot as a node uses, worked out in the plainest way."""

    def __init__(self, rule_set: RuleSet) -> None:
        self.rule_set = rule_set
        self.rules_revision = rule_set.head.rules_revision
        self.rules = rule_set.rules
        self.links = rule_set.links
        self.made = 0

    def facts(self, subject: Ref, record: SubjectRecord, now: datetime) -> Facts:
        self.made += 1
        if record.barred is not None:
            return Facts(subject, frozenset(), record.properties, float("inf"), record, record.barred)
        live = [grant for grant in record.grants if grant.expires_at is None or grant.expires_at > now]
        names = {str(subject)} | {str(grant.role) for grant in live}
        while True:
            more = {str(link.role) for link in self.links if link.member in names} - names
            if not more:
                break
            names |= more
        ends = [grant.expires_at.timestamp() for grant in live if grant.expires_at is not None]
        return Facts(subject, frozenset(names), record.properties, min(ends, default=float("inf")), record)

    def allows(self, facts: Facts, resource: Ref) -> bool:
        hits = {rule.effect for rule in self.rules if rule.subject in facts.names and rule.resource == resource}
        return Effect.ALLOW in hits and Effect.DENY not in hits


def simple_build(rule_set: RuleSet, _: ServedModel) -> Any:
    return SimpleSnapshot(rule_set)


def compile_model(_: StoredModel) -> ServedModel:
    return SERVED


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time passes only when nothing is left to do, and then at once."""

    def __init__(self) -> None:
        super().__init__(_VirtualSelector(self))
        self.virtual_now = 1000.0

    def time(self) -> float:
        return self.virtual_now


class _VirtualSelector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "nothing will ever happen: the test is stuck"
            self._loop.virtual_now += max(0.0, timeout)
        return ready


def run_virtual(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine function under virtual time; `asyncio.get_running_loop().time` is its clock."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main())


def loop_time() -> float:
    return asyncio.get_running_loop().time()


def jitter(rng: random.Random, most: float) -> Callable[[str], Coroutine[Any, Any, None]]:
    """Return a delay of random length: mostly none, sometimes long."""

    async def wait(_: str) -> None:
        if rng.random() < 0.6:
            await asyncio.sleep(rng.random() ** 3 * most)

    return wait
