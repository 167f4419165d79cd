"""What hostile or careless clients send: slow bytes, odd methods, broken heads, smuggling."""

import asyncio
import contextlib
import json
import re
import socket

import pytest

from service.all_routes import all_routes
from service.answer_headers import CLOSED, HSTS
from service.fast_path import FastHandler
from service.http_settings import HttpSettings
from service.routes import ANY_METHOD, Needs
from service.server import DeadlineHandler
from tests.support.edge import Edge, question

GOOD = json.dumps(question("user:alice", "read", "record:1")).encode()


@pytest.fixture(params=[FastHandler, DeadlineHandler], ids=["fast", "ordinary"])
def handler(request):
    return request.param


@contextlib.asynccontextmanager
async def serving(handler, settings):
    made = Edge(settings)
    made.handler_class = handler
    made.acme = made.tenant("acme", "p user:alice record:* read")
    made.key_all = made.key(made.acme)
    async with made.serving():
        yield made


@pytest.fixture
async def edge(handler):
    async with serving(handler, HttpSettings()) as made:
        yield made


@pytest.fixture
async def hasty(handler):
    """Whoever takes more than a second for anything is cut."""
    limits = HttpSettings(head_seconds=1, body_seconds=1, send_seconds=1, keepalive_seconds=30)
    async with serving(handler, limits) as made:
        yield made


def head(edge, length, *more, path="/access/v1/evaluation", method="POST"):
    """Return the bytes of a request's head."""
    lines = [f"{method} {path} HTTP/1.1", "Host: pdp.example", "Content-Type: application/json"]
    lines += [f"Authorization: Bearer {edge.key_all}", *more]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def connect(edge):
    """Return a raw connection."""
    return await asyncio.open_connection("127.0.0.1", int(edge.url.rpartition(":")[2]))


async def raw(edge, data, wait=20.0):
    """Send bytes, and return everything that comes until the server closes or is quiet."""
    reader, writer = await connect(edge)
    writer.write(data)
    await writer.drain()
    received = b""
    try:
        async with asyncio.timeout(wait):
            while chunk := await reader.read(65536):
                received += chunk
    except TimeoutError:
        pass
    writer.close()
    return received


async def until_closed(reader):
    """Wait until the server closes; a byte on its way makes that a reset."""
    with contextlib.suppress(ConnectionResetError):
        async with asyncio.timeout(60):
            while await reader.read(65536):
                pass


@pytest.mark.parametrize("start", [b"", b"P", b"POST /access/v1/evaluation HTTP/1.1\r\nHost: x\r\n"])
async def test_a_slow_head_is_cut(hasty, start):
    """A connection that says nothing, one letter, or half a head, is closed soon; others are served meanwhile."""
    reader, writer = await connect(hasty)
    writer.write(start)
    await writer.drain()
    waiting = asyncio.create_task(until_closed(reader))
    assert (await hasty.post("/access/v1/evaluation", GOOD, hasty.key_all)).status == 200
    await waiting
    writer.close()


async def test_trickling_bytes_do_not_extend_the_deadline(hasty):
    """It counts from the first byte: the head would be whole only long after it."""
    reader, writer = await connect(hasty)
    waiting = asyncio.create_task(until_closed(reader))
    for byte in head(hasty, 10):
        if waiting.done():
            break
        writer.write(bytes([byte]))
        await asyncio.sleep(0.05)
    else:
        pytest.fail("the whole head was taken")
    await waiting
    writer.close()


async def test_a_slow_body_is_answered_408(hasty):
    """And the connection ends."""
    received = await raw(hasty, head(hasty, len(GOOD)) + GOOD[:10])
    assert received.startswith(b"HTTP/1.1 408")
    assert b"body-timeout" in received


async def send_for_ever(connection, data):
    """Send the same again and again, for a minute at most."""
    async with asyncio.timeout(60):
        while True:
            await asyncio.get_running_loop().sock_sendall(connection, data)


async def test_an_answer_that_is_not_taken_is_given_up(hasty):
    """A client that asks and never reads holds nothing for long."""
    small = socket.socket()
    small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    small.setblocking(False)
    await asyncio.get_running_loop().sock_connect(small, ("127.0.0.1", int(hasty.url.rpartition(":")[2])))
    items = json.dumps({"evaluations": [json.loads(GOOD)] * 1000}).encode()
    # Asks for far more than any buffer holds; the service stops reading when it cannot write.
    with small, pytest.raises(ConnectionError):
        async with asyncio.timeout(60):  # far beyond the deadline: it would wait for ever without one
            await send_for_ever(small, head(hasty, len(items), path="/access/v1/evaluations") + items)
    assert (await hasty.post("/access/v1/evaluation", GOOD, hasty.key_all)).status == 200


