"""Both ways through the server answer the same bytes to the same bytes, however odd the head is."""

import asyncio
import json
import re
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.fast_answers import FastPath
from service.fast_path import FastHandler
from service.server import DeadlineHandler
from tests.support.edge import Edge, question

BODY = json.dumps(question("user:alice", "read", "record:1")).encode()
KEY = "KEY"
REQUEST_LINES = st.sampled_from(
    [
        "POST /access/v1/evaluation HTTP/1.1",
        "POST /access/v1/evaluation HTTP/1.1",
        "POST /access/v1/evaluation HTTP/1.1",
        "POST /access/v1/evaluations HTTP/1.1",
        "POST /access/v1/evaluation HTTP/1.0",
        "POST /access/v1/evaluation/ HTTP/1.1",
        "POST /access/v1/evaluation? HTTP/1.1",
        "POST /access/v1/evaluation#x HTTP/1.1",
        "POST /access/v1/evaluation?tenant=beta HTTP/1.1",
        "POST /access/v1/evaluation%2f HTTP/1.1",
        "POST /access/v1/evaluatio%6e HTTP/1.1",
        "POST /access/v1/evaluation/../evaluation HTTP/1.1",
        "POST //access/v1/evaluation HTTP/1.1",
        "POST http://other.example/access/v1/evaluation HTTP/1.1",
        "POST /access/v1/evaluationx HTTP/1.1",
        "POST  /access/v1/evaluation HTTP/1.1",
        "POST /access/v1/evaluation HTTP/1.2",
        "POST /access/v1/evaluation HTTP/2.0",
        "GET /access/v1/evaluation HTTP/1.1",
    ]
)
CREDENTIALS = st.sampled_from(
    [
        [f"Authorization: Bearer {KEY}"],
        [f"Authorization: Bearer {KEY}"],
        [f"Authorization: Bearer {KEY}"],
        [f"authorization: bearer {KEY}"],
        [f"AUTHORIZATION:Bearer {KEY}"],
        [f"Authorization: Bearer  {KEY}"],
        [f"Authorization: Bearer\t{KEY}"],
        [f"Authorization: \t Bearer {KEY} \t"],
        [f"Authorization : Bearer {KEY}"],
        [f"Authorization: Bearer {KEY}\x00"],
        [f"Authorization: Bearer {KEY}\xff"],
        [f"Authorization: Bearer {KEY}, Bearer {KEY}"],
        [f"Authorization: Bearer {KEY}", f"Authorization: Bearer {KEY}"],
        ["Authorization: Bearer", f" {KEY}"],
        ["Authorization: Basic eDp4"],
        ["Authorization:"],
        [],
    ]
)
TYPES = st.sampled_from(
    [
        ["Content-Type: application/json"],
        ["Content-Type: application/json"],
        ["content-type: application/json; charset=utf-8"],
        ["Content-Type: Application/JSON"],
        ["Content-Type: application/json "],
        ["Content-Type: application/jsonp"],
        ["Content-Type: text/plain"],
        ["Content-Type: application/json", "Content-Type: application/json"],
        [],
    ]
)
LENGTHS = st.sampled_from(
    [
        [f"Content-Length: {len(BODY)}"],
        [f"Content-Length: {len(BODY)}"],
        [f"Content-Length: +{len(BODY)}"],
        [f"Content-Length: 0{len(BODY)}"],
        [f"Content-Length: {len(BODY)} "],
        [f"Content-Length: {len(BODY)}, {len(BODY)}"],
        [f"Content-Length: {len(BODY)}", f"Content-Length: {len(BODY)}"],
        [f"Content-Length: {len(BODY)}", "Transfer-Encoding: chunked"],
        ["Content-Length: 0"],
        ["Content-Length: -1"],
        ["Content-Length: 0x10"],
        [],
    ]
)
HOSTS = st.sampled_from(
    [
        ["Host: pdp.example"],
        ["Host: pdp.example"],
        ["host: pdp.example:8080"],
        ["Host: beta.pdp.example"],
        ["Host: acme@pdp.example"],
        ["Host: pdp.example", "Host: other.example"],
        ["Host:"],
        [],
    ]
)
OTHERS = st.lists(
    st.sampled_from(
        [
            "X-Request-ID: given",
            "X-Request-ID: two",
            "X-Request-ID: a b",
            "X-Request-ID: \x7f",
            "X-Request-ID: é",
            "X-Request-ID: a\rX-Split: 1",
            "X-Tenant-ID: acme",
            "X-Tenant-ID: beta",
            "X-Tenant-ID: ACME",
            "X-Tenant-ID:",
            "Kasbah-Min-Revision: 1",
            "Kasbah-Min-Revision: 999",
            "Kasbah-Min-Revision: -1",
            "Kasbah-Min-Revision: 0000000000000000001",
            "Kasbah-Min-Revision: \xb2",
            "Kasbah-Min-Revision:",
            "Content-Encoding: identity",
            "Content-Encoding: gzip",
            "Expect: 100-continue",
            "Upgrade: websocket",
            "Connection: keep-alive",
            "Connection: close",
            "Transfer-Encoding: identity",
            "X-Forwarded-Host: evil",
            "X-HTTP-Method-Override: DELETE",
            "Cookie: kasbah=1",
        ]
    ),
    max_size=3,
)


