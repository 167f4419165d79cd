"""A real `kasbah serve`: people sign in through its bulk worker, in a flood, and while it is killed or stands still."""

import asyncio
import http.client
import json
import os
import re
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import psutil
import pytest

from authn.password_hashing import PasswordHasher
from authn.password_settings import PasswordSettings
from authn.user_rows import insert_user
from authn.users import NewUser, normalize_email, normalize_username
from tenancy.audit import AuditEntry
from tenancy.database import open_engine, open_sessions
from tenancy.heads import lock_head, raise_head, record_change
from tenancy.ids import TenantId
from tenancy.unit_of_work import tenant_unit_of_work
from tests.integration.test_bulk_worker import bulk_worker, wait_for
from tests.support.running_service import Answer, RunningService, new_service
from tests.support.seeding import META, seed

pytestmark = [pytest.mark.integration, pytest.mark.process]

RIGHT = "the right words of everyone"
WRONG = "some other words entirely"
PEOPLE = 8
CHEAP = {"memory_mib": 19, "iterations": 2}
BUSY = "urn:kasbah:problem:password-hashing-busy"
METRICS_TOKEN = "metrics-token-of-this-test"
SETTINGS = {
    "KASBAH_PASSWORDS__MEMORY_MIB": "19",
    "KASBAH_PASSWORDS__ITERATIONS": "2",
    # Three places, of which one tenant may have one: whatever leaks one keeps everybody out.
    "KASBAH_PASSWORDS__QUEUE": "2",
    "KASBAH_SIGN_IN__NETWORK_FAILURES": "100000",
    "KASBAH_SIGN_IN__TENANT_FAILURES": "10000000",
    "KASBAH_HTTP__TRUSTED_PROXIES": '["127.0.0.1/32"]',
    "KASBAH_HTTP__METRICS_TOKEN": METRICS_TOKEN,
}


@dataclass(frozen=True)
class House:
    """A service, and people of a tenant in it."""

    service: RunningService
    key: str

    def login(self, who: str = "person0", password: str = RIGHT, **headers: str) -> Answer:
        """Sign somebody in, on a connection of its own."""
        said = {"X-Tenant-ID": "acme"} | {name.replace("_", "-"): value for name, value in headers.items()}
        body = {"identifier": who, "password": password}
        return self.service.request("POST", "/v1/auth/login", body, headers=said, timeout_seconds=60)

    def signed_in(self) -> Answer:
        """Sign somebody in; whoever is refused for want of a place tries again."""
        return wait_for(lambda: _if_ok(self.login()), timeout_seconds=60)

    def sessions(self, answer: Answer) -> Answer:
        """Use the session that an answer begins."""
        return self.service.request("GET", "/v1/users/me/sessions", key=answer.json()["session"]["token"])

    def decided(self) -> None:
        """Ask for a decision."""
        question = {
            "subject": {"type": "user", "id": "alice"},
            "action": {"name": "read"},
            "resource": {"type": "record", "id": "1"},
        }
        answer = self.service.request("POST", "/access/v1/evaluation", question, key=self.key)
        assert (answer.status, answer.json()["decision"]) == (200, False)

    def counted(self) -> dict[str, int]:
        """Return the steps of sign-ins by outcome, as metrics have them."""
        text = self.service.request("GET", "/metrics", key=METRICS_TOKEN).body.decode()
        found = re.findall(r'kasbah_sign_ins_total\{method="password",outcome="(\w+)"\} ([\d.]+)', text)
        return {outcome: int(float(number)) for outcome, number in found}

    def hashing(self, pid: int) -> list[psutil.Process]:
        """Return the processes that hash for a worker."""
        return [child for child in psutil.Process(pid).children() if "authn.hashing_program" in child.cmdline()]


def _if_ok(answer: Answer) -> Answer | None:
    assert answer.status in {200, 503}, answer.body
    return answer if answer.status == 200 else None


@pytest.fixture(scope="module")
def acme(database_url) -> str:
    """Make the tenant and its people; return its key."""
    seeded = asyncio.run(seed(database_url, {"acme": []}))
    asyncio.run(people(database_url, seeded.tenants["acme"]))
    return seeded.keys["acme"]


