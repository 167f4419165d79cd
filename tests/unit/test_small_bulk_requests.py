"""Requests with small bodies at the bulk worker's door: awaited here, held in a place, and answered once."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from service.bulk import BulkForwarder, bulk_socket
from service.http.pages import hashing_page
from service.http_settings import HttpSettings
from service.keys import PASSWORDS
from service.request_body import read_json_body
from service.routes import Needs, Public, Route
from tests.support.edge import Answer, Edge

LOGIN = "/v1/login"
OTHER = "/v1/other"
OWN = "/v1/own"
PAGE = "/page"
_OPEN = Public("a test")
BUSY = "urn:kasbah:problem:password-hashing-busy"


async def here(request: web.Request) -> web.StreamResponse:
    """Answer in the public worker."""
    return web.json_response({"here": (await read_json_body(request)).decode()})


ROUTES = (
    Route("POST", LOGIN, here, _OPEN, 4096, bulk=True, hashes=True, signs_in=True),
    Route("POST", OTHER, here, _OPEN, 4096, bulk=True),
    Route("POST", PAGE, hashing_page(here), _OPEN, 4096),
    Route("POST", OWN, here, Needs("policy:write", by_scope="a test", tenant=False), 4096, bulk=True, hashes=True),
)


class Door(Edge):
    """A public worker, and what listens where its bulk worker should."""

    def __init__(self, path, *, seconds=10.0) -> None:
        super().__init__(HttpSettings(body_seconds=10.0), ROUTES)
        self.token = self.key(self.tenant("acme"))
        self._forwarder = BulkForwarder(path, seconds=seconds)
        self._path = path
        self.asked: list[tuple[dict[str, str], bytes]] = []
        self.arrived, self.go_on = asyncio.Event(), asyncio.Event()
        self.go_on.set()

    def app(self) -> web.Application:
        app = super().app()
        app.cleanup_ctx.append(self._forwarder.part)
        self.pool = None

        async def remember(app: web.Application) -> AsyncIterator[None]:
            self.pool = app[PASSWORDS]._pool
            yield

        app.cleanup_ctx.append(remember)
        return app

    async def login(self, body: object = None, *, tenant: str = "acme", **headers: str) -> Answer:
        """POST a sign-in that names a tenant."""
        return await self.post(LOGIN, body or {}, headers={"X-Tenant-ID": tenant} | headers)

    @contextlib.asynccontextmanager
    async def bulk(self) -> AsyncIterator[None]:
        """Listen as the bulk worker does: keep what is asked, and answer when `go_on` is set."""

        async def answer(request: web.Request) -> web.StreamResponse:
            self.asked.append((dict(request.headers), await request.read()))
            self.arrived.set()
            await self.go_on.wait()
            headers = {"Retry-After": "7", "Server": "kasbah", "Cache-Control": "no-store"}
            return web.Response(status=401, body=b'{"no":1}', headers=headers, content_type="application/problem+json")

        app = web.Application()
        app.router.add_route("*", "/{rest:.*}", answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.UnixSite(runner, self._path).start()
        try:
            yield
        finally:
            await runner.cleanup()

    @contextlib.asynccontextmanager
    async def speaking(self, talk) -> AsyncIterator[None]:
        """Speak by hand on the socket."""
        server = await asyncio.start_unix_server(talk, self._path)
        try:
            yield
        finally:
            server.close()
            self._path.unlink(missing_ok=True)

    async def raw(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection to the public worker."""
        return await asyncio.open_connection("127.0.0.1", int(self.url.rpartition(":")[2]))

    async def emptied(self) -> None:
        """Wait until no place is held."""
        async with asyncio.timeout(20):
            while self.pool._held:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)


@pytest.fixture
def path():
    with bulk_socket() as found:
        yield found


def head(path: str, length: int) -> bytes:
    """Return the head of a request whose body is sent apart."""
    said = f"POST {path} HTTP/1.1\r\nHost: kasbah\r\nX-Tenant-ID: acme\r\nContent-Type: application/json\r\n"
    return f"{said}Content-Length: {length}\r\n\r\n".encode()


async def test_an_answer_is_the_bulk_workers(path):
    """Status, headers and body; and it is asked with what the client said, from where the client is."""
    door = Door(path)
    forged = {
        "User-Agent": "Mosaic/3.0",
        "X-Kasbah-Client-Address": "198.51.100.1",
        "X-Forwarded-For": "198.51.100.2",
        "Authorization": "Bearer of mine",
        "X-Request-ID": "mine-1",
    }
    async with door.bulk(), door.serving():
        answer = await door.login({"a": 1}, **forged)
    assert (answer.status, answer.body) == (401, b'{"no":1}')
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    assert (answer.headers["Retry-After"], answer.headers["X-Request-ID"]) == ("7", "mine-1")
    assert answer.headers["Content-Length"] == "8"
    ((headers, body),) = door.asked
    assert body == b'{"a": 1}'
    assert headers["X-Kasbah-Client-Address"] == "127.0.0.1"
    for name in ("User-Agent", "X-Forwarded-For", "Authorization", "X-Request-ID"):
        assert headers[name] == forged[name]
    assert headers["X-Tenant-ID"] == "acme"


