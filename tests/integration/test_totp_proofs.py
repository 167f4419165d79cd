"""Codes against real PostgreSQL: each works once ever, failures are counted for each authenticator, over everything."""

import asyncio
from datetime import timedelta
from uuid import uuid4

import pytest

from authn.factor_storage import find_authenticator, has_factors, list_totps, read_factors, spend_step
from authn.factors import FactorMethod, FactorProven, FactorWrong
from authn.prove_totp import TotpProofs
from authn.totp import step_at
from authn.tries import LockedOut, MustWait
from tenancy.create_tenant import create_tenant
from tenancy.database import open_engine, open_sessions
from tenancy.storage import TenantStore
from tenancy.tenant import ChangeMeta
from tenancy.unit_of_work import tenant_unit_of_work
from tests.support.accounts import Accounts
from tests.support.factors import bind_phone, waiting, wrong_code
from tests.support.servers import patient

META = ChangeMeta("anonymous")

pytestmark = pytest.mark.integration


@pytest.fixture
def accounts(store, acme):
    """Return the accounts of a tenant."""
    return Accounts(store.sessions, acme.tenant_id)


@pytest.fixture
async def alice(accounts):
    """Return an account without factors."""
    return await accounts.add("alice")


@pytest.fixture
def proofs(accounts):
    """Return what judges codes, as the service has it."""
    return TotpProofs(accounts.sessions, accounts.ring)


async def prove(proofs, account, given, **more):
    return await proofs.prove(waiting(account.tenant_id, account.id, **more), given, meta=META)


def failures(store, **of):
    with store.owner() as owner:
        return dict(
            owner.execute("SELECT authenticator, failures FROM credential_failures WHERE failures > 0").fetchall()
        )


async def test_a_code_proves_its_authenticator_once(accounts, proofs, alice):
    """The amr says what was used; the same code, and the one before it, prove nothing afterwards."""
    phone = await bind_phone(accounts.sessions, accounts.ring, alice.tenant_id, alice.id)
    code, earlier, later = phone.code(), phone.code(-1), phone.code(1)
    assert await prove(proofs, alice, code) == FactorProven(("otp", "mfa"), f"totp:{phone.id}")
    assert await prove(proofs, alice, code) == FactorWrong()
    assert await prove(proofs, alice, earlier) == FactorWrong()
    assert isinstance(await prove(proofs, alice, later), FactorProven)
    async with tenant_unit_of_work(accounts.sessions, alice.tenant_id) as work:
        held = await find_authenticator(work, alice.id, phone.id)
    assert held.last_used_at is not None


@pytest.mark.parametrize("given", ["", "12345", "abcdef", {"code": "123456"}, {}, "１２３４５６"])
async def test_what_is_no_code_proves_nothing_and_counts(accounts, proofs, alice, store, given):
    """Nonsense is a failed try like any other."""
    phone = await bind_phone(accounts.sessions, accounts.ring, alice.tenant_id, alice.id)
    assert await prove(proofs, alice, given) == FactorWrong()
    assert failures(store) == {f"totp:{phone.id}": 1}


async def test_an_account_without_authenticators_proves_nothing(accounts, proofs, alice, store):
    """Neither one that never had one, nor one that waits for its confirmation, nor a disabled one."""
    assert await prove(proofs, alice, "123456") == FactorWrong()
    phone = await bind_phone(accounts.sessions, accounts.ring, alice.tenant_id, alice.id)
    for column in ("confirmed_at = NULL, disabled_at = NULL", "confirmed_at = now(), disabled_at = now()"):
        with store.owner() as owner:
            owner.execute(f"UPDATE authenticators SET {column}")
        assert await prove(proofs, alice, phone.code()) == FactorWrong()
        assert failures(store) == {}


async def test_two_phones_have_counts_of_their_own(accounts, proofs, alice, store):
    """A wrong code is a guess at both; the right code of one forgives that one, and is no guess at the other."""
    one = await bind_phone(accounts.sessions, accounts.ring, alice.tenant_id, alice.id, "one")
    two = await bind_phone(accounts.sessions, accounts.ring, alice.tenant_id, alice.id, "two")
    assert await prove(proofs, alice, wrong_code(one)) == FactorWrong()
    assert failures(store) == {f"totp:{one.id}": 1, f"totp:{two.id}": 1}
    assert isinstance(await prove(proofs, alice, two.code()), FactorProven)
    assert failures(store) == {f"totp:{one.id}": 1}
    assert isinstance(await prove(proofs, alice, one.code()), FactorProven)
    assert failures(store) == {}


async def test_failures_are_counted_over_all_challenges(accounts, proofs, alice, store):
    """A new challenge clears nothing: after five failures one waits, at a hundred it is over, right code or not."""
    phone = await bind_phone(accounts.sessions, accounts.ring, alice.tenant_id, alice.id)
    outcomes = [await prove(proofs, alice, wrong_code(phone)) for _ in range(8)]
    assert outcomes[:6] == [FactorWrong()] * 6
    assert all(isinstance(outcome, MustWait) for outcome in outcomes[6:])
    assert failures(store) == {f"totp:{phone.id}": 6}
    assert isinstance(await prove(proofs, alice, phone.code()), MustWait)
    with store.owner() as owner:
        owner.execute("UPDATE credential_failures SET failures = 99, blocked_until = NULL")
    assert await prove(proofs, alice, wrong_code(phone)) == FactorWrong()
    with store.owner() as owner:
        owner.execute("UPDATE credential_failures SET blocked_until = NULL")
    assert await prove(proofs, alice, phone.code()) == LockedOut()


