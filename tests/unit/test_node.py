"""The decision node, one transition at a time, under virtual time."""

import asyncio
import signal
import tracemalloc
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from authz.errors import ModelError, StaleError, StorageUnavailableError, TenantNotFoundError
from authz.letting_go import LettingGo
from authz.node import Node
from authz.ports import Grant, RuleSet
from authz.request import Ref
from authz.rules import Effect, Owner, RoleLink, Rule
from authz.settings import AuthzSettings
from authz.snapshot_loader import STORE_PAUSE_SECONDS
from tenancy.ids import BASE_TENANT_ID, PLATFORM_TENANT_ID, TenantId, TenantStatus
from tenancy.tenant import TenantHead
from tests.support.policy_world import (
    EPOCH,
    MODEL,
    MemoryCache,
    SimpleSnapshot,
    World,
    WorldReader,
    compile_model,
    loop_time,
    run_virtual,
    simple_build,
    tenant_id,
)

ALICE, BOB, RECORD = Ref("user:alice"), Ref("user:bob"), Ref("record:1")
READERS_READ = (Rule("role:reader", RECORD, "read"),)


class Bench:
    """One tenant where readers may read and alice is a reader, and one running node."""

    def __init__(self, **settings: Any) -> None:
        self.world = World(loop_time)
        self.tenant = self.world.create(1, rules=READERS_READ, members={ALICE: (Grant(Ref("role:reader")),)})
        self.reader = WorldReader(self.world)
        self.cache = MemoryCache()
        self.builds: list[RuleSet] = []
        self.build_error: Exception | None = None
        self.node = Node(self.reader, self.cache, compile_model, AuthzSettings(**settings), loop_time, build=self.build)

    def build(self, rule_set: RuleSet, model: Any) -> Any:
        self.builds.append(rule_set)
        if self.build_error is not None:
            raise self.build_error
        return simple_build(rule_set, model)

    async def allows(self, subject: Ref = ALICE, min_revision: int | None = None) -> tuple[bool, int]:
        view = await self.node.load(self.tenant, [subject], [], min_revision)
        return view.snapshot.allows(view.subjects[subject], RECORD), view.head.revision

    def count(self, name: str) -> int:
        return self.reader.count(name)


def on_bench(test: Callable[[Bench], Coroutine[Any, Any, None]], *, running: bool = True, **settings: Any) -> None:
    async def main() -> None:
        bench = Bench(**settings)
        upkeep = asyncio.create_task(bench.node.run()) if running else None
        try:
            await test(bench)
        finally:
            if upkeep is not None:
                assert not upkeep.done(), upkeep
                upkeep.cancel()
                await asyncio.gather(upkeep, return_exceptions=True)

    run_virtual(main)


def test_a_warm_tenant_costs_no_read():
    """Once loaded, a subject is decided without PostgreSQL; an unknown one is no error."""

    async def body(bench: Bench) -> None:
        assert bench.node.warm(bench.tenant) is None
        assert await bench.allows() == (True, 1)
        assert await bench.allows(BOB) == (False, 1)
        before = len([call for call in bench.reader.calls if call != "poll"])
        assert await bench.allows() == (True, 1)
        assert await bench.allows(BOB) == (False, 1)
        state = bench.node.warm(bench.tenant)
        assert state is not None
        assert set(state.subjects) == {ALICE, BOB}
        assert len([call for call in bench.reader.calls if call != "poll"]) == before

    on_bench(body)


def test_a_change_is_used_within_the_poll_interval_without_any_notice():
    """A revoked role is gone after one poll, and only what it touched is looked up again."""

    async def body(bench: Bench) -> None:
        await bench.allows()
        await bench.allows(BOB)
        bench.world.grant(bench.tenant, ALICE)
        await asyncio.sleep(0.6)
        state = bench.node.warm(bench.tenant)
        assert state is not None
        assert state.head.revision == 2
        assert set(state.subjects) == {BOB}
        assert await bench.allows() == (False, 2)
        assert len(bench.builds) == 1, "no rule moved"

    on_bench(body)


def test_a_notice_makes_it_immediate():
    """With a notice the change is used without waiting for the poll's turn."""

    async def body(bench: Bench) -> None:
        await bench.allows()
        await asyncio.sleep(0.75)
        bench.world.grant(bench.tenant, ALICE)
        bench.cache.say(bench.tenant)
        await asyncio.sleep(0.03)
        state = bench.node.warm(bench.tenant)
        assert state is not None
        assert state.head.revision == 2

    on_bench(body)


def test_forged_notices_cause_few_polls_and_confirm_nothing():
    """A flood becomes at most one poll per spacing; strangers' ids none; and with PostgreSQL away nothing is fresh."""

    async def body(bench: Bench) -> None:
        await bench.allows()
        await asyncio.sleep(1)
        before = bench.count("poll")
        for _ in range(1000):
            for _ in range(20):
                bench.cache.say(bench.tenant)
            await asyncio.sleep(0.001)
        assert bench.count("poll") - before <= 1 / 0.025 + 2
        before = bench.count("poll")
        for number in range(1000):
            bench.cache.say(tenant_id(1000 + number))
            await asyncio.sleep(0.001)
        assert bench.count("poll") - before <= 3
        assert len(bench.node.heads) == 1
        bench.reader.down = True
        for _ in range(60):
            bench.cache.say(bench.tenant)
            await asyncio.sleep(0.1)
        assert bench.node.warm(bench.tenant) is None

    on_bench(body)


