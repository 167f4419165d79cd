"""The fast way on a real node, under virtual time: how long what it remembers lasts, and what it makes facts of."""

import asyncio
import json
from datetime import timedelta
from uuid import uuid4

from authz.node import Node
from authz.ports import AccountState, Grant
from authz.request import Ref
from authz.rules import RoleLink, Rule
from authz.settings import AuthzSettings
from authz.snapshot import build_snapshot
from service.callers import Callers, FoundApiKey
from service.cross_check import Sampler
from service.decision_log import DecisionLog
from service.fast_answers import EVALUATION, FastPath
from service.fast_heads import PlainHead
from service.http_settings import DecisionLogSettings
from service.metrics import Metrics
from tests.support.edge import question
from tests.support.policy_world import (
    EPOCH,
    MemoryCache,
    World,
    WorldReader,
    compile_model,
    loop_time,
    run_virtual,
)

ALICE, READER, HEAD_READER, RECORD = Ref("user:alice"), Ref("role:reader"), Ref("role:head"), Ref("record:1")
BOB = Ref("user:bob")
RULES = (Rule(READER, RECORD, "read"),)
BODY = json.dumps(question(ALICE, "read", RECORD)).encode()
TOKEN = "kasbah_0123abcd_" + "A" * 43


class Bench:
    """A running node with one tenant and one key, the fast way on it, and one head that is never forgotten."""

    def __init__(self, *grants: Grant) -> None:
        self.world = World(loop_time)
        self.tenant = self.world.create(1, rules=RULES, members={ALICE: grants or (Grant(READER),)})
        self.reader = WorldReader(self.world)
        self.node = Node(
            self.reader,
            MemoryCache(),
            compile_model,
            AuthzSettings(),
            loop_time,
            build=build_snapshot,
        )
        self.callers = Callers(self, self.node, monotonic=loop_time)
        log = DecisionLog(DecisionLogSettings())
        self.path = FastPath(self.node, self.callers, metrics=Metrics(), log=log, sampler=Sampler(None, 0))
        self.head = PlainHead(EVALUATION, TOKEN.encode(), None, None, 0)

    async def find_by_hash(self, key_hash: bytes) -> FoundApiKey:
        del key_hash
        head = self.world.current(self.tenant).head
        return FoundApiKey(uuid4(), "0123abcd", frozenset({"decision:check"}), None, head)

    async def warm_up(self) -> None:
        await self.callers.authenticate(TOKEN)
        await self.node.load(self.tenant, [ALICE], [])

    def allows(self) -> bool | None:
        """What the fast way says about alice, who is asked about by the same head each time."""
        answer = self.path.answer(self.head, None, BODY)
        return None if answer is None else json.loads(answer.partition(b"\r\n\r\n")[2])["decision"]


def on_bench(test, *grants: Grant) -> None:
    async def main() -> None:
        bench = Bench(*grants)
        upkeep = asyncio.create_task(bench.node.run())
        await bench.warm_up()
        await test(bench)
        upkeep.cancel()
        await asyncio.gather(upkeep, return_exceptions=True)

    run_virtual(main)


def test_a_head_is_not_answered_for_longer_than_the_node_is_confirmed():
    """PostgreSQL is lost, and nothing else happens that would make the fast way look anew."""

    async def test(bench: Bench) -> None:
        bench.reader.down = True
        end = bench.node.warm_until(bench.tenant)
        assert 4 < end - loop_time() <= 5
        count = bench.node.changes.count
        for moment in (end - 0.6, end - 0.1, end):
            await asyncio.sleep(moment - loop_time())
            assert bench.allows() is True
        bench.path._second_ends = float("inf")
        await asyncio.sleep(0.001)
        assert bench.node.changes.count == count
        assert bench.allows() is None

    on_bench(test)


def test_an_account_that_is_disabled_is_forgotten_and_answered_with_its_reason():
    """The change names its subject: what was held of it goes, and of nobody else; then the fast way says why."""

    async def test(bench: Bench) -> None:
        node = bench.node
        await node.load(bench.tenant, [BOB], [])
        assert bench.allows() is True
        bench.world.commit(bench.tenant, accounts={ALICE: AccountState.DISABLED})
        await asyncio.sleep(0.6)
        state = node.warm(bench.tenant)
        assert state is not None
        assert BOB in state.subjects
        assert ALICE not in state.subjects
        assert bench.allows() is None, "it must be looked up again"
        await node.load(bench.tenant, [ALICE], [])
        answer = bench.path.answer(bench.head, None, BODY)
        assert answer is not None
        assert b'"decision":false' in answer
        assert b'"account_disabled"' in answer
        bench.world.commit(bench.tenant, accounts={ALICE: AccountState.ACTIVE})
        await asyncio.sleep(0.6)
        await node.load(bench.tenant, [ALICE], [])
        assert bench.allows() is True

    on_bench(test)


def test_facts_that_were_put_aside_are_made_of_the_rules_that_hold():
    """The older generation of members is valid, what older rules made of it is not."""

    async def test(bench: Bench) -> None:
        node = bench.node
        assert bench.allows() is True
        bench.world.commit(
            bench.tenant, links=(RoleLink(READER, HEAD_READER),), rules=(Rule(HEAD_READER, RECORD, "read"),)
        )
        await asyncio.sleep(0.6)
        state = node.warm(bench.tenant)
        assert state is not None
        assert ALICE not in state.subjects
        lookups = bench.reader.count("lookup")
        assert bench.allows() is True
        assert HEAD_READER in state.subjects[ALICE].names
        bench.world.commit(bench.tenant, links=())
        await asyncio.sleep(0.6)
        assert bench.allows() is False
        assert bench.reader.count("lookup") == lookups

    on_bench(test)


def test_members_that_were_put_aside_are_used_until_they_change():
    """Generations turn while a head is remembered, and a membership that is gone is gone in both."""

    async def test(bench: Bench) -> None:
        assert bench.allows() is True
        state = bench.node.warm(bench.tenant)
        assert state is not None
        state.age()
        assert bench.allows() is True
        state.age()
        bench.world.grant(bench.tenant, ALICE)
        await asyncio.sleep(0.6)
        assert bench.allows() is None
        await bench.warm_up()
        assert bench.allows() is False

    on_bench(test)


def test_an_expired_grant_is_made_anew_at_its_very_moment():
    """Without a look-up, and without any change that would make the fast way look anew."""
    ends = 1004.0

    async def test(bench: Bench) -> None:
        lookups = bench.reader.count("lookup")
        count = bench.node.changes.count
        for moment, allowed in ((ends - 0.3, True), (ends - 0.001, True), (ends, False), (ends + 1, False)):
            await asyncio.sleep(moment - loop_time())
            assert bench.node.now().timestamp() == EPOCH.timestamp() + moment
            assert bench.allows() is allowed
        assert (bench.reader.count("lookup"), bench.node.changes.count) == (lookups, count)

    on_bench(test, Grant(READER, EPOCH + timedelta(seconds=ends)))


def test_another_database_is_asked_before_anything_is_answered():
    """What was remembered of the one before is of no use."""

    async def test(bench: Bench) -> None:
        bench.node.on_reset.append(bench.callers.forget_all)
        assert bench.allows() is True
        bench.reader.lineage = "another"
        await asyncio.sleep(0.6)
        assert bench.allows() is None

    on_bench(test)
