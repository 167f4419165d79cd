"""What decisions feel while ten times as many people sign in as one worker can hash passwords of.

Every second password is wrong, which costs a whole hash all the same; a right one begins a session besides. What
overflows is answered 503 at once. The flood comes from a process of its own, at the lowest priority: it sends as much
as before, from elsewhere, as far as one machine can; it is there while idle is measured, too, and waits.
"""

import asyncio
import contextlib
import http.client
import json
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event
from urllib.parse import urlsplit

from authn.password_hashing import PasswordHasher
from authn.password_settings import PasswordSettings
from authn.user_rows import insert_user
from authn.users import NewUser
from benchmarks.installation import META, Installation, Tenant, new_installation
from benchmarks.report import Check, Result, say
from benchmarks.steady import add_table, steadily_asked, timed
from benchmarks.wire import body_of
from benchmarks.workload import Workload
from tenancy.audit import AuditEntry
from tenancy.database import open_engine, open_sessions
from tenancy.heads import lock_head, raise_head, record_change
from tenancy.unit_of_work import tenant_unit_of_work

PEOPLE = 200
CLIENTS = 48
"""More than may wait for a hash in one process."""
FLOOD_FACTOR = 10
SECONDS = 20.0
RATIO_LIMIT = 1.5
RIGHT = "the right words of everyone"
WRONG = "some other words"
UNHURRIED = PasswordSettings(niceness=0, wait_seconds=30)
"""What an installation has, but for who waits."""
ONE_NETWORK = {"KASBAH_SIGN_IN__NETWORK_FAILURES": "100000", "KASBAH_SIGN_IN__TENANT_FAILURES": "10000000"}
"""One machine is one network, which would be made to wait before anything is hashed."""


def run(*, quick: bool = False) -> Result:
    """Measure a warm tenant idle, and while sign-ins flood in."""
    seconds = SECONDS / 4 if quick else SECONDS
    result = Result("sign_in_flood")
    workload = Workload("decided", 1_000, 100)
    questions = [body_of(question) for question in workload.questions(100)]
    took = asyncio.run(hash_seconds())
    say(f"sign_in_flood: one hash takes {took * 1e3:.0f} ms")
    answers: Counter[int] = Counter()
    with new_installation() as installation:
        (tenant,) = installation.create([workload])
        asyncio.run(people(installation, tenant))
        with (
            installation.service(**ONE_NETWORK, KASBAH_PASSWORDS__NICENESS=str(PasswordSettings().niceness)) as service,
            flooding(service.base_url, tenant.slug, (seconds, FLOOD_FACTOR / took)) as (go, found),
            steadily_asked(service.base_url, tenant, questions) as samples,
        ):
            sign_in(service.base_url, tenant.slug, 0)
            say("sign_in_flood: idle")
            phases = [timed("idle", lambda: time.sleep(seconds))]
            say(f"sign_in_flood: {FLOOD_FACTOR / took:.0f} sign-ins a second")
            go.set()
            phases.append(timed(f"{FLOOD_FACTOR} times as many sign-ins", lambda: answers.update(found.get())))
    add_table(result, "Decisions while sign-ins flood in, ms", phases, samples)
    say(f"sign_in_flood: answers by status {dict(answers)}")
    result.figures["answers"] = {str(status): number for status, number in answers.items()}
    ratio = phases[1].latencies(samples).quantile(0.99) / phases[0].latencies(samples).quantile(0.99)
    result.checks.append(Check("decisions' p99 in the flood, to idle", ratio, "times", RATIO_LIMIT))
    return result


async def hash_seconds() -> float:
    """Return how long one hash takes here."""
    hasher = PasswordHasher(UNHURRIED)
    await hasher.hash(RIGHT)
    began = time.monotonic()
    await hasher.hash(RIGHT)
    hasher.close()
    return time.monotonic() - began


async def people(installation: Installation, tenant: Tenant) -> None:
    """Make people with a password."""
    hasher = PasswordHasher(UNHURRIED)
    stored = await hasher.hash(RIGHT)
    hasher.close()
    engine = open_engine(installation.database_url)
    async with tenant_unit_of_work(open_sessions(engine), tenant.tenant_id) as work:
        await lock_head(work)
        for number in range(PEOPLE):
            name = (f"person{number}", f"person{number}")
            await insert_user(work, NewUser(name, password_hash=stored), created_by="benchmark")
        head = await raise_head(work, counts={"users": PEOPLE})
        await record_change(work.session, head, "user", META, added=PEOPLE, audit=[AuditEntry("user.create")])
    await engine.dispose()


@contextlib.contextmanager
def flooding(
    base_url: str, slug: str, pace: tuple[float, float]
) -> Iterator[tuple[Event, "SimpleQueue[Counter[int]]"]]:
    """Start the process that floods; yield what lets it begin, and where it puts its answers by status.

    Args:
        base_url: Of the service.
        slug: Whose people.
        pace: For how many seconds, and how many sign-ins in each.
    """
    spawn = multiprocessing.get_context("spawn")
    go, found = spawn.Event(), spawn.SimpleQueue()
    process = spawn.Process(target=flood, args=(base_url, slug, pace, go, found))
    process.start()
    try:
        yield go, found
    finally:
        process.terminate()
        process.join()


def flood(base_url: str, slug: str, pace: tuple[float, float], go: Event, found: "SimpleQueue[Counter[int]]") -> None:
    """Sign people in, whatever is answered; count answers by status."""
    os.nice(19)
    seconds, per_second = pace
    go.wait()
    ends = time.monotonic() + seconds

    def client(first: int) -> Counter[int]:
        """Be one client: one sign-in every so often, or as soon as the one before was answered."""
        answers: Counter[int] = Counter()
        due = time.monotonic()
        while due < ends:
            time.sleep(max(0.0, due - time.monotonic()))
            answers[sign_in(base_url, slug, first + CLIENTS * answers.total())] += 1
            due = max(due + CLIENTS / per_second, time.monotonic())
        return answers

    answers: Counter[int] = Counter()
    with ThreadPoolExecutor(CLIENTS) as clients:
        for one in clients.map(client, range(CLIENTS)):
            answers.update(one)
    found.put(answers)


def sign_in(base_url: str, slug: str, number: int) -> int:
    """Sign somebody in on a connection of its own, every second time with a wrong password; return the status."""
    parts = urlsplit(base_url)
    who = {"identifier": f"person{number % PEOPLE}", "password": WRONG if number % 2 else RIGHT}
    with contextlib.closing(http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)) as connection:
        headers = {"Content-Type": "application/json", "X-Tenant-ID": slug}
        connection.request("POST", "/v1/auth/login", json.dumps(who), headers)
        with connection.getresponse() as answer:
            answer.read()
            return answer.status