def test_a_blind_node_stops_deciding_and_heals_by_itself():
    """Warm decisions go on until `max_staleness`, then nothing; a second after PostgreSQL is back all is well."""

    async def body(bench: Bench) -> None:
        await bench.allows()
        await asyncio.sleep(0.3)
        bench.reader.down = True
        lost_at = loop_time()
        await asyncio.sleep(1)
        promised = bench.node.warm_until(bench.tenant)
        while bench.node.warm(bench.tenant) is not None:  # noqa: ASYNC110 (virtual time)
            await asyncio.sleep(0.05)
        assert 4.4 <= loop_time() - lost_at <= 5.1
        assert 0 <= loop_time() - promised <= 0.1, "what was promised is what came"
        assert not bench.node.fresh(bench.tenant)
        assert not bench.node.ready
        with pytest.raises(StorageUnavailableError):
            await bench.allows()
        await asyncio.sleep(30)
        bench.reader.down = False
        await asyncio.sleep(1)
        assert bench.node.warm(bench.tenant) is not None
        assert bench.node.ready
        assert await bench.allows() == (True, 1)

    on_bench(body)


@pytest.mark.parametrize("stuck", ["poll", "lookup", "touched_since", "load_rules", "find_tenant"])
def test_a_hanging_read_ends_in_time(stuck: str):
    """A read that never answers refuses within 3 s, and everything works again once reads answer."""

    async def body(bench: Bench) -> None:
        bench.reader.faulty = {stuck, "poll"} if stuck == "load_rules" else {stuck}
        if stuck in {"poll", "touched_since"}:
            await bench.allows()
        await asyncio.sleep(0.1)
        bench.reader.hanging = True
        await asyncio.sleep(6 if stuck == "poll" else 0)
        bench.world.grant(bench.tenant, ALICE, "role:reader")
        began = loop_time()
        if stuck == "poll":
            # Members are still confirmed by look-ups of their own: the primary is there.
            await bench.allows(BOB)
        else:
            with pytest.raises((StaleError, StorageUnavailableError)):
                await bench.allows(BOB, min_revision=2)
        assert loop_time() - began <= 3
        bench.reader.hanging = False
        await asyncio.sleep(2)
        assert await bench.allows(BOB, min_revision=2) == (False, 2)

    on_bench(body)


def test_serving_stale_is_the_operators_choice():
    """With `serve_stale` a blind node goes on from memory, but a failed look-up is still an error."""

    async def body(bench: Bench) -> None:
        await bench.allows()
        bench.reader.down = True
        await asyncio.sleep(60)
        assert await bench.allows() == (True, 1)
        with pytest.raises(StorageUnavailableError):
            await bench.allows(BOB)
        with pytest.raises((StaleError, StorageUnavailableError)):
            await bench.allows(min_revision=2)

    on_bench(body, serve_stale=True)


def test_a_demanded_revision_is_reached_or_refused():
    """The node reads through at once, waits for what is being committed, and refuses what does not come."""

    async def body(bench: Bench) -> None:
        await bench.allows()
        bench.world.grant(bench.tenant, ALICE)
        began = loop_time()
        assert await bench.allows(min_revision=2) == (False, 2)
        assert loop_time() - began < 0.01
        waiting = asyncio.create_task(bench.allows(min_revision=3))
        await asyncio.sleep(0.2)
        bench.world.grant(bench.tenant, ALICE, "role:reader")
        assert await waiting == (True, 3)
        reads = len(bench.reader.calls)
        began = loop_time()
        with pytest.raises(StaleError):
            await bench.allows(min_revision=10**12)
        assert 0.9 <= loop_time() - began <= 1.2
        assert len(bench.reader.calls) - reads < 8, "waiting costs next to nothing"

    on_bench(body)


@pytest.mark.parametrize("cancelled", [False, True])
def test_an_attempt_that_is_done_but_not_landed_is_not_joined(cancelled: bool):
    """Between an attempt's end and its callbacks the loop runs others; one that wants a newer revision asks anew."""

    def too_long(_signal: int, _frame: object) -> None:
        raise TimeoutError("the loop did not turn")

    async def body(bench: Bench) -> None:
        await bench.allows()
        done = asyncio.ensure_future(asyncio.sleep(0, bench.node.warm(bench.tenant)))
        if cancelled:
            done.cancel()
        await asyncio.wait([done])
        bench.world.grant(bench.tenant, ALICE)
        bench.node._tenants._flights[bench.tenant] = done
        assert await bench.allows(min_revision=2) == (False, 2)

    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, 10)
    try:
        on_bench(body)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_lookup_older_than_the_state_is_discarded():
    """Rows read before a change that the node applied meanwhile are never used, nor kept."""

    async def body(bench: Bench) -> None:
        await bench.allows(BOB)
        release = asyncio.Event()

        async def slow(name: str) -> None:
            if name == "lookup" and not release.is_set():
                await release.wait()

        bench.reader.after = slow
        asking = asyncio.create_task(bench.allows(ALICE))
        await asyncio.sleep(0.01)
        head = bench.world.grant(bench.tenant, ALICE)
        await bench.node.note_write(head)
        release.set()
        assert await asking == (False, 2)
        assert bench.node.discarded_lookups == 1

    on_bench(body)