async def test_an_idle_connection_stays_open(hasty):
    """Keep-alive is longer than the deadline of a head."""
    reader, writer = await connect(hasty)
    for _ in range(2):
        writer.write(head(hasty, len(GOOD)) + GOOD)
        await writer.drain()
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(2.5)
        await reader.read(65536)
    assert not reader.at_eof()
    writer.close()


BROKEN = {
    "garbage": b"\x16\x03\x01\x02\x00\x01\x00",
    "no version": b"GET /healthz\r\n\r\n",
    "bare line feed in a name": b"GET /healthz HTTP/1.1\r\nHost: x\r\nA\nB: c\r\n\r\n",
    "space before colon": b"GET /healthz HTTP/1.1\r\nHost : x\r\n\r\n",
    "folded header": b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: a\r\n b\r\n\r\n",
    "null in a header": b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: a\x00b\r\n\r\n",
    "huge header": b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 20_000 + b"\r\n\r\n",
    "many headers": b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"X-A: a\r\n" * 500 + b"\r\n",
    "two lengths": b"POST /access/v1/evaluation HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "length and chunks": (
        b"POST /access/v1/evaluation HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "bad length": b"POST /access/v1/evaluation HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "plus length": b"POST /access/v1/evaluation HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\nabcde",
    "unknown coding": b"POST /access/v1/evaluation HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n",
}


@pytest.mark.parametrize("case", BROKEN)
async def test_a_broken_head_is_a_400_problem_and_closes(edge, case):
    """Nothing after it is read as a request."""
    received = await raw(edge, BROKEN[case] + b"GET /healthz HTTP/1.1\r\nHost: smuggled\r\n\r\n")
    assert received.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400")), received
    assert b"application/problem+json" in received
    assert received.count(b"HTTP/1.") == 1
    assert b"Traceback" not in received


async def test_two_requests_in_one_packet_are_answered_in_order(edge):
    """Pipelined, and split anywhere."""
    denied = json.dumps(question("user:bob", "read", "record:1")).encode()
    both = head(edge, len(GOOD)) + GOOD + head(edge, len(denied), "Connection: close") + denied
    for split in (len(both), 1, 20, 150, len(both) // 2, len(both) - 1):
        reader, writer = await connect(edge)
        writer.write(both[:split])
        await writer.drain()
        await asyncio.sleep(0.01)
        writer.write(both[split:])
        received = b""
        async with asyncio.timeout(60):
            while chunk := await reader.read(65536):
                received += chunk
        assert received.count(b"HTTP/1.1 200") == 2
        assert received.index(b'"decision":true') < received.index(b'"decision":false')
        writer.close()


@pytest.mark.parametrize("name", ["Authorization", "Content-Type", "Kasbah-Min-Revision", "X-Tenant-ID"])
async def test_a_repeated_header_that_matters_is_refused(edge, name):
    """Equal or not; the first never wins silently."""
    values = {
        "Authorization": f"Bearer {edge.key_all}",
        "Content-Type": "application/json",
        "Kasbah-Min-Revision": "1",
        "X-Tenant-ID": "acme",
    }
    more = [f"{name}: {values[name]}"] * (1 if name in {"Authorization", "Content-Type"} else 2)
    received = await raw(edge, head(edge, len(GOOD), *more, "Connection: close") + GOOD)
    assert received.split(b" ")[1] in {b"400", b"401"}


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "HEAD", "PROPFIND", "FOO", "get"])
async def test_only_listed_methods_are_served(edge, method):
    """On every route, with a good key; HEAD is not implied by GET."""
    for route in all_routes():
        if route.method == ANY_METHOD and method not in {"TRACE", "CONNECT"}:
            continue
        path = re.sub(r"\{(\w+)[^}]*\}", r"\1", route.path)
        if method == "CONNECT":
            path = "pdp.example:443"
        received = await raw(edge, head(edge, None, "Connection: close", path=path, method=method))
        assert received.split(b" ")[1] in {b"405", b"400", b"404"}, (route.path, received)
        if method == "CONNECT":
            break


async def test_a_method_cannot_be_overridden(edge):
    """By no header, and by no parameter."""
    headers = {"X-HTTP-Method-Override": "POST", "X-HTTP-Method": "POST", "X-Method-Override": "POST"}
    answer = await edge.get("/access/v1/evaluation?_method=POST", edge.key_all, headers)
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")


