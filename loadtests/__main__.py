"""`python -m loadtests`: prepare tenants, let Locust drive the service for a bounded time, hold it to the thresholds.

The service is the one of KASBAH_URL and KASBAH_API_KEY (a platform key), or of a running `kasbah dev`; with --own, or
when there is none, one is started with embedded servers, which holds only a few tenants, so that cold ones are cold.
"""

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.asking import asking
from benchmarks.installation import new_installation
from benchmarks.machine import about
from benchmarks.report import Table, print_table, say
from loadtests.plan import COLD_TENANTS, HOT_TENANTS, prepare, write_plan
from loadtests.verdict import Measured, measured_of, missed
from service.bootstrap import create_platform_key
from service.client import NoServerError, Server, find_server

HERE = Path(__file__).resolve().parent
WARM_TENANTS = 12
STOP_SECONDS = 10


def main(arguments: list[str] | None = None) -> int:
    """Run; returns 1 when a threshold was not kept."""
    parser = argparse.ArgumentParser(prog="python -m loadtests", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer tenants, 15 seconds")
    parser.add_argument("--seconds", type=int, metavar="N", help="how long the load lasts (default: 60)")
    parser.add_argument("--users", type=int, default=20, metavar="N", help="simulated callers (default: 20)")
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
    with service(own=options.own, workers=options.workers) as server, tempfile.TemporaryDirectory() as name:
        plan = Path(name) / "plan.json"
        with asking(server.base_url, server.api_key) as asker:
            tenants = []
            for tenant in prepare(asker, hot, cold):
                say(f"loadtest: {tenant.slug} is ready")
                tenants.append(tenant)
        write_plan(plan, tenants)
        options.report.parent.mkdir(parents=True, exist_ok=True)
        measured = drive(server.base_url, plan, options.report, users=options.users, seconds=seconds)
    show(measured)
    say(", ".join(f"{name} {value}" for name, value in machine.items()))
    lines = missed(measured, thresholds)
    if options.json is not None:
        write_json(options.json, measured, lines, machine)
    for line in lines:
        say(f"threshold missed: {line}")
    say(f"{'thresholds missed' if lines else 'all thresholds kept'}; report: {options.report}")
    return 1 if lines else 0


@contextlib.contextmanager
def service(*, own: bool, workers: int) -> Iterator[Server]:
    """Find the service, or start one for the time of the test."""
    if not own:
        with contextlib.suppress(NoServerError):
            server = find_server()
            say(f"loadtest: the service at {server.base_url}, found in {server.found_in}")
            yield server
            return
    with new_installation() as installation:
        key = asyncio.run(create_platform_key(installation.database_url, "load test"))
        settings = {"KASBAH_WORKERS": str(workers), "KASBAH_AUTHZ__MAX_WARM_TENANTS": str(WARM_TENANTS)}
        with installation.service(**settings) as running:
            say(f"loadtest: started a service at {running.base_url}")
            yield Server(running.base_url, key, "its own start")


def drive(base_url: str, plan: Path, report: Path, *, users: int, seconds: int) -> list[Measured]:
    """Run Locust without its web page and return what it measured.

    Raises:
        RuntimeError: it ended without results.
    """
    say(f"loadtest: {users} callers for {seconds} s")
    with tempfile.TemporaryDirectory() as name:
        results = Path(name) / "results"
        command = [sys.executable, "-m", "locust", "-f", str(HERE / "scenarios.py"), "--headless", "--only-summary"]
        command += ["--host", base_url, "-u", str(users), "-r", str(users), "-t", f"{seconds}s"]
        command += ["--stop-timeout", str(STOP_SECONDS), "--html", str(report), "--json-file", str(results)]
        environment = os.environ | {"KASBAH_LOADTEST_PLAN": str(plan)}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=seconds + 60 + STOP_SECONDS
        )
        written = next(iter(Path(name).glob("results*")), None)
        if written is None:
            raise RuntimeError(f"locust ended with {done.returncode}: {done.stdout[-2000:]}{done.stderr[-4000:]}")
        entries: list[dict[str, Any]] = json.loads(written.read_text("utf-8"))
        if any(entry["num_failures"] for entry in entries):
            say(done.stdout[-6000:] + done.stderr[-2000:])
    return sorted((measured_of(entry, seconds) for entry in entries), key=lambda one: one.name)


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
