"""Rotations on PostgreSQL: begun, broken off, gone on with elsewhere, beside readers and writers."""

import asyncio
import base64
import contextlib
import secrets
from uuid import uuid4

import pytest
from sqlalchemy import text

from authn.mail_queue import queue_mail
from authn.mails import Mail, MailKind
from service.preflight import Findings, check_wrapped_keys
from service.settings import Settings
from tenancy.create_tenant import create_tenant
from tenancy.encrypted_columns import ENCRYPTED_COLUMNS, MAILS
from tenancy.errors import EncryptionUnavailableError, KeyNotEverywhereError, RotationUnderWayError, UnsealError
from tenancy.ids import PLATFORM_TENANT_ID
from tenancy.key_encryption import LocalKeyEncryption
from tenancy.key_nodes import KeyNode
from tenancy.key_rotation import RotationKind, RotationPhase, Tally
from tenancy.reencryption import Reencryption, RowsInUseError
from tenancy.storage import TenantStore
from tenancy.tenant import ChangeMeta
from tenancy.unit_of_work import tenant_unit_of_work
from tests.support.sealed_things import NEW, OLD, THINGS, SealingNode, make_things

pytestmark = pytest.mark.integration
META = ChangeMeta("key:test", reason="because")


@pytest.fixture(autouse=True)
def things(store):
    """A table of sealed values."""
    with store.owner() as owner:
        make_things(owner)


@pytest.fixture
async def tenants(store):
    """Ids of three tenants."""
    heads = [await create_tenant(slug, None, meta=META, tenants=TenantStore(store.sessions)) for slug in "abc"]
    return [head.tenant_id for head in heads]


async def rotate(node, kind=RotationKind.ALL):
    """Begin a rotation and carry it out whole."""
    await node.rotator.store.start(kind, node.preferred, meta=META)
    await node.rotator.run()
    done = await node.rotator.store.find_last()
    assert done.phase is RotationPhase.DONE
    return done


def rows(store, query):
    with store.owner() as owner:
        return owner.execute(query).fetchall()


async def test_a_rotation_seals_everything_anew(store, tenants):
    """New data keys under the new key-encryption key; every value is under them; each still opens, on any node."""
    node, behind = SealingNode(store.sessions, (OLD,)), SealingNode(store.sessions, (OLD, NEW))
    alice = uuid4()
    for tenant_id in tenants:
        for thing in range(5):
            await node.write(tenant_id, thing, b"%d" % thing)
    async with tenant_unit_of_work(store.sessions, tenants[0]) as work:
        personal = await node.ring.seal_personal(work, alice, {"email": "alice@example.com"})
    ahead = SealingNode(store.sessions, (NEW, OLD))
    done = await rotate(ahead)
    assert done.tally == Tally(keys_wrapped=3, keys_made=3, sealed_anew=16)
    assert rows(store, "SELECT kek_id, superseded_at IS NULL, count(*) FROM data_keys GROUP BY 1, 2 ORDER BY 2") == [
        ("new", False, 3),
        ("new", True, 3),
    ]
    for table, column in (("things", "sealed"), ("subject_keys", "wrapped")):
        under = rows(
            store,
            f"SELECT count(*) FROM {table} t JOIN data_keys k ON k.key_id = t.{column}_key "
            "WHERE k.superseded_at IS NOT NULL",
        )
        assert under == [(0,)]
    for reader in (ahead, behind):
        for tenant_id in tenants:
            assert [await reader.read(tenant_id, thing) for thing in range(5)] == [b"%d" % thing for thing in range(5)]
        async with tenant_unit_of_work(store.sessions, tenants[0]) as work:
            assert await reader.ring.open_personal(work, personal) == {"email": "alice@example.com"}


