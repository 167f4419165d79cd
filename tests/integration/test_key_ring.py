"""The key ring on PostgreSQL: two nodes, one tenant and another."""

import asyncio
import logging
import secrets
from contextlib import suppress
from uuid import UUID, uuid4

import pytest
from aiohttp import web
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from service.jobs import Jobs
from service.keys import JOBS, KEY_RING, METRICS, SESSIONS
from service.metrics import Metrics
from service.sealing_part import sealing
from service.settings import Settings
from service.vault_transit import VaultAddress, VaultTransit
from tenancy.audit import SealedPersonal
from tenancy.create_tenant import create_tenant
from tenancy.database import DatabaseLimits, open_engine, open_sessions
from tenancy.encrypted_columns import EncryptedColumn
from tenancy.envelope import Place, key_id_of
from tenancy.errors import EncryptionUnavailableError, UnknownKeyError, UnsealError
from tenancy.ids import PLATFORM_TENANT_ID
from tenancy.key_encryption import KeyEncryptionKeys, LocalKeyEncryption
from tenancy.key_ring import KeyRing, UnregisteredColumnError
from tenancy.storage import TenantStore
from tenancy.tenant import ChangeMeta
from tenancy.unit_of_work import tenant_unit_of_work
from tests.support.vault import FakeVault

pytestmark = pytest.mark.integration

OLD = bytes(range(1, 65, 2))
NEW = bytes(range(2, 66, 2))
THINGS = EncryptedColumn("things", "sealed", ("thing_id",))
PLACE = Place("things", "sealed", "1")


def keks(*named, preferred=None):
    keys = [LocalKeyEncryption(name, key) for name, key in named]
    return KeyEncryptionKeys(keys, preferred or keys[0].id)


def ring_of(store, *named, **more):
    return KeyRing(store.sessions, keks(*(named or (("old", OLD),))), columns=(THINGS,), **more)


async def data_keys(store):
    with store.owner() as owner:
        return owner.execute("SELECT tenant_id, key_id, kek_id, wrapped FROM data_keys").fetchall()


async def test_a_value_sealed_on_one_node_opens_on_another(store, acme):
    """The key is made once, kept wrapped, and found by its id."""
    here, there = ring_of(store), ring_of(store)
    async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
        sealed = await here.seal(work, PLACE, b"secret")
        again = await here.seal(work, PLACE, b"secret")
    assert sealed != again
    async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
        assert await there.open(work, PLACE, sealed) == b"secret"
        assert await there.open(work, PLACE, again) == b"secret"
    assert [(row[1], row[2]) for row in await data_keys(store)] == [(key_id_of(sealed), "old")]


async def test_nodes_that_meet_a_tenant_at_once_make_one_key(store, acme):
    """Whoever is second uses the first one's: no value is lost with a key that nobody kept."""
    rings = [ring_of(store) for _ in range(4)]

    async def seal(ring):
        async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
            return await ring.seal(work, PLACE, b"secret")

    sealed = await asyncio.gather(*(seal(ring) for ring in rings))
    assert len({key_id_of(value) for value in sealed}) == 1
    assert len(await data_keys(store)) == 1
    async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
        assert [await ring_of(store).open(work, PLACE, value) for value in sealed] == [b"secret"] * 4


async def test_keys_are_made_while_all_connections_are_held_by_those_who_need_one(own_database_url):
    """As many requests as there are connections, each the first of its tenant: none waits for the others."""
    settings = Settings(
        database_url=own_database_url,
        redis_url="redis://localhost",
        secret_key=secrets.token_urlsafe(48),
        database=DatabaseLimits(pool_size=3, max_overflow=0),
    )
    engine = open_engine(own_database_url, settings.database)
    app = web.Application()
    sessions = app[SESSIONS] = open_sessions(engine)
    app[JOBS], app[METRICS] = Jobs(), Metrics()
    opened = sealing(settings)(app)
    await anext(opened)
    heads = [
        await create_tenant(slug, None, meta=ChangeMeta("key:test"), tenants=TenantStore(sessions)) for slug in "abc"
    ]
    all_hold_one = asyncio.Barrier(len(heads))

    async def seal(tenant_id):
        async with tenant_unit_of_work(sessions, tenant_id) as work:
            await all_hold_one.wait()
            return await app[KEY_RING].seal_personal(work, uuid4(), {"a": "b"})

    assert all(await asyncio.gather(*(seal(head.tenant_id) for head in heads)))
    with suppress(StopAsyncIteration):
        await anext(opened)
    await engine.dispose()


