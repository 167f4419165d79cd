"""One node of many: whoever holds the lock is alone, and it never outlives its holder."""

import asyncio

import psycopg
import pytest

from tenancy.cluster_lock import once_in_cluster
from tenancy.database import DatabaseLimits, open_engine, open_sessions
from tenancy.errors import DatabaseUnavailableError

pytestmark = pytest.mark.integration


@pytest.fixture
async def nodes(own_database_url):
    """Sessions of two nodes with one connection each."""
    engines = [open_engine(own_database_url, DatabaseLimits(pool_size=1, max_overflow=0)) for _ in range(2)]
    yield [open_sessions(engine) for engine in engines]
    for engine in engines:
        await engine.dispose()


async def free(sessions, name="work"):
    async with once_in_cluster(sessions, name) as mine:
        return mine


async def test_one_node_at_a_time(nodes):
    """The other is told at once; another name is another work; afterwards it is free."""
    one, two = nodes
    async with once_in_cluster(one, "work") as mine:
        assert mine
        assert not await free(two)
        assert await free(two, "other work")
    assert await free(two)
    assert await free(one)


async def test_a_failure_inside_frees_it(nodes):
    """Also one that breaks off the task."""
    one, two = nodes
    with pytest.raises(OSError, match="mine"):
        async with once_in_cluster(one, "work"):
            raise OSError("mine")
    assert await free(two)
    holding = asyncio.Event()

    async def hold():
        async with once_in_cluster(one, "work"):
            holding.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(hold())
    await holding.wait()
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert await free(two)
    assert await free(one)


async def test_a_holder_whose_connection_was_lost_is_told_and_leaves_nothing(nodes, own_database_url):
    """The server ended the connection: another node may begin, and the pool gets no broken connection back."""
    one, two = nodes

    async def hold():
        async with once_in_cluster(one, "work") as mine:
            assert mine
            with psycopg.connect(own_database_url, autocommit=True) as owner:
                # Ended when it returns: the second argument is how many milliseconds it waits for that.
                ended = owner.execute(
                    "SELECT pg_terminate_backend(l.pid, 5000) FROM pg_locks l JOIN pg_database d ON d.oid = l.database "
                    "WHERE l.locktype = 'advisory' AND d.datname = current_database()"
                )
                assert ended.fetchall() == [(True,)]
            assert await free(two)

    with pytest.raises(DatabaseUnavailableError):
        await hold()
    assert await free(one)
