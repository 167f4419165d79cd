"""What benchmarks and load tests judge by: histograms, thresholds, and the workload's own answers."""

from dataclasses import replace

from authz.rules import Effect
from benchmarks.latencies import STEP_SECONDS, Latencies
from benchmarks.report import Check
from benchmarks.workload import Workload
from loadtests.__main__ import main as load_test
from loadtests.verdict import Measured, failures_of, measured_of, missed

LIMITS = {"failures": 0, "share_of_rate": 0.9, "requests": {"check": {"p50_ms": 5, "p99_ms": 50}}}


GOOD = Measured("check", 1000, 0, 100.0, p50_ms=2.0, p99_ms=20.0, longest_ms=30.0)


def test_a_good_run_misses_nothing():
    """All within the thresholds: no line."""
    assert missed([GOOD], LIMITS, rate=100) == []


def test_each_threshold_can_be_missed_and_is_named():
    """A wrong answer, a low rate, a slow quantile and a kind that never came are each said."""
    assert missed([replace(GOOD, failures=1)], LIMITS, rate=100) == ["1 failed or wrong answers, at most 0 allowed"]
    assert missed([replace(GOOD, per_second=89.0)], LIMITS, rate=100) == [
        "89 answers a second, at least 90 wanted of 100 asked"
    ]
    assert missed([replace(GOOD, p99_ms=51.0)], LIMITS, rate=100) == ["check: p99 51 ms, at most 50 ms allowed"]
    assert "check: no request was made" in missed([], LIMITS, rate=100)


def test_failures_are_told_by_kind():
    """Ids of requests make no kind of their own; the most frequent comes first."""
    row = 'POST,"check, hot","CatchResponseError(\'status 503: {""title"":""Busy"",""request_id"":""%s""}\')",%d\r\n'
    table = "Method,Name,Error,Occurrences\r\n" + "POST,batch,wrong answer,2\r\n" + row % ("a1", 3) + row % ("b2", 4)
    assert failures_of(table) == ['7 x check, hot: status 503: {"title":"Busy"}', "2 x batch: wrong answer"]
    assert failures_of("Method,Name,Error,Occurrences\r\n") == []


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


def test_a_load_test_drives_only_the_service_that_was_named(monkeypatch, tmp_path, capsys):
    """A mistake in what names the service ends with 2 and one line; nothing else is driven in its place."""
    monkeypatch.setenv("KASBAH_STATE_DIR", str(tmp_path))
    for url, key, said in (
        ("http://127.0.0.1:9", "key", "refused"),
        ("http://127.0.0.1:9", "", "KASBAH_API_KEY"),
        ("", "key", "KASBAH_URL"),
        ("nonsense", "key", "nonsense"),
    ):
        monkeypatch.setenv("KASBAH_URL", url)
        monkeypatch.setenv("KASBAH_API_KEY", key)
        assert load_test(["--report", str(tmp_path / "report.html")]) == 2
        assert said in capsys.readouterr().err.splitlines()[-1]
