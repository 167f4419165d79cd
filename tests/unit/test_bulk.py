"""Forwarding to the bulk worker: what is handed over and back, and what happens when nobody answers."""

import asyncio
import contextlib
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web
from multidict import CIMultiDict

from service.all_routes import all_routes
from service.bulk import BulkForwarder, bulk_socket
from service.http_settings import HttpSettings
from service.routes import Needs, Route
from tenancy.ids import BASE_TENANT_ID
from tests.support.edge import Edge

LIMIT = 300_000
PATH = "/v1/tenants/acme/large"


async def in_place(_request: web.Request) -> web.StreamResponse:
    raise AssertionError("this worker must not answer it")


ROUTES = (
    Route(
        "POST", "/v1/tenants/{tenant}/large", in_place, Needs("policy:write", "kasbah:rule", "write"), LIMIT, bulk=True
    ),
    Route("GET", "/v1/tenants/{tenant}/large", in_place, Needs("policy:read", "kasbah:rule", "read"), bulk=True),
    Route(
        "GET", "/v1/tenants/{tenant}/large/{rest:.*}", in_place, Needs("policy:read", "kasbah:rule", "read"), bulk=True
    ),
    Route(
        "PUT",
        "/v1/large",
        in_place,
        Needs("policy:write", "kasbah:rule", "write", tenant=False, platform=True),
        LIMIT,
        bulk=True,
    ),
)


