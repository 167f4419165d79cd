"""An outside checker: asks running nodes at a steady rate, keeps every answer, and judges them when the truth is known.

It speaks HTTP over keep-alive connections of its own and sends a request in one piece, so warm questions are answered
by the fast way. It knows nothing of the nodes but what they answer.
"""

import itertools
import json
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Self

REQUEST_SECONDS = 3.0
"""Longest that any request may take, in any fault."""

CLIENT_SECONDS = 60.0
"""When the checker itself gives up; far beyond what is allowed, so that the time of a late answer is known."""

SCHEDULING_SECONDS = 5.0
"""Allowance for a busy machine; to it comes how late the checker itself woke up in the same run."""

BOUND_SECONDS = REQUEST_SECONDS + SCHEDULING_SECONDS

PATIENCE_SECONDS = 60.0
"""How long a test waits for what must come true. No promise of the service: how soon it does is measured elsewhere, on
a machine that does nothing else."""


@dataclass(frozen=True, slots=True)
class Question:
    """May `subject` do `action` on `resource`?"""

    subject: str
    action: str
    resource: str

    def body(self) -> bytes:
        """Return it as AuthZEN writes it."""
        kind, _, name = self.subject.partition(":")
        other, _, thing = self.resource.partition(":")
        return json.dumps(
            {
                "subject": {"type": kind, "id": name},
                "action": {"name": self.action},
                "resource": {"type": other, "id": thing},
            }
        ).encode()


@dataclass(frozen=True, slots=True)
class Seen:
    """One request and what came back. `sent` is monotonic; `status` is 0 when no whole answer came."""

    port: int
    question: Question
    demanded: int
    sent: float
    seconds: float
    status: int
    revision: int = 0
    decision: bool | None = None
    fault: str = ""
    woke_late: float = 0.0
    """Seconds by which the checker missed the moment at which it wanted to ask."""


@dataclass(slots=True)
class Truth:
    """What is right at each revision: what always holds, and when the answers that change did so."""

    always: Callable[[Question], bool | None]
    """The answer at every revision; None for a question whose answer changes."""
    turns: list[tuple[int, Question, bool]] = field(default_factory=list)
    """From this revision on, the question has this answer; before the first one it is a deny."""

    def turn(self, revision: int, question: Question, *, allowed: bool) -> None:
        """Note an acknowledged write."""
        self.turns.append((revision, question, allowed))

    def at(self, revision: int, question: Question) -> bool:
        """Return the right answer at a revision."""
        fixed = self.always(question)
        if fixed is not None:
            return fixed
        past = [turn for turn in self.turns if turn[1] == question and turn[0] <= revision]
        return max(past, key=lambda turn: turn[0])[2] if past else False


