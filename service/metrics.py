"""Prometheus metrics. The decision path adds plain integers; prometheus-client gets them each second and at a scrape.

With several worker processes, `PROMETHEUS_MULTIPROC_DIR` must be set before this module is imported; a scrape of any
worker then answers for all. Every label comes from a closed set.
"""

import os
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

from authz.cross_check import Comparison
from authz.decision import Decision, Reason

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

OUTCOMES: tuple[tuple[str, str], ...] = (
    ("allow", Reason.RULE.value),
    *(("deny", reason.value) for reason in Reason),
    ("deny", "invalid_item"),
)
"""Every (decision, reason) there is; `count_decision` takes a position in it."""

ALLOW_RULE = 0
INVALID_ITEM = len(OUTCOMES) - 1
_DENY_BY_REASON = {reason: 1 + position for position, reason in enumerate(Reason)}

BOUNDS = (0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0)
"""Upper bounds of the latency histogram, in seconds."""

CACHE_EVENTS = {
    "member_hits": ("membership", "hit"),
    "member_misses": ("membership", "miss"),
    "snapshots_from_cache": ("snapshot", "hit"),
    "snapshots_from_database": ("snapshot", "miss"),
    "key_hits": ("api_key", "hit"),
    "key_misses": ("api_key", "miss"),
    "signed_token_hits": ("signed_token", "hit"),
    "signed_token_misses": ("signed_token", "miss"),
    "introspection_hits": ("introspection", "hit"),
    "introspection_misses": ("introspection", "miss"),
}
"""Events that are look-ups in a cache: which, and how it came out."""

SAMPLES_DROPPED = "cross_check_samples_dropped"
"""Event that is a sample for the cross-check which came to nothing."""

STATUS_CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx")


def outcome_of(decision: Decision) -> int:
    """Return the position of a decision in `OUTCOMES`."""
    return ALLOW_RULE if decision.allowed else _DENY_BY_REASON[decision.reason]


def comparison_counter(registry: CollectorRegistry) -> Counter:
    """Return the counter of samples by what came of them; workers and the process that compares add to the same."""
    return Counter(
        "kasbah_oracle_checks", "Answers sampled for a comparison with PyCasbin's", ["outcome"], registry=registry
    )


class _OfAllProcesses(MultiProcessCollector):
    """Reads what all processes counted, but for files that one of them is just making: those have no length yet."""

    def collect(self) -> Iterable[Metric]:
        files = [str(path) for path in Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).glob("*.db") if _has_begun(path)]
        merged: Iterable[Metric] = self.merge(files, accumulate=True)  # type: ignore[no-untyped-call]
        return merged