@pytest.fixture(scope="module")
def house(tmp_path_factory, database_url, redis_url, acme) -> Iterator[House]:
    """One service with one public worker for the whole module."""
    service = new_service(tmp_path_factory.mktemp("house"), database_url, redis_url, **SETTINGS)
    service.start()
    bulk_worker(service)
    yield House(service, acme)
    service.kill()


async def people(database_url: str, tenant_id: TenantId) -> None:
    """Enter people with a password, and one who must have a second factor and has none."""
    hasher = PasswordHasher(PasswordSettings(**CHEAP, niceness=0, wait_seconds=30))
    stored = await hasher.hash(RIGHT)
    hasher.close()
    new = [NewUser(normalize_username(f"person{number}"), password_hash=stored) for number in range(PEOPLE)]
    new.append(
        NewUser(
            normalize_username("strict"),
            normalize_email("strict@acme.example"),
            email_verified_at=datetime.now(UTC),
            mfa_required=True,
            password_hash=stored,
        )
    )
    engine = open_engine(database_url)
    async with tenant_unit_of_work(open_sessions(engine), tenant_id) as work:
        await lock_head(work)
        refs = [(await insert_user(work, one, created_by="test")).ref for one in new]
        head = await raise_head(work, counts={"users": len(new)})
        entry = AuditEntry("user.create")
        await record_change(work.session, head, "user", META, added=len(new), audit=[entry], touched=refs)
    await engine.dispose()


def test_the_bulk_worker_signs_people_in(house) -> None:
    """It hashes, and the workers that decide do not; the session counts at once, and each step is counted once."""
    before = Counter(house.counted())
    answer = house.signed_in()
    assert house.sessions(answer).status == 200
    assert house.login(password=WRONG).status == 401
    bulk = bulk_worker(house.service)
    assert house.hashing(bulk)
    for pid in house.service.workers():
        assert pid == bulk or not house.hashing(pid)
    found = Counter(house.counted()) - before
    assert (found["authenticated"], found["refused"]) == (1, 1)
    wait_for(lambda: b'kasbah_events_total{event="password_hashes"}' in _metrics(house))
    text = _metrics(house).decode()
    assert 'kasbah_http_requests_total{route="/v1/auth/login",status="4xx"} 1.0' in text, "counted where it came in"


def _metrics(house: House) -> bytes:
    return house.service.request("GET", "/metrics", key=METRICS_TOKEN).body


def test_a_challenge_stays_with_the_client_that_began_it(house) -> None:
    """By the address that a trusted proxy says, and by its agent; what is said under our own header counts nowhere."""
    mine = {"X-Forwarded-For": "198.51.100.7", "User-Agent": "Mosaic/3.0"}
    forged = {"X-Kasbah-Client-Address": "203.0.113.9"}
    begun = wait_for(lambda: _if_ok(house.login("strict", **mine, **forged)), timeout_seconds=60).json()
    assert begun["status"] == "enrollment_required"

    def mailed(**headers: str) -> int:
        body = {"challenge": begun["challenge"]}
        return house.service.request("POST", "/v1/auth/enrolment/mail", body, headers=headers).status

    other = mine | {"X-Forwarded-For": "198.51.100.8"}
    assert mailed(**other) == 410
    assert mailed(**other, **{"X-Kasbah-Client-Address": "198.51.100.7"}) == 410
    assert mailed(**mine | {"User-Agent": "Lynx/2.8"}) == 410
    assert mailed(**forged) == 410
    assert mailed(**mine, **{"X-Kasbah-Client-Address": "198.51.100.8"}) == 202
    shown = wait_for(lambda: _if_ok(house.login(**mine, **forged)), timeout_seconds=60)
    (session,) = [one for one in house.sessions(shown).json()["sessions"] if one["current"]]
    assert session["address"] == "198.51.100.7"


def test_a_flood_is_refused_where_it_comes_in(house) -> None:
    """Before a body is there, with Retry-After, each counted; decisions go on, and afterwards everybody gets in."""
    house.signed_in()
    before = Counter(house.counted())
    (process,) = house.hashing(bulk_worker(house.service))
    waiting: list[threading.Thread] = []

    def full() -> bool:
        """Have a sign-in take the one place of the tenant, until it is given up; whether the next one finds none."""
        if not (waiting and waiting[-1].is_alive()):
            waiting.append(threading.Thread(target=house.login))
            waiting[-1].start()
        return _refused_without_body(house)

    process.suspend()
    try:
        wait_for(full, timeout_seconds=60)
        house.decided()
    finally:
        process.resume()
    for thread in waiting:
        thread.join()
    answers = _flood(house, 24, 4)
    assert set(answers) <= {200, 401, 503}
    assert house.sessions(house.signed_in()).status == 200
    found = Counter(house.counted()) - before
    assert found["busy"] >= answers[503]
    assert found["refused"] == answers[401]
    assert found["authenticated"] >= answers[200]