async def test_mails_that_wait_are_sealed_anew(store, tenants):
    """As the queue stores them, under the list of columns that the service has."""
    columns = ENCRYPTED_COLUMNS
    node = SealingNode(store.sessions, columns=columns)
    async with tenant_unit_of_work(store.sessions, tenants[0]) as work:
        mail_id = await queue_mail(work, node.ring, Mail(MailKind.WELCOME, "alice@example.org", {"username": "alice"}))
    ahead = SealingNode(store.sessions, (NEW, OLD), columns=columns)
    assert (await rotate(ahead)).tally == Tally(keys_wrapped=1, keys_made=1, sealed_anew=1)
    assert (await rotate(ahead, RotationKind.RETIREMENT)).tally.keys_removed == 1
    only_new = SealingNode(store.sessions, (NEW,), columns=columns)
    async with tenant_unit_of_work(store.sessions, tenants[0]) as work:
        sealed = (await work.session.execute(text("SELECT sealed FROM mails"))).scalar_one()
        assert b"alice@example.org" in await only_new.ring.open(work, MAILS.place([mail_id]), sealed)


async def test_keys_go_when_nothing_uses_them_and_not_before(store, tenants):
    """Retirement keeps a key that one row still names, and the primary; then it goes, and all values still open."""
    node = SealingNode(store.sessions)
    for tenant_id in tenants:
        await node.write(tenant_id, 1, b"value")
    await rotate(node)
    with store.owner() as owner:  # as a node that was slow leaves it behind: a value under the superseded key
        ((key_id,),) = owner.execute(
            "SELECT key_id FROM data_keys WHERE tenant_id = %s AND superseded_at IS NOT NULL", (tenants[0],)
        ).fetchall()
        owner.execute(
            "INSERT INTO things (tenant_id, kind, thing_id, sealed) "
            "SELECT tenant_id, 'late', 1, overlay(sealed PLACING uuid_send(%s) FROM 2) FROM things WHERE tenant_id = %s",
            (key_id, tenants[0]),
        )
    assert (await rotate(node, RotationKind.RETIREMENT)).tally == Tally(keys_removed=2)
    assert rows(store, "SELECT key_id FROM data_keys WHERE superseded_at IS NOT NULL") == [(key_id,)]
    with store.owner() as owner:
        owner.execute("DELETE FROM things WHERE kind = 'late'")
    assert (await rotate(node, RotationKind.RETIREMENT)).tally == Tally(keys_removed=1)
    for tenant_id in tenants:
        assert await SealingNode(store.sessions).read(tenant_id, 1) == b"value"


async def test_a_key_stays_for_those_who_may_still_read_with_it(store, tenants):
    """Removal waits after the last use was gone; whoever read a value just before can open it."""
    node = SealingNode(store.sessions, grace=3600)
    await node.write(tenants[0], 1, b"value")
    await rotate(node)
    await node.rotator.store.start(RotationKind.RETIREMENT, node.preferred, meta=META)
    await node.rotator.run()
    waiting = await node.rotator.store.find_last()
    assert (waiting.phase, waiting.finished_at) == (RotationPhase.SETTLE, None)
    assert rows(store, "SELECT count(*) FROM data_keys") == [(2,)]


@pytest.mark.parametrize("steps", range(1, 40, 6))
async def test_a_rotation_that_is_broken_off_anywhere_is_gone_on_with(store, tenants, steps):
    """After any number of transactions: nothing is lost, and another node finishes it with the same result."""
    node = SealingNode(store.sessions)
    for tenant_id in tenants:
        for thing in range(3):
            await node.write(tenant_id, thing, b"%d" % thing)
    ahead = SealingNode(_breaking_off(store.sessions, steps), (NEW, OLD))
    await SealingNode(store.sessions, (NEW, OLD)).rotator.store.start(RotationKind.ALL, NEW, meta=META)
    with contextlib.suppress(KilledError):
        await ahead.rotator.run()
    for tenant_id in tenants:
        reader = SealingNode(store.sessions, (OLD, NEW))
        assert [await reader.read(tenant_id, thing) for thing in range(3)] == [b"0", b"1", b"2"]
    successor = SealingNode(store.sessions, (NEW, OLD))
    await successor.rotator.run()
    assert (await successor.rotator.store.find_last()).phase is RotationPhase.DONE
    only_new = SealingNode(store.sessions, (NEW,))
    for tenant_id in tenants:
        assert [await only_new.read(tenant_id, thing) for thing in range(3)] == [b"0", b"1", b"2"]
    assert rows(
        store, "SELECT count(*) FROM things t JOIN data_keys k ON k.key_id = t.sealed_key WHERE k.superseded_at IS NULL"
    ) == [(9,)]