async def test_a_key_outlives_the_transaction_that_first_needed_it(store, acme):
    """A rollback, to a savepoint or of all, must not take a key that later values are sealed with."""
    ring = ring_of(store)

    async def undone():
        async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
            await ring.seal(work, PLACE, b"undone")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await undone()
    async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
        sealed = await ring.seal(work, PLACE, b"kept")
    async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
        assert await ring_of(store).open(work, PLACE, sealed) == b"kept"


async def test_a_value_of_another_tenant_does_not_open(store, acme):
    """Its key is no key of this tenant, and row-level security shows none of the others."""
    other = await create_tenant("other", None, meta=ChangeMeta("key:test"), tenants=TenantStore(store.sessions))
    ring = ring_of(store)
    async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
        sealed = await ring.seal(work, PLACE, b"secret")
    async with tenant_unit_of_work(store.sessions, other.tenant_id) as work:
        with pytest.raises(UnsealError):
            await ring.open(work, PLACE, sealed)


async def test_a_stored_key_that_was_moved_or_changed_opens_nothing(store, acme):
    """A wrapped key is bound to its tenant and id: one row's key in another row is refused, not used."""
    other = await create_tenant("other", None, meta=ChangeMeta("key:test"), tenants=TenantStore(store.sessions))
    ring = ring_of(store)
    async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
        sealed = await ring.seal(work, PLACE, b"secret")
    async with tenant_unit_of_work(store.sessions, other.tenant_id) as work:
        await ring.seal(work, PLACE, b"secret")
    with store.owner() as owner:
        owner.execute(
            "UPDATE data_keys SET wrapped = (SELECT wrapped FROM data_keys WHERE tenant_id = %s) WHERE tenant_id = %s",
            (other.tenant_id, acme.tenant_id),
        )
    async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
        with pytest.raises(EncryptionUnavailableError):
            await ring_of(store).open(work, PLACE, sealed)


async def test_an_unknown_key_encryption_key_fails_the_operation_and_no_other(store, acme):
    """A node that was not given the key says so, and goes on."""
    ring = ring_of(store)
    async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
        sealed = await ring.seal(work, PLACE, b"secret")
    lacking = ring_of(store, ("new", NEW))
    async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
        with pytest.raises(UnknownKeyError, match="`old`"):
            await lacking.open(work, PLACE, sealed)
        with pytest.raises(UnknownKeyError):
            await lacking.seal(work, PLACE, b"more")
        assert lacking.totals() == {"data_keys_unwrapped": 0, "data_keys_refused": 2}
        assert ring.totals() == {"data_keys_unwrapped": 1, "data_keys_refused": 0}
        assert (await work.session.execute(text("SELECT 1"))).scalar_one() == 1


async def test_a_node_with_another_preferred_key_uses_the_active_one(store, acme):
    """A key that some nodes lack is not used until a rotation goes over to it."""
    other = await create_tenant("other", None, meta=ChangeMeta("key:test"), tenants=TenantStore(store.sessions))
    async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
        await ring_of(store).seal(work, PLACE, b"first")
    ahead = ring_of(store, ("new", NEW), ("old", OLD))
    async with tenant_unit_of_work(store.sessions, other.tenant_id) as work:
        sealed = await ahead.seal(work, PLACE, b"second")
        assert await ring_of(store).open(work, PLACE, sealed) == b"second"
    assert {row[2] for row in await data_keys(store)} == {"old"}


async def test_a_key_of_the_same_name_and_other_bytes_opens_nothing(store, acme):
    """Two nodes whose settings disagree: the second refuses, and does not make the tenant another key."""
    async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
        sealed = await ring_of(store).seal(work, PLACE, b"secret")
    wrong = ring_of(store, ("old", NEW))
    async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
        with pytest.raises(EncryptionUnavailableError):
            await wrong.open(work, PLACE, sealed)
        with pytest.raises(EncryptionUnavailableError):
            await wrong.seal(work, PLACE, b"more")
    assert len(await data_keys(store)) == 1


async def test_only_registered_columns_hold_sealed_values(store, acme):
    """A value that no rotation knows of would be lost with its key."""
    async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
        with pytest.raises(UnregisteredColumnError, match=r"things\.other"):
            await ring_of(store).seal(work, Place("things", "other", "1"), b"secret")


