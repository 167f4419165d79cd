"""What decisions feel while ten times as many passwords come in as one worker can hash.

Everyone who is signed in tries to change their password and gives a wrong present one, which costs a whole hash. What
overflows is answered 503 at once. The flood comes from a process of its own, at the lowest priority: it sends as much
as before, from elsewhere, as far as one machine can; it is there while idle is measured, too, and waits.
"""

import asyncio
import contextlib
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event

from authn.password_hashing import PasswordHasher
from authn.password_settings import PasswordSettings
from authn.session_storage import ValkeySessionStore
from authn.sessions import Acr, Session
from authn.user_rows import insert_user, read_user
from authn.users import NewUser
from authn.volatile_values import VolatileValues
from benchmarks.asking import RefusedError, asking
from benchmarks.installation import META, Installation, Tenant, new_installation
from benchmarks.report import Check, Result, say
from benchmarks.steady import add_table, steadily_asked, timed
from benchmarks.wire import body_of
from benchmarks.workload import Workload
from tenancy.audit import AuditEntry
from tenancy.database import open_engine, open_sessions
from tenancy.heads import lock_head, raise_head, record_change
from tenancy.unit_of_work import tenant_unit_of_work
from tenancy.uuid7 import make_uuid7
from tests.support.running_service import SECRET_KEY

PEOPLE = 200
CLIENTS = 48
"""More than may wait for a hash in one process."""
FLOOD_FACTOR = 10
SECONDS = 20.0
RATIO_LIMIT = 2.0
PATH = "/v1/users/me/password"
RIGHT = "the right words of everyone"
WRONG = {"current_password": "some other words", "new_password": "even more other words"}
UNHURRIED = PasswordSettings(niceness=0, wait_seconds=30)
"""What an installation has, but for who waits."""


def run(*, quick: bool = False) -> Result:
    """Measure a warm tenant idle, and while passwords flood in."""
    seconds = SECONDS / 4 if quick else SECONDS
    result = Result("password_flood")
    workload = Workload("decided", 1_000, 100)
    questions = [body_of(question) for question in workload.questions(100)]
    took = asyncio.run(hash_seconds())
    say(f"password_flood: one hash takes {took * 1e3:.0f} ms")
    answers: Counter[int] = Counter()
    with new_installation() as installation:
        (tenant,) = installation.create([workload])
        tokens = asyncio.run(people(installation, tenant))
        with (
            installation.service(KASBAH_PASSWORDS__NICENESS=str(PasswordSettings().niceness)) as service,
            flooding(service.base_url, tokens, seconds, FLOOD_FACTOR / took) as (go, found),
            steadily_asked(service.base_url, tenant, questions) as samples,
        ):
            arrive(service.base_url, tokens)
            say("password_flood: idle")
            phases = [timed("idle", lambda: time.sleep(seconds))]
            say(f"password_flood: {FLOOD_FACTOR / took:.0f} passwords a second")
            go.set()
            phases.append(timed(f"{FLOOD_FACTOR} times as many passwords", lambda: answers.update(found.get())))
    add_table(result, "Decisions while passwords flood in, ms", phases, samples)
    say(f"password_flood: answers by status {dict(answers)}")
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


async def people(installation: Installation, tenant: Tenant) -> list[str]:
    """Make people with a password, and sign each in; return their tokens."""
    hasher = PasswordHasher(UNHURRIED)
    stored = await hasher.hash(RIGHT)
    hasher.close()
    engine = open_engine(installation.database_url)
    users = []
    async with tenant_unit_of_work(open_sessions(engine), tenant.tenant_id) as work:
        await lock_head(work)
        for number in range(PEOPLE):
            name = (f"person{number}", f"person{number}")
            user = await insert_user(work, NewUser(name, password_hash=stored), created_by="benchmark")
            users.append(await read_user(work, user.id))
        head = await raise_head(work, counts={"users": PEOPLE})
        await record_change(work.session, head, "user", META, added=PEOPLE, audit=[AuditEntry("user.create")])
    await engine.dispose()
    values = VolatileValues(installation.redis_url, SECRET_KEY.encode(), timeout_seconds=5)
    store = ValkeySessionStore(values)
    now = datetime.now(UTC)
    tokens = []
    for held in users:
        assert held is not None
        session = Session(
            session_id=make_uuid7(now, os.urandom(10)),
            tenant_id=tenant.tenant_id,
            user_id=held.user.id,
            auth_epoch=held.auth_epoch,
            acr=Acr.AAL1,
            amr=("pwd",),
            auth_time=now,
            created_at=now,
            expires_at=now + timedelta(hours=1),
            idle_seconds=3600,
            last_seen_at=now,
        )
        tokens.append((await store.put(session)).token)
    await values.close()
    return tokens


def arrive(base_url: str, tokens: list[str]) -> None:
    """Have every sign-in looked up once, and one password hashed: what follows is about passwords alone."""
    for number, token in enumerate(tokens):
        with asking(base_url, token) as asker, contextlib.suppress(RefusedError):
            asker.post(PATH, WRONG if number == 0 else {})


@contextlib.contextmanager
def flooding(
    base_url: str, tokens: list[str], seconds: float, per_second: float
) -> Iterator[tuple[Event, "SimpleQueue[Counter[int]]"]]:
    """Start the process that floods; yield what lets it begin, and where it puts its answers by status."""
    spawn = multiprocessing.get_context("spawn")
    go, found = spawn.Event(), spawn.SimpleQueue()
    process = spawn.Process(target=flood, args=(base_url, tokens, (seconds, per_second), go, found))
    process.start()
    try:
        yield go, found
    finally:
        process.terminate()
        process.join()


def flood(
    base_url: str,
    tokens: list[str],
    pace: tuple[float, float],
    go: Event,
    found: "SimpleQueue[Counter[int]]",
) -> None:
    """Send wrong passwords for so many seconds, so many each second, whatever is answered; count answers by status."""
    os.nice(19)
    seconds, per_second = pace
    go.wait()
    ends = time.monotonic() + seconds
    answers: Counter[int] = Counter()
    with ThreadPoolExecutor(CLIENTS) as clients:
        shares = [tokens[start::CLIENTS] for start in range(CLIENTS)]
        for one in clients.map(lambda share: client(base_url, share, ends, CLIENTS / per_second), shares):
            answers.update(one)
    found.put(answers)


def client(base_url: str, tokens: list[str], ends: float, pause: float) -> Counter[int]:
    """Be one client: one request every `pause` seconds, or as soon as the one before was answered."""
    answers: Counter[int] = Counter()
    due = time.monotonic()
    while due < ends:
        time.sleep(max(0.0, due - time.monotonic()))
        with asking(base_url, tokens[answers.total() % len(tokens)]) as asker:
            try:
                asker.post(PATH, WRONG)
            except RefusedError as refusal:
                answers[refusal.status] += 1
        due = max(due + pause, time.monotonic())
    return answers
