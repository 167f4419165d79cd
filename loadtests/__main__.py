"""`python -m loadtests`: prepare tenants, let Locust drive the service for a bounded time, hold it to the thresholds.

The service is the one of KASBAH_URL and KASBAH_API_KEY (a platform key), or of a running `kasbah dev`; with --own, or
when nothing names one, one is started with embedded servers, which holds few tenants, so that cold ones are cold.
It exits with 0, with 1 when a threshold was missed, and with 2 when there was nothing to drive.
"""

import argparse
import asyncio
import contextlib
import http.client
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.asking import RefusedError, asking
from benchmarks.installation import new_installation
from benchmarks.machine import about
from benchmarks.report import Table, print_table, say
from loadtests.plan import COLD_TENANTS, HOT_TENANTS, TenantPlan, prepare, write_plan
from loadtests.verdict import Measured, failures_of, measured_of, missed
from service.bootstrap import create_platform_key
from service.which_server import DEFAULT_STATE_DIR, DEV_FILE, NoServerError, Server, find_server

HERE = Path(__file__).resolve().parent
WARM_TENANTS = 12
RATE = 200
STOP_SECONDS = 10


def main(arguments: list[str] | None = None) -> int:
    """Run; returns 1 when a threshold was not kept, 2 when the service could not be asked."""
    parser = argparse.ArgumentParser(prog="python -m loadtests", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer tenants, 15 seconds")
    parser.add_argument("--seconds", type=int, metavar="N", help="how long the load lasts (default: 60)")
    parser.add_argument("--users", type=int, default=20, metavar="N", help="simulated callers (default: 20)")
    parser.add_argument("--rate", type=float, default=RATE, metavar="N", help=f"asked a second, all together ({RATE})")
    parser.add_argument("--own", action="store_true", help="start a service even if one is running")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="worker processes of an own service")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write what was measured as JSON")
    parser.add_argument("--report", type=Path, default=Path("reports/loadtest.html"), metavar="FILE")
    parser.add_argument("--thresholds", type=Path, default=HERE / "thresholds.json", metavar="FILE")
    options = parser.parse_args(arguments)
    thresholds = json.loads(options.thresholds.read_text("utf-8"))
    seconds = options.seconds or (15 if options.quick else 60)
    hot, cold = (1, 6) if options.quick else (HOT_TENANTS, COLD_TENANTS)
    machine = about()
    try:
        with service(own=options.own, workers=options.workers) as server:
            load = Load(options.users, options.rate, seconds)
            measured, failures = put_load(server, load, options.report, hot=hot, cold=cold)
    except (NoServerError, RefusedError, OSError, http.client.HTTPException) as error:
        say(f"loadtest: no load was put on the service: {error}")
        return 2
    show(measured)
    for line in failures:
        say(f"failed: {line}")
    say(", ".join(f"{name} {value}" for name, value in machine.items()))
    lines = missed(measured, thresholds, rate=options.rate)
    if options.json is not None:
        write_json(options.json, measured, lines, machine)
    for line in lines:
        say(f"threshold missed: {line}")
    say(f"{'thresholds missed' if lines else 'all thresholds kept'}; report: {options.report}")
    return 1 if lines else 0


@contextlib.contextmanager
def service(*, own: bool, workers: int) -> Iterator[Server]:
    """Find the service, or start one for the time of the test."""
    if not own and is_named():
        server = find_server()
        say(f"loadtest: the service at {server.base_url}, found in {server.found_in}")
        yield server
        return
    with new_installation() as installation:
        key = asyncio.run(create_platform_key(installation.database_url, "load test"))
        settings = {
            "KASBAH_WORKERS": str(workers),
            "KASBAH_AUTHZ__MAX_WARM_TENANTS": str(WARM_TENANTS),
            "KASBAH_CROSS_CHECK_PER_SECOND": "1",  # as by default
        }
        with installation.service(**settings) as running:
            say(f"loadtest: started a service at {running.base_url}")
            yield Server(running.base_url, key, "its own start")