def test_a_lookup_newer_than_the_state_makes_it_advance_first():
    """New members are never read under old rules: the deny that came with the role is there as well."""

    async def body(bench: Bench) -> None:
        await bench.allows(BOB)
        bench.world.commit(
            bench.tenant, rules=(), members={ALICE: (Grant(Ref("role:reader")),), BOB: (Grant(Ref("role:reader")),)}
        )
        assert await bench.allows(ALICE) == (False, 2)
        state = bench.node.warm(bench.tenant)
        assert state is not None
        assert state.snapshot.rules_revision == 2

    on_bench(body)


@pytest.mark.parametrize("watching", [True, False])
def test_a_change_between_the_read_of_a_head_and_its_noting_is_not_lost(watching: bool):
    """A poll that reports a tenant which is just being loaded is remembered, or the old head would be confirmed."""

    async def body(bench: Bench) -> None:
        await asyncio.sleep(0.1)
        current = bench.world.current(bench.tenant)
        await bench.cache.store_rules(RuleSet(current.head, MODEL, current.rules, current.links))
        release = asyncio.Event()

        async def slow(name: str) -> None:
            if name == "find_tenant":
                await release.wait()

        bench.reader.after = slow
        call = bench.node.watch(bench.tenant) if watching else bench.node.state(bench.tenant)
        under_way = asyncio.create_task(call)
        await asyncio.sleep(0.01)
        bench.world.grant(bench.tenant, ALICE)
        await asyncio.sleep(1.2)
        release.set()
        await under_way
        await asyncio.sleep(0.6)
        assert bench.node.heads[bench.tenant].revision == 2
        assert await bench.allows() == (False, 2)

    on_bench(body)


def test_a_write_of_another_node_before_an_unwatched_head_is_noted():
    """A head that comes with one's own write says nothing about an unwatched tenant, so it is not kept."""

    async def body(bench: Bench) -> None:
        await asyncio.sleep(0.1)
        head = bench.world.grant(bench.tenant, ALICE)
        bench.world.commit(bench.tenant, keys=True)
        await asyncio.sleep(0.6)
        await bench.node.note_write(head)
        assert bench.tenant not in bench.node.heads
        assert not bench.node.fresh(bench.tenant)

    on_bench(body)


def test_nothing_is_served_before_the_first_poll():
    """What changed before the feed began would be missed, so a tenant is loaded only after it."""

    async def body(bench: Bench) -> None:
        with pytest.raises(StaleError):
            await bench.allows()
        assert bench.count("find_tenant") == 0
        with pytest.raises(StaleError):
            bench.node.now()
        await bench.node.start()
        assert await bench.allows() == (True, 1)

    on_bench(body, running=False)


def test_a_poll_confirms_from_when_it_began():
    """A slow answer confirms what was true when it was asked for, not when it arrived."""

    async def body(bench: Bench) -> None:
        await bench.allows()
        await asyncio.sleep(0.3)

        async def slow(name: str) -> None:
            if name == "poll":
                await asyncio.sleep(0.8)

        bench.reader.after = slow
        await asyncio.sleep(3)
        state = bench.node.warm(bench.tenant)
        assert state is not None
        polled_at = [at for at in [state.confirmed_at] if loop_time() - at < 0.8]
        assert not polled_at

    on_bench(body)


def test_new_rules_that_cannot_be_built_leave_the_old_ones_until_they_are_stale():
    """A failed build is never half applied: the last good snapshot stays, unconfirmed, and is not retried at once."""

    async def body(bench: Bench) -> None:
        await bench.allows()
        bench.build_error = ModelError("broken")
        bench.world.commit(bench.tenant, rules=())
        changed_at = loop_time()
        while (state := bench.node.warm(bench.tenant)) is not None:
            assert state.head.revision == 1
            await asyncio.sleep(0.1)
        assert 4.4 <= loop_time() - changed_at <= 5.6
        assert len(bench.builds) <= 10
        with pytest.raises(ModelError):
            await bench.allows()
        bench.build_error = None
        await asyncio.sleep(2)
        assert await bench.allows() == (False, 2)

    on_bench(body)


def test_a_read_that_fails_in_the_middle_of_an_advance_changes_nothing():
    """PostgreSQL lost while new rules are loaded: the old state stays whole."""

    async def body(bench: Bench) -> None:
        await bench.allows()
        bench.reader.faulty = {"load_rules"}
        bench.reader.down = True
        bench.world.commit(bench.tenant, rules=(Rule("role:boss", RECORD, "read"),), members={})
        await asyncio.sleep(2)
        state = bench.node.warm(bench.tenant)
        assert state is not None
        assert (state.head.revision, state.snapshot.rules_revision) == (1, 1)
        assert state.snapshot.allows(state.subjects[ALICE], RECORD)
        bench.reader.down = False
        await asyncio.sleep(1)
        assert await bench.allows() == (False, 2)

    on_bench(body)


def test_one_flight_serves_everyone():
    """A hundred requests for a cold tenant read it once, and join their look-ups."""

    async def body(bench: Bench) -> None:
        subjects = [Ref(f"user:u{n}") for n in range(100)]
        await asyncio.gather(*(bench.allows(subject) for subject in subjects))
        assert bench.count("load_rules") == 1
        assert bench.count("find_tenant") == 1
        assert bench.count("lookup") <= 8
        assert len(bench.builds) == 1

    on_bench(body)