async def test_keys_in_memory_are_bounded_and_grow_old(store, acme):
    """Many tenants cost no more than the bound, and a key is asked for again after its time."""
    clock = 0.0
    unwrapped = []

    class Counting(LocalKeyEncryption):
        async def unwrap(self, wrapped, bound):
            unwrapped.append(bound)
            return await super().unwrap(wrapped, bound)

    ring = KeyRing(
        store.sessions,
        KeyEncryptionKeys([Counting("old", OLD)], "old"),
        columns=(THINGS,),
        cache_keys=2,
        cache_seconds=10,
        now=lambda: clock,
    )
    tenants = [acme.tenant_id]
    for slug in ("b", "c"):
        head = await create_tenant(slug, None, meta=ChangeMeta("key:test"), tenants=TenantStore(store.sessions))
        tenants.append(head.tenant_id)

    async def seal(tenant_id):
        async with tenant_unit_of_work(store.sessions, tenant_id) as work:
            await ring.seal(work, PLACE, b"secret")

    for tenant_id in tenants:
        await seal(tenant_id)
    assert (len(unwrapped), len(ring._held)) == (3, 2)
    await seal(tenants[2])
    assert len(unwrapped) == 3
    await seal(tenants[0])
    assert len(unwrapped) == 4
    clock = 10.0
    await seal(tenants[0])
    assert len(unwrapped) == 5


async def test_an_outage_of_vault_fails_what_needs_it_and_nothing_is_stored_instead(store, acme):
    """Keys that are held go on; a new tenant's value is refused, not kept in the clear; back, it works."""
    other = await create_tenant("other", None, meta=ChangeMeta("key:test"), tenants=TenantStore(store.sessions))

    async def seal(ring, tenant_id):
        async with tenant_unit_of_work(store.sessions, tenant_id) as work:
            return await ring.seal(work, PLACE, b"secret")

    async with FakeVault().serving() as vault:
        kek = VaultTransit(VaultAddress(vault.url, "transit", "kasbah", token=vault.token))
        ring = KeyRing(store.sessions, KeyEncryptionKeys([kek], kek.id), columns=(THINGS,))
        sealed = await seal(ring, acme.tenant_id)
        vault.sealed = True
        async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
            assert await ring.open(work, PLACE, sealed) == b"secret"
        with pytest.raises(EncryptionUnavailableError):
            await seal(ring, other.tenant_id)
        assert [row[2] for row in await data_keys(store)] == ["vault:transit/kasbah"]
        vault.sealed = False
        await seal(ring, other.tenant_id)
        await kek.close()


async def test_personal_fields_end_with_their_subjects_key(store, acme):
    """On every node at once, also on one that opened them before; those of others stay."""
    here, there = ring_of(store), ring_of(store)
    alice, bob = uuid4(), uuid4()
    async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
        sealed = await here.seal_personal(work, alice, {"email": "alice@example.com"})
        more = await here.seal_personal(work, alice, {"username": "alice"})
        other = await here.seal_personal(work, bob, {"email": "bob@example.com"})
    assert sealed.subject_id == alice
    assert "alice" not in sealed.text
    async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
        for ring in (here, there):
            assert await ring.open_personal(work, sealed) == {"email": "alice@example.com"}
            assert await ring.open_personal(work, more) == {"username": "alice"}
    async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
        await there.destroy_subject_key(work, alice)
    async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
        for ring in (here, there):
            assert await ring.open_all_personal(work, [sealed, other, more]) == [
                None,
                {"email": "bob@example.com"},
                None,
            ]


async def test_nothing_is_kept_of_a_subject_who_was_erased(store, acme):
    """A late event, or one of a node that was slow, brings no new key."""
    ring, alice = ring_of(store), uuid4()
    async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
        await ring.seal_personal(work, alice, {"email": "alice@example.com"})
        await ring.destroy_subject_key(work, alice)
        late = await ring.seal_personal(work, alice, {"email": "alice@example.com"})
    assert late == SealedPersonal(alice, "")
    async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
        assert await ring.open_personal(work, late) is None
    with store.owner() as owner:
        assert owner.execute("SELECT wrapped, destroyed_at IS NOT NULL FROM subject_keys").fetchall() == [(None, True)]


async def test_a_subject_who_never_had_a_key_can_be_erased(store, acme):
    """And stays so."""
    ring, alice = ring_of(store), uuid4()
    async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
        await ring.destroy_subject_key(work, alice)
        await ring.destroy_subject_key(work, alice)
        assert (await ring.seal_personal(work, alice, {"email": "a@example.com"})).text == ""