def _refused_without_body(house: House) -> bool:
    """Whether a sign-in whose body never comes is refused for want of a place."""
    with socket.create_connection(("127.0.0.1", house.service.port), timeout=30) as connection:
        connection.sendall(
            b"POST /v1/auth/login HTTP/1.1\r\nHost: kasbah\r\nX-Tenant-ID: acme\r\nConnection: close\r\n"
            b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n"
        )
        connection.settimeout(0.5)
        try:
            answer = connection.recv(65536)
        except TimeoutError:
            return False
    assert answer.startswith(b"HTTP/1.1 503"), answer
    assert b"\r\nRetry-After: 1\r\n" in answer
    assert BUSY.encode() in answer
    return True


def _flood(house: House, clients: int, each: int) -> Counter[int]:
    """Sign many in at once, half of them with a name that is nobody's; returns the answers by status."""
    answers: Counter[int] = Counter()
    lock = threading.Lock()

    def client(number: int) -> None:
        for turn in range(each):
            right = (number + turn) % 2 == 0
            answer = house.login(f"person{number % PEOPLE}" if right else f"nobody-{number}-{turn}")
            assert_right(answer, right=right)
            with lock:
                answers[answer.status] += 1

    run_all([threading.Thread(target=client, args=(number,)) for number in range(clients)])
    assert answers.total() == clients * each
    return answers


def run_all(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def assert_right(answer: Answer, *, right: bool) -> None:
    """Whoever is answered is answered as is right; else it is 503 with Retry-After."""
    if answer.status == 503:
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["type"].startswith("urn:kasbah:problem:")
    else:
        assert answer.status == (200 if right else 401), answer.body


def test_a_bulk_worker_that_stands_still_keeps_nothing_hanging(house) -> None:
    """503 with Retry-After, decisions go on, and once it moves people sign in."""
    worker = bulk_worker(house.service)
    os.kill(worker, signal.SIGSTOP)
    try:
        answer = house.login()
        assert_right(answer, right=True)
        assert answer.status == 503
        house.decided()
        assert house.service.request("GET", "/readyz").status == 200
    finally:
        os.kill(worker, signal.SIGCONT)
    assert house.sessions(house.signed_in()).status == 200


def test_people_sign_in_while_the_bulk_worker_is_killed(start_service, acme) -> None:
    """On two public workers: every answer is right or 503, no place is lost, and what hashed for it is gone."""
    house = House(start_service(KASBAH_WORKERS="2", **SETTINGS), acme)
    bulk_worker(house.service)
    house.signed_in()
    ended = threading.Event()
    wrong: list[str] = []
    tokens: list[Answer] = []

    def client(number: int) -> None:
        turn = 0
        while not ended.is_set():
            turn += 1
            right = turn % 2 == 0
            try:
                answer = house.login(f"person{number}" if right else f"nobody-{number}-{turn}")
                assert_right(answer, right=right)
            except (AssertionError, OSError, http.client.HTTPException, json.JSONDecodeError) as error:
                wrong.append(repr(error))
                return
            if answer.status == 200:
                tokens.append(answer)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            worker = bulk_worker(house.service)
            known = len(tokens)
            wait_for(lambda known=known: len(tokens) > known, timeout_seconds=60)
            hashing = house.hashing(worker)
            os.kill(worker, signal.SIGKILL)
            for process in hashing:
                wait_for(lambda process=process: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)
            wait_for(lambda worker=worker: bulk_worker(house.service) != worker)
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert tokens
    for answer in (tokens[0], tokens[-1]):
        assert house.sessions(answer).status == 200
    for _ in range(8):  # on either worker
        house.signed_in()
    assert house.login(password=WRONG).status in {401, 429}
    assert house.service.stop() == 0