def test_rules_of_another_revision_in_the_cache_are_not_used():
    """Whatever a cache gives, only the rule set that was asked for becomes a snapshot."""

    async def body(bench: Bench) -> None:
        old = await bench.reader.load_rules(bench.tenant)
        bench.world.commit(bench.tenant, rules=())

        async def find_rules(*_: object) -> RuleSet:
            return old

        bench.cache.find_rules = find_rules  # type: ignore[method-assign]
        assert await bench.allows() == (False, 2)

    on_bench(body)


def test_a_client_that_leaves_takes_nothing_from_the_others():
    """Cancelling one request ends neither the load nor the look-up that others wait for."""

    async def body(bench: Bench) -> None:
        async def slow(name: str) -> None:
            await asyncio.sleep(0.1)

        bench.reader.before = slow
        first, second = asyncio.create_task(bench.allows()), asyncio.create_task(bench.allows())
        await asyncio.sleep(0.15)
        first.cancel()
        assert await second == (True, 1)
        third, fourth = asyncio.create_task(bench.allows(BOB)), asyncio.create_task(bench.allows(BOB))
        await asyncio.sleep(0.05)
        third.cancel()
        assert await fourth == (False, 1)

    on_bench(body)


def test_unknown_and_deleted_tenants_leave_nothing():
    """An unknown id is a not-found error that allocates nothing; a deleted tenant is unknown from then on."""

    async def body(bench: Bench) -> None:
        for number in range(50):
            with pytest.raises(TenantNotFoundError):
                await bench.node.state(tenant_id(5000 + number))
            with pytest.raises(TenantNotFoundError):
                await bench.node.watch(tenant_id(5000 + number))
        assert bench.node.heads == {}
        await bench.allows()
        bench.world.commit(bench.tenant, status=TenantStatus.DELETED)
        await asyncio.sleep(0.6)
        assert bench.node.warm(bench.tenant) is None
        with pytest.raises(TenantNotFoundError):
            await bench.allows()

    on_bench(body)


def test_a_suspended_tenant_says_so_in_its_head():
    """Status travels with the state; what follows from it is the evaluator's matter."""

    async def body(bench: Bench) -> None:
        await bench.allows()
        bench.world.commit(bench.tenant, status=TenantStatus.SUSPENDED)
        await asyncio.sleep(0.6)
        state = bench.node.warm(bench.tenant)
        assert state is not None
        assert state.head.status is TenantStatus.SUSPENDED

    on_bench(body)


def test_an_expired_grant_is_gone_without_sql():
    """Facts are made anew from the record when something in them expires, by the database's time."""

    async def body(bench: Bench) -> None:
        expires_at = EPOCH + timedelta(seconds=loop_time() + 10)
        bench.world.commit(bench.tenant, members={ALICE: (Grant(Ref("role:reader"), expires_at),)})
        assert (await bench.allows())[0] is True
        await asyncio.sleep(9.8)
        assert (await bench.allows())[0] is True
        lookups = bench.count("lookup")
        await asyncio.sleep(0.3)
        assert (await bench.allows())[0] is False
        assert bench.count("lookup") == lookups

    on_bench(body)


def test_new_rules_keep_the_records_of_members():
    """A change of the hierarchy rebuilds facts from what is held, without a look-up, under the new rules."""

    async def body(bench: Bench) -> None:
        await bench.allows()
        assert await bench.allows(BOB) == (False, 1)
        bench.world.commit(bench.tenant, links=(RoleLink(BOB, Ref("role:reader")),))
        lookups = bench.count("lookup")
        await asyncio.sleep(0.6)
        assert await bench.allows(BOB) == (True, 2)
        assert await bench.allows() == (True, 2)
        assert bench.count("lookup") == lookups

    on_bench(body)


def test_a_changed_resource_is_looked_up_again():
    """Stored attributes count as of the revision that is answered, also when no rule moved."""

    async def body(bench: Bench) -> None:
        bench.world.commit(bench.tenant, resources={RECORD: {"state": "open"}})
        assert (await bench.node.load(bench.tenant, [], [RECORD])).resources == {RECORD: {"state": "open"}}
        bench.world.commit(bench.tenant, resources={RECORD: {"state": "locked"}})
        await asyncio.sleep(0.6)
        assert (await bench.node.load(bench.tenant, [], [RECORD])).resources == {RECORD: {"state": "locked"}}

    on_bench(body)


def test_a_state_that_is_too_old_when_it_is_there_is_not_handed_out():
    """Rules that take longer to read than a confirmation lasts are confirmed once more before they are used."""

    async def body(bench: Bench) -> None:
        async def slowly(name: str) -> None:
            await asyncio.sleep(2 if name == "load_rules" else 0)

        await bench.node.start()
        bench.reader.after = slowly
        state = await bench.node.state(bench.tenant)
        assert loop_time() - state.confirmed_at <= 1

    on_bench(
        body,
        running=False,
        max_staleness=timedelta(seconds=1),
        request_timeout=timedelta(seconds=10),
    )


def test_a_database_that_lost_what_was_applied_starts_the_tenant_over():
    """After a failover that lost commits, neither the lost revision nor its entries are answered from."""

    async def body(bench: Bench) -> None:
        bench.world.grant(bench.tenant, BOB, "role:reader")
        assert await bench.allows(BOB) == (True, 2)
        bench.world.tenants[bench.tenant].pop()
        await bench.node.state(bench.tenant, None)
        with pytest.raises(StaleError):
            await bench.allows(BOB, min_revision=3)
        assert await bench.allows(BOB) == (False, 1)

    on_bench(body)


