"""Both ways through the server answer the same bytes to the same bytes, however odd the head is."""

import asyncio
import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.edge import Edge, question
from tests.support.policy_world import VirtualLoop
from tests.support.two_ways import TwoWays, answers_in

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


async def served(ways: TwoWays, data: bytes) -> list[bytes]:
    """Send a request, then another one that closes; return what both ways answer to them, which is the same."""
    pair = ways.connect()
    await pair.say(data)
    await pair.say(NEXT)
    await asyncio.sleep(30)  # past all deadlines
    pair.compare()
    assert pair.fast.closed
    return answers_in(pair.fast.received)


@pytest.fixture(scope="module")
def behind():
    """A small tenant behind both ways, warm, on a loop of their own; with the token of a key."""
    loop = VirtualLoop()
    edge = Edge()
    acme = edge.tenant("acme", "p user:alice record:* read")
    edge.tenant("beta", "p user:alice record:* read")
    token = edge.key(acme)
    ways = TwoWays(edge)
    context = ways.serving()
    loop.run_until_complete(context.__aenter__())
    loop.run_until_complete(served(ways, plain_request(token)))
    yield loop, ways, token
    loop.run_until_complete(context.__aexit__(None, None, None))
    loop.close()


def plain_request(token: str) -> bytes:
    head = f"POST /access/v1/evaluation HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(BODY)}"
    return f"{head}\r\nAuthorization: Bearer {token}\r\n\r\n".encode() + BODY


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(raw_requests())
def test_both_ways_answer_alike(behind, data: bytes) -> None:
    """Status, headers and body, of this request and of the next on its connection: nothing can be smuggled between."""
    loop, ways, token = behind
    answers = loop.run_until_complete(served(ways, data.replace(KEY.encode(), token.encode())))
    for answer in answers:
        assert token.encode() not in answer
        assert b"\r\nX-Split" not in answer
        assert not re.match(rb"HTTP/1\.[01] 5(?!03)", answer), answer


def test_plain_requests_take_the_fast_way(behind) -> None:
    """Otherwise the comparison would compare the ordinary way with itself."""
    loop, ways, token = behind
    before = ways.path.answered
    answer, _ = loop.run_until_complete(served(ways, plain_request(token)))
    assert b'"decision":true' in answer
    assert ways.path.answered == before + 1
