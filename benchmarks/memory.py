"""A node's memory and start when PostgreSQL holds far more than the node does.

1,000 tenants with 1,000 rules and 10,000 members each go into PostgreSQL by COPY; then `serve` starts, and is asked
about 1,000 members in each of 100 tenants. Memory is that of all its processes: the supervisor, one worker, the bulk
worker, and the one that compares answers with PyCasbin's; shared pages counted once (PSS), and in each (RSS).
"""

import asyncio
import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import psycopg
from psycopg.sql import SQL

from benchmarks.asking import asking
from benchmarks.generator import Generator, running_generator
from benchmarks.http_load import Order, write_pool
from benchmarks.installation import META, Installation, Tenant, new_installation
from benchmarks.machine import cores
from benchmarks.report import Check, Result, Table, say
from benchmarks.wire import batch, body_of
from benchmarks.workload import Workload
from service.bootstrap import Bootstrap
from tenancy.database import open_engine
from tests.support.running_service import RunningService
from tests.support.servers import plain_url

TENANTS = 1_000
QUICK_TENANTS = 100
TOUCHED = 100
RULES = 1_000
MEMBERS = 10_000
ASKED = 1_000
BATCH = 50
STARTS = 5
MEBIBYTE = 1024 * 1024
SETTLE_SECONDS = 15
"""How long the process that compares answers may work on before memory is looked at again."""
DEFAULTS = {"KASBAH_CROSS_CHECK_PER_SECOND": "1", "KASBAH_CROSS_CHECK_SHARE": "1", "KASBAH_BULK_WORKER": "on"}
"""All processes that `serve` starts by itself; the one that compares does not rest, so that it fills its cache."""
INDEXES = ("memberships_subject", "memberships_role")


def run(*, quick: bool = False) -> Result:
    """Load, start, ask, and look at the memory."""
    count = QUICK_TENANTS if quick else TENANTS
    result = Result("memory")
    workload = Workload("large", RULES, MEMBERS, roles_per_user=1)
    with new_installation() as installation:
        tenants = asyncio.run(create_tenants(installation, count))
        started = time.perf_counter()
        size = copy_rows(installation.database_url, tenants, workload)
        loading = time.perf_counter() - started
        starts = [start_seconds(installation) for _ in range(STARTS)]
        with installation.service(**DEFAULTS) as service, running_generator(cores()[0]) as generator:
            before = memory_of(service)
            say(f"memory: asking about {ASKED:,} members in each of {TOUCHED} tenants")
            touch(service, generator, tenants[:TOUCHED], workload)
            after = memory_of(service)
            compare(service, tenants[:TOUCHED], workload)
            later = memory_of(service)
            each = [f"{mebibytes(pss)} ({mebibytes(rss)})" for pss, rss in processes(service)]
    members = count * MEMBERS
    name = f"{count:,} tenants of {RULES:,} rules and {MEMBERS:,} members"
    peak = max(after, later)[0]
    result.checks += [
        Check(f"memory (PSS) after touching {TOUCHED} of {name}", peak / MEBIBYTE, "MiB", 400),
        Check(f"`serve` is ready, {name}", statistics.median(starts), "s", 2.0),
    ]
    rows = [
        ("memberships in PostgreSQL", f"{members:,}"),
        ("size of the database, MiB", f"{size / MEBIBYTE:,.0f}"),
        ("time of COPY and indexes, s", f"{loading:.0f}"),
        ("`serve` ready, s (median, at most)", f"{statistics.median(starts):.2f}, {max(starts):.2f}"),
        ("when ready, MiB: PSS (RSS)", both(before)),
        (f"after {TOUCHED * ASKED:,} members of {TOUCHED} tenants", both(after)),
        ("after comparisons with PyCasbin", both(later)),
        ("each process then", ", ".join(each)),
    ]
    result.tables.append(Table(f"A node before {name}", ("", ""), rows))
    result.figures = {
        "tenants": count,
        "database_bytes": size,
        "starts_seconds": starts,
        "pss_rss_bytes": {"ready": before, "touched": after, "later": later},
    }
    return result


async def create_tenants(installation: Installation, count: int) -> list[Tenant]:
    """Create empty tenants; those that will be asked about get a key."""
    engine = open_engine(installation.database_url)
    try:
        bootstrap = Bootstrap(engine)
        tenants = []
        for number in range(count):
            if number % 100 == 0:
                say(f"memory: {number:,} of {count:,} tenants created")
            slug = f"large-{number}"
            tenant_id = await bootstrap.ensure_tenant(slug, slug, meta=META)
            key = await bootstrap.create_key(tenant_id, "benchmark", meta=META) if number < TOUCHED else ""
            tenants.append(Tenant(tenant_id, slug, key))
        return tenants
    finally:
        await engine.dispose()