class Connection:
    """One keep-alive connection. A connection that the peer closed is replaced between requests, never within one."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None

    def ask(self, body: bytes, key: str, min_revision: int = 0) -> tuple[int, dict[str, str], bytes]:
        """Send one evaluation and return status, headers (names in lower case) and body; raises OSError."""
        head = (
            f"POST /access/v1/evaluation HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        )
        if min_revision:
            head += f"Kasbah-Min-Revision: {min_revision}\r\n"
        connection = self._open()
        try:
            connection.sendall(head.encode() + b"\r\n" + body)
            return self._read(connection)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _open(self) -> socket.socket:
        if self._socket is not None and select.select([self._socket], [], [], 0)[0]:
            self.close()  # readable without a question: the peer closed it
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=CLIENT_SECONDS)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._socket

    def _read(self, connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._receive(connection)
        head, _, body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        length = int(headers["content-length"])
        while len(body) < length:
            body += self._receive(connection)
        if headers.get("connection", "").lower() == "close":
            self.close()
        return int(first.split(" ")[1]), headers, body

    @staticmethod
    def _receive(connection: socket.socket) -> bytes:
        chunk = connection.recv(65536)
        if not chunk:
            raise ConnectionResetError("closed in the middle of a request")
        return chunk


@dataclass(frozen=True, slots=True)
class Target:
    """Who is asked: a port, or a function that names the port to be asked now, and the key to ask with."""

    port: int | Callable[[], int]
    key: str


class Checker:
    """Asks from `connections` threads per target, each `rate` times a second, until it is stopped."""

    def __init__(
        self, targets: Sequence[Target], questions: Callable[[], Iterator[Question]], *, rate: float, connections: int
    ) -> None:
        """Prepare; nothing is asked before `start`.

        Args:
            targets: Whom to ask.
            questions: Called once per connection; each yields without end.
            rate: Questions per second and connection.
            connections: Per target.
        """
        self._interval = 1 / rate
        self._questions = questions
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(target, number % 2 == 0), name=f"checker-{number}", daemon=True)
            for number, target in enumerate(target for target in targets for _ in range(connections))
        ]
        self.demand = 0
        """The revision that every second connection demands: the last one that was acknowledged."""
        self.seen: list[Seen] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(CLIENT_SECONDS + 5)
            assert not thread.is_alive(), "a request never ended"

    def _run(self, target: Target, demanding: bool) -> None:
        connections: dict[int, Connection] = {}
        due = time.monotonic()
        for question in self._questions():
            due = max(due + self._interval, time.monotonic() - self._interval)
            pause = due - time.monotonic()
            if self._stop.wait(max(0.0, pause)):
                break
            late = time.monotonic() - due if pause > 0 else 0.0
            port = target.port if isinstance(target.port, int) else target.port()
            connection = connections.setdefault(port, Connection(port))
            seen = ask(connection, port, target.key, question, self.demand if demanding else 0)
            self.seen.append(replace(seen, woke_late=late))
        for connection in connections.values():
            connection.close()


def ask(connection: Connection, port: int, key: str, question: Question, demanded: int = 0) -> Seen:
    """Ask one question and take down what came of it; nothing is raised."""
    sent = time.monotonic()
    try:
        status, headers, body = connection.ask(question.body(), key, demanded)
    except (OSError, ValueError, KeyError, IndexError) as error:
        fault = f"{type(error).__name__}: {error}"
        return Seen(port, question, demanded, sent, time.monotonic() - sent, 0, fault=fault)
    seconds = time.monotonic() - sent
    revision = int(headers.get("kasbah-revision", "0"))
    if status == 200:
        return Seen(port, question, demanded, sent, seconds, status, revision, json.loads(body)["decision"])
    fault = ""
    if status != 503:
        fault = f"status {status}: {body[:200]!r}"
    elif not headers.get("retry-after", "").isdigit() or headers.get("content-type") != "application/problem+json":
        fault = f"a 503 that is not as agreed: {headers}"
    return Seen(port, question, demanded, sent, seconds, status, revision, fault=fault)


def verdict(seen: Sequence[Seen], truth: Truth, *, request_seconds: float = REQUEST_SECONDS) -> Counter[str]:
    """Judge every answer; return how many of each status there were.

    Raises:
        AssertionError: a wrong answer, one older than demanded, one that came too late, or none.
    """
    assert seen, "nothing was asked"
    faults = []
    bound = request_seconds + SCHEDULING_SECONDS + max(answer.woke_late for answer in seen)
    for answer in seen:
        if answer.fault:
            faults.append((answer.fault, answer))
        elif answer.seconds > bound:
            faults.append((f"took {answer.seconds:.2f} s", answer))
        elif answer.status == 200:
            if answer.revision < answer.demanded:
                faults.append(("older than demanded", answer))
            if answer.decision is not truth.at(answer.revision, answer.question):
                faults.append(("WRONG ALLOW" if answer.decision else "wrong deny", answer))
    kinds = Counter(what.split(":")[0] for what, _ in faults)
    assert not faults, f"{kinds}; first of {len(faults)} of {len(seen)}: {faults[:3]}"
    return Counter(str(answer.status) for answer in seen)


def never_after(seen: Sequence[Seen], moment: float, revision: int, port: int | None = None) -> None:
    """Assert that nothing asked after `moment` was answered from before `revision`."""
    late = [
        answer
        for answer in seen
        if answer.sent > moment and answer.status == 200 and answer.revision < revision and port in {None, answer.port}
    ]
    assert not late, f"{len(late)} answers older than revision {revision}, the last {late[-1].sent - moment:.2f} s late"


def cycle(*questions: Question) -> Callable[[], Iterator[Question]]:
    """Return a source of questions that asks these in turn."""
    return lambda: itertools.cycle(questions)


def wait_until(condition: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> float:
    """Wait for something to come true; return how long it took. Refused connections count as not yet."""
    began = time.monotonic()
    while True:
        with suppress(OSError):
            if condition():
                return time.monotonic() - began
        assert time.monotonic() - began < seconds, f"it did not come true within {seconds} s"
        time.sleep(0.01)
