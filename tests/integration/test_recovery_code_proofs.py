"""Recovery codes against real PostgreSQL: stored hashed, spent once ever, counted, told of."""

import asyncio

import pytest

from authn.factor_storage import read_factors
from authn.factors import FactorMethod, FactorProven, FactorWrong
from authn.prove_recovery_code import RecoveryCodeProofs
from authn.recovery_code_storage import renew_codes
from authn.tries import LockedOut, MustWait
from tenancy.database import open_engine, open_sessions
from tenancy.tenant import ChangeMeta
from tenancy.unit_of_work import tenant_unit_of_work
from tests.support.accounts import Accounts
from tests.support.factors import bind_phone, waiting
from tests.support.servers import patient

META = ChangeMeta("anonymous")
WRONG = "0000-0000-0000-0000-0000-0000"

pytestmark = pytest.mark.integration


@pytest.fixture
def accounts(store, acme):
    """Return the accounts of a tenant."""
    return Accounts(store.sessions, acme.tenant_id)


@pytest.fixture
async def alice(accounts):
    """Return an account with an authenticator and an address."""
    alice = await accounts.add("alice", email="alice@example.org")
    await bind_phone(accounts.sessions, accounts.ring, alice.tenant_id, alice.id)
    return alice


@pytest.fixture
def proofs(accounts):
    """Return what judges codes, as the service has it."""
    return RecoveryCodeProofs(accounts.sessions, accounts.ring)


async def renewed(accounts, account):
    async with tenant_unit_of_work(accounts.sessions, account.tenant_id) as work:
        return await renew_codes(work, account.id)


async def prove(proofs, account, given):
    return await proofs.prove(waiting(account.tenant_id, account.id), given, meta=META)


async def factors_of(accounts, account):
    async with tenant_unit_of_work(accounts.sessions, account.tenant_id) as work:
        return await read_factors(work, account.id)


async def test_each_of_ten_codes_works_once(accounts, proofs, alice, store):
    """The amr says that two factors were used and no more; how many are left is shown; a notice and an entry tell."""
    codes = await renewed(accounts, alice)
    assert len(set(codes)) == 10
    for number, code in enumerate(codes, 1):
        assert await prove(proofs, alice, code.lower()) == FactorProven(("mfa",), "recovery", must_enrol=True)
        assert await prove(proofs, alice, code) == FactorWrong()
        assert (await factors_of(accounts, alice)).recovery_codes_left == 10 - number
    assert FactorMethod.RECOVERY_CODE not in (await factors_of(accounts, alice)).methods
    with store.owner() as owner:
        assert owner.execute("SELECT count(*) FROM mails WHERE kind = 'recovery-code-used'").fetchone() == (10,)
        told = owner.execute(
            "SELECT event::json->>'actor', event::json->'detail'->>'left' FROM audit_events "
            "WHERE event::json->>'action' = 'factor.recover' ORDER BY 2 DESC"
        ).fetchall()
    assert told == [(alice.ref, str(left)) for left in range(9, -1, -1)]


async def test_codes_are_stored_hashed_and_renewed_as_a_whole(accounts, proofs, alice, store):
    """No part of one stands in any table; new ones end the old ones."""
    codes = await renewed(accounts, alice)
    with store.owner() as owner:
        stored = str(owner.execute("SELECT recovery_codes::text FROM recovery_codes").fetchall())
    assert not [code for code in codes if code in stored or code.replace("-", "") in stored]
    fresh = await renewed(accounts, alice)
    assert await prove(proofs, alice, codes[0]) == FactorWrong()
    assert isinstance(await prove(proofs, alice, fresh[0]), FactorProven)


async def test_codes_are_their_accounts_own(accounts, proofs, alice):
    """Another account's code is a wrong one, and is not spent by that."""
    bob = await accounts.add("bob")
    await bind_phone(accounts.sessions, accounts.ring, bob.tenant_id, bob.id)
    codes = await renewed(accounts, alice)
    await renewed(accounts, bob)
    assert await prove(proofs, bob, codes[0]) == FactorWrong()
    assert isinstance(await prove(proofs, alice, codes[0]), FactorProven)


async def test_a_code_is_nothing_without_an_authenticator(accounts, proofs):
    """It stands in for one that was lost; an account that has none is not let past by it."""
    carol = await accounts.add("carol")
    codes = await renewed(accounts, carol)
    assert (await factors_of(accounts, carol)).methods == ()
    assert await prove(proofs, carol, codes[0]) == FactorWrong()


async def test_guessing_is_throttled_whatever_challenge_it_comes_by(accounts, proofs, alice, store):
    """Five go, the sixth waits; at a hundred not even a right one is judged."""
    codes = await renewed(accounts, alice)
    outcomes = [await prove(proofs, alice, given) for given in (*[WRONG] * 5, {"code": WRONG}, WRONG)]
    assert outcomes[:6] == [FactorWrong()] * 6
    assert isinstance(outcomes[6], MustWait)
    assert isinstance(await prove(proofs, alice, codes[0]), MustWait)
    with store.owner() as owner:
        owner.execute("UPDATE credential_failures SET failures = 100, blocked_until = NULL")
    assert await prove(proofs, alice, codes[0]) == LockedOut()
    assert (await factors_of(accounts, alice)).recovery_codes_left == 10


async def test_a_code_that_is_sent_fifty_times_over_two_nodes_works_once(accounts, alice, store):
    """One session could begin, one row of the audit tells of it, nine codes are left."""
    codes = await renewed(accounts, alice)
    engines = [open_engine(store.url, patient(pool_size=25)) for _ in range(2)]
    nodes = [RecoveryCodeProofs(open_sessions(engine), accounts.ring) for engine in engines]
    outcomes = await asyncio.gather(*(prove(nodes[number % 2], alice, codes[0]) for number in range(50)))
    for engine in engines:
        await engine.dispose()
    assert sum(isinstance(outcome, FactorProven) for outcome in outcomes) == 1
    assert {type(outcome) for outcome in outcomes} <= {FactorProven, FactorWrong, MustWait}
    assert (await factors_of(accounts, alice)).recovery_codes_left == 9
    with store.owner() as owner:
        told = "SELECT count(*) FROM audit_events WHERE event::json->>'action' = 'factor.recover'"
        assert owner.execute(told).fetchone() == (1,)
