"""Each step of signing in, with Valkey, PostgreSQL or the process killed before it and in its middle.

The moments are found by watching the request once, and servers are really killed: so a step that asks for more is cut
there, too. Afterwards nothing is half done, and the person gets in again from the password.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from migrations import runner
from service.keys import SESSION_STORE
from tests.conftest import own_server
from tests.support.administration import Answer
from tests.support.interruptions import MOMENTS, Fault, Interruptions, Moment, marked, without_sync
from tests.support.service_accounts import ACCOUNTS
from tests.support.sign_in import FrontDoor
from tests.support.sign_in_actors import SESSIONS, Account
from tests.support.sign_in_steps import NEW_PASSWORD, STEPS, Ready
from tests.support.smtp_server import smtp_server
from tests.support.world import PatientDoor, World

pytestmark = [pytest.mark.integration, pytest.mark.slow]

BOUND_SECONDS = 60
"""Far more than any step may take by its own limits on a busy machine, and far less than for ever."""

PROOFS = {name for name in STEPS if name.startswith(("verify_", "enrolment_finish_", "ticket_finish"))}
"""Steps whose proof signs somebody in, once."""

UNANSWERED = {Fault.COMMIT_UNANSWERED, Fault.VANISHED}
"""Faults that leave it open whether something was done, whatever the service does."""


@dataclass
class Taken:
    """A step, what disturbs it, what is stored before it, and what was answered."""

    name: str
    fault: Fault
    ready: Ready
    before: tuple[Any, ...] | None
    answer: Answer | None = None


class WatchedDoor(PatientDoor):
    """The application, whose passwords are hashed once and whose clients never send a request twice."""

    _hash: str | None = None

    def _app(self, settings: Any) -> Any:
        app = super()._app(settings)
        app.middlewares.insert(0, marked)
        return app

    async def user(self, username: str, **more: Any) -> Any:
        """Enter an account that has the password."""
        if self._hash is None:
            first = await super().user(f"{username}-first")
            (self._hash,) = self.account(first.id, "password_hash")
        return await self.person(username, password_hash=self._hash, **more)


@contextlib.asynccontextmanager
async def opened(database_url: str, redis_url: str) -> AsyncIterator[WatchedDoor]:
    """Serve; each request has a connection of its own."""
    async with smtp_server() as server, WatchedDoor(database_url, server, redis_url=redis_url).serving() as door:
        assert isinstance(door, WatchedDoor)
        await door.client.close()
        async with aiohttp.ClientSession(door.url, connector=aiohttp.TCPConnector(force_close=True)) as door.client:
            door.client._retry_connection = False  # as aiohttp's own test client: by itself it sends a DELETE again
            await door.open_tenants()
            yield door


@pytest.fixture(scope="module")
def cuts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Interruptions]:
    """Servers of this module's own."""
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(own_server(tmp_path_factory.mktemp(kind), kind)) for kind in ("postgres", "valkey")]
        without_sync(made[0])
        runner.upgrade(made[0].url)
        yield Interruptions(*made)


@pytest.fixture(scope="module")
def world(cuts: Interruptions) -> Iterator[World[WatchedDoor]]:
    """The application on them."""
    running = World(lambda: opened(cuts.postgres.url, cuts.valkey.url))
    with cuts.within(running.door):
        yield running
    running.close()


async def healed(door: WatchedDoor, cuts: Interruptions) -> None:
    """Bring everything back, and wait until both servers are used again; the application is not restarted."""
    await asyncio.to_thread(cuts.heal)
    door.patient = True
    assert (await door.options("unknown", "totp")).status == 410
    assert (await door.get(ACCOUNTS, key=door.keys["acme"])).status == 200


async def asked(ready: Ready) -> Answer | None:
    """Send the request; None when there was no answer."""
    async with asyncio.timeout(BOUND_SECONDS):
        try:
            return await ready.ask()
        except aiohttp.ClientConnectionError:
            return None


def told_once(door: FrontDoor, account: Account) -> tuple[Any, ...]:
    """Return what a person learns from one answer and nowhere else, or must know to go on, as it is stored."""
    return door.query(
        "SELECT u.password_hash, "
        "(SELECT array_agg(authenticator_id ORDER BY 1) FROM authenticators WHERE user_id = u.user_id "
        "AND confirmed_at IS NOT NULL), "
        "(SELECT array_agg(code_hash ORDER BY 1) FROM recovery_codes WHERE user_id = u.user_id) "
        "FROM users AS u WHERE u.user_id = %s",
        account.user.id,
    )[0]


def begun(door: FrontDoor, account: Account) -> list[str]:
    """Return the sessions of an account that the audit tells of."""
    found = door.query(
        "SELECT event->'detail'->>'session' FROM audit_events WHERE event->>'target' = %s "
        "AND event->>'action' IN ('session.begin', 'session.renew')",
        account.user.ref,
    )
    return [session for (session,) in found]


