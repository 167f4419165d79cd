"""What benchmarks and load tests judge by: histograms, thresholds, and the workload's own answers."""

from dataclasses import replace

from authz.rules import Effect
from benchmarks.latencies import STEP_SECONDS, Latencies
from benchmarks.report import Check
from benchmarks.workload import Workload
from loadtests.verdict import Measured, measured_of, missed

LIMITS = {"failures": 0, "requests_per_second": 10, "requests": {"check": {"p50_ms": 5, "p99_ms": 50}}}


GOOD = Measured("check", 1000, 0, 100.0, p50_ms=2.0, p99_ms=20.0, longest_ms=30.0)


def test_a_good_run_misses_nothing():
    """All within the thresholds: no line."""
    assert missed([GOOD], LIMITS) == []


def test_each_threshold_can_be_missed_and_is_named():
    """A wrong answer, a low rate, a slow quantile and a kind that never came are each said."""
    assert missed([replace(GOOD, failures=1)], LIMITS) == ["1 failed or wrong answers, at most 0 allowed"]
    assert missed([replace(GOOD, per_second=9.0)], LIMITS) == ["9 requests/s, at least 10 wanted"]
    assert missed([replace(GOOD, p99_ms=51.0)], LIMITS) == ["check: p99 51 ms, at most 50 ms allowed"]
    assert "check: no request was made" in missed([], LIMITS)


def test_locusts_counts_become_quantiles():
    """`response_times` counts requests by milliseconds."""
    entry = {
        "name": "check",
        "num_requests": 100,
        "num_failures": 2,
        "max_response_time": 90,
        "response_times": {"1": 50, "2": 48, "90": 2},
    }
    one = measured_of(entry, 10.0)
    assert (one.per_second, one.p50_ms, one.p99_ms, one.failures) == (10.0, 1.0, 90.0, 2)


def test_a_histogram_gives_quantiles_within_a_step():
    """1 ms to 100 ms, evenly: the median is 50 ms."""
    latencies = Latencies()
    for number in range(1, 101):
        latencies.add(number / 1000)
    assert abs(latencies.quantile(0.5) - 0.050) <= 1.01 * STEP_SECONDS
    assert abs(latencies.quantile(0.99) - 0.099) <= 1.01 * STEP_SECONDS
    assert latencies.longest == 0.1


def test_a_check_says_by_how_much_it_was_missed():
    """Ceilings and floors."""
    assert Check("x", 2.0, "ms", 3.0).verdict == "met"
    assert Check("x", 1.2, "x", 1.5, at_most=False).verdict == "missed by 20%"


def test_half_of_the_questions_are_true_and_the_workload_is_the_same_each_time():
    """Questions differ from each other, and a second workload of the same name has the same ones."""
    questions = Workload("tenant-0", 200, 100, mixed=True).questions(100)
    assert sum(question.allowed for question in questions) == 50
    assert len({(q.subject, q.action, q.resource) for q in questions}) == 100
    again = Workload("tenant-0", 200, 100, mixed=True)
    assert again.questions(100) == questions
    assert {rule.effect for rule in again.rules} == {Effect.ALLOW, Effect.DENY}