@st.composite
def raw_requests(draw) -> bytes:
    """Bytes of one request; `KEY` stands for a good key."""
    lines = [draw(REQUEST_LINES)]
    lines += draw(HOSTS) + draw(OTHERS) + draw(CREDENTIALS) + draw(TYPES) + draw(LENGTHS)
    head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")
    return head + BODY


NEXT = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Request-ID: next\r\nConnection: close\r\n\r\n"


async def served(server: Edge, data: bytes) -> bytes:
    """Send a request, then another one that closes; return all that comes back but what is new in every answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
    writer.write(data)
    received = b""
    with suppress(TimeoutError):
        async with asyncio.timeout(0.02):
            received = await reader.read(65536)
    with suppress(ConnectionError):
        writer.write(NEXT)
        async with asyncio.timeout(5):
            received += await reader.read()
    writer.close()
    received = re.sub(rb"Date: [^\r]*\r\n", b"", received)
    return re.sub(rb"X-Request-ID: [0-9a-f]{13,}\r\n", b"X-Request-ID: made\r\n", received)


@pytest.fixture(scope="module")
def ways():
    """The same small tenant behind both ways, on a loop of their own; and what the fast way answered."""
    taken = []
    ordinary_answer = FastPath.answer

    def noted(path, *parsed):
        answer = ordinary_answer(path, *parsed)
        if answer is not None:
            taken.append(answer)
        return answer

    patch = pytest.MonkeyPatch()
    patch.setattr(FastPath, "answer", noted)
    loop = asyncio.new_event_loop()
    edges = []
    contexts = []
    for handler in (FastHandler, DeadlineHandler):
        edge = Edge()
        edge.handler_class = handler
        acme = edge.tenant("acme", "p user:alice record:* read")
        edge.tenant("beta", "p user:alice record:* read")
        edge.token = edge.key(acme)
        context = edge.serving()
        loop.run_until_complete(context.__aenter__())
        edges.append(edge)
        contexts.append(context)
        for _ in range(2):  # the second one is warm
            loop.run_until_complete(edge.post("/access/v1/evaluation", BODY, edge.token))
    yield loop, edges, taken
    for context in contexts:
        loop.run_until_complete(context.__aexit__(None, None, None))
    loop.close()
    patch.undo()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(raw_requests())
def test_both_ways_answer_alike(ways, data: bytes) -> None:
    """Status, headers and body, of this request and of the next on its connection: nothing can be smuggled between."""
    loop, edges, _ = ways
    answers = []
    for edge in edges:
        sent = data.replace(KEY.encode(), edge.token.encode())
        received = loop.run_until_complete(served(edge, sent))
        assert edge.token.encode() not in received
        assert b"\r\nX-Split" not in received
        parts = [part.partition(b"\r\n\r\n") for part in re.split(rb"(?=HTTP/1\.[01] [0-9]{3} )", received)]
        for head, _, _ in parts:
            assert not re.match(rb"HTTP/1\.[01] 5(?!03)", head), received
        answers.append([(sorted(head.split(b"\r\n")), body) for head, _, body in parts])
    assert answers[0] == answers[1]


def test_plain_requests_take_the_fast_way(ways) -> None:
    """Otherwise the comparison would compare the ordinary way with itself."""
    loop, (fast, _), taken = ways
    head = f"POST /access/v1/evaluation HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(BODY)}\r\n"
    before = len(taken)
    answer = loop.run_until_complete(served(fast, f"{head}Authorization: Bearer {fast.token}\r\n\r\n".encode() + BODY))
    assert b'"decision":true' in answer
    assert len(taken) == before + 1
