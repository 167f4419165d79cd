"""The clock of decisions follows the database and never this machine's wall clock."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.errors import StaleError
from authz.node_clock import DatabaseClock, elapsed_clock

START = datetime(2026, 3, 1, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.monotonic = 100.0
        self.clock = DatabaseClock(lambda: self.monotonic)

    def hear(self, database_time: datetime) -> None:
        self.clock.observe(database_time, self.monotonic)


def test_time_is_unknown_before_the_database_was_heard():
    """Without a sample there is no time to decide by."""
    with pytest.raises(StaleError):
        DatabaseClock(lambda: 1.0).now()


def test_it_is_the_databases_time_carried_on():
    """Between samples monotonic seconds are added; the wall clock takes no part."""
    it = Clock()
    it.hear(START)
    it.monotonic += 3.5
    assert it.clock.now() == START + timedelta(seconds=3.5)


def test_a_database_that_jumps_ahead_is_followed_at_once():
    """What expires, expires by the database."""
    it = Clock()
    it.hear(START)
    it.monotonic += 1
    it.hear(START + timedelta(days=1))
    assert it.clock.now() == START + timedelta(days=1)


def test_a_database_that_steps_back_slows_the_clock_and_is_shown():
    """Time goes on at half speed until the database has caught up; how far it is behind is a metric."""
    it = Clock()
    it.hear(START)
    it.monotonic += 10
    assert it.clock.now() == START + timedelta(seconds=10)
    it.hear(START)
    assert it.clock.behind_seconds == 10
    assert it.clock.now() == START + timedelta(seconds=10)
    for second in range(1, 41):
        it.monotonic += 1
        it.hear(START + timedelta(seconds=second))
    assert it.clock.behind_seconds == 0
    assert it.clock.now() == START + timedelta(seconds=40)


def test_a_clock_that_is_ahead_goes_on_at_half_speed():
    """It neither stands still nor runs on as if nothing were."""
    it = Clock()
    it.hear(START)
    it.monotonic += 1
    it.hear(START - timedelta(seconds=9))
    before = it.clock.now()
    for second in range(1, 9):
        it.monotonic += 1
        it.hear(START + timedelta(seconds=second - 9))
    assert it.clock.now() - before == timedelta(seconds=4)


@given(
    st.lists(
        st.tuples(st.floats(0, 100), st.one_of(st.none(), st.floats(-100_000, 100_000))),
        max_size=40,
    )
)
def test_it_never_goes_backwards(steps: list[tuple[float, float | None]]):
    """Whatever the samples say, and whenever they come."""
    it = Clock()
    it.hear(START)
    last = it.clock.now()
    for elapsed, sample in steps:
        it.monotonic += elapsed
        if sample is not None:
            it.hear(START + timedelta(seconds=it.monotonic + sample))
        now = it.clock.now()
        assert now >= last
        last = now


def test_the_elapsed_clock_moves_forward():
    """On Linux it is the clock that also counts suspension."""
    clock = elapsed_clock()
    first = clock()
    assert clock() >= first
