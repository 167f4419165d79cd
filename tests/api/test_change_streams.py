"""Streams of changes: what ends them, and how many one tenant may hold."""

import asyncio
import contextlib
from collections import Counter
from uuid import uuid4

import pytest

from authn.errors import VolatileStoreUnavailableError
from authz.errors import StorageUnavailableError
from service.callers import Callers
from service.http.admin import ADMINISTRATION, Administration
from service.http.admin_changes import MAX_TENANT_STREAMS, STREAMS
from tests.support.edge import Edge


class FakeWriter:
    """A history without changes that the test lets fail."""

    def __init__(self):
        self.failure = None

    async def list_changes(self, _tenant_id, **_more):
        if self.failure is not None:
            raise self.failure
        return []


class StreamingEdge(Edge):
    """An edge with the part of administration that streams need."""

    def __init__(self):
        super().__init__()
        self.writer = FakeWriter()
        self.node.on_advance = []
        self.acme = self.tenant("acme")
        self.beta = self.tenant("beta")

    def app(self):
        app = super().app()
        app[ADMINISTRATION] = Administration(self.writer, None, self.node, None, None)
        app[STREAMS] = Counter()
        return app

    async def stream(self, slug, key):
        """Open a stream and return its reader and writer, the head read."""
        reader, writer = await asyncio.open_connection("127.0.0.1", int(self.url.rpartition(":")[2]))
        head = f"GET /v1/tenants/{slug}/changes HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n"
        writer.write(f"{head}Authorization: Bearer {key}\r\n\r\n".encode())
        async with asyncio.timeout(60):
            return await reader.readuntil(b"\r\n\r\n"), reader, writer


@pytest.fixture
async def edge():
    async with StreamingEdge().serving() as running:
        yield running


async def test_a_stream_whose_history_cannot_be_read_just_ends(edge):
    """Its answer has begun: a second head in the middle of it would be read as part of an event, or of the next one."""
    head, reader, writer = await edge.stream("acme", edge.key(edge.acme))
    assert head.startswith(b"HTTP/1.1 200 ")
    edge.writer.failure = StorageUnavailableError("down")
    edge.node.on_advance[0](edge.node.heads[edge.acme])
    async with asyncio.timeout(60):
        rest = await reader.readuntil(b"0\r\n\r\n")
    assert b"HTTP/1.1" not in rest
    writer.close()


async def test_a_stream_whose_session_cannot_be_looked_up_just_ends(edge, monkeypatch):
    """Valkey is gone: it is not known who reads, and the answer has begun."""
    head, reader, writer = await edge.stream("acme", edge.key(edge.acme))
    assert head.startswith(b"HTTP/1.1 200 ")

    async def unknown(*_):
        raise VolatileStoreUnavailableError("down")

    monkeypatch.setattr(Callers, "authenticate", unknown)
    edge.node.on_advance[0](edge.node.heads[edge.acme])
    async with asyncio.timeout(5):
        rest = await reader.readuntil(b"0\r\n\r\n")
    assert b"HTTP/1.1" not in rest
    writer.close()


async def test_one_tenant_cannot_take_all_streams(edge):
    """Past its own share a tenant is refused, and others still get theirs."""
    key = edge.key(edge.acme)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(MAX_TENANT_STREAMS):
            head, _, writer = await edge.stream("acme", key)
            stack.callback(writer.close)
            assert head.startswith(b"HTTP/1.1 200 ")
        head, _, writer = await edge.stream("acme", key)
        stack.callback(writer.close)
        assert head.startswith(b"HTTP/1.1 503 ")
        head, _, writer = await edge.stream("beta", edge.key(edge.beta))
        stack.callback(writer.close)
        assert head.startswith(b"HTTP/1.1 200 ")


async def test_a_stream_ends_with_the_right_of_who_reads_it():
    """A person's key still holds; the role is gone."""
    ann = uuid4()
    edge = StreamingEdge()
    acme = edge.tenant("gamma", f"base p role:auditor kasbah:policy read\ng user:{ann} role:auditor")
    async with edge.serving():
        head, reader, writer = await edge.stream("gamma", edge.key(acme, owner=ann))
        assert head.startswith(b"HTTP/1.1 200")
        edge.node.tenants[acme].records = {}
        async with asyncio.timeout(60):
            rest = await reader.readuntil(b"0\r\n\r\n")
        assert b"connected" in rest
        writer.close()
