"""PostgreSQL killed, frozen and exhausted under running nodes; notices lost; this machine's clock moved."""

import asyncio
import contextlib
import signal
import time
from collections.abc import Iterator
from datetime import timedelta

import psutil
import pytest

from authz.errors import AuthzError, StorageUnavailableError
from authz.rules import Owner, RoleLink
from migrations.runner import upgrade
from tenancy.database import DatabaseLimits
from tests.support.live_node import ALICE, META, REQUEST_SECONDS, live_node, membership, tenants_with_readers
from tests.support.outside_checker import PATIENCE_SECONDS
from tests.support.servers import OwnServer

pytestmark = [pytest.mark.integration]

STALE_SECONDS = 3.0


@pytest.fixture
def migrated(own_postgres: OwnServer) -> OwnServer:
    upgrade(own_postgres.url)
    return own_postgres


@contextlib.contextmanager
def frozen(server: OwnServer) -> Iterator[None]:
    """Stop the server with all its backends, as a machine that hangs; connections stay open."""
    main = psutil.Process(server.pid)
    processes = [main, *main.children(recursive=True)]
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)


async def test_a_killed_postgresql_is_outlived_and_taken_up_again(migrated: OwnServer):
    """Warm decisions go on until `max_staleness`, then 503; after the restart all is well, without a restart here."""
    (tenant,) = await tenants_with_readers(migrated.url, "acme")
    async with live_node(migrated.url, max_staleness=STALE_SECONDS) as one:
        assert await one.allows(tenant)
        migrated.kill()
        lost_at = time.monotonic()
        # An unknown member cannot be looked up: an error, never "has no roles".
        with pytest.raises(AuthzError):
            await one.allows(tenant, "user:never-seen")
        warm = 0
        with contextlib.suppress(AuthzError):
            while True:
                asked = time.monotonic() - lost_at
                assert await one.allows(tenant)
                # It was last confirmed before the loss, if only by a moment.
                assert asked <= STALE_SECONDS
                warm += 1
                await asyncio.sleep(0.02)
        assert warm
        assert one.node.warm(tenant) is None
        await one.until_refused(tenant, ALICE)
        assert not one.node.ready
        migrated.start_again()
        await one.until_answer(tenant, wanted=True)
        head = await one.revoke(tenant)
        assert not await one.allows(tenant, min_revision=head.revision)
        # A read through may answer before the next poll does.
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not one.node.ready:  # noqa: ASYNC110 (a state, no event)
                await asyncio.sleep(0.02)


async def test_a_frozen_postgresql_holds_no_request_for_long(migrated: OwnServer):
    """A server that holds connections and says nothing: each request ends within 3 s, and it heals when it wakes."""
    acme, globex = await tenants_with_readers(migrated.url, "acme", "globex")
    async with live_node(migrated.url, max_staleness=STALE_SECONDS) as one:
        assert await one.allows(acme)
        with frozen(migrated):
            assert await one.allows(acme), "warm"
            began = time.monotonic()
            outcomes = await asyncio.gather(
                *(one.allows(globex, f"user:{n}") for n in range(20)),
                one.allows(acme, "user:never-seen"),
                one.allows(acme, min_revision=10**6),
                return_exceptions=True,
            )
            assert time.monotonic() - began <= REQUEST_SECONDS
            assert all(isinstance(outcome, AuthzError) for outcome in outcomes), outcomes
            await one.until_refused(acme, ALICE)
        await one.until_answer(acme, wanted=True)
        await one.until_answer(globex, wanted=True)
        assert await one.allows(globex, "user:never-seen") is False