def _has_begun(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:  # of a process that ended
        return False


class Metrics:
    """One per process."""

    def __init__(self, *, public: bool = True) -> None:
        """Count everything; with `public` off only what nobody counts but the process in which it happens."""
        self._public = public
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._multi_process = bool(os.environ.get("PROMETHEUS_MULTIPROC_DIR"))
        self._registry = CollectorRegistry()
        registry = self._registry
        decisions = Counter("kasbah_decisions", "Decisions by outcome", ["decision", "reason"], registry=registry)
        self._decisions = [decisions.labels(decision, reason) for decision, reason in OUTCOMES]
        self._seconds = Histogram(
            "kasbah_decision_seconds",
            "Time from a parsed decision request to its answer, the whole batch for a batch",
            buckets=BOUNDS,
            registry=registry,
        )
        self._requests = Counter(
            "kasbah_http_requests", "Answers by route and status class", ["route", "status"], registry=registry
        )
        self._age = Gauge(
            "kasbah_snapshot_revision_age_seconds",
            "Time since PostgreSQL last confirmed the least recently confirmed tenant in memory",
            multiprocess_mode="livemax",
            registry=registry,
        )
        self._tenants = Gauge(
            "kasbah_tenants_in_memory", "Tenants with a snapshot", multiprocess_mode="livesum", registry=registry
        )
        self._caches = Counter(
            "kasbah_cache_lookups", "Look-ups by cache and outcome", ["cache", "outcome"], registry=registry
        )
        self._events = Counter(
            "kasbah_events", "What happened in the node and its logs, by name", ["event"], registry=registry
        )
        self._job_runs = Counter(
            "kasbah_job_runs", "Runs of background jobs by outcome", ["job", "outcome"], registry=registry
        )
        self._job_seconds = Counter("kasbah_job_seconds", "Time that background jobs took", ["job"], registry=registry)
        self._audit_behind = Gauge(
            "kasbah_audit_behind_seconds",
            "Time that the oldest event of the audit has waited to be signed and delivered",
            multiprocess_mode="livemax",
            registry=registry,
        )
        self._samples_dropped = comparison_counter(registry).labels(Comparison.DROPPED.value)
        self._sign_ins = Counter(
            "kasbah_sign_ins", "Steps of sign-ins by outcome and method", ["outcome", "method"], registry=registry
        )
        self._pending_decisions = [0] * len(OUTCOMES)
        self._pending_buckets = [0] * (len(BOUNDS) + 1)
        self._pending_seconds = 0.0
        self._pending_requests: dict[tuple[str, str], int] = {}
        self._request_cells: list[tuple[tuple[str, str], list[int]]] = []
        self._totals: dict[str, int] = {}
        self._sources: list[Callable[[], Mapping[str, int]]] = []
        self._age_source: Callable[[], tuple[float, int]] | None = None

    def count_decision(self, outcome: int, seconds: float) -> None:
        """Add one decision; two list items and a sum, nothing else."""
        self._pending_decisions[outcome] += 1
        self._pending_buckets[bisect_left(BOUNDS, seconds)] += 1
        self._pending_seconds += seconds

    def count_outcome(self, outcome: int) -> None:
        """Add one decision of a batch, whose time is observed once."""
        self._pending_decisions[outcome] += 1

    def count_outcomes(self, outcome: int, count: int) -> None:
        """Add `count` decisions of a batch."""
        self._pending_decisions[outcome] += count

    def observe(self, seconds: float) -> None:
        """Add the time of a batch."""
        self._pending_buckets[bisect_left(BOUNDS, seconds)] += 1
        self._pending_seconds += seconds

    def count_request(self, route: str, status: int) -> None:
        """Add one answer; `route` is a path of the route table or `unmatched`, never what a caller sent."""
        key = (route, STATUS_CLASSES[status // 100 - 1])
        self._pending_requests[key] = self._pending_requests.get(key, 0) + 1

    def request_cell(self, route: str, status: int) -> list[int]:
        """Return a cell whose one item its owner counts answers in; each flush takes what is there."""
        cell = [0]
        self._request_cells.append(((route, STATUS_CLASSES[status // 100 - 1]), cell))
        return cell

    def count_job(self, job: str, outcome: str, seconds: float) -> None:
        """Add one run of a job, `done` or `failed`; at once, for the process that runs jobs may flush nothing else."""
        self._job_runs.labels(job, outcome).inc()
        self._job_seconds.labels(job).inc(seconds)

    def count_event(self, event: str) -> None:
        """Add one event, of a closed set of names, at once: for jobs, as `count_job`."""
        self._events.labels(event).inc()

    def count_sign_in(self, outcome: str, method: str) -> None:
        """Add one step of a sign-in; both are of closed sets, and neither tells of anybody."""
        self._sign_ins.labels(outcome, method).inc()

    def set_audit_behind(self, seconds: float) -> None:
        """Say for how long the oldest event of the audit has waited for its sink."""
        self._audit_behind.set(seconds)

    def add_source(self, source: Callable[[], Mapping[str, int]], *, everywhere: bool = False) -> None:
        """Read totals that only grow, by event name, from another part at each flush.

        Args:
            source: What gives them.
            everywhere: Whether they count in the bulk worker, too, where others have counted its requests.
        """
        if self._public or everywhere:
            self._sources.append(source)

    def set_age_source(self, source: Callable[[], tuple[float, int]]) -> None:
        """Read (seconds since the oldest confirmation, tenants in memory) at each flush."""
        if self._public:
            self._age_source = source

    def flush(self) -> None:
        """Hand what was added to prometheus-client."""
        if self._public:
            self._flush_answers()
        for source in self._sources:
            for name, total in source().items():
                grown = total - self._totals.get(name, 0)
                if grown > 0:
                    self._counter_of(name).inc(grown)
                self._totals[name] = total
        if self._age_source is not None:
            age, tenants = self._age_source()
            self._age.set(age)
            self._tenants.set(tenants)

    def _flush_answers(self) -> None:
        for position, count in enumerate(self._pending_decisions):
            if count:
                self._decisions[position].inc(count)
                self._pending_decisions[position] = 0
        self._flush_seconds()
        for (route, status), cell in self._request_cells:
            if cell[0]:
                self._requests.labels(route, status).inc(cell[0])
                cell[0] = 0
        for (route, status), count in self._pending_requests.items():
            self._requests.labels(route, status).inc(count)
        self._pending_requests.clear()

    def _counter_of(self, name: str) -> Counter:
        if name == SAMPLES_DROPPED:
            return self._samples_dropped
        cache = CACHE_EVENTS.get(name)
        return self._events.labels(name) if cache is None else self._caches.labels(*cache)

    def _flush_seconds(self) -> None:
        # prometheus-client has no way to add many observations at once; tests hold it to these two attributes.
        buckets, total = self._seconds._buckets, self._seconds._sum  # noqa: SLF001
        for position, count in enumerate(self._pending_buckets):
            if count:
                buckets[position].inc(count)
                self._pending_buckets[position] = 0
        if self._pending_seconds:
            total.inc(self._pending_seconds)
            self._pending_seconds = 0.0

    def render(self) -> bytes:
        """Return the exposition, of all worker processes when there are several."""
        self.flush()
        if not self._multi_process:
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        registry.register(_OfAllProcesses(None))  # type: ignore[no-untyped-call]
        return generate_latest(registry)