@pytest.mark.parametrize("target", [LOGIN, OTHER])
async def test_whoever_sends_slowly_takes_nothing(path, target):
    """Neither a place nor a connection to the bulk worker, until the body is there."""
    door = Door(path)
    async with door.bulk(), door.serving():
        reader, writer = await door.raw()
        writer.write(head(target, 2) + b"{")
        await writer.drain()
        assert (await door.login()).status == 401  # so the first one was read as far as it goes
        assert (len(door.asked), door.pool._held) == (1, 0)
        writer.write(b"}")
        async with asyncio.timeout(20):
            assert (await reader.readline()).startswith(b"HTTP/1.1 401")
        writer.close()
    assert len(door.asked) == 2


async def test_a_full_pool_refuses_before_the_body_and_hands_nothing_over(path):
    """503 with Retry-After, counted as a sign-in that found no place; what needs no hash goes on."""
    door = Door(path)
    async with door.bulk(), door.serving():
        held = [door.pool.take(number) for number in range(door.pool._room)]
        reader, writer = await door.raw()
        writer.write(head(LOGIN, 1000))
        async with asyncio.timeout(20):
            assert (await reader.readline()).startswith(b"HTTP/1.1 503")
            assert b"Retry-After: 1\r\n" in await reader.readuntil(b"\r\n\r\n")
        writer.close()
        assert (await door.post(OWN, {}, "of nobody")).json["type"] == BUSY
        assert door.asked == []
        assert (await door.post(OTHER, {})).status == 401
        for place in held:
            place.leave()
        assert (await door.login()).status == 401
        door.metrics.flush()
        assert b'kasbah_sign_ins_total{method="password",outcome="busy"} 1.0' in door.metrics.render()


async def test_one_tenants_flood_is_refused_where_it_comes_in(path):
    """It holds half of the places; others find one."""
    door = Door(path)
    async with door.bulk(), door.serving():
        held = [door.pool.take("acme") for _ in range(door.pool._share)]
        refused = await door.login()
        assert (refused.status, refused.json["type"]) == (503, BUSY)
        assert (await door.post(OWN, {}, door.token)).json["type"] == BUSY
        assert door.asked == []
        assert (await door.login(tenant="globex")).status == 401
        for place in held:
            place.leave()


async def test_a_place_is_held_for_as_long_as_the_bulk_worker_is_at_work(path):
    """Also when the client leaves: who only comes and goes gets no more done than who stays."""
    door = Door(path)
    door.go_on.clear()
    async with door.bulk(), door.serving():
        _, writer = await door.raw()
        writer.write(head(LOGIN, 2) + b"{}")
        async with asyncio.timeout(20):
            await door.arrived.wait()
        assert door.pool._held_by["acme"] == 1
        writer.transport.abort()
        assert (await door.get("/nowhere")).status == 404
        assert door.pool._held_by["acme"] == 1
        door.go_on.set()
        await door.emptied()


async def test_a_bulk_worker_that_dies_is_not_asked_again(path):
    """503 with Retry-After: what it did is not known, so nobody else does it again; and the place is free."""
    asked = []

    async def talk(reader, writer):
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.transport.abort()

    door = Door(path)
    async with door.speaking(talk), door.serving():
        answer = await door.login()
        await door.emptied()
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    assert answer.json["type"] == "urn:kasbah:problem:bulk-worker-unavailable"
    assert len(asked) == 1


async def test_half_an_answer_is_none(path):
    """503, and nothing of it."""

    async def talk(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
        await writer.drain()
        writer.close()

    door = Door(path)
    async with door.speaking(talk), door.serving():
        answer = await door.login()
        await door.emptied()
    assert answer.status == 503
    assert answer.json["type"] == "urn:kasbah:problem:bulk-worker-unavailable"


async def test_a_bulk_worker_that_hangs_is_given_up(path):
    """503 at the bound, and the place is free."""

    async def talk(reader, writer):
        await reader.read()
        writer.close()

    door = Door(path, seconds=0.3)
    async with door.speaking(talk), door.serving():
        answer = await door.login()
        await door.emptied()
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")


async def test_where_nobody_listens_it_is_answered_here(path):
    """With the body that was read; nothing was sent, so nothing is done twice."""
    door = Door(path)
    async with door.serving():
        assert (await door.login({"a": 1})).json == {"here": '{"a": 1}'}
        assert (await door.post(OWN, {"b": 2}, door.token)).json == {"here": '{"b": 2}'}
        await door.emptied()
        async with door.bulk():
            assert (await door.login()).status == 401


async def test_an_open_route_wakes_no_node(path):
    """What people do by themselves changes nothing that is decided; what a caller does is taken in."""

    async def talk(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    door = Door(path)
    async with door.speaking(talk), door.serving():
        assert (await door.login()).status == 200
        assert door.node.followed == []
        assert (await door.post(OWN, {}, door.token)).status == 200
        assert len(door.node.followed) == 1


async def test_a_page_goes_the_same_way_and_tells_people_in_words(path):
    """Held in a place, answered by the bulk worker, or here where nobody listens; a failure is a page."""

    async def talk(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()

    door = Door(path)
    async with door.serving():
        assert (await door.post(PAGE, {"a": 1})).json == {"here": '{"a": 1}'}
        async with door.bulk():
            door.go_on.clear()
            asking = asyncio.create_task(door.post(PAGE, {"b": 2}))
            async with asyncio.timeout(20):
                await door.arrived.wait()
            assert door.pool._held == 1
            door.go_on.set()
            assert (await asking).status == 401
        async with door.speaking(talk):
            failed = await door.post(PAGE, {})
        await door.emptied()
    assert (failed.status, failed.headers["Retry-After"]) == (503, "1")
    assert failed.headers["Content-Type"].startswith("text/html")