def test_another_database_behind_the_same_url_resets_the_node():
    """A restored copy, told by its lineage or by a cursor that goes back, is never mixed with what was held."""

    async def body(bench: Bench) -> None:
        bench.world.grant(bench.tenant, BOB, "role:reader")
        assert await bench.allows(BOB) == (True, 2)
        resets: list[bool] = []
        bench.node.on_reset.append(lambda: resets.append(True))
        bench.world.tenants[bench.tenant].pop()
        bench.world.position = 0
        await asyncio.sleep(0.6)
        assert bench.node.statistics()["feed_resets"] == 1
        assert resets == [True]
        assert await bench.allows(BOB) == (False, 1)

    on_bench(body)


def test_a_database_put_back_by_less_than_a_poll_resets_the_node():
    """The cursor shows nothing, but a revision that was read since the last poll is not there any more."""

    async def body(bench: Bench) -> None:
        await bench.allows(BOB)
        await asyncio.sleep(0.6)
        before = bench.world.position
        bench.world.grant(bench.tenant, BOB, "role:reader")
        assert await bench.allows(BOB, min_revision=2) == (True, 2)
        bench.world.tenants[bench.tenant].pop()
        bench.world.position = before
        await asyncio.sleep(0.6)
        assert bench.node.statistics()["feed_resets"] == 1
        assert await bench.allows(BOB) == (False, 1)

    on_bench(body)


def test_a_revision_read_while_a_poll_tells_of_it_is_no_other_database():
    """It need not be told again: the next poll's cursor is behind it. One after that poll's snapshot still must be."""

    async def body(bench: Bench) -> None:
        await bench.allows(BOB)
        seen, go_on = asyncio.Event(), asyncio.Event()

        async def slow(name: str) -> None:
            if name == "poll" and not go_on.is_set():
                seen.set()
                await go_on.wait()

        await asyncio.sleep(0.6)
        bench.world.grant(bench.tenant, BOB, "role:reader")
        bench.reader.after = slow
        await seen.wait()
        assert await bench.allows(BOB, min_revision=2) == (True, 2)
        go_on.set()
        await asyncio.sleep(1.2)
        assert bench.node.statistics()["feed_resets"] == 0
        before = bench.world.position
        bench.world.grant(bench.tenant, BOB)
        assert await bench.allows(BOB, min_revision=3) == (False, 3)
        bench.world.tenants[bench.tenant].pop()
        bench.world.position = before
        await asyncio.sleep(0.6)
        assert bench.node.statistics()["feed_resets"] == 1

    on_bench(body)


def test_a_load_that_a_reset_overtakes_is_not_kept():
    """What was read from the database before is not installed after the feed began anew."""

    async def body(bench: Bench) -> None:
        release = asyncio.Event()

        async def slow(name: str) -> None:
            if name == "load_rules":
                await release.wait()

        bench.world.grant(bench.tenant, BOB, "role:reader")
        bench.reader.after = slow
        loading = asyncio.create_task(bench.node.state(bench.tenant))
        await asyncio.sleep(0.1)
        bench.world.tenants[bench.tenant].pop()
        bench.world.position = 0
        await asyncio.sleep(0.6)
        release.set()
        with pytest.raises(StaleError):
            await loading
        assert bench.node.warm(bench.tenant) is None
        assert await bench.allows(BOB) == (False, 1)

    on_bench(body)


def test_a_database_that_names_itself_otherwise_resets_the_node():
    """A promoted standby or a copy may give the same revision to other rules, so nothing held is carried over."""

    async def body(bench: Bench) -> None:
        bench.reader.lineage = "one/1"
        assert await bench.allows() == (True, 1)
        bench.reader.lineage = "one/2"
        await asyncio.sleep(0.6)
        assert bench.node.statistics()["feed_resets"] == 1
        assert bench.node.warm(bench.tenant) is None
        assert await bench.allows() == (True, 1)

    on_bench(body)


EVERYONE_READS = (Rule("user:*", RECORD, "read"), Rule("user:bob", RECORD, "read"))


async def hold_what_will_be_lost(bench: Bench) -> None:
    """Let the node hold revision 2, in which bob may read, and poll; then lose that revision."""
    bench.reader.lineage = "one/1"
    bench.world.commit(bench.tenant, rules=EVERYONE_READS)
    assert await bench.allows(BOB) == (True, 2)
    await asyncio.sleep(0.6)
    bench.world.put_back(bench.tenant, 1)


def test_another_history_with_equal_numbers_is_noticed_by_the_poll():
    """Put back and advanced to the same revision, beyond the cursor: the stamp tells, not the numbers."""

    async def body(bench: Bench) -> None:
        await hold_what_will_be_lost(bench)
        bench.world.commit(bench.tenant, rules=READERS_READ)
        await asyncio.sleep(0.6)
        assert bench.node.statistics()["feed_resets"] == 1
        assert await bench.allows(BOB) == (False, 2)

    on_bench(body)


def test_another_history_with_equal_numbers_is_not_mixed_in_before_the_poll():
    """Members of one history are never judged by the rules of the other, nor do they confirm them."""

    async def body(bench: Bench) -> None:
        await hold_what_will_be_lost(bench)
        bench.world.commit(bench.tenant, rules=(Rule("role:boss", RECORD, "read"),))
        polls = bench.count("poll")
        with pytest.raises(StaleError):
            await bench.allows(Ref("user:bob2"))
        assert await bench.allows(BOB) == (False, 2)
        assert bench.count("poll") == polls

    on_bench(body)


