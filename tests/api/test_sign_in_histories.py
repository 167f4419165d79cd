"""Whatever an attacker knows, does and in which order: nobody is signed in without a second factor that is asked for.

Random histories of an account, its owner, an administrator and an attacker (`tests/support/sign_in_actors.py`), over
HTTP against PostgreSQL and Valkey. After each step every token that the attacker ever saw is tried.
"""

from collections.abc import Coroutine, Iterator, Sequence
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from tests.support.address_actors import TAKEN_OVER, Addresses, find_way_back
from tests.support.factors import wrong_code
from tests.support.sign_in import FrontDoor
from tests.support.sign_in_actors import Account, Leaks, open_account
from tests.support.sign_in_attacks import Attacker
from tests.support.tenant_actors import demand_of_everybody, let_tenant, open_invited
from tests.support.world import World, patient_door

pytestmark = pytest.mark.integration

T = TypeVar("T")


@pytest.fixture(scope="module")
def world(database_url: str) -> Iterator[World[FrontDoor]]:
    """The application, for all tests of this module."""
    running = World(lambda: patient_door(database_url))
    yield running
    running.close()


PICKS = st.integers(0, 99)
"""Which of what there is then: what is drawn must not depend on what the service answered."""


def picked(there: Sequence[T], number: int) -> Sequence[T]:
    """Return one of a sequence, the newest for 0; or none, when it is empty."""
    return [there[-1 - number % len(there)]] if there else []


class SignIns(RuleBasedStateMachine):
    """One account, from its making on."""

    def __init__(self, world: World[FrontDoor]) -> None:
        super().__init__()
        self.world = world
        self.account: Account
        self.attacker: Attacker
        self.addresses: Addresses

    @initialize(has=st.sampled_from(["nothing", "nothing", "invited", "demand", "phone", "key", "demand and key"]))
    def account_is_made(self, has):
        name = f"owner{next(self.world.numbers)}"
        said = {name: name in has for name in ("phone", "key")} | {"required": "demand" in has}
        door = self.world.door
        self.account = self.world(open_invited(door, name) if has == "invited" else open_account(door, name, **said))
        self.attacker = Attacker(self.account)
        self.addresses = Addresses(self.account, self.attacker)

    def did(self, name: str, work: Coroutine[Any, Any, bool]) -> None:
        """Do something that may be refused, and count how often it was not."""
        event(f"{name}: {self.world(work)}")

    def teardown(self):
        """Whatever happened: by documented ways the owner gets in again, unless the account is another's by now."""
        if not hasattr(self, "addresses"):
            return
        self.world(demand_of_everybody(self.account, demanded=False))
        if not self.addresses.lost:
            self.world(find_way_back(self.addresses))

    @property
    def leaks(self) -> Leaks:
        return self.account.leaks

    # The owner

    @rule()
    def owner_signs_in(self):
        self.did("owner signs in", self.account.sign_in())

    @rule()
    def owner_is_interrupted(self):
        self.world(self.account.begin())

    @rule()
    def owner_goes_on(self):
        half, self.account.half = self.account.half, None
        if half is not None:
            self.did("owner goes on", self.account.go_on(half))

    @rule()
    def owner_adds_a_key(self):
        self.did("owner adds a key", self.account.add_key())

    @rule()
    def owner_removes_a_factor(self):
        self.did("owner removes a factor", self.account.remove_factor())

    @rule()
    def owner_loses_all_authenticators(self):
        self.account.keys, self.account.phone = [], None

    @rule()
    def owner_changes_the_password(self):
        self.did("owner changes the password", self.account.change_password())

    @rule()
    def owner_resets_the_password(self):
        self.did("owner resets the password", self.account.reset_password())

    @rule()
    def owner_renews_the_recovery_codes(self):
        self.did("owner renews the recovery codes", self.account.renew_codes())

    @rule()
    def owner_asks_for_another_address(self):
        self.did("owner asks for another address", self.addresses.ask())

    @rule()
    def owner_confirms_the_address(self):
        self.did("owner confirms the address", self.addresses.confirm())

    @rule()
    def owner_takes_the_address_back(self):
        self.did("owner takes the address back", self.addresses.take_back())

    @rule()
    def owner_signs_out(self):
        self.did("owner signs out", self.account.sign_out())

    # The administrator

    @rule()
    def administrator_demands_a_factor(self):
        self.world(self.account.require_factor())

    @rule()
    def administrator_disables_and_enables(self):
        self.world(self.account.administer("disable"))
        self.check()
        self.world(self.account.administer("enable"))

    @rule()
    def administrator_resets_the_factors(self):
        event(f"administrator resets the factors: {self.world(self.account.administer('factors/reset')).status}")

    @rule(demanded=st.booleans())
    def administrator_demands_a_factor_of_everybody(self, demanded):
        self.world(demand_of_everybody(self.account, demanded=demanded))

    @rule()
    def platform_suspends_and_reactivates(self):
        self.world(let_tenant(self.world.door, "suspend"))
        self.world(self.attacker.sign_in(0))
        self.check()
        self.world(let_tenant(self.world.door, "reactivate"))

    @rule(hours=st.sampled_from([25, 73]))
    def time_passes(self, hours):
        self.world(self.attacker.forget_valkey())
        self.addresses.wait(hours)

    # The attacker

    @rule(known=st.integers(0, 3))
    def attacker_signs_in(self, known):
        self.world(self.attacker.sign_in(known))

    @rule(which=PICKS, what=PICKS)
    def attacker_proves_a_factor(self, which, what):
        guess = "000000" if self.account.phone is None else wrong_code(self.account.phone)
        known: list[tuple[str, Any]] = [("totp", code) for code in (guess, *self.leaks.codes)]
        known += [("recovery_code", code) for code in ("0" * 24, *self.leaks.recovery_codes)]
        known += [("webauthn", given) for given in self.leaks.assertions]
        for challenge in picked(self.leaks.challenges, which):
            self.world(self.attacker.prove(challenge, *picked(known, what)[0]))

    @rule(which=PICKS)
    def attacker_forges_an_assertion(self, which):
        for challenge in picked(self.leaks.challenges, which):
            self.world(self.attacker.forge_assertion(challenge))

    @rule(which=PICKS, what=PICKS)
    def attacker_enrols(self, which, what):
        given = [{"code": "00000000"}, *({"ticket": ticket} for ticket in ("x", *self.leaks.tickets))]
        for challenge in picked(self.leaks.challenges, which):
            self.world(self.attacker.enrol(challenge, picked(given, what)[0]))

    @rule(which=PICKS)
    def attacker_uses_a_session(self, which):
        for token in picked(self.leaks.tokens, which):
            self.world(self.attacker.misuse(token))

    @rule()
    def attacker_finds_a_session_left_open(self):
        self.world(self.addresses.misuse_one_left_open())

    @rule(which=PICKS)
    def attacker_puts_an_address_in_place(self, which):
        for token in picked(self.leaks.tokens, which):
            self.world(self.addresses.put_ones_own(token))

    @rule()
    def attacker_reads_their_own_mailbox(self):
        self.world(self.addresses.read_ones_own())

    @rule()
    def attacker_reads_an_abandoned_mailbox(self):
        self.world(self.addresses.read_abandoned())

    @rule()
    def attacker_copies_valkey(self):
        self.world(self.attacker.copy_valkey())

    @rule(which=PICKS)
    def attacker_puts_a_copy_back(self, which):
        for copy in picked(self.attacker.copies, which):
            self.world(self.attacker.restore_valkey(copy))

    @invariant()
    def check(self):
        """Nothing that the attacker has is a session, where a second factor is asked for; never is it one of `aal2`."""
        if hasattr(self, "addresses") and not self.addresses.lost:
            self.world(self.attacker.check())