class KilledError(Exception):
    """Where the process ended."""


def _breaking_off(sessions, transactions):
    """Return sessions that fail from the n-th transaction on, before it commits."""
    left = [transactions]

    class Sessions:
        kw = sessions.kw

        @contextlib.asynccontextmanager
        async def begin(self):
            async with sessions.begin() as session:
                yield session
                left[0] -= 1
                if left[0] < 0:
                    raise KilledError

    return Sessions()


async def test_nodes_a_key_apart_read_and_write_while_keys_are_rotated(store, tenants):
    """A node that was not told to prefer the new key, and one that was, meet no error before, while and after."""
    nodes = [SealingNode(store.sessions, (OLD, NEW)), SealingNode(store.sessions, (NEW, OLD))]
    written = {}
    for thing in range(80):
        await nodes[0].write(tenants[0], thing, b"first %d" % thing)
        written[thing] = b"first %d" % thing
    ended = asyncio.Event()
    served = [0, 0]

    async def serve(which):
        node, turn = nodes[which], 0
        while not ended.is_set():
            thing = (turn * 7 + which) % 80 // 2 * 2 + which  # each node writes rows of its own
            written[thing] = b"turn %d" % turn
            await node.write(tenants[0], thing, written[thing])
            assert await nodes[1 - which].read(tenants[0], thing) == written[thing]
            served[which] += 1
            turn += 1

    async with asyncio.TaskGroup() as group:
        for which in range(2):
            group.create_task(serve(which))
        for _ in range(2):
            await rotate(nodes[1])
        await rotate(nodes[1], RotationKind.RETIREMENT)
        ended.set()
    assert min(served) > 1
    assert {thing: await nodes[0].read(tenants[0], thing) for thing in range(80)} == written
    # What a writer sealed while its key was superseded is found by the next rotation; nothing else is left.
    assert rows(store, "SELECT count(*) FROM data_keys WHERE superseded_at IS NOT NULL")[0][0] <= 1


async def test_a_node_without_the_new_key_leaves_the_work_to_others_and_fails_only_what_needs_it(store, tenants):
    """It neither carries the rotation out nor stops serving what it can."""
    lacking, ahead = SealingNode(store.sessions, (OLD,)), SealingNode(store.sessions, (NEW, OLD))
    await lacking.write(tenants[0], 1, b"value")
    await ahead.rotator.store.start(RotationKind.ALL, NEW, meta=META)
    await lacking.rotator.run()
    assert (await ahead.rotator.store.find_last()).phase is RotationPhase.REWRAP
    assert await lacking.read(tenants[0], 1) == b"value"
    await ahead.rotator.run()
    with pytest.raises(EncryptionUnavailableError, match="`new`"):
        await lacking.read(tenants[0], 1)
    assert await ahead.read(tenants[0], 1) == b"value"


async def test_what_does_not_open_is_counted_and_left_and_all_else_goes_on(store, tenants):
    """A damaged value, a key wrapped by a key that nobody has: named in the log, never dropped, never in the way."""
    node = SealingNode(store.sessions)
    for tenant_id in tenants:
        for thing in range(3):
            await node.write(tenant_id, thing, b"%d" % thing)
    with store.owner() as owner:
        owner.execute(
            "UPDATE things SET sealed = overlay(sealed PLACING '\\x00000000' FROM 40) WHERE tenant_id = %s AND thing_id = 1",
            (tenants[0],),
        )
        owner.execute("UPDATE data_keys SET kek_id = 'lost' WHERE tenant_id = %s", (tenants[1],))
    ahead = SealingNode(store.sessions, (NEW, OLD))
    done = await rotate(ahead)
    # The damaged value; and the tenant of the lost key, whose key is neither wrapped anew nor read from.
    assert done.tally == Tally(keys_wrapped=2, keys_made=3, sealed_anew=5, failed=3)
    assert await ahead.read(tenants[0], 0) == b"0"
    with pytest.raises(UnsealError):
        await ahead.read(tenants[0], 1)
    assert (await rotate(ahead, RotationKind.RETIREMENT)).tally.keys_removed == 1
    kept = rows(store, "SELECT tenant_id FROM data_keys WHERE superseded_at IS NOT NULL")
    assert {row[0] for row in kept} == {tenants[0], tenants[1]}