def test_another_history_with_higher_numbers_is_not_taken_for_the_next_revision():
    """What a node holds is advanced only if the revision it is at is in the history of the newer one."""

    async def body(bench: Bench) -> None:
        await hold_what_will_be_lost(bench)
        bench.world.commit(bench.tenant, rules=READERS_READ)
        bench.world.grant(bench.tenant, "user:carol", "role:reader")
        assert bench.world.current(bench.tenant).head.rules_revision == 2
        assert await bench.allows(BOB, min_revision=3) == (False, 3)
        assert bench.node.statistics()["went_back"] == 1

    on_bench(body)


@pytest.mark.parametrize("change", ["nothing", "lost", "advanced"])
def test_a_server_that_starts_again_is_asked_for_every_head(change: str):
    """Files put back need a new start, and may tell nothing by themselves; a plain start forgets nothing."""

    async def body(bench: Bench) -> None:
        bench.reader.lineage, bench.reader.run = "one/1", "monday"
        bench.world.commit(bench.tenant, rules=EVERYONE_READS)
        assert await bench.allows(BOB) == (True, 2)
        await asyncio.sleep(0.6)
        if change != "nothing":
            bench.world.put_back(bench.tenant, 1)
        if change == "advanced":
            position = bench.world.position
            bench.world.commit(bench.tenant, rules=READERS_READ)
            head = bench.world.tenants[bench.tenant][-1]
            bench.world.tenants[bench.tenant][-1] = replace(head, position=position)
        bench.reader.run = "tuesday"
        loads = bench.count("load_rules")
        await asyncio.sleep(0.6)
        assert bench.node.statistics()["feed_resets"] == (change != "nothing")
        assert await bench.allows(BOB) == {"nothing": (True, 2), "lost": (False, 1), "advanced": (False, 2)}[change]
        assert (bench.count("load_rules") == loads) is (change == "nothing")

    on_bench(body)


def test_rules_of_another_history_in_the_cache_are_not_used():
    """Another node stored them under the same number before the database was put back."""

    async def body(bench: Bench) -> None:
        await hold_what_will_be_lost(bench)
        assert (bench.tenant, 2) in bench.cache.rule_sets
        bench.world.commit(bench.tenant, rules=READERS_READ)
        other = Node(bench.reader, bench.cache, compile_model, AuthzSettings(), loop_time, build=simple_build)
        await other.start()
        assert (await other.state(bench.tenant)).snapshot.rules == READERS_READ

    on_bench(body)


@pytest.mark.parametrize("lineage", ["", "one/1"])
def test_the_platforms_rules_are_shared_only_within_a_named_database(lineage: str):
    """Its id is the same everywhere: another database's rules of the same revision must not pass for ours."""

    async def body(bench: Bench) -> None:
        bench.reader.lineage = lineage
        platform = bench.world.create(0, key=PLATFORM_TENANT_ID)
        await bench.node.state(platform)
        await asyncio.sleep(0)
        assert ((platform, 1) in bench.cache.rule_sets) is bool(lineage)
        foreign = RuleSet(bench.world.current(platform).head, MODEL, READERS_READ, ())
        bench.cache.rule_sets[platform, 1] = foreign
        other = Node(bench.reader, bench.cache, compile_model, AuthzSettings(), loop_time, build=simple_build)
        await other.start()
        assert bool((await other.state(platform)).snapshot.rules) is bool(lineage)

    on_bench(body)


def test_a_tenant_that_changes_all_the_time_is_still_answered():
    """A look-up that advances overtake is used where none of them touched its rows, and only there."""

    async def body(bench: Bench) -> None:
        async def slow(name: str) -> None:
            if name in {"lookup", "touched_since"}:
                await asyncio.sleep(0.03)

        bench.reader.after = slow
        changing = asyncio.create_task(change_for_ever(bench))
        for number in range(20):
            assert (await bench.allows(Ref(f"user:x{number}")))[0] is False
            answer, revision = await bench.allows()
            assert answer is bench.world.at(bench.tenant, revision).allows(ALICE, RECORD)
        changing.cancel()
        assert bench.node.discarded_lookups > 10

    async def change_for_ever(bench: Bench) -> None:
        number = 0
        while True:
            number += 1
            await asyncio.sleep(0.01)
            bench.world.grant(bench.tenant, ALICE if number % 50 == 0 else "user:z", *["role:reader"] * (number % 2))
            bench.cache.say(bench.tenant)

    on_bench(body)


def test_watched_heads_serve_keys_without_a_snapshot():
    """A watched tenant's head is fresh within `max_staleness`, and hooks hear of it moving."""

    async def body(bench: Bench) -> None:
        assert not bench.node.fresh(bench.tenant)
        head = await bench.node.watch(bench.tenant)
        assert head.keys_revision == 1
        heard: list[TenantHead] = []
        bench.node.on_advance.append(heard.append)
        bench.world.commit(bench.tenant, keys=True)
        await asyncio.sleep(0.6)
        assert [h.keys_revision for h in heard] == [2]
        assert bench.node.heads[bench.tenant].keys_revision == 2
        assert bench.count("load_rules") == 0
        bench.reader.down = True
        await asyncio.sleep(5.2)
        assert not bench.node.fresh(bench.tenant)

    on_bench(body)


