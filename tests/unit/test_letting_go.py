"""A large snapshot that nobody uses any more is freed a little at a time."""

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from authz.letting_go import AT_ONCE, LARGE_ROWS, LettingGo
from authz.rules import Rule
from tests.support.policies import policy


class Row:
    """Counts those that were freed."""

    freed = 0

    def __del__(self) -> None:
        Row.freed += 1


def snapshot_of(rows: list[Row]) -> Any:
    def parts() -> Iterator[list[Row]]:
        yield list(rows)

    return SimpleNamespace(rules=rows, parts=parts)


async def freed_in_turns(letting_go: LettingGo, rows: list[Row]) -> list[int]:
    Row.freed = 0
    letting_go.add(snapshot_of(rows))
    del rows
    turns = []
    for _ in range(200):
        before = Row.freed
        await asyncio.sleep(0)
        turns.append(Row.freed - before)
    return turns


async def test_a_large_snapshot_is_freed_a_little_in_each_turn():
    """Other work of the loop runs between two portions."""
    turns = await freed_in_turns(LettingGo(), [Row() for _ in range(LARGE_ROWS * 3)])
    assert sum(turns) == LARGE_ROWS * 3
    assert max(turns) <= AT_ONCE


async def test_several_are_freed_one_after_the_other():
    """A second one that comes meanwhile does not double the portions."""
    letting_go = LettingGo()
    Row.freed = 0
    letting_go.add(snapshot_of([Row() for _ in range(LARGE_ROWS)]))
    await asyncio.sleep(0)
    turns = await freed_in_turns(letting_go, [Row() for _ in range(LARGE_ROWS)])
    assert sum(turns) == LARGE_ROWS * 2
    assert max(turns) <= AT_ONCE


async def test_who_still_uses_it_keeps_all_of_it():
    """A request that began before the rules changed ends on the rules it began with."""
    lines = "\n".join(f"p role:reader record:{n} read" for n in range(LARGE_ROWS))
    used = policy(lines).snapshot
    before = list(used.rules)
    LettingGo().add(used)
    for _ in range(200):
        await asyncio.sleep(0)
    assert list(used.rules) == before
    assert all(isinstance(rule, Rule) for rule in used.rules)
    assert [*used.candidates(None, "record:7", "read")] == [7]
