"""Look-ups that wait for a turn are joined; those that run are not."""

import asyncio

import pytest

from authz.lookup_batches import LookupBatches
from authz.ports import Lookup
from authz.request import Ref
from tests.support.policy_world import World

ALICE, BOB, CAROL = Ref("user:alice"), Ref("user:bob"), Ref("user:carol")
WORLD = World()
ACME, OTHER = WORLD.create(1), WORLD.create(2)


class Database:
    """Answers look-ups once it is let go."""

    def __init__(self) -> None:
        self.asked: list[list[Ref]] = []
        self.free = asyncio.Event()
        self.error: Exception | None = None

    async def run(self, tenant_id, subjects, resources):
        self.asked.append([*subjects, *resources])
        await self.free.wait()
        if self.error is not None:
            raise self.error
        return Lookup(WORLD.current(tenant_id).head, dict.fromkeys(subjects), {})


async def started(*lookups):
    tasks = [asyncio.ensure_future(lookup) for lookup in lookups]
    await asyncio.sleep(0.01)
    return tasks


async def test_what_waits_for_a_turn_goes_into_one_statement():
    """While one tenant's look-up has the only turn, another's callers come together."""
    database = Database()
    batches = LookupBatches(database.run, concurrency=1, max_names=10)
    tasks = await started(batches.lookup(OTHER, [ALICE], []))
    tasks += await started(*(batches.lookup(ACME, [name], []) for name in (ALICE, BOB, ALICE)))
    database.free.set()
    await asyncio.gather(*tasks)
    assert database.asked == [[ALICE], [ALICE, BOB]]


async def test_a_look_up_that_runs_is_not_joined():
    """It may have been answered by an older state of the database than the one that is asked about."""
    database = Database()
    batches = LookupBatches(database.run, concurrency=2, max_names=10)
    tasks = await started(batches.lookup(ACME, [ALICE], []))
    tasks += await started(batches.lookup(ACME, [ALICE], []))
    database.free.set()
    await asyncio.gather(*tasks)
    assert database.asked == [[ALICE], [ALICE]]


async def test_a_statement_names_no_more_than_it_may():
    """What does not fit goes into the next one."""
    database = Database()
    batches = LookupBatches(database.run, concurrency=1, max_names=2)
    database.free.set()
    await asyncio.gather(*(batches.lookup(ACME, [name], []) for name in (ALICE, BOB, CAROL)))
    assert database.asked == [[ALICE, BOB], [CAROL]]


async def test_a_failure_is_everyones_and_ends_with_them():
    """All who joined are told; the next one asks anew. Who leaves takes nothing from the others."""
    database = Database()
    batches = LookupBatches(database.run, concurrency=1, max_names=10)
    database.error = ValueError("no")
    first, leaving, other = await started(*(batches.lookup(ACME, [name], []) for name in (ALICE, BOB, CAROL)))
    leaving.cancel()
    database.free.set()
    for task in (first, other):
        with pytest.raises(ValueError, match="no"):
            await task
    database.error = None
    assert (await batches.lookup(ACME, [ALICE], [])).subjects.keys() == {ALICE}
    assert batches.lookups == 2