async def test_a_change_is_used_without_any_notice(own_database_url):
    """Notices lost altogether: the poll brings every change by itself, at its next turn or the one after."""
    (tenant,) = await tenants_with_readers(own_database_url, "acme")
    async with live_node(own_database_url) as one, live_node(own_database_url) as other:
        assert await one.allows(tenant)
        assert await other.allows(tenant)
        for _ in range(5):
            head = await one.revoke(tenant)
            assert not await other.allows(tenant, min_revision=head.revision)
            polls = one.node.statistics()["polls"]
            await one.until_answer(tenant, wanted=False)
            assert one.node.statistics()["polls"] - polls <= 2
            await one.grant(tenant)
            polls = one.node.statistics()["polls"]
            await one.until_answer(tenant, wanted=True)
            assert one.node.statistics()["polls"] - polls <= 2


async def test_writers_and_readers_at_once_never_see_an_older_answer(own_database_url):
    """Acknowledged changes in a row, each asked for by its revision on the other node, with strangers in between."""
    (tenant,) = await tenants_with_readers(own_database_url, "acme")
    async with live_node(own_database_url) as one, live_node(own_database_url) as other:
        stop = asyncio.Event()

        async def noise(number: int) -> None:
            while not stop.is_set():
                with contextlib.suppress(AuthzError):
                    await other.allows(tenant, f"user:x{number}")
                    await one.change(tenant, add=[membership(f"user:y{number}")])
                    await one.change(tenant, remove=[membership(f"user:y{number}")])

        tasks = [asyncio.create_task(noise(number)) for number in range(2)]
        try:
            for _ in range(15):
                head = await one.revoke(tenant)
                decision = await other.decide(tenant, min_revision=head.revision)
                assert not decision.allowed
                assert decision.revision >= head.revision
                head = await one.grant(tenant)
                assert await other.allows(tenant, min_revision=head.revision)
        finally:
            stop.set()
            await asyncio.gather(*tasks)


async def test_exhausted_connections_refuse_and_recover(own_database_url):
    """With every connection taken, cold questions are refused in time and warm ones answered; then all is well."""
    (tenant,) = await tenants_with_readers(own_database_url, "acme")
    limits = DatabaseLimits(pool_size=2, max_overflow=0)
    async with live_node(own_database_url, limits=limits) as one:
        assert await one.allows(tenant)
        engine = one.reader._sessions.kw["bind"]
        held = [await engine.connect() for _ in range(2)]
        began = time.monotonic()
        with pytest.raises((StorageUnavailableError, AuthzError)):
            await one.allows(tenant, "user:never-seen")
        assert time.monotonic() - began <= REQUEST_SECONDS
        assert await one.allows(tenant)
        for connection in held:
            await connection.close()
        await one.until_answer(tenant, wanted=False, subject="user:never-seen")


async def test_many_cold_subjects_share_few_connections(own_database_url):
    """A thousand subjects asked about at once are looked up in few statements, and none is refused."""
    (tenant,) = await tenants_with_readers(own_database_url, "acme")
    async with live_node(own_database_url, limits=DatabaseLimits(pool_size=4, max_overflow=0)) as one:
        answers = await asyncio.gather(*(one.allows(tenant, f"user:n{number}") for number in range(1000)))
        assert not any(answers)
        assert one.node.statistics()["lookups"] <= 20


async def test_expiry_goes_by_the_databases_clock(own_database_url, monkeypatch):
    """A wall clock that is a day off on this machine, or jumps, changes no expiry."""
    (tenant,) = await tenants_with_readers(own_database_url, "acme")
    async with live_node(own_database_url) as one:
        now = one.node.now()
        soon = RoleLink(
            membership("user:bob").member, membership().role, owner=Owner.API, expires_at=now + timedelta(seconds=3)
        )
        head = (await one.writer.change_rows(tenant, add=[soon], remove=[], owner=Owner.API, meta=META)).head
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + 86_400)
        allowed = await one.allows(tenant, "user:bob", min_revision=head.revision)
        assert allowed or one.node.now() >= now + timedelta(seconds=3), "it ended early"
        monkeypatch.setattr(time, "time", lambda: real() - 86_400)
        await one.until_answer(tenant, wanted=False, subject="user:bob")
        assert one.node.now() >= now + timedelta(seconds=2.9)