async def test_every_route_that_needs_a_key_refuses_without_one(edge):
    """And its answer is a problem with the headers that every answer has."""
    for route in all_routes():
        if not isinstance(route.access, Needs):
            continue
        path = re.sub(r"\{\w+\}", "1", route.path.replace("{tenant}", "acme"))  # a brace itself matches no variable
        async with edge.client.request(route.method, path, data=b"{}") as response:
            assert response.status == 401, route.path
            assert response.headers["Content-Type"] == "application/problem+json"
            assert response.headers["X-Request-ID"]
            assert CLOSED.items() <= response.headers.items(), route.path


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_every_answer_is_closed(handler, scheme):
    """Decisions, refusals, and what is no request at all; where TLS is in front, they say that it stays so."""
    made = Edge(HttpSettings(public_url=f"{scheme}://pdp.example"))
    made.handler_class = handler
    made.acme = made.tenant("acme", "p user:alice record:* read")
    made.key_all = made.key(made.acme)
    body = json.dumps(question("user:alice", "read", "record:1")).encode()
    wanted = {f"{name}: {value}".encode() for name, value in CLOSED.items()}
    hsts = f"Strict-Transport-Security: {HSTS}".encode()
    async with made.serving():
        for sent, status in (
            (head(made, len(body), "Connection: close") + body, b"200"),
            (head(made, len(body)) + body + head(made, len(body), "Connection: close") + body, b"200"),
            (head(made, 2, "Connection: close") + b"{}", b"400"),
            (head(made, None, "Connection: close", path="/nowhere", method="GET"), b"404"),
        ):
            received = await raw(made, sent)
            for answer in received.split(b"HTTP/1.1 ")[1:]:
                lines = set(answer.partition(b"\r\n\r\n")[0].split(b"\r\n"))
                assert answer.startswith(status)
                assert wanted <= lines
                assert (hsts in lines) is (scheme == "https")
        broken = await raw(made, b"GET / HTTP/1.1\r\nBroken\r\n\r\n")
        assert wanted <= set(broken.split(b"\r\n"))


async def test_no_other_site_is_let_in(edge):
    """A browser reads no answer for a page of another origin, asks no leave for one, and is given nothing to send."""
    browser = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    for route in all_routes():
        path = re.sub(r"\{\w+:?(\w*)[^}]*\}", lambda found: found[1] or "1", route.path.replace("{tenant}", "acme"))
        asked = "GET" if route.method == ANY_METHOD else route.method
        for method in (asked, "OPTIONS"):
            async with edge.client.request(method, path, data=b"{}", headers=browser) as response:
                assert not [name for name in response.headers if name.lower().startswith("access-control-")], path
                assert "Set-Cookie" not in response.headers, path
                assert response.headers["X-Content-Type-Options"] == "nosniff", path
                if method == "OPTIONS" and route.method != ANY_METHOD:
                    assert response.status == 405, path


async def test_a_path_has_one_spelling(edge):
    """Variants are other paths."""
    for path in ("//access/v1/evaluation", "/access/v1/evaluation/", "/ACCESS/v1/evaluation", "/access//v1/evaluation"):
        received = await raw(edge, head(edge, len(GOOD), "Connection: close", path=path) + GOOD)
        assert received.startswith(b"HTTP/1.1 404"), path


async def test_metadata_is_public_and_absolute(edge):
    """For the decision point and for any tenant's name alike; what is no name is 404."""
    made = Edge(HttpSettings(public_url="https://pdp.example/"))
    async with made.serving():
        answer = await made.get("/.well-known/authzen-configuration")
        assert answer.json == {
            "policy_decision_point": "https://pdp.example",
            "access_evaluation_endpoint": "https://pdp.example/access/v1/evaluation",
            "access_evaluations_endpoint": "https://pdp.example/access/v1/evaluations",
            "search_subject_endpoint": "https://pdp.example/access/v1/search/subject",
            "search_resource_endpoint": "https://pdp.example/access/v1/search/resource",
            "search_action_endpoint": "https://pdp.example/access/v1/search/action",
        }
        assert "max-age" in answer.headers["Cache-Control"]
        tenant = await made.get("/.well-known/authzen-configuration/acme")
        assert tenant.json["policy_decision_point"] == "https://pdp.example/acme"
        assert tenant.json["access_evaluation_endpoint"] == "https://pdp.example/access/v1/evaluation?tenant=acme"
        for name in ("ACME", "_base", "a%0d%0ab", "%3Cscript%3E", "-a"):
            assert (await made.get(f"/.well-known/authzen-configuration/{name}")).status == 404


async def test_metrics_name_routes_and_never_what_a_caller_sent(edge):
    """Labels stay a closed set, however many paths are tried."""
    for number in range(20):
        await edge.get(f"/nowhere/{number}")
        await edge.get(f"/v1/forward-auth/somewhere/{number}")
        await edge.get(f"/.well-known/authzen-configuration/tenant-{number}")
    await edge.post("/access/v1/evaluation", GOOD, edge.key_all)
    text = (await edge.get("/metrics", edge.key(None))).body.decode()
    routes = {
        line.partition('route="')[2].partition('"')[0] for line in text.splitlines() if "http_requests_total{" in line
    }
    assert routes <= {route.label for route in all_routes()} | {"unmatched"}
    assert {"unmatched", "/access/v1/evaluation", "/v1/forward-auth/{path}"} <= routes
    for stray in ("nowhere", "somewhere", "tenant-1", "acme", "alice"):
        assert stray not in text
