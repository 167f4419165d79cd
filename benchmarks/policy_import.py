"""Importing a large policy as a person would: `kasbah policy lint`, `plan` and `apply` on files, against a server."""

import asyncio
import csv
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.asking import asking
from benchmarks.installation import new_installation
from benchmarks.report import Check, Result, Table, say
from benchmarks.wire import body_of
from benchmarks.workload import MODEL, Workload
from service.bootstrap import create_platform_key
from tests.support.running_service import clean_environment

RULES = 100_000
QUICK_RULES = 10_000
USERS = 1_000
SLUG = "imported"


def run(*, quick: bool = False) -> Result:
    """Time the three commands, from start to end of each process."""
    count = QUICK_RULES if quick else RULES
    result = Result("policy_import")
    with new_installation() as installation:
        (tenant,) = installation.create([Workload(SLUG, 10, 10)])
        directory = installation.directory / "policies"
        write_policies(directory, Workload(SLUG, count, USERS))
        with installation.service() as service:
            key = asyncio.run(create_platform_key(installation.database_url, "benchmark"))
            environment = clean_environment(KASBAH_URL=service.base_url, KASBAH_API_KEY=key)
            plan = installation.directory / "plan.json"
            seconds = {
                "lint": timed(["lint", str(directory)], environment),
                "plan": timed(["plan", str(directory), "-o", str(plan)], environment),
                "apply": timed(["apply", str(plan), "--yes", "--reason", "benchmark"], environment),
            }
            check_applied(service.base_url, tenant.key, Workload(SLUG, count, USERS))
    total = sum(seconds.values())
    rows = [(name, f"{taken:.1f}") for name, taken in (*seconds.items(), ("together", total))]
    result.tables.append(Table(f"{count:,} rules and {3 * USERS:,} memberships, s", ("command", "seconds"), rows))
    result.checks.append(Check(f"lint, plan and apply of {count:,} rules", total, "s", 30.0))
    result.figures = {"rules": count, "seconds": seconds}
    return result


def write_policies(directory: Path, workload: Workload) -> None:
    """Write a policy directory with one tenant."""
    say(f"policy_import: writing {len(workload.rules):,} rules")
    (directory / workload.slug).mkdir(parents=True)
    (directory / "model.conf").write_text(MODEL, "utf-8")
    with (directory / workload.slug / "policy.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        for rule in workload.rules:
            writer.writerow(("p", rule.subject, workload.slug, rule.resource, rule.action, rule.effect.value))
        for link in (*workload.hierarchy, *workload.memberships()):
            writer.writerow(("g", link.member, link.role, workload.slug))


def timed(arguments: list[str], environment: dict[str, str]) -> float:
    """Run `kasbah policy …` and return its seconds."""
    say(f"policy_import: kasbah policy {' '.join(arguments)}")
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "service", "policy", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    taken = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(f"kasbah policy {arguments[0]} ended with {done.returncode}: {done.stdout[-2000:]}")
    return taken


def check_applied(base_url: str, key: str, workload: Workload) -> None:
    """Ask a few questions whose answers need the new rules."""
    with asking(base_url, key) as asker:
        for question in workload.questions(20):
            answer, _ = asker.post("/access/v1/evaluation", body_of(question))
            if answer["decision"] is not question.allowed:
                raise ValueError(f"after the import {question} was answered with {answer}")
