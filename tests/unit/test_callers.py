"""API keys: found by hash, remembered while nothing changed, refused alike."""

import asyncio
import contextlib
import dataclasses
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from authn.api_keys import hash_token
from authz.errors import StorageUnavailableError
from authz.ports import TenantHead
from authz.tracked import Changes
from service.caller import bearer_token
from service.callers import CallerLimits, Callers, FoundApiKey
from service.edge_errors import NotAuthenticatedError, OverloadedError
from tenancy.ids import PLATFORM_TENANT_ID, Slug, TenantId, TenantStatus

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TENANT = TenantId(uuid4())
HEAD = TenantHead(TENANT, Slug("acme"), TenantStatus.ACTIVE, revision=9, rules_revision=5, keys_revision=3)
TOKEN = "kasbah_0123abcd_" + "A" * 43


class FakeNode:
    """Heads that the test moves."""

    def __init__(self):
        self.changes = Changes()
        self.heads = {}
        self.is_fresh = True
        self.watched = []
        self.time = NOW

    def fresh(self, tenant_id):
        """Whether the test says so."""
        return self.is_fresh

    async def watch(self, tenant_id):
        """Note it, and know the head from then on."""
        self.watched.append(tenant_id)
        self.heads.setdefault(tenant_id, dataclasses.replace(HEAD, tenant_id=tenant_id))

    def now(self):
        """The test's time."""
        return self.time


class FakeDirectory:
    """Keys by hash, counting lookups."""

    def __init__(self):
        self.keys = {}
        self.lookups = 0
        self.down = False
        self.gate = None

    async def find_by_hash(self, key_hash):
        """Return what the test put there."""
        self.lookups += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.down:
            raise StorageUnavailableError("down")
        return self.keys.get(key_hash)


def key(head=HEAD, expires_at=None, scopes=("decision:check",)):
    """Return a found key."""
    return FoundApiKey(uuid4(), "0123abcd", frozenset(scopes), expires_at, head)


def make(limits=None):
    """Return callers over fakes, with one good key."""
    node, directory, clock = FakeNode(), FakeDirectory(), [0.0]
    directory.keys[hash_token(TOKEN)] = key()
    return Callers(directory, node, limits, monotonic=lambda: clock[0]), node, directory, clock


async def test_a_known_key_is_looked_up_once():
    """Later requests need no I/O, and `warm` answers them."""
    callers, node, directory, _ = make()
    assert callers.warm(TOKEN) is None
    first = await callers.authenticate(TOKEN)
    assert (first.tenant_id, first.slug, first.may_check, first.may_assert) == (TENANT, "acme", True, False)
    assert await callers.authenticate(TOKEN) is first
    assert callers.warm(TOKEN) is first
    assert directory.lookups == 1
    assert node.watched == [TENANT]


async def test_a_platform_key_has_no_tenant():
    """It must name one with each request."""
    callers, _, directory, _ = make()
    directory.keys[hash_token(TOKEN)] = key(dataclasses.replace(HEAD, tenant_id=PLATFORM_TENANT_ID))
    caller = await callers.authenticate(TOKEN)
    assert caller.tenant_id is None
    assert caller.slug is None


async def test_a_revocation_acts_as_soon_as_the_node_knows_the_new_keys_revision():
    """The remembered key no longer holds; the lookup says that it is gone."""
    callers, node, directory, _ = make()
    await callers.authenticate(TOKEN)
    del directory.keys[hash_token(TOKEN)]
    assert callers.warm(TOKEN) is not None
    node.heads[TENANT] = dataclasses.replace(HEAD, revision=10, keys_revision=10)
    assert callers.warm(TOKEN) is None
    with pytest.raises(NotAuthenticatedError):
        await callers.authenticate(TOKEN)
    node.heads[TENANT] = HEAD
    assert callers.warm(TOKEN) is None


async def test_a_change_of_another_key_costs_one_lookup():
    """The key is found again under the new revision and remembered with it."""
    callers, node, directory, _ = make()
    await callers.authenticate(TOKEN)
    head = dataclasses.replace(HEAD, revision=10, keys_revision=10)
    node.heads[TENANT] = head
    directory.keys[hash_token(TOKEN)] = key(head)
    await callers.authenticate(TOKEN)
    assert callers.warm(TOKEN) is not None
    assert directory.lookups == 2