async def test_only_one_rotation_is_under_way(store, tenants):
    """A second one is refused until the first is finished."""
    node = SealingNode(store.sessions)
    await node.write(tenants[0], 1, b"value")
    await node.rotator.store.start(RotationKind.ALL, OLD, meta=META)
    with pytest.raises(RotationUnderWayError):
        await node.rotator.store.start(RotationKind.RETIREMENT, OLD, meta=META)
    await node.rotator.run()
    await node.rotator.store.start(RotationKind.RETIREMENT, OLD, meta=META)


async def test_two_nodes_that_rotate_at_once_do_the_work_once(store, tenants):
    """The lock of the cluster gives it to one; without the lock the statements would still not repeat it."""
    node = SealingNode(store.sessions)
    for tenant_id in tenants:
        await node.write(tenant_id, 1, b"value")
    nodes = [SealingNode(store.sessions, (NEW, OLD)) for _ in range(3)]
    rotation = await nodes[0].rotator.store.start(RotationKind.ALL, NEW, meta=META)

    async def carry_out(node):
        going = rotation
        while going is not None:
            going = await node.rotator._go_on(going)

    await asyncio.gather(*(carry_out(node) for node in nodes))
    await carry_out(nodes[0])  # and one that knows of the first phase alone, when all is done
    assert rows(store, "SELECT count(*) FROM data_keys") == [(6,)]
    assert rows(store, "SELECT phase, finished_at IS NULL FROM key_rotations") == [("done", False)]
    assert rows(store, "SELECT count(*) FROM audit_events WHERE action = 'encryption.rotated'") == [(1,)]
    for tenant_id in tenants:
        assert await nodes[2].read(tenant_id, 1) == b"value"


async def test_rows_that_others_hold_are_waited_for_and_never_waited_on(store, tenants, monkeypatch):
    """Readers with a lock go first; a rotation that met them comes back."""
    from tenancy import reencryption

    monkeypatch.setattr(reencryption, "PATIENCE_SECONDS", 0.01)
    node = SealingNode(store.sessions)
    await node.write(tenants[0], 1, b"one")
    await node.write(tenants[0], 2, b"two")
    ((key_id,),) = rows(store, "SELECT key_id FROM data_keys")
    await node.rotator._maker.replace(tenants[0], key_id)
    again = Reencryption(store.sessions, node.ring, tenants[0], THINGS, key_id)
    async with tenant_unit_of_work(store.sessions, tenants[0]) as work:
        await work.session.execute(text("SELECT 1 FROM things WHERE thing_id = 2 FOR UPDATE"))
        with pytest.raises(RowsInUseError):
            await again.run()
        assert again.sealed_anew == 1
    await again.run()
    assert again.sealed_anew == 2


async def test_a_key_that_sealed_too_much_is_superseded(store, tenants, monkeypatch):
    """Long before random nonces could meet; what it sealed still opens."""
    from tenancy import key_ring

    monkeypatch.setattr(key_ring, "COUNTED_USES", 4)
    monkeypatch.setattr(key_ring, "MAX_USES", 12)
    node = SealingNode(store.sessions)
    for thing in range(20):
        await node.write(tenants[0], thing, b"%d" % thing)
    assert rows(store, "SELECT uses FROM data_keys ORDER BY created_at") == [(12,), (8,)]
    assert [await node.read(tenants[0], thing) for thing in range(20)] == [b"%d" % thing for thing in range(20)]


async def test_a_rotation_is_told_in_the_audit(store, tenants):
    """Who began it, over which keys, and what was done; in the platform's chain."""
    node = SealingNode(store.sessions)
    await node.write(tenants[0], 1, b"value")
    await rotate(SealingNode(store.sessions, (NEW, OLD)))
    (begun, ended) = rows(
        store,
        "SELECT event FROM audit_events WHERE action LIKE 'encryption.%' "
        f"AND tenant_id = '{PLATFORM_TENANT_ID}' ORDER BY seq",
    )
    assert begun[0]["actor"] == "key:test"
    assert (begun[0]["before"], begun[0]["after"]) == ({"key": "old"}, {"key": "new"})
    assert ended[0]["actor"] == "system"
    assert ended[0]["detail"]["sealed_anew"] == 1


