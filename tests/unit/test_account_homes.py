"""Homes of accounts: looked up once, forgotten with the database, bounded in all that strangers can ask for."""

import asyncio
from uuid import UUID, uuid4

import pytest

from authn.account_homes import AccountHome, AccountHomes, AccountKind, HomeLimits
from authn.errors import UserStorageUnavailableError
from tenancy.ids import Slug, TenantId

HOME = AccountHome(TenantId(uuid4()), Slug("acme"))
KNOWN = uuid4()


class Directory:
    """Knows one person."""

    def __init__(self):
        self.known = {(AccountKind.PERSON, KNOWN): HOME}
        self.asked = 0
        self.under_way = 0
        self.most = 0
        self.down = False
        self.gate = None

    async def find_home(self, kind, account_id):
        """Answer, fail, or wait for the test."""
        self.asked += 1
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            if self.gate is not None:
                await self.gate.wait()
            if self.down:
                raise UserStorageUnavailableError("down")
            return self.known.get((kind, account_id))
        finally:
            self.under_way -= 1


def make(**limits):
    directory, clock = Directory(), [0.0]
    return AccountHomes(directory, HomeLimits(**limits), monotonic=lambda: clock[0]), directory, clock


async def test_a_home_is_looked_up_once():
    """It never changes."""
    homes, directory, clock = make()
    assert await homes.find(AccountKind.PERSON, KNOWN) is HOME
    directory.down = True
    clock[0] += 1_000_000
    assert await homes.find(AccountKind.PERSON, KNOWN) is HOME
    assert homes.totals() == {"account_home_lookups": 1}


async def test_a_persons_id_is_no_services():
    """Each kind is looked for by itself."""
    homes, _, _ = make()
    assert await homes.find(AccountKind.PERSON, KNOWN) is HOME
    assert await homes.find(AccountKind.SERVICE, KNOWN) is None


async def test_an_unknown_id_is_asked_about_once_a_second():
    """An account that is made now is found soon."""
    homes, directory, clock = make()
    new = uuid4()
    for _ in range(5):
        assert await homes.find(AccountKind.PERSON, new) is None
    assert directory.asked == 1
    directory.known[AccountKind.PERSON, new] = HOME
    clock[0] += 1
    assert await homes.find(AccountKind.PERSON, new) is HOME


async def test_what_is_remembered_is_bounded():
    """Of known ids and unknown ones."""
    homes, directory, _ = make(remembered=4, unknown=4)
    for number in range(100):
        directory.known[AccountKind.PERSON, UUID(int=number)] = HOME
        await homes.find(AccountKind.PERSON, UUID(int=number))
        await homes.find(AccountKind.SERVICE, UUID(int=number))
    assert len(homes._known) == len(homes._unknown) == 4


async def test_look_ups_at_once_and_those_that_wait_are_bounded():
    """The rest is told to come again, not queued."""
    homes, directory, _ = make(lookups=2, waiting=4)
    directory.gate = asyncio.Event()
    finding = [asyncio.create_task(homes.find(AccountKind.PERSON, uuid4())) for _ in range(10)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    directory.gate.set()
    outcomes = await asyncio.gather(*finding, return_exceptions=True)
    assert sum(isinstance(outcome, UserStorageUnavailableError) for outcome in outcomes) == 6
    assert directory.most == 2
    assert await homes.find(AccountKind.PERSON, KNOWN) is HOME


async def test_an_outage_is_not_remembered_as_an_answer():
    """Neither of a known id nor of an unknown one."""
    homes, directory, _ = make()
    directory.down = True
    with pytest.raises(UserStorageUnavailableError):
        await homes.find(AccountKind.PERSON, KNOWN)
    directory.down = False
    assert await homes.find(AccountKind.PERSON, KNOWN) is HOME


async def test_another_database_has_other_homes():
    """Also for a look-up that was under way when it came."""
    homes, directory, _ = make()
    assert await homes.find(AccountKind.PERSON, KNOWN) is HOME
    homes.forget_all()
    directory.gate = asyncio.Event()
    finding = asyncio.create_task(homes.find(AccountKind.PERSON, KNOWN))
    await asyncio.sleep(0)
    homes.forget_all()
    directory.gate.set()
    assert await finding is HOME
    assert not homes._known