async def test_a_known_device_is_not_locked_out_by_others(accounts, proofs, alice, store):
    """It has a count of its own, which a stranger's guesses never touch; and it must guess as slowly as they."""
    phone = await bind_phone(accounts.sessions, accounts.ring, alice.tenant_id, alice.id)
    device = uuid4()
    for _ in range(7):
        await prove(proofs, alice, wrong_code(phone))
    assert isinstance(await prove(proofs, alice, phone.code()), MustWait)
    assert isinstance(await prove(proofs, alice, phone.code(), device_id=device), FactorProven)
    outcomes = [await prove(proofs, alice, wrong_code(phone), device_id=device) for _ in range(7)]
    assert isinstance(outcomes[-1], MustWait)


async def test_a_clock_that_steps_back_revives_no_spent_step(accounts, proofs, alice, store):
    """A code was accepted while the clock was an hour ahead: what is right by the present time is refused."""
    phone = await bind_phone(accounts.sessions, accounts.ring, alice.tenant_id, alice.id)
    async with tenant_unit_of_work(accounts.sessions, alice.tenant_id) as work:
        (held,) = await list_totps(work, alice.id)
        assert await spend_step(work, alice.id, phone.id, step_at(held.now + timedelta(hours=1)))
    assert await prove(proofs, alice, phone.code()) == FactorWrong()
    async with tenant_unit_of_work(accounts.sessions, alice.tenant_id) as work:
        assert not await spend_step(work, alice.id, phone.id, step_at(held.now))


async def test_another_tenants_account_proves_nothing_here(accounts, proofs, alice, store):
    """The same ids under another tenant find no authenticator; a secret that was moved to another row does not open."""
    phone = await bind_phone(accounts.sessions, accounts.ring, alice.tenant_id, alice.id)
    other = await create_tenant("beta", None, meta=ChangeMeta("key:test"), tenants=TenantStore(store.sessions))
    assert await proofs.prove(waiting(other.tenant_id, alice.id), phone.code(), meta=META) == FactorWrong()
    async with tenant_unit_of_work(accounts.sessions, other.tenant_id) as work:
        assert not await has_factors(work, alice.id)
        assert await find_authenticator(work, alice.id, phone.id) is None


async def test_a_secret_is_bound_to_its_row(accounts, proofs, alice, store):
    """Whoever writes the table and moves their own authenticator to another account gets an error, not in."""
    mallory = await accounts.add("mallory")
    phone = await bind_phone(accounts.sessions, accounts.ring, mallory.tenant_id, mallory.id)
    with store.owner() as owner:
        owner.execute("UPDATE authenticators SET user_id = %s", [alice.id])
    with pytest.raises(Exception, match="does not open") as caught:
        await prove(proofs, alice, phone.code())
    assert type(caught.value).__name__ == "UnsealError"


async def test_factors_say_what_an_account_can_prove(accounts, proofs, alice, store):
    """Nothing at first; a disabled authenticator still makes the password too little."""

    async def read():
        async with tenant_unit_of_work(accounts.sessions, alice.tenant_id) as work:
            assert (await read_factors(work, alice.id)).enrolled is await has_factors(work, alice.id)
            return await read_factors(work, alice.id)

    assert (await read()).methods == ()
    await bind_phone(accounts.sessions, accounts.ring, alice.tenant_id, alice.id)
    with store.owner() as owner:
        owner.execute(
            "INSERT INTO recovery_codes (tenant_id, user_id, code_hash) VALUES (%s, %s, sha256('a'))",
            [alice.tenant_id, alice.id],
        )
    factors = await read()
    assert (factors.methods, factors.recovery_codes_left) == ((FactorMethod.TOTP, FactorMethod.RECOVERY_CODE), 1)
    with store.owner() as owner:
        owner.execute("UPDATE authenticators SET disabled_at = now()")
    factors = await read()
    assert (factors.enrolled, factors.methods) == (True, (FactorMethod.RECOVERY_CODE,))


async def test_a_code_that_is_sent_fifty_times_over_two_nodes_works_once(accounts, alice, store):
    """Two processes with pools of their own, twenty-five at once each, on one PostgreSQL."""
    phone = await bind_phone(accounts.sessions, accounts.ring, alice.tenant_id, alice.id)
    code = phone.code()
    engines = [open_engine(store.url, patient(pool_size=25)) for _ in range(2)]
    nodes = [TotpProofs(open_sessions(engine), accounts.ring) for engine in engines]
    outcomes = await asyncio.gather(*(prove(nodes[number % 2], alice, code) for number in range(50)))
    for engine in engines:
        await engine.dispose()
    assert sum(isinstance(outcome, FactorProven) for outcome in outcomes) == 1
    assert {type(outcome) for outcome in outcomes} <= {FactorProven, FactorWrong, MustWait}


async def test_fifty_guesses_at_once_are_judged_no_more_than_one_after_the_other(accounts, alice, store):
    """Over two nodes: six are judged, the rest waits."""
    phone = await bind_phone(accounts.sessions, accounts.ring, alice.tenant_id, alice.id)
    engines = [open_engine(store.url, patient(pool_size=25)) for _ in range(2)]
    nodes = [TotpProofs(open_sessions(engine), accounts.ring) for engine in engines]
    wrong = wrong_code(phone)
    outcomes = await asyncio.gather(*(prove(nodes[number % 2], alice, wrong) for number in range(50)))
    for engine in engines:
        await engine.dispose()
    assert sum(outcome == FactorWrong() for outcome in outcomes) == 6
    assert failures(store) == {f"totp:{phone.id}": 6}