def test_watched_tenants_are_bounded():
    """Heads of tenants nobody holds are forgotten, oldest first, above the limit; then they are not fresh."""

    async def body(bench: Bench) -> None:
        await bench.allows()
        keys = [bench.world.create(100 + n) for n in range(30)]
        for key in keys:
            await bench.node.watch(key)
        assert len(bench.node.heads) <= 10
        assert bench.tenant in bench.node.heads
        assert not bench.node.fresh(keys[0])
        assert bench.node.fresh(keys[-1])

    on_bench(body, max_watched_tenants=10)


def test_own_writes_are_used_at_once_and_told():
    """After `note_write` returns this node decides at the new revision, and the notice is out."""

    async def body(bench: Bench) -> None:
        await bench.allows()
        head = bench.world.grant(bench.tenant, ALICE)
        await bench.node.note_write(head)
        state = bench.node.warm(bench.tenant)
        assert state is not None
        assert state.head.revision == 2
        assert [h.revision for h in bench.cache.published] == [2]

    on_bench(body)


def test_writes_of_another_process_are_used_at_once():
    """After `follow_write` returns this node decides at that revision, though no poll has told of it."""

    async def body(bench: Bench) -> None:
        await bench.allows()
        head = bench.world.grant(bench.tenant, ALICE)
        await bench.node.follow_write(bench.tenant, head.revision)
        state = bench.node.warm(bench.tenant)
        assert state is not None
        assert state.head.revision == 2
        assert bench.cache.published == []

    on_bench(body)


def test_a_load_under_way_does_not_bring_an_older_state_than_the_write():
    """A tenant that is being loaded for the first time when another process writes it."""

    async def body(bench: Bench) -> None:
        release = asyncio.Event()

        async def slow(name: str) -> None:
            if name == "load_rules":
                await release.wait()

        bench.reader.after = slow
        asking = asyncio.create_task(bench.allows())
        await asyncio.sleep(0.1)
        head = bench.world.commit(bench.tenant, rules=())
        following = asyncio.create_task(bench.node.follow_write(bench.tenant, head.revision))
        await asyncio.sleep(0.01)
        release.set()
        await following
        state = bench.node.warm(bench.tenant)
        assert state is not None
        assert state.head.revision == head.revision
        await asking

    on_bench(body)


def test_a_write_of_another_process_that_cannot_be_followed_is_no_error():
    """PostgreSQL gone: bounded, and right when it is back; a tenant that is not in use is not loaded."""

    async def body(bench: Bench) -> None:
        await bench.node.follow_write(bench.tenant, 1)
        assert bench.count("find_tenant") == 0
        await bench.allows()
        head = bench.world.grant(bench.tenant, ALICE)
        bench.reader.hanging = True
        began = loop_time()
        await bench.node.follow_write(bench.tenant, head.revision)
        assert loop_time() - began <= 10.1
        bench.reader.hanging = False
        await asyncio.sleep(2)
        assert await bench.allows() == (False, 2)

    on_bench(body)


def test_a_write_that_cannot_be_applied_is_no_error():
    """The write is committed: PostgreSQL gone right after it does not fail the request, and the log says why."""

    async def body(bench: Bench) -> None:
        await bench.allows()
        head = bench.world.grant(bench.tenant, ALICE)
        bench.reader.hanging = True
        began = loop_time()
        with capture_logs() as logs:
            await bench.node.note_write(head)
        assert loop_time() - began <= 1.1
        assert [entry["error"] for entry in logs if entry["event"] == "authz.node.write_not_applied"] == [
            "TimeoutError"
        ]
        bench.reader.hanging = False
        await asyncio.sleep(2)
        assert await bench.allows() == (False, 2)

    on_bench(body)


def test_a_change_of_the_base_reaches_every_held_tenant():
    """A notice about the base makes a poll come at once: it moves every tenant."""

    async def body(bench: Bench) -> None:
        await bench.allows()
        await asyncio.sleep(0.6)
        bench.world.commit(bench.tenant, rules=())
        bench.cache.say(BASE_TENANT_ID)
        await asyncio.sleep(0.05)
        assert await bench.allows() == (False, 2)

    on_bench(body)


def test_idle_snapshots_are_let_go_instead_of_rebuilt():
    """Rules that moved are rebuilt only for tenants in use, and unused ones go after `idle_ttl`."""

    async def body(bench: Bench) -> None:
        await bench.allows()
        await asyncio.sleep(70)
        bench.world.commit(bench.tenant, rules=())
        await asyncio.sleep(1)
        assert bench.node.statistics()["warm_tenants"] == 0
        assert len(bench.builds) == 1
        assert await bench.allows() == (False, 2)
        await asyncio.sleep(1000)
        assert bench.node.statistics()["warm_tenants"] == 0

    on_bench(body)


def test_the_least_used_snapshots_make_room():
    """More tenants than `max_warm_tenants` never stay, and the newest is served."""

    async def body(bench: Bench) -> None:
        keys: list[TenantId] = [bench.world.create(100 + n, rules=READERS_READ) for n in range(40)]
        for key in keys:
            await bench.node.state(key)
            await asyncio.sleep(0.01)
        statistics = bench.node.statistics()
        assert statistics["warm_tenants"] <= 16
        assert statistics["evictions"] >= 24
        assert bench.node.warm(keys[-1]) is not None
        assert bench.node.warm(keys[0]) is None

    on_bench(body, max_warm_tenants=16)