def test_the_owner_gets_in_and_the_attacker_does_what_can_be_done(world):
    """Each actor does what the histories are made of: a refusal there would prove nothing."""
    account = world(open_account(world.door, "scripted", required=False, phone=False, key=False))
    attacker = Attacker(account)
    assert world(account.sign_in())
    world(attacker.sign_in(0))
    assert len(account.leaks.tokens) == len(attacker.keys) == 1, "a password is enough where nothing else is asked for"
    world(attacker.copy_valkey())
    world(attacker.check())
    assert world(account.add_key()), "the first one, by a mailed code"
    assert len(account.codes) == 10
    world(attacker.check())
    world(attacker.sign_in(0))
    assert len(account.leaks.tokens) == 2, "no token but those of sessions that ended"
    assert world(account.sign_in())
    assert len(account.leaks.assertions) == 1
    assert world(account.add_key())
    assert world(account.remove_factor())
    assert world(account.change_password())
    assert world(account.sign_in())
    assert world(account.sign_out())
    assert world(account.reset_password())
    world(account.begin())
    assert account.half is not None
    assert world(account.go_on(account.half))
    account.keys = []
    assert world(account.sign_in()), "with a recovery code"
    assert len(account.leaks.recovery_codes) == 1
    assert world(account.add_key()), "which is what the session of a recovery code is good for"
    world(attacker.restore_valkey(attacker.copies[0]))
    world(attacker.check())
    world(account.require_factor())
    account.keys, account.codes = [], []
    assert not world(account.sign_in())
    world(attacker.check())