def copy_rows(database_url: str, tenants: Sequence[Tenant], workload: Workload) -> int:
    """Give every tenant the rows of one workload; returns the size of the database in bytes.

    No service runs yet, so revisions stay where they are.
    """
    rules = "".join(rule_lines(workload))
    members = "".join(membership_lines(workload))
    with psycopg.connect(plain_url(database_url), autocommit=True) as connection:
        definitions = [
            str(found[0])
            for found in connection.execute(
                "SELECT indexdef FROM pg_indexes WHERE indexname = ANY(%s)", (list(INDEXES),)
            ).fetchall()
        ]
        for name in INDEXES:
            connection.execute(f"DROP INDEX {name}")
        copy_for_all(
            connection,
            "COPY rules (tenant_id, rule_id, subject, resource, action, effect, added_revision, position, owner)",
            tenants,
            rules,
        )
        copy_for_all(
            connection,
            "COPY role_links (tenant_id, link_id, kind, member, role, added_revision, position, owner)",
            tenants,
            "".join(link_lines(workload)),
        )
        copy_for_all(connection, "COPY memberships (tenant_id, link_id, subject, role, owner)", tenants, members)
        say("memory: building the indexes")
        connection.execute("SET maintenance_work_mem = '512MB'")
        for definition in definitions:
            connection.execute(definition)
        connection.execute(
            "UPDATE tenants SET rules_count = %s, memberships_count = %s WHERE slug LIKE 'large-%%'",
            (len(workload.rules), workload.users),
        )
        connection.execute("VACUUM ANALYZE")
        row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
    return 0 if row is None else int(row[0])


def copy_for_all(
    connection: "psycopg.Connection[tuple[object, ...]]", statement: str, tenants: Sequence[Tenant], lines: str
) -> None:
    """Copy the same lines for every tenant; a line's `@` is the tenant's id."""
    for start in range(0, len(tenants), 50):
        say(f"memory: {statement.split()[1]} of {start:,} of {len(tenants):,} tenants copied")
        with connection.cursor().copy(SQL("{} FROM STDIN").format(SQL(statement))) as copy:
            for tenant in tenants[start : start + 50]:
                copy.write(lines.replace("@", str(tenant.tenant_id)))


def rule_lines(workload: Workload) -> Iterator[str]:
    """Yield COPY's text for the rules."""
    for position, rule in enumerate(workload.rules):
        cells = (rule.subject, rule.resource, rule.action, rule.effect.value, "1", str(position), "api")
        yield f"@\t\\\\x{rule.id}\t" + "\t".join(cells) + "\n"


def link_lines(workload: Workload) -> Iterator[str]:
    """Yield COPY's text for the hierarchy."""
    for position, link in enumerate(workload.hierarchy):
        yield f"@\t\\\\x{link.id}\tg\t{link.member}\t{link.role}\t1\t{position}\tapi\n"


def membership_lines(workload: Workload) -> Iterator[str]:
    """Yield COPY's text for the memberships."""
    for link in workload.memberships():
        yield f"@\t\\\\x{link.id}\t{link.member}\t{link.role}\tapi\n"


def start_seconds(installation: Installation) -> float:
    """Return how long `kasbah serve` takes from its start to /readyz."""
    started = time.perf_counter()
    with installation.service():
        return time.perf_counter() - started


def touch(service: RunningService, generator: Generator, tenants: Sequence[Tenant], workload: Workload) -> None:
    """Ask about many members of each tenant, in batches, and check the answers."""
    questions = workload.questions(ASKED)
    with tempfile.TemporaryDirectory(prefix="kasbah-pools-") as directory:
        pool = Path(directory) / "pool"
        requests = [
            batch(questions[start : start + BATCH], tenant.key)
            for tenant in tenants
            for start in range(0, len(questions), BATCH)
        ]
        write_pool(pool, requests)
        generator.carry_out(Order(service.port, str(pool), 4, 0.1, 0.0, whole_pool=True))


def compare(service: RunningService, tenants: Sequence[Tenant], workload: Workload) -> None:
    """Ask about single answers for a while, a sample of which is compared with PyCasbin's."""
    questions = workload.questions(len(tenants))
    ends = time.monotonic() + SETTLE_SECONDS
    with contextlib.ExitStack() as connections:
        askers = [connections.enter_context(asking(service.base_url, tenant.key)) for tenant in tenants]
        while time.monotonic() < ends:
            for asker, question in zip(askers, questions, strict=True):
                asker.post("/access/v1/evaluation", body_of(question))
                time.sleep(0.1)


def processes(service: RunningService) -> list[tuple[int, int]]:
    """Return (PSS, RSS) of each process of a service, in bytes; the supervisor first."""
    main = psutil.Process(service.process.pid)
    found = [process.memory_full_info() for process in (main, *main.children(recursive=True))]
    return [(int(memory.pss), int(memory.rss)) for memory in found]


def memory_of(service: RunningService) -> tuple[int, int]:
    """Return (PSS, RSS) of all processes of a service together."""
    found = processes(service)
    return sum(pss for pss, _ in found), sum(rss for _, rss in found)


def both(memory: tuple[int, int]) -> str:
    """Return PSS and RSS for a table."""
    return f"{mebibytes(memory[0])} ({mebibytes(memory[1])})"


def mebibytes(size: int) -> str:
    """Return whole mebibytes."""
    return f"{size / MEBIBYTE:.0f}"