def is_named() -> bool:
    """Whether anything names a service; another one must not be driven instead because of a mistake in it."""
    if os.environ.get("KASBAH_URL") or os.environ.get("KASBAH_API_KEY"):
        return True
    return (Path(os.environ.get("KASBAH_STATE_DIR") or DEFAULT_STATE_DIR) / DEV_FILE).exists()


@dataclass(frozen=True, slots=True)
class Load:
    """How many callers ask how often a second, all together, and for how many seconds."""

    users: int
    rate: float
    seconds: int


def put_load(server: Server, load: Load, report: Path, *, hot: int, cold: int) -> tuple[list[Measured], list[str]]:
    """Prepare tenants and drive the service; returns as `drive`.

    Raises:
        RefusedError, OSError, HTTPException: the tenants could not be prepared.
    """
    with tempfile.TemporaryDirectory() as name:
        plan = Path(name) / "plan.json"
        with asking(server.base_url, server.api_key) as asker:
            tenants: list[TenantPlan] = []
            for tenant in prepare(asker, hot, cold):
                say(f"loadtest: {tenant.slug} is ready ({len(tenants) + 1} of {hot + cold})")
                tenants.append(tenant)
        write_plan(plan, tenants)
        report.parent.mkdir(parents=True, exist_ok=True)
        return drive(server.base_url, plan, report, load)


def drive(base_url: str, plan: Path, report: Path, load: Load) -> tuple[list[Measured], list[str]]:
    """Run Locust without its web page; return what it measured, and a line for each kind of failure.

    Raises:
        RuntimeError: it ended without results.
    """
    users, seconds = load.users, load.seconds
    say(f"loadtest: {users} callers ask {load.rate:g} times a second for {seconds} s")
    with tempfile.TemporaryDirectory() as name:
        results = Path(name) / "results"
        command = [sys.executable, "-m", "locust", "-f", str(HERE / "scenarios.py"), "--headless", "--only-summary"]
        command += ["--host", base_url, "-u", str(users), "-r", str(users), "-t", f"{seconds}s", "-L", "WARNING"]
        command += ["--stop-timeout", str(STOP_SECONDS), "--html", str(report), "--json-file", str(results)]
        command += ["--csv", str(Path(name) / "locust")]
        environment = os.environ | {
            "KASBAH_LOADTEST_PLAN": str(plan),
            "KASBAH_LOADTEST_PACE": str(load.rate / users),
        }
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=seconds + 60 + STOP_SECONDS
        )
        written = next(iter(Path(name).glob("results*")), None)
        if written is None:
            raise RuntimeError(f"locust ended with {done.returncode}: {done.stdout[-2000:]}{done.stderr[-4000:]}")
        entries: list[dict[str, Any]] = json.loads(written.read_text("utf-8"))
        failures = failures_of((Path(name) / "locust_failures.csv").read_text("utf-8"))
    return sorted((measured_of(entry, seconds) for entry in entries), key=lambda one: one.name), failures


def show(measured: list[Measured]) -> None:
    """Print the table."""
    rows = [
        (
            one.name,
            f"{one.requests:,}",
            f"{one.failures:,}",
            f"{one.per_second:.1f}",
            f"{one.p50_ms:.0f}",
            f"{one.p99_ms:.0f}",
            f"{one.longest_ms:.0f}",
        )
        for one in measured
    ]
    columns = ("requests", "count", "failed or wrong", "per second", "p50, ms", "p99, ms", "longest, ms")
    print_table(Table("Load test", columns, rows))


def write_json(path: Path, measured: list[Measured], lines: list[str], machine: dict[str, str]) -> None:
    """Write what was measured."""
    kinds = {
        one.name: {"requests": one.requests, "failures": one.failures, "p50_ms": one.p50_ms, "p99_ms": one.p99_ms}
        for one in measured
    }
    path.write_text(json.dumps({"about": machine, "missed": lines, "requests": kinds}, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    sys.exit(main())
