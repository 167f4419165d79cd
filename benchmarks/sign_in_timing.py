"""Whether the time of a refused sign-in tells who has an account: samples of each kind, one after the other.

Each name is tried once, so that nobody waits; kinds take turns, so that whatever else the machine does meets all alike.
"""

import asyncio
import http.client
import json
import statistics
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

from authn.password_hashing import PasswordHasher
from authn.password_settings import PasswordSettings
from authn.user_rows import insert_user
from authn.users import NewUser
from benchmarks.installation import META, Installation, Tenant, new_installation
from benchmarks.report import Check, Result, Table, say
from benchmarks.workload import Workload
from tenancy.audit import AuditEntry
from tenancy.database import open_engine, open_sessions
from tenancy.heads import lock_head, raise_head, record_change
from tenancy.unit_of_work import tenant_unit_of_work

SAMPLES = 500
LIMIT = 0.05
"""How far a median may be from that of a wrong password."""

RIGHT = "the right words of everyone"
KNOWN, DISABLED, NAMELESS, UNKNOWN, NOWHERE = "wrong password", "disabled", "no password", "unknown", "unknown tenant"
KINDS = (KNOWN, DISABLED, NAMELESS, UNKNOWN, NOWHERE)
PATIENT = {"KASBAH_SIGN_IN__NETWORK_FAILURES": "100000", "KASBAH_SIGN_IN__TENANT_FAILURES": "10000000"}
"""One machine is one network."""


def run(*, quick: bool = False) -> Result:
    """Measure refused sign-ins of each kind."""
    number = SAMPLES // 5 if quick else SAMPLES
    result = Result("sign_in_timing")
    workload = Workload("decided", 1_000, 100)
    with new_installation() as installation:
        (tenant,) = installation.create([workload])
        asyncio.run(people(installation, tenant, number))
        with installation.service(**PATIENT) as service:
            say(f"sign_in_timing: {number} samples of {len(KINDS)} kinds")
            times = measured(service.base_url, tenant.slug, number)
    medians = {kind: statistics.median(samples) for kind, samples in times.items()}
    rows = []
    for kind, samples in times.items():
        low, _, high = statistics.quantiles(samples, n=4)
        shown = [f"{seconds * 1e3:.2f}" for seconds in (low, medians[kind], high)]
        rows.append([kind, *shown, f"{medians[kind] / medians[KNOWN] - 1:+.2%}"])
    result.tables.append(Table("Refused sign-ins, ms", ("kind", "25 %", "median", "75 %", "of wrong password"), rows))
    result.figures["medians_ms"] = {kind: median * 1e3 for kind, median in medians.items()}
    worst = max(abs(median / medians[KNOWN] - 1) for median in medians.values())
    result.checks.append(Check("difference of medians of refused sign-ins", worst, "of the median", LIMIT))
    return result


async def people(installation: Installation, tenant: Tenant, number: int) -> None:
    """Make accounts of each kind that is one."""
    hasher = PasswordHasher(PasswordSettings(niceness=0, wait_seconds=30))
    stored = await hasher.hash(RIGHT)
    hasher.close()
    engine = open_engine(installation.database_url)
    async with tenant_unit_of_work(open_sessions(engine), tenant.tenant_id) as work:
        await lock_head(work)
        for kind in (KNOWN, DISABLED, NAMELESS):
            for position in range(number):
                name = name_of(kind, position)
                new = NewUser((name, name), password_hash=None if kind is NAMELESS else stored)
                await insert_user(work, new, created_by="benchmark")
        pattern = f"{KINDS.index(DISABLED)}person%"
        await (await work.session.connection()).exec_driver_sql(
            "UPDATE users SET status = 'disabled' WHERE username LIKE %s", (pattern,)
        )
        head = await raise_head(work, counts={"users": 3 * number})
        await record_change(work.session, head, "user", META, added=3 * number, audit=[AuditEntry("user.create")])
    await engine.dispose()


def measured(base_url: str, slug: str, number: int) -> dict[str, Sequence[float]]:
    """Return how long each sign-in took, in seconds; kinds take turns."""
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    parts = urlsplit(base_url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    for position in range(-3, number):  # the first few warm everything up
        for kind in KINDS:
            name = name_of(UNKNOWN if position < 0 else kind, position)
            tenant = f"{slug}-nowhere" if kind is NOWHERE else slug
            body = json.dumps({"identifier": name, "password": "some other words entirely"})
            headers = {"Content-Type": "application/json", "X-Tenant-ID": tenant}
            began = time.perf_counter()
            connection.request("POST", "/v1/auth/login", body, headers)
            answer = connection.getresponse()
            answer.read()
            took = time.perf_counter() - began
            if answer.status != 401:
                raise RuntimeError(f"{kind}: {answer.status}")
            if position >= 0:
                times[kind].append(took)
    connection.close()
    return dict(times)


def name_of(kind: str, position: int) -> str:
    """Return a username; all are of one length, whatever the kind."""
    return f"{KINDS.index(kind)}person{position + 100_000}"