class ForwardingEdge(Edge):
    """An edge whose bulk worker listens on `path`, or does not."""

    def __init__(self, path, *, seconds=5.0, start_seconds=0.3, body_seconds=5.0):
        super().__init__(HttpSettings(body_seconds=body_seconds), ROUTES)
        self.tenant_id = self.tenant("acme")
        self.token = self.key(self.tenant_id)
        self._forwarder = BulkForwarder(path, seconds=seconds, start_seconds=start_seconds)

    def app(self):
        app = super().app()
        app.cleanup_ctx.append(self._forwarder.part)
        return app

    async def raw(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", int(self.url.rpartition(":")[2]))

    def head(self, *more: bytes, start: bytes = b"POST /v1/tenants/acme/large HTTP/1.1") -> bytes:
        lines = (start, b"Host: kasbah", b"Authorization: Bearer " + self.token.encode(), *more)
        return b"\r\n".join(lines) + b"\r\n\r\n"


@pytest.fixture
def path(tmp_path_factory):
    with bulk_socket() as found:
        yield found


@contextlib.asynccontextmanager
async def answering(path, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[None]:
    """Answer on the socket with an application of one handler."""
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{rest:.*}", handler)
    runner = web.AppRunner(app, access_log=None, auto_decompress=False, shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, path).start()
    try:
        yield
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def speaking(path, talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]):
    """Speak by hand on the socket."""
    server = await asyncio.start_unix_server(talk, path)
    try:
        yield
    finally:
        server.close()
        path.unlink(missing_ok=True)


async def test_a_request_is_handed_over_as_it_came(path):
    """Method, escaped path, query, repeated headers and body; not what is about the connection."""
    seen = {}

    async def handler(request):
        seen.update(target=request.raw_path, headers=request.headers.copy(), body=await request.read())
        return web.Response(body=b"{}")

    edge = ForwardingEdge(path)
    async with answering(path, handler), edge.serving():
        reader, writer = await edge.raw()
        start = b"GET /v1/tenants/acme/large/a%2Fb%20c?x=1&x=%32&y=+ HTTP/1.1"
        more = (
            b"X-Twice: one",
            b"X-Twice: two",
            b"Connection: close, If-Match",
            b'If-Match: "7"',
            b"Keep-Alive: 5",
            b"TE: trailers",
            b"X-Request-ID: mine-1",
            "X-Name: caf\u00e9".encode(),
            b"X-Kasbah-Client-Address: 198.51.100.1",
            b"Content-Length: 3",
        )
        writer.write(edge.head(*more, start=start) + b"abc")
        answer = await reader.read()
        writer.close()
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert seen["target"] == "/v1/tenants/acme/large/a%2Fb%20c?x=1&x=%32&y=+"
    assert seen["body"] == b"abc"
    headers = seen["headers"]
    assert headers.getall("X-Twice") == ["one", "two"]
    assert headers["If-Match"] == '"7"'
    assert headers["Host"] == "kasbah"
    assert headers["Authorization"] == f"Bearer {edge.token}"
    assert headers["X-Request-ID"] == "mine-1"
    assert headers["X-Name"] == "caf\u00e9"
    assert headers.getall("X-Kasbah-Client-Address") == ["127.0.0.1"]
    assert not {"Keep-Alive", "TE", "User-Agent", "Accept"} & set(headers)


async def test_an_answer_is_handed_back_as_it_came(path):
    """Status, headers and body; the request id is the one that the bulk worker logged."""
    body = os.urandom(3_000_000)
    seen = []

    async def handler(request):
        seen.append(request.headers["X-Request-ID"])
        headers = {"ETag": '"9"', "Kasbah-Revision": "9", "Retry-After": "3", "X-Request-ID": "other"}
        return web.Response(status=409, body=body, headers=headers, content_type="application/problem+json")

    edge = ForwardingEdge(path)
    async with answering(path, handler), edge.serving():
        answer = await edge.post(PATH, {}, edge.token)
    assert answer.status == 409
    assert answer.body == body
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    headers = CIMultiDict(answer.headers)
    assert (headers["ETag"], headers["Retry-After"]) == ('"9"', "3")
    assert answer.headers["X-Request-ID"] == seen[0] != "other"
    assert answer.headers["Content-Length"] == str(len(body))


async def test_nothing_is_forwarded_that_is_not_admitted(path):
    """No key, a key without the scope, another tenant's key."""

    async def handler(_request):
        raise AssertionError("forwarded")

    edge = ForwardingEdge(path)
    other = edge.key(edge.tenant("other"))
    reading = edge.key(edge.tenant_id, "policy:read")
    async with answering(path, handler), edge.serving():
        assert (await edge.post(PATH, {})).status == 401
        assert (await edge.post(PATH, {}, reading)).status == 403
        assert (await edge.post(PATH, {}, other)).status == 403


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_above_the_limit_is_refused(path, chunked):
    """413, whether its size is told or not; the bulk worker never has all of it."""
    whole = []

    async def handler(request):
        whole.append(await request.read())
        return web.Response()

    async def body():
        for _ in range(10):
            yield b"x" * (LIMIT // 8)

    edge = ForwardingEdge(path)
    async with answering(path, handler), edge.serving():
        data = body() if chunked else b"x" * (LIMIT + 1)
        headers = {"Authorization": f"Bearer {edge.token}", "Content-Type": "application/json"}
        async with edge.client.post(PATH, data=data, headers=headers) as answer:
            assert answer.status == 413
        exact = await edge.post(PATH, b"x" * LIMIT, edge.token)
    assert exact.status == 200
    assert whole == [b"x" * LIMIT]


async def test_a_slow_body_is_cut(path):
    """408 at the deadline for bodies."""

    async def handler(request):
        await request.read()
        return web.Response()

    edge = ForwardingEdge(path, body_seconds=0.3)
    async with answering(path, handler), edge.serving():
        reader, writer = await edge.raw()
        writer.write(edge.head(b"Content-Length: 10") + b"12345")
        async with asyncio.timeout(60):
            assert (await reader.readline()).startswith(b"HTTP/1.1 408")
        writer.close()


async def test_a_body_is_handed_over_as_it_arrives(path):
    """Nothing is collected in the public worker."""
    arrived = asyncio.Event()

    async def handler(request):
        assert await request.content.readexactly(5) == b"first"
        arrived.set()
        return web.Response(body=await request.content.read())

    edge = ForwardingEdge(path)
    async with answering(path, handler), edge.serving():
        reader, writer = await edge.raw()
        writer.write(edge.head(b"Transfer-Encoding: chunked", b"Connection: close") + b"5\r\nfirst\r\n")
        async with asyncio.timeout(60):
            await arrived.wait()
        writer.write(b"4\r\nlast\r\n0\r\n\r\n")
        answer = await reader.read()
        writer.close()
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"last")


async def test_an_answer_before_the_whole_body_is_handed_back(path):
    """A refusal does not wait for megabytes that nobody reads."""

    async def handler(_request):
        return web.Response(status=503, headers={"Retry-After": "1"})

    edge = ForwardingEdge(path)
    async with answering(path, handler), edge.serving():
        answer = await edge.post(PATH, b"x" * LIMIT, edge.token)
    assert answer.status == 503


async def test_nobody_listens(path):
    """503 with Retry-After, soon."""
    edge = ForwardingEdge(path)
    async with edge.serving():
        answer = await edge.post(PATH, b"x" * 100_000, edge.token)
    assert answer.status == 503
    assert answer.headers["Retry-After"] == "1"
    assert answer.json["type"] == "urn:kasbah:problem:bulk-worker-unavailable"


async def test_a_worker_that_is_being_replaced_is_waited_for(path):
    """For a moment, with the body untouched."""

    async def handler(request):
        return web.Response(body=await request.read())

    edge = ForwardingEdge(path, start_seconds=60)
    async with edge.serving():
        asking = asyncio.create_task(edge.post(PATH, b"x" * 100_000, edge.token))
        await asyncio.sleep(0.3)
        async with answering(path, handler):
            assert (await asking).body == b"x" * 100_000


@pytest.mark.parametrize("method", ["POST", "GET", "PUT"])
async def test_a_worker_that_dies_is_told_and_not_asked_again(path, method):
    """503: whether it acted is not known, so nothing is repeated here, whatever the method."""
    asked = []

    async def talk(reader, writer):
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.transport.abort()

    edge = ForwardingEdge(path)
    key = edge.key(None)
    async with speaking(path, talk), edge.serving():
        target = "/v1/large" if method == "PUT" else PATH
        data = None if method == "GET" else b"{}"
        async with edge.client.request(
            method, target, data=data, headers={"Authorization": f"Bearer {key if method == 'PUT' else edge.token}"}
        ) as answer:
            assert answer.status == 503
    assert len(asked) == 1


async def test_half_an_answer_is_never_a_whole_one(path):
    """The connection breaks; no second head stands in the body."""

    async def talk(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhalf \r\n")
        await writer.drain()
        await asyncio.sleep(0.1)
        writer.transport.abort()

    edge = ForwardingEdge(path)
    async with speaking(path, talk), edge.serving():
        reader, writer = await edge.raw()
        writer.write(edge.head(start=b"GET /v1/tenants/acme/large HTTP/1.1"))
        answer = b""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(60):
                answer = await reader.read()
        writer.close()
    assert answer.count(b"HTTP/1.1") <= 1
    assert not answer.endswith(b"0\r\n\r\n")


async def test_a_worker_that_hangs_is_given_up(path):
    """503 at the bound."""

    async def talk(reader, writer):
        await reader.read()
        writer.close()

    edge = ForwardingEdge(path, seconds=0.4)
    async with speaking(path, talk), edge.serving():
        async with asyncio.timeout(60):
            assert (await edge.post(PATH, {}, edge.token)).status == 503


async def test_a_client_that_leaves_ends_its_request(path):
    """The bulk worker sees the connection close."""
    begun, ended = asyncio.Event(), asyncio.Event()

    async def talk(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        begun.set()
        await reader.read()
        ended.set()
        writer.close()

    edge = ForwardingEdge(path, seconds=60)
    async with speaking(path, talk), edge.serving():
        _, writer = await edge.raw()
        writer.write(edge.head(start=b"GET /v1/tenants/acme/large HTTP/1.1"))
        async with asyncio.timeout(60):
            await begun.wait()
            writer.close()
            await ended.wait()


async def test_a_header_that_cannot_be_handed_over_is_refused(path):
    """Leaving a byte out would make another precondition of it."""

    async def handler(_request):
        raise AssertionError("forwarded")

    edge = ForwardingEdge(path)
    async with answering(path, handler), edge.serving():
        reader, writer = await edge.raw()
        writer.write(edge.head(b'If-Match: "4\xff2"', b"Content-Length: 2") + b"{}")
        assert (await reader.readline()).startswith(b"HTTP/1.1 400")
        writer.close()


async def test_the_node_takes_a_write_in_before_it_is_answered(path):
    """By the revision that the answer carries; a write without one concerns the base."""

    async def handler(request):
        if request.method == "PUT":
            return web.Response(body=b"{}")
        return web.Response(body=b"{}", headers={"Kasbah-Revision": "12"})

    edge = ForwardingEdge(path)
    platform = edge.key(None)
    async with answering(path, handler), edge.serving():
        await edge.post(PATH, {}, edge.token)
        assert edge.node.followed == [(edge.tenant_id, 12)]
        async with edge.client.put("/v1/large", data=b"{}", headers={"Authorization": f"Bearer {platform}"}) as answer:
            assert answer.status == 200
        assert edge.node.followed[1:] == [(BASE_TENANT_ID, 0)]


async def test_without_a_bulk_worker_routes_are_answered_in_place():
    """As when the setting is off."""

    async def handler(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=b"here")

    edge = Edge(
        routes=[
            Route("GET", "/v1/tenants/{tenant}/large", handler, Needs("policy:read", "kasbah:rule", "read"), bulk=True)
        ]
    )
    token = edge.key(edge.tenant("acme"))
    async with edge.serving():
        assert (await edge.get(PATH, token)).body == b"here"


def test_what_decisions_would_wait_for_is_marked():
    """Whatever reads or writes all rows of a tenant, signs somebody in, or computes a password hash."""
    marked = {f"{route.method} {route.label}" for route in all_routes() if route.bulk}
    policy = "/v1/tenants/{tenant}/policy"
    assert marked == {
        *(f"POST {policy}/{name}" for name in ("plan", "apply", "rollback")),
        f"GET {policy}/export",
        "PUT /v1/model",
        "POST /v1/model/plan",
        "POST /v1/users/import",
        "GET /v1/users/export",
        *(f"{route.method} {route.path}" for route in all_routes() if route.path.startswith("/v1/auth/")),
        *(f"{route.method} {route.path}" for route in all_routes() if route.hashes),
    }


def test_the_socket_stands_in_a_private_directory(monkeypatch, tmp_path):
    """Only its owner may enter; it is gone afterwards; a path too long for a socket is not used."""
    with bulk_socket() as found:
        assert stat.S_IMODE(found.parent.stat().st_mode) == 0o700
    assert not found.parent.exists()
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with bulk_socket() as found:
        assert len(str(found)) < 104