def test_an_answer_larger_than_the_budget_still_comes():
    """A batch that does not fit the member cache is answered whole, since `Loaded` holds it."""

    async def body(bench: Bench) -> None:
        subjects = [Ref(f"user:u{n}") for n in range(500)]
        view = await bench.node.load(bench.tenant, [*subjects, ALICE], [])
        assert set(view.subjects) == {*subjects, ALICE}
        assert bench.node.statistics()["member_cache_turns"] > 1

    on_bench(body, membership_cache_bytes=64 * 1024)


def test_a_subject_in_use_survives_a_scan_over_unknown_names():
    """Entries that are asked for move to the young generation without SQL; the others pass through."""

    async def body(bench: Bench) -> None:
        for start in range(0, 3000, 50):
            await bench.allows()
            await bench.node.load(bench.tenant, [Ref(f"user:x{n}") for n in range(start, start + 50)], [])
        before = bench.count("lookup")
        await bench.allows()
        assert bench.count("lookup") == before
        assert bench.node.statistics()["member_cache_turns"] > 5

    on_bench(body, membership_cache_bytes=256 * 1024)


@pytest.mark.parametrize(
    ("names", "budget"), [(60_000, 4 << 20), pytest.param(1_000_000, 64 << 20, marks=pytest.mark.nightly)]
)
def test_unknown_names_stay_inside_the_budget(names: int, budget: int):
    """Asking about any number of unknown names takes no more memory than the budget."""

    async def body(bench: Bench) -> None:
        await bench.allows()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            bench.reader.calls.clear()
            for start in range(0, names // 2, 500):
                subjects = [Ref(f"user:unknown-{n}") for n in range(start, start + 500)]
                records = [Ref(f"record:unknown-{n}") for n in range(start, start + 500)]
                await bench.node.load(bench.tenant, subjects, records)
                bench.reader.calls.clear()
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert bench.node.statistics()["member_cache_turns"] >= 4
        assert grown < budget

    on_bench(body, membership_cache_bytes=budget)


def test_a_large_rule_set_is_built_off_the_loop():
    """Building in a thread lets the loop run; the state appears when it is whole."""
    import threading

    async def main() -> None:
        world = World()
        key = world.create(1, rules=tuple(Rule(f"role:r{n}", RECORD, "read") for n in range(100)))
        threads: list[str] = []

        def build(rule_set: RuleSet, model: Any) -> Any:
            threads.append(threading.current_thread().name)
            return SimpleSnapshot(rule_set)

        node = Node(WorldReader(world), MemoryCache(), compile_model, AuthzSettings(slow_build_rows=50), build=build)
        await node.start()
        await node.state(key)
        assert threads == ["large-snapshot_0"]

    asyncio.run(main())


def test_a_snapshot_is_let_go_of_when_no_state_has_it_any_more(monkeypatch: pytest.MonkeyPatch):
    """When the rules changed, not when only members did: then the next state goes on with the same snapshot."""
    let_go: list[Any] = []
    monkeypatch.setattr(LettingGo, "add", lambda _, snapshot: let_go.append(snapshot))

    async def main() -> None:
        bench = Bench()
        await bench.node.start()
        first = (await bench.node.state(bench.tenant)).snapshot
        head = bench.world.grant(bench.tenant, BOB, "role:reader")
        await bench.node.note_write(head)
        assert let_go == []
        head = bench.world.commit(bench.tenant, rules=())
        await bench.node.note_write(head)
        assert let_go == [first]

    run_virtual(main)


def test_a_rule_of_the_api_is_taken_up_without_reading_the_others():
    """The answer is that of the new revision; a rule of a file makes all rows be read again."""

    async def main() -> None:
        bench = Bench()
        await bench.node.start()
        assert (await bench.allows())[0]
        loads = bench.reader.count("load_rules")
        deny = Rule("role:reader", RECORD, "read", Effect.DENY, owner=Owner.API)
        head = bench.world.commit(bench.tenant, rules=(*READERS_READ, deny))
        assert await bench.allows(min_revision=head.revision) == (False, head.revision)
        head = bench.world.commit(bench.tenant, rules=READERS_READ)
        assert await bench.allows(min_revision=head.revision) == (True, head.revision)
        assert bench.reader.count("load_rules") == loads
        assert bench.node.statistics()["snapshots_from_changes"] == 2
        head = bench.world.commit(bench.tenant, rules=(*READERS_READ, Rule("role:x", RECORD, "read")))
        assert await bench.allows(min_revision=head.revision) == (True, head.revision)
        assert bench.reader.count("load_rules") == loads + 1

    run_virtual(main)


def test_many_changes_are_stored_for_other_nodes_once():
    """A while after the first of them, as they are then."""

    async def main() -> None:
        bench = Bench()
        await bench.node.start()
        await bench.node.state(bench.tenant)
        await asyncio.sleep(1)
        stored = set(bench.cache.rule_sets)
        for number in range(5):
            rule = Rule(f"role:r{number}", RECORD, "read", owner=Owner.API)
            head = bench.world.commit(bench.tenant, rules=(*bench.world.current(bench.tenant).rules, rule))
            await bench.node.state(bench.tenant, head.revision)
        assert set(bench.cache.rule_sets) == stored
        await asyncio.sleep(STORE_PAUSE_SECONDS + 1)
        assert set(bench.cache.rule_sets) == stored | {(bench.tenant, head.rules_revision)}
        assert len(bench.cache.rule_sets[bench.tenant, head.rules_revision].rules) == 6

    run_virtual(main)
