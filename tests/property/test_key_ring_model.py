"""Two nodes, random histories of keys: whatever was sealed and not erased opens, on both, until the end."""

import asyncio
import contextlib
import secrets
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from tenancy.create_tenant import create_tenant
from tenancy.data_keys import find_primary
from tenancy.database import DatabaseLimits, open_engine, open_sessions
from tenancy.errors import RotationUnderWayError
from tenancy.key_rotation import RotationKind
from tenancy.storage import TenantStore
from tenancy.tenant import ChangeMeta
from tenancy.unit_of_work import tenant_unit_of_work
from tests.support.sealed_things import NEW, OLD, SealingNode, make_things

pytestmark = pytest.mark.integration
META = ChangeMeta("key:test")
NODES, THINGS, PEOPLE = 2, 4, 3

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, NODES - 1), st.integers(0, THINGS - 1)),
        st.tuples(st.just("read"), st.integers(0, NODES - 1), st.integers(0, THINGS - 1)),
        st.tuples(st.just("tell"), st.integers(0, NODES - 1), st.integers(0, PEOPLE - 1)),
        st.tuples(st.just("erase"), st.integers(0, NODES - 1), st.integers(0, PEOPLE - 1)),
        st.tuples(st.just("begin"), st.integers(0, NODES - 1), st.sampled_from(RotationKind)),
        st.tuples(st.just("go on"), st.integers(0, NODES - 1), st.integers(1, 4)),
        st.tuples(st.just("supersede"), st.integers(0, NODES - 1), st.none()),
        st.tuples(st.just("restart"), st.integers(0, NODES - 1), st.booleans()),
    ),
    min_size=5,
    max_size=30,
)


@pytest.fixture(scope="module")
def things_url(database_url):
    """A database with a table of sealed values."""
    with psycopg.connect(database_url, autocommit=True) as owner:
        make_things(owner)
    return database_url


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS)
def test_random_histories_of_keys(things_url, steps):
    """Seal, read, rotate, retire, erase and restart, in any order, on two nodes that prefer different keys."""
    asyncio.run(_history(things_url, steps))


async def _history(url, steps):
    with psycopg.connect(url, autocommit=True) as owner:  # what an example before left behind
        owner.execute("TRUNCATE things, subject_keys, data_keys, key_rotations CASCADE")
    engine = open_engine(url, DatabaseLimits(pool_size=4))
    try:
        sessions = open_sessions(engine)
        head = await create_tenant(f"t-{secrets.token_hex(8)}", None, meta=META, tenants=TenantStore(sessions))
        await World(sessions, head.tenant_id).live(steps)
    finally:
        await engine.dispose()


async def _finish(node):
    last = await node.rotator.store.find_last()
    while last is not None and last.finished_at is None:
        await node.rotator.run()
        last = await node.rotator.store.find_last()


class World:
    """What is expected of two nodes."""

    def __init__(self, sessions, tenant_id):
        self._sessions = sessions
        self._tenant_id = tenant_id
        self._nodes = [SealingNode(sessions, (OLD, NEW)), SealingNode(sessions, (NEW, OLD))]
        self._values = {}
        self._told = []
        self._erased = set()

    async def live(self, steps):
        for turn, (step, which, what) in enumerate(steps):
            await getattr(self, "_" + step.replace(" ", "_"))(self._nodes[which], what, turn, which)
        await self._judge()
        await _finish(self._nodes[0])
        for kind in (RotationKind.ALL, RotationKind.RETIREMENT):
            await self._begin(self._nodes[1], kind, 0, 1)
            await _finish(self._nodes[1])
        await self._judge()
        await self._only_new_keys_are_left()

    async def _write(self, node, thing, turn, _which):
        self._values[thing] = b"turn %d" % turn
        await node.write(self._tenant_id, thing, self._values[thing])

    async def _read(self, node, thing, _turn, _which):
        if thing in self._values:
            assert await node.read(self._tenant_id, thing) == self._values[thing]

    async def _tell(self, node, person, turn, _which):
        async with tenant_unit_of_work(self._sessions, self._tenant_id) as work:
            personal = await node.ring.seal_personal(work, UUID(int=person), {"turn": str(turn)})
        self._told.append((person, personal, {"turn": str(turn)}))

    async def _erase(self, node, person, _turn, _which):
        async with tenant_unit_of_work(self._sessions, self._tenant_id) as work:
            await node.ring.destroy_subject_key(work, UUID(int=person))
        self._erased.add(person)

    async def _begin(self, node, kind, _turn, _which):
        with contextlib.suppress(RotationUnderWayError):
            await node.rotator.store.start(kind, node.preferred, meta=META)

    async def _go_on(self, node, times, _turn, _which):
        rotation = await node.rotator.store.find_last()
        for _ in range(times):
            rotation = None if rotation is None else await node.rotator._go_on(rotation)

    async def _supersede(self, node, _none, _turn, _which):
        async with tenant_unit_of_work(self._sessions, self._tenant_id) as work:
            primary = await find_primary(work)
        if primary is not None:
            await node.rotator._maker.replace(self._tenant_id, primary.key_id)

    async def _restart(self, _node, prefers_new, _turn, which):
        self._nodes[which] = SealingNode(self._sessions, (NEW, OLD) if prefers_new else (OLD, NEW))

    async def _judge(self):
        for node in self._nodes:
            for thing, value in self._values.items():
                assert await node.read(self._tenant_id, thing) == value
            async with tenant_unit_of_work(self._sessions, self._tenant_id) as work:
                opened = await node.ring.open_all_personal(work, [personal for _, personal, _ in self._told])
            assert opened == [None if person in self._erased else fields for person, _, fields in self._told]

    async def _only_new_keys_are_left(self):
        async with tenant_unit_of_work(self._sessions, self._tenant_id) as work:
            keys = (await work.session.execute(text("SELECT kek_id, superseded_at FROM data_keys"))).all()
        needed = bool(self._values) or any(personal.text for _, personal, _ in self._told)
        assert [(key.kek_id, key.superseded_at) for key in keys] == [(self._nodes[1].preferred.id, None)] * needed
