"""The fast way and the ordinary way give the same answers to the same bytes."""

import asyncio
import contextlib
import itertools
import json
import re
import socket
from dataclasses import replace

import pytest
import structlog
from aiohttp import web

from authn.api_keys import hash_token
from service.decision_log import DecisionLog
from service.fast_answers import FastPath
from service.fast_heads import PlainHeads
from service.fast_path import FastHandler
from service.http.authzen import ROUTES
from service.http_settings import DecisionLogSettings, HttpSettings
from service.keys import DRAINING
from service.server import DeadlineHandler, KasbahRunner
from tenancy.ids import TenantStatus
from tests.support.edge import Edge, question

POLICY = """
g user:alice role:editor
p role:editor record:* read
p role:editor record:secret read deny
p role:editor record:* write if resource.properties.status != "archived"
p user:* page:home view
g user:tmp role:editor until 2026-06-01T11:00:00+00:00
"""
VARYING = re.compile(rb"(?im)^(date|x-request-id|server): .*\r\n")


def plain(subject="user:alice", action="read", resource="record:1", **more):
    return question(subject, action, resource, **more)


def raw(
    body,
    *headers,
    path="/access/v1/evaluation",
    method="POST",
    key=None,
    length=None,
    version="1.1",
    kind="application/json",
):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/{version}", "Host: pdp.example", *headers]
    if key:
        lines.append(f"Authorization: Bearer {key}")
    if kind:
        lines.append(f"Content-Type: {kind}")
    lines.append(f"Content-Length: {len(data) if length is None else length}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


class Both:
    """One edge served twice: with the fast way and without it."""

    def __init__(self, edge: Edge) -> None:
        self.edge = edge
        self.ports: list[int] = []
        self.paths: list[FastPath] = []
        self.apps: list[web.Application] = []
        self.runners: list[KasbahRunner] = []

    @contextlib.asynccontextmanager
    async def serving(self):
        async with contextlib.AsyncExitStack() as stack:
            for handler in (FastHandler, DeadlineHandler):
                listener = socket.socket()
                listener.bind(("127.0.0.1", 0))
                runner = KasbahRunner(self.edge.app(), self.edge.settings, handler, shutdown_timeout=1)
                await runner.setup()
                self.apps.append(runner.app)
                self.runners.append(runner)
                stack.push_async_callback(runner.cleanup)
                await web.SockSite(runner, listener).start()
                self.ports.append(listener.getsockname()[1])
                if handler is FastHandler:
                    self.paths.append(runner.server.handler_class.fast_path)
            yield self

    async def send(self, data: bytes, *, cuts=(), answers=1) -> list[bytes]:
        """Send the same bytes both ways, in the same pieces; return what came back, without what always differs."""
        found = []
        for port in self.ports:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            edges = [0, *cuts, len(data)]
            for start, end in itertools.pairwise(edges):
                writer.write(data[start:end])
                await writer.drain()
                await asyncio.sleep(0.002 if cuts else 0)
            received = b""
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2):
                    while not complete(received, answers):
                        chunk = await reader.read(65536)
                        if not chunk:
                            break
                        received += chunk
            writer.close()
            found.append(VARYING.sub(b"", received))
        return found