async def starts_over(door: FrontDoor, account: Account) -> None:
    """Sign in from the password, with what the person has; it must come to all that the account can prove."""
    known = list(account.tokens)
    if not await account.sign_in():
        account.password = NEW_PASSWORD
        assert await account.sign_in(), "there is no way back"
    (token,) = [one for one in account.tokens if one not in known]
    shown = await door.get(SESSIONS, key=token)
    assert shown.status == 200, shown.body
    (current,) = [one for one in shown.json["sessions"] if one["current"]]
    assert current["acr"] == ("aal2" if account.proves_more() else "aal1")


async def check_person(door: FrontDoor, account: Account, taken: Taken) -> None:
    """Check what a disturbed step left behind, by starting over, and by sending it again."""
    answer = taken.answer
    if answer is not None and answer.status == 503 and taken.fault not in UNANSWERED:
        assert told_once(door, account) == taken.before, "done, and nobody was told"
    await starts_over(door, account)
    again = await asked(taken.ready)
    assert again is not None
    assert again.status < 500, again.body
    if taken.name in PROOFS:
        assert len(begun(door, account)) <= 2, "one proof, two sessions"
    stored = await door.app[SESSION_STORE].list_of(account.user.tenant_id, account.user.id)
    assert {str(session.session_id) for session in stored} <= set(begun(door, account))


async def check_program(ready: Ready, answer: Answer | None) -> None:
    """Check that a key that was asked for twice is one key, whose token is told."""
    again = await asked(ready)
    assert again is not None
    assert again.status == 201, again.body
    if answer is not None and answer.status == 201:
        assert again.json["token"] == answer.json["token"]


async def check(door: FrontDoor, taken: Taken) -> None:
    """Check the answer to a step that was disturbed, and what it left behind."""
    answer, account = taken.answer, taken.ready.account
    if answer is None:
        assert taken.fault is Fault.VANISHED
    elif answer.status == 503:
        assert int(answer.headers["Retry-After"]) > 0
    else:
        assert 200 <= answer.status < 300, answer.body
    if account is None:
        await check_program(taken.ready, answer)
    else:
        await check_person(door, account, taken)


async def prepared(world: World[WatchedDoor], name: str, fault: Fault) -> Taken:
    """Go as far as the step."""
    ready = await STEPS[name](world.door, f"person{next(world.numbers)}")
    return Taken(name, fault, ready, None if ready.account is None else told_once(world.door, ready.account))


async def cut(world: World[WatchedDoor], cuts: Interruptions, taken: Taken, moment: Moment, number: int) -> None:
    """Take a step that is cut at one of its moments, and check what came of it."""
    try:
        world.door.patient = False
        with cuts.cutting(taken.fault, moment, number):
            taken.answer = await asked(taken.ready)
    finally:
        await healed(world.door, cuts)
    await check(world.door, taken)


async def moments_of(world: World[WatchedDoor], cuts: Interruptions, name: str) -> Sequence[Moment]:
    """Return the moments of a step that nothing disturbs; it is taken once."""
    if name not in cuts.known:
        ready = await STEPS[name](world.door, f"person{next(world.numbers)}")
        with cuts.watching():
            answer = await asked(ready)
        assert answer is not None
        assert 200 <= answer.status < 300, answer.body
        cuts.known[name] = tuple(cuts.moments)
    return cuts.known[name]


async def asked_without(world: World[WatchedDoor], cuts: Interruptions, fault: Fault, waiting: list[Taken]) -> None:
    """Take steps while a server is away that was there at the step before."""
    try:
        world.door.patient = False
        cuts.let(fault)
        answers = await asyncio.gather(*(asked(taken.ready) for taken in waiting))
    finally:
        await healed(world.door, cuts)
    for taken, answer in zip(waiting, answers, strict=True):
        taken.answer = answer


@pytest.mark.parametrize("fault", [Fault.VALKEY_FROZEN, Fault.POSTGRES_KILLED])
def test_a_step_that_begins_without_a_server_changes_nothing(world, cuts, fault):
    """Each of them, while the server is away that it needs."""
    waiting = [world(prepared(world, name, fault)) for name in STEPS]
    world(asked_without(world, cuts, fault, waiting))
    for taken in waiting:
        world(check(world.door, taken))


@pytest.mark.parametrize("fault", [Fault.VALKEY_KILLED, Fault.POSTGRES_KILLED, Fault.COMMIT_UNANSWERED])
@pytest.mark.parametrize("name", STEPS)
def test_a_step_that_is_cut_at_its_end_leaves_nothing_half_done(world, cuts, name, fault):
    """Where the most is done already, and not yet all."""
    moment = MOMENTS[fault][0]
    last = world(moments_of(world, cuts, name)).count(moment) - 1
    if last >= 0:
        world(cut(world, cuts, world(prepared(world, name, fault)), moment, last))


@pytest.mark.nightly
@pytest.mark.parametrize("fault", Fault)
@pytest.mark.parametrize("name", STEPS)
def test_a_step_that_is_cut_leaves_nothing_half_done(world, cuts, name, fault):
    """At every moment that it has."""
    moments = world(moments_of(world, cuts, name))
    for moment in MOMENTS[fault]:
        for number in range(moments.count(moment)):
            world(cut(world, cuts, world(prepared(world, name, fault)), moment, number))
