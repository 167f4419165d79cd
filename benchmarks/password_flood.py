"""What decisions feel while ten times as many passwords come in as one worker can hash.

Everyone tries to change a password of their own and gives a wrong present one, which costs a whole hash. What overflows
is answered 503 at once.
"""

import asyncio
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial

from authn.key_rows import insert_personal_key
from authn.password_hashing import PasswordHasher
from authn.password_settings import PasswordSettings
from authn.user_rows import insert_user
from authn.users import NewUser
from benchmarks.asking import RefusedError, asking
from benchmarks.installation import META, Installation, Tenant, new_installation
from benchmarks.report import Check, Result, say
from benchmarks.steady import add_table, steadily_asked, timed
from benchmarks.wire import body_of
from benchmarks.workload import Workload
from tenancy.database import open_engine, open_sessions
from tenancy.heads import lock_head, raise_head, record_change
from tenancy.unit_of_work import tenant_unit_of_work

PEOPLE = 200
CLIENTS = 48
"""More than may wait for a hash in one process."""
FLOOD_FACTOR = 10
SECONDS = 20.0
RATIO_LIMIT = 2.0
PATH = "/v1/users/me/password"
RIGHT = "the right words of everyone"


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
        keys = asyncio.run(people(installation, tenant))
        with (
            installation.service() as service,
            steadily_asked(service.base_url, tenant, questions) as samples,
        ):
            say("password_flood: idle")
            phases = [timed("idle", lambda: time.sleep(seconds))]
            say(f"password_flood: {FLOOD_FACTOR / took:.0f} passwords a second")
            step = partial(flood, service.base_url, keys, seconds, FLOOD_FACTOR / took, answers)
            phases.append(timed(f"{FLOOD_FACTOR} times as many passwords", step))
    add_table(result, "Decisions while passwords flood in, ms", phases, samples)
    say(f"password_flood: answers by status {dict(answers)}")
    result.figures["answers"] = {str(status): number for status, number in answers.items()}
    ratio = phases[1].latencies(samples).quantile(0.99) / phases[0].latencies(samples).quantile(0.99)
    result.checks.append(Check("decisions' p99 in the flood, to idle", ratio, "times", RATIO_LIMIT))
    return result


async def hash_seconds() -> float:
    """Return how long one hash takes here, with the settings that an installation has."""
    hasher = PasswordHasher(PasswordSettings())
    await hasher.hash(RIGHT)
    began = time.monotonic()
    await hasher.hash(RIGHT)
    hasher.close()
    return time.monotonic() - began


async def people(installation: Installation, tenant: Tenant) -> list[str]:
    """Make people with a password and a key each; return the keys."""
    hasher = PasswordHasher(PasswordSettings())
    stored = await hasher.hash(RIGHT)
    hasher.close()
    engine = open_engine(installation.database_url)
    keys = []
    async with tenant_unit_of_work(open_sessions(engine), tenant.tenant_id) as work:
        await lock_head(work)
        for number in range(PEOPLE):
            name = (f"person{number}", f"person{number}")
            user = await insert_user(work, NewUser(name, password_hash=stored), created_by="benchmark")
            token, _ = await insert_personal_key(
                work,
                user.id,
                "benchmark",
                now=datetime.now(UTC),
                created_by="benchmark",
                scopes=frozenset({"account:write"}),
                ttl=timedelta(days=1),
            )
            keys.append(token)
        head = await raise_head(work, keys=True, counts={"users": PEOPLE})
        await record_change(work.session, head, "key", META, added=PEOPLE)
    await engine.dispose()
    return keys


def flood(base_url: str, keys: list[str], seconds: float, per_second: float, answers: Counter[int]) -> None:
    """Send wrong passwords at a rate, whatever is answered; count the answers by status."""
    ends = time.monotonic() + seconds
    with ThreadPoolExecutor(CLIENTS) as clients:
        shares = [keys[start::CLIENTS] for start in range(CLIENTS)]
        for found in clients.map(lambda share: client(base_url, share, ends, CLIENTS / per_second), shares):
            answers.update(found)


def client(base_url: str, keys: list[str], ends: float, pause: float) -> Counter[int]:
    """Be one client: one request every `pause` seconds, or as soon as the one before was answered."""
    answers: Counter[int] = Counter()
    due = time.monotonic()
    while due < ends:
        time.sleep(max(0.0, due - time.monotonic()))
        with asking(base_url, keys[answers.total() % len(keys)]) as asker:
            try:
                asker.post(PATH, {"current_password": "some other words", "new_password": "even more other words"})
            except RefusedError as refusal:
                answers[refusal.status] += 1
        due = max(due + pause, time.monotonic())
    return answers
