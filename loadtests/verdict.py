"""Compares what Locust measured with the thresholds."""

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_FAILURES = 20
_REQUEST_ID = re.compile(r',?"request_id":"[^"]*"')


@dataclass(frozen=True, slots=True)
class Measured:
    """One kind of request, or all of them. Latencies in milliseconds."""

    name: str
    requests: int
    failures: int
    per_second: float
    p50_ms: float
    p99_ms: float
    longest_ms: float


def measured_of(entry: Mapping[str, Any], seconds: float) -> Measured:
    """Return one entry of Locust's JSON; `response_times` counts requests by rounded milliseconds."""
    times = {float(milliseconds): count for milliseconds, count in entry["response_times"].items()}
    requests = int(entry["num_requests"])
    return Measured(
        name=str(entry["name"]),
        requests=requests,
        failures=int(entry["num_failures"]),
        per_second=requests / seconds if seconds else 0.0,
        p50_ms=quantile(times, 0.5),
        p99_ms=quantile(times, 0.99),
        longest_ms=float(entry["max_response_time"] or 0.0),
    )


def quantile(times: Mapping[float, int], share: float) -> float:
    """Return the value that `share` (0 to 1) of all counted ones do not exceed; 0.0 without any."""
    wanted = math.ceil(share * sum(times.values()))
    seen = 0
    for value in sorted(times):
        seen += times[value]
        if seen >= wanted:
            return value
    return 0.0


def failures_of(table: str) -> list[str]:
    """Return a line for each kind of failure in Locust's CSV, the most frequent first; request ids make no kind."""
    found: Counter[str] = Counter()
    for row in csv.DictReader(io.StringIO(table)):
        error = _REQUEST_ID.sub("", row["Error"].removeprefix("CatchResponseError('").removesuffix("')"))
        found[f"{row['Name']}: {error}"] += int(row["Occurrences"])
    return [f"{count:,} x {line}" for line, count in found.most_common(MAX_FAILURES)]


def missed(measured: Sequence[Measured], thresholds: Mapping[str, Any], *, rate: float) -> list[str]:
    """Return one line for each threshold that was not kept; a kind of request that never came is one, too.

    Args:
        measured: Each kind of request.
        thresholds: As in `thresholds.json`.
        rate: How often a second was to be asked.
    """
    lines = []
    failures = sum(one.failures for one in measured)
    if failures > thresholds["failures"]:
        lines.append(f"{failures} failed or wrong answers, at most {thresholds['failures']} allowed")
    answered, least = sum(one.per_second for one in measured), rate * thresholds["share_of_rate"]
    if answered < least:
        lines.append(f"{answered:.0f} answers a second, at least {least:.0f} wanted of {rate:.0f} asked")
    found = {one.name: one for one in measured}
    for name, limits in thresholds["requests"].items():
        one = found.get(name)
        if one is None or not one.requests:
            lines.append(f"{name}: no request was made")
            continue
        for quantity, limit in limits.items():
            value = getattr(one, quantity)
            if value > limit:
                lines.append(f"{name}: {quantity.removesuffix('_ms')} {value:.0f} ms, at most {limit} ms allowed")
    lines.extend(f"{name}: no threshold in thresholds.json" for name in found.keys() - thresholds["requests"].keys())
    return lines
