"""PostgreSQL killed, frozen, restarted and exhausted under reads and writes: bounded, honest, nothing half done."""

import asyncio
import contextlib
import gc
import os
import signal
import subprocess
import time

import psycopg
import pytest
from sqlalchemy import text

from authn.errors import KeyStorageUnavailableError
from authn.storage import ApiKeyStore
from authz.errors import StorageUnavailableError
from authz.request import Ref
from authz.rules import Owner, RoleLink, Rule, Source
from authz.storage import PostgresPolicyReader
from authz.storage_rows import stream_rules
from authz.storage_write import PostgresPolicyWriter
from migrations import runner
from tenancy.create_tenant import create_tenant
from tenancy.database import DatabaseLimits, open_engine, open_sessions
from tenancy.errors import DatabaseUnavailableError
from tenancy.storage import TenantStore
from tenancy.tenant import ChangeMeta
from tenancy.unit_of_work import tenant_unit_of_work, unbound_session, within

META = ChangeMeta("key:test")
BOUND_SECONDS = 8.0
"""Longest any read may take, with allowance for a busy machine; the limit itself is 2.5 s."""

PATIENCE_SECONDS = 60.0

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.fixture
async def outage(own_postgres):
    """Yield a server of this test's own, migrated, with sessions and a tenant on it."""
    runner.upgrade(own_postgres.url)
    engine = open_engine(own_postgres.url, DatabaseLimits(pool_size=3, max_overflow=0))
    sessions = open_sessions(engine)
    head = await create_tenant("acme", None, meta=META, tenants=TenantStore(sessions))
    yield own_postgres, sessions, head
    await engine.dispose()


def backends(server):
    """Return the process ids of the server's children."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(server.pid)], capture_output=True, text=True, check=True)
    return [int(line) for line in found.stdout.split()]


async def answered_within(seconds, expected, call):
    """Assert that a call raises the expected failure in bounded time."""
    began = time.monotonic()
    with pytest.raises(expected):
        await call
    assert time.monotonic() - began < seconds


async def all_reads_fail(sessions, head):
    """Assert that every read says that it has no answer; none says `nothing there`."""
    reader, writer = PostgresPolicyReader(sessions), PostgresPolicyWriter(sessions)
    for call in (
        lambda: reader.find_tenant(head.tenant_id),
        lambda: reader.find_tenant_by_slug("acme"),
        lambda: reader.lookup(head.tenant_id, [Ref("user:a")], [Ref("record:1")]),
        lambda: reader.touched_since(head.tenant_id, 1),
        lambda: reader.poll(None),
        lambda: reader.list_subject_candidates(head.tenant_id, "user", "", 10),
        lambda: writer.list_rules(head.tenant_id, after=None, limit=10),
        lambda: writer.current_rows(head.tenant_id),
        lambda: writer.file_rows_at(head.tenant_id, 1),
        lambda: writer.replace_file_rows(head.tenant_id, [], meta=META, expected_revision=1),
        lambda: writer.change_rows(
            head.tenant_id, add=[Rule("user:a", "record:1", "read")], remove=[], owner=Owner.API, meta=META
        ),
    ):
        await answered_within(BOUND_SECONDS, StorageUnavailableError, call())
    await answered_within(BOUND_SECONDS, KeyStorageUnavailableError, ApiKeyStore(sessions).find_by_hash(bytes(32)))
    await answered_within(BOUND_SECONDS, DatabaseUnavailableError, TenantStore(sessions).list(None, 10))
    await answered_within(BOUND_SECONDS, DatabaseUnavailableError, ask_unbounded(sessions, head))


async def ask_unbounded(sessions, head):
    """Ask as flows of several statements do, which no `within` surrounds."""
    async with tenant_unit_of_work(sessions, head.tenant_id) as work:
        await work.session.execute(text("SELECT 1"))


async def recovers(sessions, head):
    """Assert that reads answer again without a restart of ours; return the head."""
    reader = PostgresPolicyReader(sessions)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            found = await reader.find_tenant(head.tenant_id)
        except StorageUnavailableError:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
        else:
            assert found is not None
            return found


async def test_a_killed_server_is_no_answer_and_heals(outage):
    """Every call fails as unavailable in bounded time; after a restart all go on by themselves."""
    server, sessions, head = outage
    server.kill()
    await all_reads_fail(sessions, head)
    server.start_again()
    assert await recovers(sessions, head) == head


@pytest.mark.parametrize("doing", ["ask", "open", "read"])
async def test_who_gives_up_waits_for_nothing(outage, doing):
    """A cancelled statement on a server that hangs ends at once: asking it to stop would take its answer, too."""
    server, sessions, head = outage
    rows = [Rule(f"user:u{n}", f"record:{n}", "read") for n in range(5000)]
    await PostgresPolicyWriter(sessions).change_rows(head.tenant_id, add=rows, remove=[], owner=Owner.API, meta=META)
    frozen = [server.pid, *backends(server)]
    hangs = asyncio.Event()

    def freeze():
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        hangs.set()

    async def work():
        async with tenant_unit_of_work(sessions, head.tenant_id) as work:
            if doing != "read":
                freeze()
            if doing == "ask":
                await work.session.execute(text("SELECT 1"))
            async for _ in stream_rules(work, (head.tenant_id,)):
                freeze()

    try:
        waiting = asyncio.ensure_future(work())
        await hangs.wait()
        await asyncio.sleep(0.2)
        waiting.cancel()
        began = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert time.monotonic() - began < BOUND_SECONDS
        del waiting
        gc.collect()
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
    assert (await recovers(sessions, head)).tenant_id == head.tenant_id


async def test_a_server_that_freezes_in_the_middle_of_a_read_is_no_answer(outage):
    """What streams ends in time as well, and leaves nothing open."""
    server, sessions, head = outage
    rows = [Rule(f"user:u{n}", f"record:{n}", "read") for n in range(5000)]
    await PostgresPolicyWriter(sessions).change_rows(head.tenant_id, add=rows, remove=[], owner=Owner.API, meta=META)
    frozen = [server.pid, *backends(server)]

    async def read():
        async with tenant_unit_of_work(sessions, head.tenant_id) as work:
            async for _ in stream_rules(work, (head.tenant_id,)):
                for pid in frozen:
                    os.kill(pid, signal.SIGSTOP)

    try:
        await answered_within(BOUND_SECONDS, DatabaseUnavailableError, read())
        gc.collect()
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)


async def test_a_frozen_server_is_no_answer_and_heals(outage):
    """Connections stay open and nobody answers: the bound is ours, not the server's."""
    server, sessions, head = outage
    await PostgresPolicyReader(sessions).find_tenant(head.tenant_id)
    frozen = [server.pid, *backends(server)]
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    try:
        await all_reads_fail(sessions, head)
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
    await recovers(sessions, head)


