"""Metrics: cheap to add, flushed to prometheus-client, labels from closed sets."""

import subprocess
import sys
from dataclasses import replace

from prometheus_client.parser import text_string_to_metric_families

from authz.decision import Decision, Reason
from authz.rules import Effect
from service.metrics import BOUNDS, INVALID_ITEM, OUTCOMES, SAMPLES_DROPPED, Metrics, outcome_of
from tests.support.paths import ROOT

ALLOW = Decision(Effect.ALLOW, Reason.RULE, 7)


def samples(metrics):
    """Return every sample of an exposition by name and labels."""
    families = text_string_to_metric_families(metrics.render().decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def test_every_decision_has_an_outcome():
    """The set is closed: reasons are an enumeration."""
    assert OUTCOMES[outcome_of(ALLOW)] == ("allow", "rule")
    for reason in Reason:
        assert OUTCOMES[outcome_of(Decision(Effect.DENY, reason, 1))] == ("deny", reason.value)
    assert len(set(OUTCOMES)) == len(OUTCOMES)


def test_decisions_and_their_times_are_counted_once():
    """A second scrape adds nothing."""
    metrics = Metrics()
    for seconds in (0.00001, BOUNDS[0], 0.0003, 99.0):
        metrics.count_decision(outcome_of(ALLOW), seconds)
    metrics.count_outcome(INVALID_ITEM)
    metrics.observe(0.02)
    for _ in range(2):
        found = samples(metrics)
        assert found["kasbah_decisions_total", (("decision", "allow"), ("reason", "rule"))] == 4
        assert found["kasbah_decisions_total", (("decision", "deny"), ("reason", "invalid_item"))] == 1
        assert found["kasbah_decision_seconds_count", ()] == 5
        assert found["kasbah_decision_seconds_bucket", (("le", str(BOUNDS[0])),)] == 2
        assert found["kasbah_decision_seconds_bucket", (("le", "0.0005"),)] == 3
        assert found["kasbah_decision_seconds_bucket", (("le", "1.0"),)] == 4
        assert found["kasbah_decision_seconds_bucket", (("le", "+Inf"),)] == 5
        assert abs(found["kasbah_decision_seconds_sum", ()] - 99.02033) < 1e-6


def test_requests_are_counted_by_route_and_status_class():
    """Not by path, which callers choose."""
    metrics = Metrics()
    metrics.count_request("/access/v1/evaluation", 200)
    metrics.count_request("/access/v1/evaluation", 204)
    metrics.count_request("unmatched", 404)
    found = samples(metrics)
    assert found["kasbah_http_requests_total", (("route", "/access/v1/evaluation"), ("status", "2xx"))] == 2
    assert found["kasbah_http_requests_total", (("route", "unmatched"), ("status", "4xx"))] == 1


def test_totals_of_other_parts_become_counters():
    """Only what they grew by is added, and a total that started over is no decrease."""
    metrics = Metrics()
    totals = {"member_hits": 5, "advances": 2}
    metrics.add_source(lambda: totals)
    metrics.set_age_source(lambda: (1.5, 3))
    samples(metrics)
    totals["member_hits"] = 9
    totals["advances"] = 0
    found = samples(metrics)
    assert found["kasbah_cache_lookups_total", (("cache", "membership"), ("outcome", "hit"))] == 9
    assert found["kasbah_events_total", (("event", "advances"),)] == 2
    totals["advances"] = 1
    assert samples(metrics)["kasbah_events_total", (("event", "advances"),)] == 3
    assert found["kasbah_snapshot_revision_age_seconds", ()] == 1.5
    assert found["kasbah_tenants_in_memory", ()] == 3


SCRIPT = """
import sys
from service.metrics import Metrics, OUTCOMES
metrics = Metrics()
metrics.count_decision(0, 0.001)
metrics.count_request("/healthz", 200)
metrics.set_age_source(lambda: (float(sys.argv[1]), 2))
print(metrics.render().decode())
"""


def test_several_processes_add_up(tmp_path):
    """A scrape of one answers for all, also for those that ended, and while another one is making its files."""
    (tmp_path / "counter_1.db").touch()
    environment = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "PATH": ""}
    outputs = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT, str(n)],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        for n in range(3)
    ]
    last = outputs[-1].stdout
    assert 'kasbah_decisions_total{decision="allow",reason="rule"} 3.0' in last
    assert "kasbah_decision_seconds_count 3.0" in last
    assert 'kasbah_http_requests_total{route="/healthz",status="2xx"} 3.0' in last


def test_an_outcome_does_not_depend_on_the_revision():
    """Labels stay a closed set."""
    assert outcome_of(replace(ALLOW, revision=8)) == outcome_of(ALLOW)


def test_samples_that_could_not_be_sent_are_outcomes_of_the_cross_check():
    """Beside what the process that compares counts, under the same name."""
    metrics = Metrics()
    metrics.add_source(lambda: {SAMPLES_DROPPED: 3})
    metrics.flush()
    assert samples(metrics)["kasbah_oracle_checks_total", (("outcome", "dropped"),)] == 3