async def test_people_of_the_platform_are_erased_from_every_tenant(store, acme):
    """What tenants' audits hold of them ends with them; nobody else can reach into other tenants so."""
    other = await create_tenant("other", None, meta=ChangeMeta("key:test"), tenants=TenantStore(store.sessions))
    ring, root, alice = ring_of(store), uuid4(), uuid4()
    sealed = {}
    for tenant_id in (PLATFORM_TENANT_ID, acme.tenant_id, other.tenant_id):
        async with tenant_unit_of_work(store.sessions, tenant_id) as work:
            sealed[tenant_id] = [await ring.seal_personal(work, who, {"address": "::1"}) for who in (root, alice)]
    async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
        await ring.destroy_subject_key(work, alice)
    with pytest.raises(DBAPIError, match="only the platform"):
        async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
            await work.session.execute(text("SELECT destroy_subject_keys(:who)"), {"who": root})
    async with tenant_unit_of_work(store.sessions, PLATFORM_TENANT_ID) as work:
        await ring.destroy_subject_key(work, root)
    for tenant_id, personal in sealed.items():
        async with tenant_unit_of_work(store.sessions, tenant_id) as work:
            left = None if tenant_id == acme.tenant_id else {"address": "::1"}
            assert await ring.open_all_personal(work, personal) == [None, left]
            assert (await ring.seal_personal(work, root, {"address": "::1"})).text == ""


async def test_a_subjects_key_made_twice_at_once_is_one(store, acme):
    """Both transactions' fields open."""
    rings, alice = [ring_of(store), ring_of(store)], uuid4()
    async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
        await rings[0].seal_personal(work, uuid4(), {"a": "b"})  # the data key is there

    async def seal(ring, name):
        async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
            return await ring.seal_personal(work, alice, {"username": name})

    sealed = await asyncio.gather(*(seal(ring, f"n{number}") for number, ring in enumerate(rings * 2)))
    async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
        opened = await rings[0].open_all_personal(work, sealed)
    assert opened == [{"username": f"n{number}"} for number in range(4)]


async def test_personal_fields_open_for_their_subject_alone(store, acme):
    """Text that was moved to another subject, or is none, is refused."""
    ring, alice, bob = ring_of(store), uuid4(), uuid4()
    async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
        of_alice = await ring.seal_personal(work, alice, {"email": "alice@example.com"})
        await ring.seal_personal(work, bob, {"email": "bob@example.com"})
        for text_ in (of_alice.text, of_alice.text[:-6] + "AAAAA=", "???", "abc"):
            with pytest.raises(UnsealError):
                await ring.open_personal(work, SealedPersonal(bob, text_))


async def test_a_data_key_in_use_cannot_be_deleted(store, acme):
    """PostgreSQL itself keeps what a row refers to."""
    async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
        await ring_of(store).seal_personal(work, uuid4(), {"a": "b"})
    with store.owner() as owner, pytest.raises(Exception, match="subject_keys_wrapped_key_fkey"):
        owner.execute("DELETE FROM data_keys")


async def test_neither_tables_nor_logs_nor_errors_hold_keys_or_plaintext(store, acme, caplog, capfd):
    """A canary in the key-encryption key, in values and in fields appears nowhere."""
    caplog.set_level(logging.DEBUG)
    canary = b"canary-kek-canary-kek-canary-kek"
    ring = ring_of(store, ("old", canary))
    alice, told = uuid4(), []
    async with tenant_unit_of_work(store.sessions, acme.tenant_id) as work:
        sealed = await ring.seal(work, PLACE, b"canary-value")
        personal = await ring.seal_personal(work, alice, {"email": "canary-field@example.com"})
        stored = (await work.session.execute(text("SELECT wrapped FROM data_keys"))).scalar_one()
        data_key = await LocalKeyEncryption("old", canary).unwrap(stored, _bound(acme.tenant_id, key_id_of(sealed)))
        for attempt in (
            ring.open(work, Place("things", "sealed", "2"), sealed),
            ring_of(store, ("old", NEW)).open(work, PLACE, sealed),
            ring_of(store, ("new", canary)).open(work, PLACE, sealed),
            ring.open_personal(work, SealedPersonal(uuid4(), personal.text)),
            ring.open_personal(work, SealedPersonal(alice, personal.text[:40])),
        ):
            try:
                await attempt
            except Exception as error:  # noqa: BLE001 - whatever it says is looked at
                told.append(repr(error) + str(error))
    assert len(told) == 4
    with store.owner() as owner:
        for table in ("data_keys", "subject_keys", "key_encryption"):
            told += [str(row) for row in owner.execute(f"SELECT t::text FROM {table} t").fetchall()]
    out, err = capfd.readouterr()
    everything = "\n".join([*told, caplog.text, out, err, repr(ring), repr(personal)])
    for secret in (b"canary-kek", b"canary-value", b"canary-field", data_key):
        for shown in (secret.hex(), secret.decode("latin-1"), repr(secret)[2:-1]):
            assert shown not in everything


def _bound(tenant_id, key_id: UUID) -> bytes:
    from tenancy.key_encryption import bound_key

    return bound_key(tenant_id, key_id)