async def test_an_exhausted_pool_is_no_answer(outage):
    """Waiting for a connection is bounded too."""
    _, sessions, head = outage

    async with contextlib.AsyncExitStack() as held:
        for _ in range(3):
            session = await held.enter_async_context(unbound_session(sessions))
            await session.execute(text("SELECT 1"))
        reader = PostgresPolicyReader(sessions)
        await answered_within(BOUND_SECONDS, StorageUnavailableError, reader.find_tenant(head.tenant_id))
    assert await reader.find_tenant(head.tenant_id) == head


async def test_a_statement_that_takes_too_long_is_cancelled_by_the_server(outage):
    """So that a slow query does not hold its connection for ever."""
    _, sessions, _ = outage

    async def sleep():
        async with unbound_session(sessions) as session:
            await session.execute(text("SELECT pg_sleep(30)"))

    await answered_within(BOUND_SECONDS, DatabaseUnavailableError, sleep())


async def test_a_writer_that_meets_a_lock_gives_up(outage):
    """A stuck transaction of somebody else's delays nobody for ever."""
    server, sessions, head = outage
    with psycopg.connect(server.url) as stuck:
        stuck.execute("SELECT 1 FROM tenants WHERE tenant_id = %s FOR UPDATE", (head.tenant_id,))
        writer = PostgresPolicyWriter(sessions)
        row = Rule("user:a", "record:1", "read")
        await answered_within(
            BOUND_SECONDS,
            StorageUnavailableError,
            writer.change_rows(head.tenant_id, add=[row], remove=[], owner=Owner.API, meta=META),
        )
        stuck.rollback()
    assert (await recovers(sessions, head)).revision == 1