async def test_a_key_read_under_a_newer_head_than_the_nodes_holds():
    """The node has only not polled yet."""
    callers, node, directory, _ = make()
    directory.keys[hash_token(TOKEN)] = key(dataclasses.replace(HEAD, keys_revision=12, revision=12))
    await callers.authenticate(TOKEN)
    assert node.heads[TENANT].keys_revision == 3
    assert callers.warm(TOKEN) is not None


async def test_a_node_without_confirmation_trusts_no_remembered_key():
    """Storage down on top: that is a failure, not a refusal and not a pass."""
    callers, node, directory, _ = make()
    await callers.authenticate(TOKEN)
    node.is_fresh = False
    assert callers.warm(TOKEN) is None
    directory.down = True
    with pytest.raises(StorageUnavailableError):
        await callers.authenticate(TOKEN)
    directory.down = False
    assert await callers.authenticate(TOKEN)


async def test_an_expired_key_is_refused_at_its_second():
    """Remembered or not; the last moment before is still good."""
    callers, node, directory, _ = make()
    directory.keys[hash_token(TOKEN)] = key(expires_at=NOW + timedelta(seconds=5))
    await callers.authenticate(TOKEN)
    node.time = NOW + timedelta(seconds=4.999)
    assert callers.warm(TOKEN) is not None
    node.time = NOW + timedelta(seconds=5)
    assert callers.warm(TOKEN) is None
    with pytest.raises(NotAuthenticatedError):
        await callers.authenticate(TOKEN)


@pytest.mark.parametrize("status", [TenantStatus.DELETED])
async def test_a_deleted_tenants_keys_are_refused(status):
    """Whether the key was remembered or is looked up."""
    callers, node, directory, _ = make()
    await callers.authenticate(TOKEN)
    node.heads[TENANT] = dataclasses.replace(HEAD, status=status)
    assert callers.warm(TOKEN) is None
    directory.keys[hash_token(TOKEN)] = key(dataclasses.replace(HEAD, status=status))
    with pytest.raises(NotAuthenticatedError):
        await callers.authenticate(TOKEN)


@pytest.mark.parametrize(
    "token",
    ["", "kasbah", TOKEN + "\n", TOKEN[:-1], TOKEN + "A", TOKEN.upper(), "kasbah_0123abcd_" + "é" * 43, "x" * 8000],
)
async def test_what_is_no_token_is_refused_without_a_lookup(token):
    """Garbage costs nothing."""
    callers, _, directory, _ = make()
    with pytest.raises(NotAuthenticatedError):
        await callers.authenticate(token)
    assert directory.lookups == 0


async def test_an_unknown_key_is_looked_up_again_only_after_a_second_and_leaves_nothing():
    """A flood of unknown keys keeps a bounded number of refusals, however long it lasts."""
    callers, _, directory, clock = make(CallerLimits(refused=10, refused_seconds=1.0))
    unknown = "kasbah_0123abcd_" + "B" * 43
    for _ in range(5):
        with pytest.raises(NotAuthenticatedError):
            await callers.authenticate(unknown)
    assert directory.lookups == 1
    clock[0] = 1.0
    with pytest.raises(NotAuthenticatedError):
        await callers.authenticate(unknown)
    assert directory.lookups == 2
    for number in range(100):
        with pytest.raises(NotAuthenticatedError):
            await callers.authenticate(f"kasbah_0123abcd_{number:043d}")
    assert len(callers._refused) == 10
    assert len(callers._remembered) == 0


async def test_remembered_keys_are_bounded():
    """The one that was not used for longest goes first."""
    callers, _, directory, _ = make(CallerLimits(remembered=2))
    tokens = [f"kasbah_0123abcd_{number:043d}" for number in range(3)]
    for token in tokens:
        directory.keys[hash_token(token)] = key()
    await callers.authenticate(tokens[0])
    await callers.authenticate(tokens[1])
    await callers.authenticate(tokens[0])
    await callers.authenticate(tokens[2])
    assert [callers.warm(token) is not None for token in tokens] == [True, False, True]


