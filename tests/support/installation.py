"""A whole installation of a test module's own: PostgreSQL, Valkey and two nodes, to be broken one after the other."""

import asyncio
import contextlib
import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from migrations import runner
from service.state_directory import StateDirectory
from tests.support.outside_checker import PATIENCE_SECONDS, Connection, Question, Seen, Truth, ask, wait_until
from tests.support.running_service import Answer, RunningService, new_service
from tests.support.seeding import Seeded, seed
from tests.support.servers import OwnServer

_slugs = itertools.count(1)

BARRED = 400
"""Users who have a role that denies what everyone may do: a look-up that fails must not make them everyone."""

FLIP = Question("user:flip", "write", "record:1")
"""The question whose answer changes: `user:flip` becomes an editor, and is none any more."""


@dataclass
class Tenant:
    """One tenant of the installation: everyone may read, editors may write, the barred may not even read."""

    installation: "Installation"
    slug: str
    key: str
    revision: int
    cold: Iterator[int] = field(default_factory=itertools.count)
    truth: Truth = field(default_factory=lambda: Truth(always_right))

    def grant(self, node: RunningService, **more: Any) -> Answer:
        """Make `user:flip` an editor through a node."""
        return self._flip(node, "add", allowed=True, **more)

    def revoke(self, node: RunningService, **more: Any) -> Answer:
        """Take it back."""
        return self._flip(node, "remove", allowed=False, **more)

    def change(self, node: RunningService, part: str, body: dict[str, Any], **more: Any) -> Answer:
        """POST a change of `rules`, `memberships` or `entities`."""
        path = f"/v1/tenants/{self.slug}/{part}"
        return node.request("POST", path, body, key=self.installation.platform_key, **more)

    def head(self, node: RunningService) -> int:
        """Return the revision that a node reads from PostgreSQL."""
        path = f"/v1/tenants/{self.slug}"
        answer = done(lambda: node.request("GET", path, key=self.installation.platform_key))
        assert answer.status == 200, answer.body
        return int(answer.json()["revision"])

    def ask(self, node: RunningService, question: Question, demanded: int = 0) -> Seen:
        """Ask once, on a connection of its own."""
        connection = Connection(node.port)
        try:
            return ask(connection, node.port, self.key, question, demanded)
        finally:
            connection.close()

    def warm_questions(self) -> Iterator[Question]:
        """Ask without end what a node soon holds."""
        return itertools.cycle(
            (
                Question("user:alice", "write", "record:1"),
                FLIP,
                Question("user:guest", "write", "record:1"),
                Question("user:barred-0", "read", "record:1"),
                Question("user:guest", "read", "record:1"),
            )
        )

    def questions(self) -> Iterator[Question]:
        """Ask without end what a node holds, and every sixth time somebody it does not know."""
        for warm in self.warm_questions():
            yield warm
            if warm.subject == "user:guest" and warm.action == "read":
                number = next(self.cold)
                barred = number % 2 == 0 and number // 2 + 1 < BARRED
                yield Question(f"user:{'barred' if barred else 'cold'}-{number // 2 + 1}", "read", "record:1")

    def _flip(self, node: RunningService, what: str, *, allowed: bool, **more: Any) -> Answer:
        link = {"type": "link", "member": "user:flip", "role": "role:editor"}
        answer = self.change(node, "memberships", {what: [link]}, **more)
        if answer.status == 200:
            self.revision = answer.json()["revision"]
            self.truth.turn(self.revision, FLIP, allowed=allowed)
        return answer


def always_right(question: Question) -> bool | None:
    """Return the answers of `Tenant` that never change."""
    if question == FLIP:
        return None
    if question.subject.startswith("user:barred"):
        return False
    return question.action == "read" or question.subject == "user:alice"


