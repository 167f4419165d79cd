"""How often keys may be used: a bucket of tokens for each, in memory that processes share."""

import os
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authn.api_keys import KeyLimit
from authn.errors import InvalidKeyLimitError
from service.edge_errors import KeyRateExceededError
from service.fast_path import FastHandler
from service.key_rates import PROBES, KeyRates
from service.server import DeadlineHandler
from tests.support.edge import Edge, question

POLICY = "p user:alice record:* read"
ALICE = question("user:alice", "read", "record:1")


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def rate_of(rates: KeyRates, per_second: int, burst: int, key_id: UUID | None = None):
    """Return the bucket of a key."""
    found = rates.of(key_id or uuid4(), KeyLimit(per_second, burst))
    assert found is not None
    return found


def spent(rate, tries: int) -> int:
    """Spend as often as possible at one moment; return how often that was."""
    for number in range(tries):
        try:
            rate.spend()
        except KeyRateExceededError:
            return number
    return tries


def test_a_burst_and_then_so_many_a_second():
    """The bucket holds `burst`, and fills by `requests_per_second`; what is left over is not saved up."""
    clock = Clock()
    rate = rate_of(KeyRates(clock), 10, 5)
    assert spent(rate, 100) == 5
    clock.now += 0.1
    assert spent(rate, 100) == 1
    clock.now += 0.3
    assert spent(rate, 100) == 3
    clock.now += 3600
    assert spent(rate, 100) == 5


def test_a_refusal_says_when_to_come_again():
    """In whole seconds, at least one; whoever waits as long is taken."""
    clock = Clock()
    rate = rate_of(KeyRates(clock), 1, 1)
    rate.spend()
    with pytest.raises(KeyRateExceededError) as refused:
        rate.spend()
    assert refused.value.retry_after == 1
    clock.now += 1.001
    rate.spend()


def test_refused_requests_do_not_count():
    """Whoever asks without pause still gets what the limit allows."""
    clock = Clock()
    rate = rate_of(KeyRates(clock), 10, 1)
    got = 0
    for _ in range(1000):
        got += spent(rate, 1)
        clock.now += 0.01
    assert 99 <= got <= 101


@given(
    per_second=st.integers(1, 50),
    burst=st.integers(1, 50),
    pauses=st.lists(st.floats(0, 2, allow_nan=False), max_size=60),
)
def test_no_time_has_more_than_the_burst_and_the_rate(per_second, burst, pauses):
    """In every stretch of time, whatever the pattern of requests, and never less than the rate to who waits."""
    clock = Clock()
    rate = rate_of(KeyRates(clock), per_second, burst)
    taken = []
    for pause in pauses:
        clock.now += pause
        taken += [clock.now] * spent(rate, 3)
    for first, began in enumerate(taken):
        for last in range(first, len(taken)):
            assert last - first + 1 <= burst + (taken[last] - began) * per_second + 1e-3


def test_keys_have_buckets_of_their_own_also_where_they_collide():
    """Keys of one place go to its neighbours; an idle one leaves its place to others."""
    clock = Clock()
    rates = KeyRates(clock, places=PROBES)
    buckets = [rate_of(rates, 1, 2, UUID(int=number << 64 | PROBES * (number + 1))) for number in range(PROBES)]
    assert [spent(each, 9) for each in buckets] == [2] * PROBES
    assert [spent(each, 9) for each in buckets] == [0] * PROBES
    clock.now += 10
    others = [rate_of(rates, 1, 2, UUID(int=PROBES * (number + 100))) for number in range(PROBES)]
    assert [spent(each, 9) for each in others] == [2] * PROBES
    # All places are taken: one more key is still answered, at the expense of another one's memory.
    assert spent(rate_of(rates, 1, 2, UUID(int=PROBES * 999)), 9) == 2


def test_a_key_stays_where_it_is_when_a_place_before_it_is_free_again():
    """Its bucket is found, not begun anew: a place that becomes free gives nobody a second burst."""
    clock = Clock()
    rates = KeyRates(clock, places=PROBES)
    short, long = (rate_of(rates, rate, 2, UUID(int=PROBES * number)) for number, rate in ((1, 10), (2, 1)))
    assert (spent(short, 9), spent(long, 9)) == (2, 2)
    clock.now += 0.5
    assert spent(long, 9) == 0
    assert spent(short, 9) == 2


