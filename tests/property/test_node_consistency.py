"""A node under random histories, delays, outages and notices: every decision is one that was true, and recently."""

import asyncio
import random
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from authz.errors import StaleError, StorageUnavailableError
from authz.node import Node
from authz.ports import AccountState, Grant
from authz.request import Ref
from authz.rules import Effect, Owner, RoleLink, Rule
from authz.settings import AuthzSettings
from authz.snapshot_loader import Build
from authz.tenant_state import Loaded, TenantState
from tenancy.ids import TenantId
from tests.support.policy_world import (
    ALL_READS,
    MemoryCache,
    World,
    WorldReader,
    compile_model,
    jitter,
    loop_time,
    run_virtual,
    simple_build,
)

SETTINGS = AuthzSettings(membership_cache_bytes=64 * 1024, idle_ttl=timedelta(seconds=20), max_warm_tenants=2)
USERS = [Ref(f"user:u{n}") for n in range(8)]
ROLES = [Ref(f"role:r{n}") for n in range(3)]
RECORDS = [Ref(f"record:{n}") for n in range(3)]


def random_contents(rng: random.Random) -> dict:
    """Pick what a commit replaces: rules, hierarchy, memberships, attributes, or rules and memberships together."""

    def rules() -> tuple[Rule, ...]:
        found = [
            Rule(
                rng.choice([*ROLES, *USERS]),
                rng.choice(RECORDS),
                "read",
                rng.choice([Effect.ALLOW, Effect.ALLOW, Effect.DENY]),
                owner=rng.choice([Owner.API, Owner.API, Owner.API, Owner.FILES]),
            )
            for _ in range(rng.randrange(5))
        ]
        return tuple({rule.key: rule for rule in found}.values())

    def members() -> dict[Ref, tuple[Grant, ...]]:
        return {
            user: tuple(Grant(role) for role in rng.sample(ROLES, rng.randrange(3)))
            for user in rng.sample(USERS, rng.randrange(len(USERS) + 1))
        }

    def attributes(names: list[Ref]) -> dict[Ref, dict[str, int]]:
        return {name: {"n": rng.randrange(100)} for name in rng.sample(names, rng.randrange(len(names) + 1))}

    def accounts() -> dict[Ref, AccountState]:
        return {user: rng.choice(list(AccountState)) for user in rng.sample(USERS, rng.randrange(len(USERS)))}

    kind = rng.randrange(7)
    if kind == 0:
        return {"rules": rules()}
    if kind == 1:
        return {"rules": rules(), "members": members()}
    if kind == 2:
        return {"links": (RoleLink(rng.choice(ROLES[:2]), ROLES[2]),) if rng.random() < 0.5 else ()}
    if kind == 3:
        return {"subjects": attributes(USERS), "resources": attributes(RECORDS)}
    if kind == 4:
        return {"accounts": accounts()}
    return {"members": members()}