class Line:
    """One connection that is kept: sends pieces, reads one answer at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, *pieces: bytes) -> bytes:
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(0.005 if len(pieces) > 1 else 0)
        received = b""
        async with asyncio.timeout(60):
            while not complete(received, 1):
                chunk = await self.reader.read(65536)
                assert chunk, "the connection was closed"
                received += chunk
        return received


@contextlib.asynccontextmanager
async def line_to(port: int):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Line(reader, writer)
    finally:
        writer.close()


def complete(received: bytes, answers: int) -> bool:
    rest = received
    for _ in range(answers):
        head, mark, rest = rest.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        if not mark or length is None or len(rest) < int(length.group(1)):
            return False
        rest = rest[int(length.group(1)) :]
    return True


@pytest.fixture
def edge():
    built = Edge(HttpSettings(public_url="https://pdp.example"), ROUTES)
    built.id = built.tenant("acme", POLICY, record__1={"status": "active"}, record__2={"status": "archived"})
    built.tenant("other", "")
    return built


def answers_in(received: bytes) -> list[tuple[list[bytes], bytes]]:
    """Return (head lines in lower case, sorted; body) of each answer."""
    found = []
    while received:
        head, _, rest = received.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        size = int(length.group(1)) if length else len(rest)
        found.append((sorted(line.lower() for line in head.split(b"\r\n")), rest[:size]))
        received = rest[size:]
    return found


async def check(edge: Edge, *requests, fast: int | None = None, **how) -> list[bytes]:
    """Assert that both ways answer alike, twice (cold, then warm); return the warm answers."""
    both = Both(edge)
    answers = []
    async with both.serving():
        for _ in range(2):
            answers = []
            for data in requests:
                one, other = await both.send(data, **how)
                assert answers_in(one) == answers_in(other)
                answers.append(one)
        if fast is not None:
            assert both.paths[0].answered == fast
    return answers


async def test_plain_questions_are_answered_fast_and_alike(edge):
    """Allow, deny, no match, condition; with all headers that mean something."""
    key = edge.key(edge.id)
    requests = [
        raw(plain(), key=key),
        raw(plain(resource="record:secret"), key=key),
        raw(plain(action="delete"), key=key),
        raw(plain("user:anybody", "view", "page:home"), key=key),
        raw(plain(action="write", resource="record:1"), key=key),
        raw(plain(action="write", resource="record:2"), key=key),
        raw(plain(resource="record:é ü"), "X-Request-ID: abc", key=key),
        raw(plain(context={"a": [1, {"b": None}]}, unknown={"x": 1}), key=key),
        raw(plain(), "X-Tenant-ID: acme", "Kasbah-Min-Revision: 7", "Accept: */*", key=key),
    ]
    # Each is asked twice; the first question about a subject, and about a condition's resource, is looked up first.
    answers = await check(edge, *requests, fast=2 * len(requests) - 4)
    decisions = [json.loads(answer.partition(b"\r\n\r\n")[2])["decision"] for answer in answers]
    assert decisions == [True, False, False, True, True, False, True, True, True]


async def test_whatever_is_not_plain_is_answered_alike_by_the_ordinary_way(edge):
    """Refusals, faults, odd headers and odd framing never come from the fast way."""
    key, weak = edge.key(edge.id), edge.key(edge.id, "policy:read")
    platform = edge.key(None)
    good = plain()
    requests = [
        raw(good),
        raw(good, key="kasbah_00000000_" + "A" * 43),
        raw(good, key=weak),
        raw(good, "Authorization: Bearer x", key=key),
        raw(good, "authorization: Basic eDp5", key=None),
        raw(good, "X-Tenant-ID: other", key=key),
        raw(good, "X-Tenant-ID: nobody", key=key),
        raw(good, "X-Tenant-ID: acme", "X-Tenant-ID: acme", key=key),
        raw(good, "X-Tenant-ID: acme", key=platform),
        raw(good, key=platform),
        raw(good, "Kasbah-Min-Revision: -1", key=key),
        raw(good, "Kasbah-Min-Revision: x", key=key),
        raw(good, "Kasbah-Min-Revision: 9999", key=key),
        raw(good, "Content-Encoding: gzip", key=key),
        raw(good, key=key, kind="text/plain"),
        raw(good, key=key, kind=None),
        raw(good, key=key, kind="application/json; charset=utf-8"),
        raw(good, "Content-Type: application/json", key=key),
        raw(good, "X-Request-ID: a", "X-Request-ID: b", key=key),
        raw(good, "X-Request-ID: " + "a" * 300, key=key),
        raw(b"", key=key),
        raw(b"{", key=key),
        raw(b"null", key=key),
        raw(b'{"subject":{"type":"user","id":"alice"},"subject":{"type":"user","id":"bob"}}', key=key),
        raw(
            {"subject": {"type": "user", "id": ""}, "action": {"name": "r"}, "resource": {"type": "a", "id": "b"}},
            key=key,
        ),
        raw(plain("user:a\x00b"), key=key),
        raw(plain(options={"explain": True}), key=key),
        raw(good, key=key, path="/access/v1/evaluation?tenant=acme"),
        raw(good, key=key, path="/access/v1/evaluation?tenant=other"),
        raw(good, key=key, path="/access/v1/evaluation/"),
        raw(good, key=key, path="/access/v1/evaluationsx"),
        raw(good, key=key, version="1.0"),
        raw(good, "Connection: close", key=key),
    ]
    await check(edge, *requests, fast=0 + 2)  # the last but `X-Request-ID` too long: a new id is made, both times


async def test_groups_and_properties_need_the_scope_both_ways(edge):
    """Without `decision:assert` a role is no subject, and asserted properties count for nothing."""
    check_only = edge.key(edge.id, "decision:check")
    asserting = edge.key(edge.id)
    role = plain("role:editor")
    archived = plain(action="write", resource="record:9")
    archived["resource"]["properties"] = {"status": "active"}
    answers = await check(edge, *(raw(body, key=key) for body in (role, archived) for key in (check_only, asserting)))
    statuses = [answer[9:12] for answer in answers]
    assert statuses == [b"403", b"200", b"200", b"200"]
    assert [b'"decision":true' in answer for answer in answers] == [False, True, False, True]


async def test_batches_are_answered_alike(edge):
    """Defaults, all forms of items, semantics and items in error."""
    key = edge.key(edge.id)
    path = "/access/v1/evaluations"
    items = [{"resource": {"type": "record", "id": str(n)}} for n in range(30)]
    subject, action = {"type": "user", "id": "alice"}, {"name": "read"}
    top = {"subject": subject, "action": action}
    bodies = [
        {**top, "evaluations": items},
        {"evaluations": [plain(), plain("user:bob"), plain(resource="record:secret")]},
        {**top, "evaluations": [*items, {"resource": {"type": "record"}}]},
        {
            **top,
            "evaluations": [{"resource": {"type": "record", "id": "secret"}}, *items],
            "options": {"evaluations_semantic": "deny_on_first_deny"},
        },
        {**top, "evaluations": items, "options": {"evaluations_semantic": "permit_on_first_permit"}},
        {**top, "evaluations": items, "options": {"evaluations_semantic": "nope"}},
        {**plain(), "evaluations": []},
        plain(),
        {**top, "evaluations": [*items, {"action": {"name": "write"}, "resource": {"type": "record", "id": "1"}}]},
        {**top, "evaluations": [{}]},
        {**top, "evaluations": [1]},
        {"evaluations": items},
        {**top, "evaluations": items * 40},
        {**top, "context": {"x": 1}, "evaluations": items},
    ]
    await check(edge, *(raw(body, path=path, key=key) for body in bodies))


@pytest.mark.parametrize("step", [1, 7, 40, 200])
async def test_split_requests_are_answered_alike(edge, step):
    """A request may come in any pieces."""
    data = raw(plain(), key=edge.key(edge.id))
    await check(edge, data, cuts=range(step, len(data), step))


async def test_pipelined_requests_are_answered_in_order(edge):
    """Several requests in one piece, and one and a half."""
    key = edge.key(edge.id)
    yes, no = raw(plain(), key=key), raw(plain(action="delete"), key=key)
    for stream, count in ((yes + no + yes, 3), (no + b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n" + yes, 3)):
        await check(edge, stream, answers=count)
        await check(edge, stream, answers=count, cuts=[len(yes) + 40])


def halves(data: bytes) -> tuple[bytes, bytes]:
    head, mark, body = data.partition(b"\r\n\r\n")
    return head + mark, body


async def test_one_question_out_of_the_ordinary_does_not_slow_the_next(edge):
    """A new connection is fast from its first request on, and is fast again right after an ordinary answer."""
    key = edge.key(edge.id)
    both = Both(edge)
    async with both.serving():
        async with line_to(both.ports[0]) as line:
            await line.ask(raw(plain(), key=key))
        path = both.paths[0]
        assert path.answered == 0
        for asked in range(1, 4):
            async with line_to(both.ports[0]) as line:
                await line.ask(raw(plain(), key=key))
                assert b" 405 " in await line.ask(raw(plain(), key=key, method="PUT"))
                await line.ask(raw(plain(), key=key))
            assert path.answered == 2 * asked
    edge.metrics.flush()
    assert b'kasbah_events_total{event="fast_answers"} 6.0' in edge.metrics.render()


async def test_a_known_head_that_comes_before_its_body_waits_for_it(edge, monkeypatch):
    """Many clients send the two apart; from the second time on, the fast way puts them together."""
    key = edge.key(edge.id)
    yes, no = raw(plain(), key=key), raw(plain(resource="record:2", action="reads"), key=key)
    both = Both(edge)
    async with both.serving(), line_to(both.ports[0]) as line:
        path = both.paths[0]
        monkeypatch.setattr(PlainHeads, "forget", lambda _: None)
        head, body = halves(yes)
        await line.ask(yes)  # a head is remembered once its caller is known
        for answered in (0, 1, 2):
            assert b'"decision":true' in await line.ask(head, body)
            assert path.answered == answered
        before = path.answered
        assert b'"decision":true' in await line.ask(head, body[:5], body[5:])
        assert b'"decision":true' in await line.ask(head + body[:5], body[5:])
        assert path.answered == before + 2
        # What comes with the end of the body, or instead of it, is the parser's to tell.
        line.writer.write(head)
        await asyncio.sleep(0.005)
        assert b'"decision":true' in await line.ask(body + no[:30])
        assert b'"decision":false' in await line.ask(no[30:])
        assert path.answered == before + 3  # as the parser read it
        assert b'"decision":true' in await line.ask(yes)


async def test_a_body_that_does_not_come_is_left_to_the_ordinary_way(edge, monkeypatch):
    """The sweeper hands on what was held; the connection goes on."""
    key = edge.key(edge.id)
    head, body = halves(raw(plain(), key=key))
    both = Both(edge)
    async with both.serving(), line_to(both.ports[0]) as line:
        monkeypatch.setattr(PlainHeads, "forget", lambda _: None)
        await line.ask(head + body)
        await line.ask(head + body)
        line.writer.write(head + body[:10])
        await asyncio.sleep(0.05)
        server = both.runners[0].server
        (connection,) = server.connections
        assert connection.held
        server.close_late(0.0, 10.0)
        assert not connection.held
        answered = both.paths[0].answered
        assert b'"decision":true' in await line.ask(body[10:])
        assert both.paths[0].answered == answered


@pytest.mark.parametrize("spelling", ["X-Request-ID", "X-Request-Id", "x-request-id"])
async def test_heads_that_differ_by_ids_of_requests_and_traces_alone_are_known(edge, spelling, monkeypatch):
    """Each answer has the id of its request."""
    key = edge.key(edge.id)
    both = Both(edge)
    async with both.serving(), line_to(both.ports[0]) as line:
        path = both.paths[0]
        monkeypatch.setattr(PlainHeads, "forget", lambda _: None)
        for number in range(4):
            trace = f"traceparent: 00-{number:032}-00f067aa0ba902b7-01"
            answer = await line.ask(raw(plain(), trace, f"{spelling}: id {number}!", "Accept: */*", key=key))
            assert f"X-Request-ID: id {number}!\r\n".encode() in answer
        assert len(path.heads.known) == 1
        assert path.answered == 3


@pytest.mark.parametrize(
    "headers",
    [
        ("X-Request-ID: a", "X-Request-ID: b"),
        ("X-Request-ID: a", "x-request-id: a"),
        ("X-Request-ID: a\r\n b",),
        ("X-Request-ID: a", " b: c"),
        ("X-Request-ID: \x7f",),
        ("X-Request-ID: a\t",),
        ("X-Request-ID:  a  ",),
        ("X-Request-ID: " + "a" * 201,),
        ("A: X-Request-ID: a",),
        ("X-Request-ID: a", "X-Tenant-ID: other"),
        ("X-Request-ID: a", "Transfer-Encoding: chunked"),
        ("X-Request-ID: a", "Content-Length: 5"),
        ("traceparent: 00-a-b-01", "X-Request-ID: a", "tracestate: x=1", "B3: 0"),
        ("traceparent: 00-a-b-01", " X-Tenant-ID: other"),
        ("traceparent: 00\r\n",),
        ("baggage: a=1, b=2", "Host: other.example"),
    ],
)
async def test_odd_request_ids_do_not_make_a_head_another(edge, headers):
    """Behind heads that are known without and with an id, both ways still answer alike."""
    key = edge.key(edge.id)
    known = [raw(plain(), key=key), raw(plain(), "X-Request-ID: a", "traceparent: 00-0-0-01", key=key)]
    await check(edge, *known, *known, raw(plain(), *headers, key=key))


async def test_a_head_in_pieces_is_read_as_a_whole(edge):
    """The same bytes behind the beginning of another head are another head, also when they are known already."""
    key = edge.key(edge.id)
    yes = raw(plain(), key=key)
    for begun in (
        b"PUT /access/v1/evaluation HTTP/1.1\r\nA: ",
        b"POST /access/v1/evaluation HTTP/1.1\r\nX-Tenant-ID: other\r\nA: ",
        b"POST /access/v1/evaluation HTTP/1.1\r\nTransfer-Encoding: chunked\r\nA: ",
        b"POST /access/v1/evaluation?tenant=other HTTP/1.1\r\nA: ",
    ):
        await check(edge, yes + yes, answers=2, cuts=[len(yes)])
        await check(edge, yes + begun + yes, answers=2, cuts=[len(yes), len(yes + begun)])
        await check(edge, yes + yes + begun + yes, answers=3, cuts=[len(yes), len(yes + yes + begun)])


async def test_an_unused_default_is_judged_all_the_same(edge):
    """A top level that no item needs is refused alike."""
    key = edge.key(edge.id, "decision:check")
    items = [plain()]
    for top in (
        {"subject": {"type": "role", "id": "editor"}},
        {"subject": {"type": "us:er", "id": "a"}},
        {"action": {"name": ""}},
        {"resource": {"type": "record", "id": "\x00"}},
    ):
        # The items' own subject is held first, so that nothing but the top level is in the way.
        warm, judged = raw(plain(), key=key), raw({**top, "evaluations": items}, path="/access/v1/evaluations", key=key)
        _, answer = await check(edge, warm, judged)
        assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 403 "))


@pytest.mark.parametrize(
    "data",
    [
        b"POST /access/v1/evaluation HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        b"POST /access/v1/evaluation HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /access/v1/evaluation HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"POST /access/v1/evaluation HTTP/1.1\r\nHost: x\r\nBad Header\r\n\r\n",
        b"POST /access/v1/evaluation HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\nContent-Length: 0\r\n\r\n",
        b"POST /access/v1/evaluation HTTP/9.9\r\n\r\n",
        b"POST /access/v1/evaluation\r\n\r\n",
    ],
)
async def test_bad_framing_is_refused_alike(edge, data):
    """Both ways share one parser, so nothing can be smuggled between them."""
    await check(edge, data, fast=0)


async def test_a_tenant_that_is_suspended_or_not_fresh_is_left_to_the_ordinary_way(edge):
    """The fast way only knows active, confirmed tenants."""
    key = edge.key(edge.id)
    edge.suspend(edge.id, TenantStatus.SUSPENDED)
    (answer,) = await check(edge, raw(plain(), key=key), fast=0)
    assert b'"tenant_suspended"' in answer


async def test_decisions_are_logged_on_the_fast_way(edge, tmp_path):
    """With the decision log on, every decision of both ways is in it, what was ignored included."""
    target = tmp_path / "decisions.jsonl"
    edge.log = DecisionLog(DecisionLogSettings(mode="all", path=str(target)))
    body = plain(context={"password": "hunter2"})
    body["subject"]["properties"] = {"role": "boss"}
    key = edge.key(edge.id, "decision:check")
    both = Both(edge)
    async with both.serving():
        await both.send(raw(body, key=key))
        await both.send(raw(body, key=key))
    lines = [json.loads(line) for line in target.read_text().splitlines()]
    assert len(lines) == 4
    for line in lines:
        line.pop("request_id")
        assert line == lines[0]
    assert "hunter2" not in target.read_text()
    assert lines[0]["attributes"]["subject"]["role"]["from"] == "ignored"


async def test_revocation_and_suspension_count_within_one_tick_of_the_clock(edge, monkeypatch):
    """The clock of uvloop stands still for a millisecond; a write may be acknowledged in it."""
    key, other = edge.key(edge.id), edge.key(edge.id)
    both = Both(edge)
    async with both.serving():
        del both.ports[1:]
        for token in (key, other):
            await both.send(raw(plain(), key=token))
        loop = asyncio.get_running_loop()
        with monkeypatch.context() as patched:
            stopped = loop.time()
            patched.setattr(loop, "time", lambda: stopped)
            for token in (key, other):
                (answer,) = await both.send(raw(plain(), key=token))
                assert b'"decision":true' in answer
            assert both.paths[0].answered == 2
            head = edge.node.heads[edge.id]
            edge.node.heads[edge.id] = replace(head, keys_revision=head.keys_revision + 1)
            del edge.keys.found[hash_token(key)]
            for digest, found in edge.keys.found.items():
                edge.keys.found[digest] = replace(found, head=edge.node.heads[edge.id])
            (answer,) = await both.send(raw(plain(), key=key))
            assert answer.startswith(b"HTTP/1.1 401 ")
            for _ in range(2):
                (answer,) = await both.send(raw(plain(), key=other))
                assert b'"decision":true' in answer
            edge.suspend(edge.id)
            (answer,) = await both.send(raw(plain(), key=other))
            assert b'"tenant_suspended"' in answer


async def test_a_process_that_is_to_end_says_so_with_each_answer(edge):
    """A keep-alive client learns between two requests that it must connect elsewhere, on the fast way too."""
    request = raw(plain(), key=edge.key(edge.id))
    both = Both(edge)
    async with both.serving():
        for draining in (False, False, True):
            if draining:
                for app in both.apps:
                    app[DRAINING].set()
            for answer in await both.send(request):
                assert answer.startswith(b"HTTP/1.1 200")
                assert (b"connection: close" in answer.lower()) is draining
        assert both.paths[0].answered == 1


async def test_a_remembered_head_holds_no_longer_than_the_confirmation(edge, monkeypatch):
    """When PostgreSQL went silent, what was found out about a head a moment ago ends with the tenant's last word."""
    both = Both(edge)
    async with both.serving():
        del both.ports[1:]
        stopped = asyncio.get_running_loop().time()
        monkeypatch.setattr(edge.node, "elapsed", lambda: stopped)
        monkeypatch.setattr(both.paths[0], "_elapsed", edge.node.elapsed)
        monkeypatch.setattr(edge.node, "warm_until", lambda _: stopped + 0.001)
        request = raw(plain(), key=edge.key(edge.id))
        for _ in range(2):
            (answer,) = await both.send(request)
            assert b'"decision":true' in answer
        assert both.paths[0].answered == 1
        monkeypatch.setattr(both.paths[0], "_elapsed", lambda: stopped + 0.002)
        monkeypatch.setattr(edge.node, "warm", lambda _: None)
        await both.send(request)
        assert both.paths[0].answered == 1


async def test_a_fault_of_the_fast_way_itself_is_left_to_the_ordinary_way(edge, monkeypatch):
    """Nobody is cut off, nothing is allowed by it, and it is told."""
    request = raw(plain(), key=edge.key(edge.id))
    both = Both(edge)
    async with both.serving(), line_to(both.ports[0]) as line:
        await line.ask(request)
        path = both.paths[0]
        with monkeypatch.context() as patched, structlog.testing.capture_logs() as told:
            patched.setattr(path, "_evaluation", lambda *_: 1 / 0)
            assert b'"decision":true' in await line.ask(request)
        assert path.answered == 0
        assert [entry["event"] for entry in told if entry["log_level"] == "error"] == ["fast_path.failed"]
        assert b'"decision":true' in await line.ask(request)
        assert path.answered == 1