async def test_more_values_than_a_batch_and_a_statement_hold(store, tenants):
    """Batches follow one another until nothing is left."""
    node = SealingNode(store.sessions)
    await node.write(tenants[0], 0, b"first")
    async with tenant_unit_of_work(store.sessions, tenants[0]) as work:
        sealed = await node.ring.seal_all(work, [(node.place(thing), b"%d" % thing) for thing in range(1, 701)])
        query = text(
            "INSERT INTO things (tenant_id, kind, thing_id, sealed) VALUES (:tenant_id, 'a/b', :thing, :sealed)"
        )
        values = [{"tenant_id": tenants[0], "thing": thing, "sealed": one} for thing, one in enumerate(sealed, 1)]
        await work.session.execute(query, values)
    assert (await rotate(node)).tally.sealed_anew == 701
    assert await node.read(tenants[0], 700) == b"700"


async def test_a_start_names_the_keys_that_are_missing(store, tenants):
    """With how much they wrap; a start with all of them says nothing."""
    await SealingNode(store.sessions).write(tenants[0], 1, b"value")
    given = {"database_url": store.url, "redis_url": "redis://localhost", "secret_key": secrets.token_urlsafe(48)}
    lacking = Settings(**given, encryption={})
    (warning,) = (await check_wrapped_keys(store.url, lacking)).warnings
    assert warning.startswith("KASBAH_ENCRYPTION__KEYS lacks `old`, which wraps 1 data keys of 1 tenants")
    key = base64.b64encode(secrets.token_bytes(32)).decode()
    assert await check_wrapped_keys(store.url, Settings(**given, encryption={"keys": f"old:{key}"})) == Findings()


async def test_no_rotation_goes_over_to_a_key_that_a_node_lacks(store, tenants):
    """Nor to one of that name which is another there; nodes that end, or are not heard of, do not count."""
    ahead = SealingNode(store.sessions, (NEW, OLD))
    other = LocalKeyEncryption("new", secrets.token_bytes(32))
    nodes = [KeyNode(store.sessions, SealingNode(store.sessions, keks).rotator.keks) for keks in ((NEW, OLD), (OLD,))]
    for node in nodes:
        await node.announce()
    with pytest.raises(KeyNotEverywhereError, match="1 of 2 nodes"):
        await ahead.rotator.store.start(RotationKind.ALL, NEW, meta=META)
    assert await ahead.rotator.store.find_last() is None
    await nodes[1].leave()
    mistaken = KeyNode(store.sessions, SealingNode(store.sessions, (other, OLD)).rotator.keks)
    await mistaken.announce()
    with pytest.raises(KeyNotEverywhereError, match="1 of 2 nodes"):
        await ahead.rotator.store.start(RotationKind.WRAPPING, NEW, meta=META)
    with store.owner() as owner:
        owner.execute(
            "UPDATE key_nodes SET seen_at = seen_at - interval '61 seconds' WHERE node_id = %s", (mistaken._id,)
        )
    assert await ahead.rotator.store.nodes(ahead.rotator.keks.marks) == (1, {"new": 1, "old": 1})
    await ahead.rotator.store.start(RotationKind.ALL, NEW, meta=META)
    await nodes[0].announce()
    assert rows(store, "SELECT count(*) FROM key_nodes") == [(1,)]


async def test_what_nodes_tell_of_their_keys_gives_no_key_away(store):
    """A check value: the same for the same key, another for another, and nothing that opens."""
    marks = SealingNode(store.sessions, (NEW, OLD)).rotator.keks.marks
    again = LocalKeyEncryption("new", bytes(range(2, 66, 2)))
    assert marks["new"] == again.mark != marks["old"]
    assert all(len(bytes.fromhex(mark)) == 8 for mark in marks.values())
    assert marks["new"] not in bytes(range(2, 66, 2)).hex()