class Run:
    """One random run of two nodes on one world."""

    def __init__(self, seed: int, *, outages: bool) -> None:
        self.rng = random.Random(seed)
        self.outages = outages
        # From a quiet service with slow reads to one tenant that changes faster than it can be read.
        self.most_delay = self.rng.choice([0.002, 0.02, 0.2, 0.4])
        self.write_pause = self.rng.choice([0.03, 0.3, 3])
        self.ask_pause = self.rng.choice([0.01, 0.1, 0.5])
        self.count = self.rng.choice([1, 1, 3])
        self.world = World(loop_time)
        self.cache = MemoryCache()
        self.acknowledged: dict[TenantId, int] = {}
        self.build: Build = simple_build
        self.decisions = 0
        self.refused = 0

    async def go(self) -> None:
        self.tenants = [self.world.create(n, **random_contents(self.rng)) for n in range(self.count)]
        self.readers = [WorldReader(self.world), WorldReader(self.world)]
        for reader in self.readers:
            reader.before = jitter(self.rng, self.most_delay)
            reader.after = jitter(self.rng, self.most_delay)
        self.nodes = [
            Node(reader, self.cache, compile_model, SETTINGS, loop_time, build=self.build) for reader in self.readers
        ]
        actors = [node.run() for node in self.nodes]
        actors += [self.writer(), self.writer(), self.noise()]
        actors += [self.asker() for _ in range(4)] + self.others()
        if self.outages:
            actors.append(self.saboteur())
        tasks = [asyncio.create_task(actor) for actor in actors]
        done, pending = await asyncio.wait(tasks, timeout=12, return_when=asyncio.FIRST_EXCEPTION)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for task in done:
            task.result()

    def others(self) -> list[Coroutine[Any, Any, None]]:
        """Return who else takes part."""
        return []

    async def writer(self) -> None:
        """Commit changes, sometimes in bursts, sometimes through a node, and acknowledge them late."""
        while True:
            await asyncio.sleep(self.rng.random() ** 2 * self.write_pause)
            for _ in range(self.rng.choice([1, 1, 1, 4])):
                key = self.rng.choice(self.tenants)
                head = self.world.commit(key, **random_contents(self.rng))
                if self.rng.random() < 0.5:
                    await asyncio.sleep(self.rng.random() * self.most_delay)
                    await self.rng.choice(self.nodes).note_write(head)
                self.acknowledged[key] = max(head.revision, self.acknowledged.get(key, 0))

    async def noise(self) -> None:
        """Send notices that nothing stands behind."""
        while True:
            await asyncio.sleep(self.rng.random())
            for _ in range(self.rng.randrange(4)):
                self.cache.say(self.rng.choice(self.tenants))

    async def saboteur(self) -> None:
        """Take PostgreSQL, the cache and the notices away for a while."""
        while True:
            await asyncio.sleep(self.rng.random() * 6)
            reader = self.rng.choice(self.readers)
            reader.faulty = self.rng.choice([{"poll"}, {"touched_since"}, {"lookup", "load_rules"}, ALL_READS])
            setattr(reader, self.rng.choice(["down", "hanging"]), True)
            self.cache.enabled = self.rng.random() < 0.5
            await asyncio.sleep(self.rng.random() * 8)
            reader.down = reader.hanging = False
            self.cache.enabled = True

    async def hold(self, view: Loaded | TenantState) -> None:
        """Keep a view while the tenant moves on: what it still answers is true at the revision it names."""
        await asyncio.sleep(self.rng.random())
        for user in USERS:
            facts = view.subjects.get(user)
            if facts is not None:
                for record in RECORDS:
                    answer = view.snapshot.allows(facts, record)
                    truth = self.world.at(view.head.tenant_id, view.head.revision).allows(user, record)
                    assert answer is truth, "a view that changed under its holder"

    async def asker(self) -> None:
        """Ask either node, warm or through `load`, and hold every answer against the history."""
        while True:
            await asyncio.sleep(self.rng.random() ** 2 * self.ask_pause)
            node = self.rng.choice(self.nodes)
            key = self.rng.choice(self.tenants)
            user, record = self.rng.choice(USERS), self.rng.choice(RECORDS)
            least = self.acknowledged.get(key) if self.rng.random() < 0.3 else None
            began = loop_time()
            try:
                view = node.warm(key)
                if view is None or least is not None or user not in view.subjects:
                    view = await node.load(key, [user, *self.rng.sample(USERS, 2)], [record], least)
                if self.rng.random() < 0.1:
                    await self.hold(view)
                    continue
            except (StaleError, StorageUnavailableError):
                self.refused += 1
                assert loop_time() - began <= 3, "a refusal came late"
                continue
            now = loop_time()
            assert now - began <= 3, "an answer came late"
            answer = view.snapshot.allows(view.subjects[user], record)
            revision = view.head.revision
            version = self.world.at(key, revision)
            assert answer is version.allows(user, record), "an answer that its revision never gave"
            account = view.subjects[user].record.account
            state = None if account is None else account.state
            assert state is version.accounts.get(user), "an account of another revision"
            assert view.subjects[user].properties == version.subjects.get(user, {}), "a subject of another revision"
            for name, properties in view.resources.items():
                assert properties == version.resources.get(name, {}), "a resource of another revision"
            assert least is None or revision >= least, "older than demanded"
            assert self.world.superseded_at(key, revision) >= now - SETTINGS.max_staleness.total_seconds(), "stale"
            if not self.outages and now > 1005 and self.most_delay <= 0.2:
                # What other nodes committed is used within the poll interval and a second, also without notices.
                assert self.world.superseded_at(key, revision) >= now - 1.5, "late without any fault"
            self.decisions += 1


@pytest.mark.parametrize("outages", [False, True])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow], phases=[Phase.generate])
@given(seed=st.integers(0, 2**32))
def test_every_decision_is_the_true_one_of_its_revision(outages: bool, seed: int):
    """No interleaving mixes revisions, answers older than demanded, or outlives `max_staleness`."""
    run = Run(seed, outages=outages)
    run_virtual(run.go)
    assert run.decisions > 0