def test_a_place_is_free_from_when_its_bucket_is_full():
    """Until then it is somebody's, and with all places taken the first is the one that begins anew."""
    clock = Clock()
    rates = KeyRates(clock, places=PROBES)
    held = [rate_of(rates, 1, 1, UUID(int=PROBES * (number + 1))) for number in range(PROBES)]
    assert [spent(each, 9) for each in held] == [1] * PROBES
    clock.now += 0.9
    assert spent(rate_of(rates, 1, 1, UUID(int=PROBES * 99)), 9) == 1
    assert [spent(each, 9) for each in held[1:]] == [0] * (PROBES - 1)


def test_refusals_are_counted():
    """For metrics."""
    rates = KeyRates(Clock())
    assert (rates.refused, spent(rate_of(rates, 1, 1), 9), rates.refused) == (0, 1, 1)


def test_a_refusal_says_how_many_seconds_it_takes():
    """Not one at a time: as many as the bucket lacks, rounded up."""
    rate = rate_of(KeyRates(Clock()), 1, 5)
    assert spent(rate, 9) == 5
    for _ in range(3):
        rate.take()
    with pytest.raises(KeyRateExceededError) as refused:
        rate.spend()
    assert refused.value.retry_after == 4


def test_processes_share_the_buckets():
    """What a forked worker takes is missing here: a limit is one of the machine."""
    rates = KeyRates()
    rate = rate_of(rates, 1, 10)
    assert spent(rate, 4) == 4
    worker = os.fork()
    if worker == 0:
        os._exit(spent(rate, 4))
    assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == 4
    assert spent(rate, 9) == 2


@pytest.mark.parametrize(("per_second", "burst"), [(0, 1), (-1, 1), (1, 0), (100_001, 1), (1, 1_000_001)])
def test_limits_have_bounds(per_second, burst):
    """None that allows nothing at all: that is what revoking is for."""
    with pytest.raises(InvalidKeyLimitError):
        KeyLimit(per_second, burst)


@pytest.mark.parametrize("fast", [True, False])
async def test_both_ways_hold_a_key_to_its_limit(fast):
    """Beyond it 429 with `Retry-After`; another key of the same tenant is answered; time makes it good."""
    clock = Clock()
    edge = Edge()
    edge.rates = KeyRates(clock)
    edge.handler_class = FastHandler if fast else DeadlineHandler
    tenant = edge.tenant("acme", POLICY)
    limited, free = edge.key(tenant, limit=KeyLimit(1, 5)), edge.key(tenant)
    path = "/access/v1/evaluation"
    async with edge.serving():
        for _ in range(5):
            answer = await edge.post(path, ALICE, limited)
            assert (answer.status, answer.json["decision"]) == (200, True)
        refused = await edge.post(path, ALICE, limited)
        assert (refused.status, refused.json["type"]) == (429, "urn:kasbah:problem:key-rate-exceeded")
        assert refused.headers["Retry-After"] == "1"
        assert (await edge.post(path, ALICE, free)).status == 200
        clock.now += 1.001
        assert (await edge.post(path, ALICE, limited)).status == 200
        assert (await edge.post(path, ALICE, limited)).status == 429
        counted = {name: value for source in edge.metrics._sources for name, value in source().items()}
        assert (counted.get("fast_answers", 0) > 0) is fast


async def test_a_gateway_is_told_to_come_again():
    """503, the one failure that gateways pass on: 429 would become their own error."""
    edge = Edge()
    edge.rates = KeyRates(Clock())
    tenant = edge.tenant("acme", "p user:alice url:app.example/x GET")
    key = edge.key(tenant, limit=KeyLimit(1, 1))
    headers = {
        "X-Kasbah-Key": key,
        "X-Kasbah-Subject": "alice",
        "X-Original-Method": "GET",
        "X-Original-Host": "app.example",
        "X-Original-URI": "/x",
    }
    async with edge.serving():
        assert (await edge.get("/v1/forward-auth", headers=headers)).status == 200
        refused = await edge.get("/v1/forward-auth", headers=headers)
        assert (refused.status, refused.headers["Retry-After"]) == (503, "1")


async def test_a_process_that_is_handed_requests_counts_none():
    """Whoever handed them on did."""
    edge = Edge()
    edge.rates = None
    key = edge.key(edge.tenant("acme", POLICY), limit=KeyLimit(1, 1))
    async with edge.serving():
        for _ in range(3):
            assert (await edge.post("/access/v1/evaluation", ALICE, key)).status == 200