@dataclass
class Installation:
    """`first` and `second` are nodes on one PostgreSQL and one Valkey."""

    directory: Path
    postgres: OwnServer
    valkey: OwnServer
    seeded: Seeded
    nodes: list[RunningService] = field(default_factory=list)

    @property
    def platform_key(self) -> str:
        """A platform key with every scope."""
        return self.seeded.platform_key

    @property
    def first(self) -> RunningService:
        """The node that is written to."""
        return self.nodes[0]

    @property
    def second(self) -> RunningService:
        """The node that is asked."""
        return self.nodes[1]

    def node(self, **settings: str) -> RunningService:
        """Return a further node, not started; the caller kills it."""
        redis_url = settings.pop("redis_url", self.valkey.url)
        return new_service(self.directory, self.postgres.url, redis_url, **settings)

    @contextmanager
    def another_node(self, **settings: str) -> Iterator[RunningService]:
        """Run a further node."""
        node = self.node(**settings)
        try:
            start(node)
            yield node
        finally:
            with contextlib.suppress(AttributeError):
                node.kill()

    def new_tenant(self, *, barred: int = BARRED) -> Tenant:
        """Create a tenant with its policy and a key, through the first node."""
        slug = f"tenant-{next(_slugs)}"
        made = self.first.request("POST", "/v1/tenants", {"slug": slug}, key=self.platform_key)
        assert made.status == 201, made.body
        path = f"/v1/tenants/{slug}"
        key = self.first.request(
            "POST", f"{path}/keys", {"name": "checker", "scopes": ["decision:check"]}, key=self.platform_key
        )
        assert key.status == 201, key.body
        tenant = Tenant(self, slug, key.json()["token"], 0)
        rules = [
            {"type": "rule", "subject": "role:editor", "resource": "record:*", "action": "write"},
            {"type": "rule", "subject": "user:*", "resource": "record:*", "action": "read"},
            {"type": "rule", "subject": "role:barred", "resource": "record:*", "action": "read", "effect": "deny"},
        ]
        links = [{"type": "link", "member": f"user:barred-{n}", "role": "role:barred"} for n in range(barred)]
        links.append({"type": "link", "member": "user:alice", "role": "role:editor"})
        for part, added in (("rules", rules), ("memberships", links)):
            answer = tenant.change(self.first, part, {"add": added})
            assert answer.status == 200, answer.body
            tenant.revision = answer.json()["revision"]
        return tenant

    def warm(self, tenant: Tenant, *nodes: RunningService) -> None:
        """Let nodes hold the tenant at its last acknowledged revision."""
        for node in nodes or self.nodes:
            for question in itertools.islice(tenant.warm_questions(), 5):
                wait_until(partial(_answers, tenant, node, question))

    def freeze_postgres(self) -> list[int]:
        """SIGSTOP PostgreSQL with all its backends; return who was stopped."""
        frozen = [self.postgres.pid, *(child.pid for child in psutil.Process(self.postgres.pid).children())]
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        return frozen

    def mend(self) -> None:
        """Bring back whatever a test broke, and wait until both nodes are ready."""
        for server in (self.postgres, self.valkey):
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(server.pid)
                for one in (process, *process.children()):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(one.pid, signal.SIGCONT)
            if not psutil.pid_exists(server.pid) or psutil.Process(server.pid).status() == psutil.STATUS_ZOMBIE:
                server.start_again()
        for node in self.nodes:
            if node.process.poll() is not None:
                node.start(wait=False)
            node.wait_ready()


def _answers(tenant: Tenant, node: RunningService, question: Question) -> bool:
    return tenant.ask(node, question, tenant.revision).status == 200


def done(ask: Callable[[], Answer]) -> Answer:
    """Ask until the answer is no 503, as a caller does: a node may still hold connections of a server that is gone."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (answer := ask()).status == 503 and time.monotonic() < deadline:
        time.sleep(0.05)
    return answer


def start(node: RunningService) -> None:
    """Start a node and wait until it is ready."""
    node.start(wait=False)
    node.wait_ready()


@contextmanager
def running_installation(directory: Path, **settings: str) -> Iterator[Installation]:
    """Start servers and two nodes; yield them; end them."""
    with contextlib.ExitStack() as stack:
        servers = {}
        for kind in ("postgres", "valkey"):
            (directory / kind).mkdir()
            state = stack.enter_context(contextlib.closing(StateDirectory(directory / kind)))
            state.open()
            stack.callback(state.stop_children)
            servers[kind] = OwnServer(state, kind)
            servers[kind].start()
        runner.upgrade(servers["postgres"].url)
        seeded = asyncio.run(seed(servers["postgres"].url, {}))
        made = Installation(directory, servers["postgres"], servers["valkey"], seeded)
        for _ in range(2):
            made.nodes.append(made.node(**settings))
            stack.callback(made.nodes[-1].kill)
            start(made.nodes[-1])
        yield made
        made.mend()