async def test_a_flood_of_lookups_is_cut_off():
    """What cannot even wait is told so (503), and the rest finishes."""
    callers, _, directory, _ = make(CallerLimits(lookups=1, waiting=3))
    directory.gate = asyncio.Event()
    tasks = [asyncio.create_task(callers.authenticate(f"kasbah_0123abcd_{number:043d}")) for number in range(5)]
    await asyncio.sleep(0.01)
    directory.gate.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == [
        "NotAuthenticatedError",
        "NotAuthenticatedError",
        "NotAuthenticatedError",
        "OverloadedError",
        "OverloadedError",
    ]
    assert isinstance(outcomes[-1], OverloadedError)


@pytest.mark.parametrize(
    "values", [[], ["Basic abc"], ["Bearer"[:3]], [f"Bearer {TOKEN}", f"Bearer {TOKEN}"], ["bearertoken"]]
)
def test_only_one_bearer_header_counts(values):
    """None, another scheme, or two of them are not authenticated."""
    with pytest.raises(NotAuthenticatedError):
        bearer_token(values)


def test_the_scheme_has_no_case():
    """RFC 9110 section 11.1."""
    assert bearer_token([f"bEARER {TOKEN}"]) == TOKEN


async def test_a_turn_is_waited_for_within_the_time_of_a_look_up():
    """While PostgreSQL hangs, those who wait behind the first look-ups end as soon as these."""
    callers, _, directory, _ = make(CallerLimits(lookups=1, lookup_seconds=0.1))
    directory.gate = asyncio.Event()
    began = asyncio.get_running_loop().time()
    tokens = [TOKEN, *(f"kasbah_0123abcd_{letter * 43}" for letter in "BCDE")]
    found = await asyncio.gather(*(callers.authenticate(token) for token in tokens), return_exceptions=True)
    assert {type(outcome) for outcome in found} == {StorageUnavailableError}
    assert asyncio.get_running_loop().time() - began < 0.3


async def test_a_demanded_revision_counts_for_the_key_too():
    """A revocation is a revision: a request that demands it is not let in by what was remembered before."""
    callers, _, directory, _ = make()
    await callers.authenticate(TOKEN, HEAD.revision)
    assert directory.lookups == 1
    directory.keys.clear()
    assert await callers.authenticate(TOKEN, HEAD.revision)
    with pytest.raises(NotAuthenticatedError):
        await callers.authenticate(TOKEN, HEAD.revision + 1)
    assert callers.warm(TOKEN) is None


async def test_a_key_that_still_holds_at_a_demanded_revision_is_remembered_there():
    """One look-up, not one for each request."""
    callers, node, directory, _ = make()
    await callers.authenticate(TOKEN)
    later = dataclasses.replace(HEAD, revision=HEAD.revision + 1)
    directory.keys[hash_token(TOKEN)] = key(head=later)
    node.heads[TENANT] = later
    for _ in range(3):
        await callers.authenticate(TOKEN, later.revision)
    assert directory.lookups == 1
    for _ in range(3):
        with contextlib.suppress(NotAuthenticatedError):
            await callers.authenticate(TOKEN, later.revision + 1)
    assert directory.lookups == 4


async def test_another_database_may_have_other_keys():
    """After a restore, a key that is not there any more must not live on in memory, whatever the revisions say."""
    callers, node, directory, _ = make()
    await callers.authenticate(TOKEN)
    directory.keys.clear()
    node.heads[TENANT] = dataclasses.replace(HEAD, revision=HEAD.revision - 1, keys_revision=HEAD.keys_revision - 1)
    held = callers.remembered(TOKEN)
    assert held is not None
    assert callers.holds(held)
    before = node.changes.count
    callers.forget_all()
    assert node.changes.count > before, "whoever remembers that a key held asks again"
    assert callers.warm(TOKEN) is None
    assert not callers.holds(held)
    with pytest.raises(NotAuthenticatedError):
        await callers.authenticate(TOKEN)