def test_an_owner_enrols_where_it_is_demanded(world):
    """By a mailed code at first, by a ticket after an administrator's reset, and nobody else does."""
    account = world(open_account(world.door, "demanded", required=True, phone=False, key=False))
    attacker = Attacker(account)
    world(attacker.sign_in(0))
    world(attacker.enrol(account.leaks.challenges[-1], {"code": "00000000"}))
    assert world(account.sign_in())
    assert len(account.keys) == 1
    assert world(account.administer("factors/reset")).status == 202
    account.keys = []
    assert world(account.sign_in())
    assert len(account.leaks.tickets) == 1
    world(attacker.sign_in(0))
    world(attacker.enrol(account.leaks.challenges[-1], {"ticket": account.leaks.tickets[0]}))
    world(attacker.check())
    assert account.leaks.tokens == []


def test_an_address_of_the_attackers_binds_nothing_while_it_can_be_taken_back(world):
    """A stolen password puts it in place where nothing else is asked for; the owner has three days."""
    account = world(open_account(world.door, "readdressed", required=False, phone=False, key=False))
    attacker = Attacker(account)
    addresses = Addresses(account, attacker)
    world(attacker.sign_in(0))
    world(addresses.put_ones_own(account.leaks.tokens[-1]))
    assert addresses.present == addresses.foreign
    world(account.require_factor())
    world(addresses.read_ones_own())
    assert TAKEN_OVER in account.leaks.passwords, "the password was reset by mail"
    assert account.leaks.challenges
    world(attacker.check())
    world(find_way_back(addresses))
    assert account.tokens
    assert addresses.present == account.address
    world(attacker.check())


def test_after_three_days_an_address_is_its_readers(world):
    """And an authenticator is bound by it: what the histories try is more than a refusal."""
    account = world(open_account(world.door, "given-up", required=True, phone=False, key=False))
    addresses = Addresses(account, Attacker(account))
    account.door.execute("UPDATE users SET mfa_required = false WHERE user_id = %s", account.user.id)
    world(addresses.attacker.sign_in(0))
    world(addresses.put_ones_own(account.leaks.tokens[-1]))
    addresses.wait(73)
    assert addresses.lost
    world(account.require_factor())
    world(addresses.read_ones_own())
    assert addresses.stored()[-1], "bound"


def test_an_owner_moves_to_another_address_and_the_old_one_gives_nothing_away(world):
    """Nor does a session that was left open; codes are renewed, an invitation's ticket enrols."""
    account = world(open_invited(world.door, "moving"))
    addresses = Addresses(account, Attacker(account))
    assert world(account.sign_in())
    assert world(account.add_key()), "by the invitation's ticket"
    assert account.ticket is None
    old = account.codes
    assert world(account.renew_codes())
    assert account.codes != old
    assert world(addresses.ask())
    assert world(addresses.confirm())
    assert account.address == addresses.present != addresses.owned[0]
    assert world(account.sign_in())
    world(addresses.misuse_one_left_open())
    addresses.wait(73)
    world(addresses.read_abandoned())
    assert world(account.reset_password()), "by the new address"
    world(find_way_back(addresses))


@pytest.mark.parametrize("method", ["webauthn", "totp", "recovery_code"])
def test_what_was_used_is_worth_nothing_with_an_older_valkey(world, method):
    """The challenge is back as it was, and the very proof that ended it is sent; the key is one that does not count."""
    name, door = f"replayed-{method}".replace("_", "-"), world.door
    account = world(open_account(door, name, required=False, phone=method == "totp", key=method != "totp"))
    attacker = Attacker(account)
    if method == "recovery_code":
        assert world(account.sign_in())
        assert world(account.add_key())
    challenge = world(door.login(name)).json["challenge"]
    given: Any
    if method == "webauthn":
        (key,) = account.keys
        key.counts = False
        given = key.get(world(door.options(challenge, method)).json["options"])
    else:
        given = account.codes[0] if account.phone is None else account.phone.code()
    world(attacker.copy_valkey())
    assert world(door.verify(challenge, method, given)).status == 200
    world(attacker.restore_valkey(attacker.copies[0]))
    account.leaks.tokens.clear()
    world(attacker.prove(challenge, method, given))
    assert account.leaks.tokens == []


def test_no_history_signs_an_attacker_in(world, request):
    """Hundreds of steps; with `--nightly` many thousands."""
    nightly = request.config.getoption("--nightly")
    run_state_machine_as_test(
        lambda: SignIns(world),
        settings=settings(
            max_examples=1000 if nightly else 10,
            stateful_step_count=40 if nightly else 18,
            derandomize=not nightly,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