@pytest.mark.parametrize("delay", [0.05, 0.5, 1.5])
async def test_a_kill_in_the_middle_of_a_large_write_leaves_all_or_nothing(outage, delay):
    """After the restart the tenant has the old policy with the old revision, or the new one with its history."""
    server, sessions, head = outage
    writer = PostgresPolicyWriter(sessions)
    small = [Rule("user:old", "record:1", "read", source=Source("policy.csv", 1))]
    before = await writer.replace_file_rows(head.tenant_id, small, meta=META, expected_revision=1)
    large = [Rule(f"user:u{n}", f"record:{n}", "read", source=Source("policy.csv", n + 1)) for n in range(15_000)]
    large += [
        RoleLink(Ref(f"user:u{n}"), Ref("role:r"), source=Source("policy.csv", 20_000 + n)) for n in range(15_000)
    ]
    writing = asyncio.create_task(
        writer.replace_file_rows(head.tenant_id, large, meta=META, expected_revision=before.head.revision)
    )
    await asyncio.sleep(delay)
    server.kill()
    outcome = (await asyncio.gather(writing, return_exceptions=True))[0]
    server.start_again()
    found = await recovers(sessions, head)
    rows = await writer.current_rows(head.tenant_id)
    changes = await writer.list_changes(head.tenant_id, after_revision=0, limit=10)
    acknowledged = not isinstance(outcome, BaseException)
    assert acknowledged or isinstance(outcome, StorageUnavailableError)
    if found.revision == before.head.revision:
        assert not acknowledged
        assert (list(rows.rules), list(rows.links), len(changes)) == (small, [], 2)
    else:
        assert found.revision == before.head.revision + 1
        assert (len(rows.rules), len(rows.links), changes[-1].added) == (15_000, 15_000, 30_000)
        assert len(await writer.list_change_items(head.tenant_id, found.revision, after=0, limit=50_000)) == 30_001
    again = await writer.replace_file_rows(head.tenant_id, large, meta=META, expected_revision=found.revision)
    assert again.head.revision == before.head.revision + 1


async def test_a_kill_in_the_middle_of_a_read_is_no_answer(outage):
    """Half a policy is never taken for a whole one."""
    server, sessions, head = outage
    rows = [Rule(f"user:u{n}", f"record:{n}", "read") for n in range(5000)]
    await PostgresPolicyWriter(sessions).change_rows(head.tenant_id, add=rows, remove=[], owner=Owner.API, meta=META)

    async def read():
        async with tenant_unit_of_work(sessions, head.tenant_id, repeatable_read=True) as work:
            number = 0
            async for _ in stream_rules(work, (head.tenant_id,)):
                number += 1
                if number == 1:
                    server.kill()
            return number

    await answered_within(BOUND_SECONDS, DatabaseUnavailableError, read())
    gc.collect()


async def test_a_connection_given_up_while_it_is_made_is_closed():
    """At once, not when memory is next tidied: until then PostgreSQL would wait for the rest of the greeting."""
    closed = asyncio.Event()

    async def say_nothing(reader, writer):
        with contextlib.suppress(ConnectionError):
            while await reader.read(1024):
                pass
        writer.close()
        closed.set()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    address, port = server.sockets[0].getsockname()
    engine = open_engine(f"postgresql://kasbah@{address}:{port}/kasbah?sslmode=disable")
    gc.disable()
    try:
        with pytest.raises(DatabaseUnavailableError):
            await within(0.2, engine.connect)
        async with asyncio.timeout(30):
            await closed.wait()
    finally:
        gc.enable()
        await engine.dispose()
        server.close()
        await server.wait_closed()


async def test_a_standby_confirms_nothing(outage):
    """It may be behind without knowing it, so what it says of the newest revision counts for nothing."""
    server, sessions, _ = outage
    reader = PostgresPolicyReader(sessions)
    assert (await reader.poll(None)).heads == []
    server.kill()
    (server.data_directory / "standby.signal").touch()
    await asyncio.to_thread(server.start_again)
    # Connections that were in use just now are found dead first; no poll is a good one.
    for _ in range(100):
        with pytest.raises(StorageUnavailableError) as refused:
            await reader.poll(None)
        if "standby" in str(refused.value):
            return
        await asyncio.sleep(0.1)
    pytest.fail("it was never told to be a standby")
