"""Assertions against real PostgreSQL: only the account's own key proves it, and its counter must grow."""

import asyncio
from dataclasses import replace
from uuid import uuid4

import pytest

from authn.errors import SecurityKeyTakenError
from authn.factor_storage import has_factors, read_factors
from authn.factors import FactorMethod, FactorProven, FactorWrong
from authn.prove_webauthn import WebauthnProofs
from authn.relying_party import RelyingParty
from authn.tries import LockedOut, MustWait
from authn.webauthn_keys import NewKey
from authn.webauthn_storage import insert_key, list_keys
from tenancy.create_tenant import create_tenant
from tenancy.storage import TenantStore
from tenancy.tenant import ChangeMeta
from tenancy.unit_of_work import tenant_unit_of_work
from tests.support.accounts import Accounts
from tests.support.factors import bind_security_key, waiting
from tests.support.software_authenticator import SoftwareAuthenticator

META = ChangeMeta("anonymous")
ORIGIN = "https://login.kasbah.example"
PARTY = RelyingParty("kasbah.example", "Kasbah", (ORIGIN,))

pytestmark = pytest.mark.integration


@pytest.fixture
def accounts(store, acme):
    """Return the accounts of a tenant."""
    return Accounts(store.sessions, acme.tenant_id)


@pytest.fixture
async def alice(accounts):
    """Return an account with an address."""
    return await accounts.add("alice", email="alice@example.org")


@pytest.fixture
def proofs(accounts):
    """Return what judges assertions, as the service has it."""
    return WebauthnProofs(accounts.sessions, accounts.ring, PARTY)


async def bound(accounts, user, **more) -> tuple[SoftwareAuthenticator, object]:
    """Return a key of an account, and the id of its authenticator."""
    key = SoftwareAuthenticator(ORIGIN, **more)
    return key, await bind_security_key(accounts.sessions, user.tenant_id, user.id, key, party=PARTY)


async def asked(proofs, user, **more):
    """Return what a sign-in gives its client, and that sign-in with what it kept."""
    begun = waiting(user.tenant_id, user.id, **more)
    options, kept = await proofs.options(begun)
    return options, replace(begun, data=kept)


async def proven(proofs, user, key, *, device_id=None, **forged):
    options, begun = await asked(proofs, user, device_id=device_id)
    return await proofs.prove(begun, key.get(options, **forged), meta=META)


def rows(store, statement):
    with store.owner() as owner:
        return owner.execute(statement).fetchall()


def failures(store):
    return dict(rows(store, "SELECT authenticator, failures FROM credential_failures WHERE failures > 0"))


async def test_a_key_proves_its_account_again_and_again(accounts, proofs, alice, store):
    """Each time for a fresh challenge; the amr says what was used, the counter is kept."""
    key, name = await bound(accounts, alice)
    for count in (1, 2, 3):
        assert await proven(proofs, alice, key) == FactorProven(("hwk", "mfa"), f"webauthn:{name}")
        assert rows(store, "SELECT sign_count, last_used_at IS NOT NULL FROM authenticators") == [(count, True)]
    async with tenant_unit_of_work(accounts.sessions, alice.tenant_id) as work:
        assert await has_factors(work, alice.id)
        assert (await read_factors(work, alice.id)).methods == (FactorMethod.WEBAUTHN,)
    assert failures(store) == {}


async def test_several_keys_are_offered_and_each_proves(accounts, proofs, alice):
    """By its own id."""
    first, one = await bound(accounts, alice)
    second, other = await bound(accounts, alice, algorithm="EdDSA")
    options, _ = await asked(proofs, alice)
    assert len(options["allowCredentials"]) == 2
    assert await proven(proofs, alice, second) == FactorProven(("hwk", "mfa"), f"webauthn:{other}")
    assert await proven(proofs, alice, first) == FactorProven(("hwk", "mfa"), f"webauthn:{one}")


async def test_each_sign_in_has_bytes_of_its_own(accounts, proofs, alice):
    """What was signed for one proves nothing in another, nor after the same one asked again."""
    key, _ = await bound(accounts, alice)
    options, begun = await asked(proofs, alice)
    answer = key.get(options)
    other_options, other = await asked(proofs, alice)
    assert options["challenge"] != other_options["challenge"]
    assert await proofs.prove(other, answer, meta=META) == FactorWrong()
    assert await proofs.prove(replace(begun, data={}), answer, meta=META) == FactorWrong()
    assert isinstance(await proofs.prove(begun, answer, meta=META), FactorProven)


@pytest.mark.parametrize("count", [0, 4, 5])
async def test_a_counter_that_does_not_grow_is_refused_told_and_recorded(accounts, proofs, alice, store, count):
    """There may be a copy of the key: nobody is let in, its person is told, the audit says so; the real one goes on."""
    key, name = await bound(accounts, alice)
    rows_before = len(rows(store, "SELECT 1 FROM mails"))
    with store.owner() as owner:
        owner.execute("UPDATE users SET email_verified_at = clock_timestamp()")
        owner.execute("UPDATE authenticators SET sign_count = 5")
    assert await proven(proofs, alice, key, sign_count=count) == FactorWrong()
    assert rows(store, "SELECT kind FROM mails")[rows_before:] == [("security-key-copied",)]
    events = rows(store, "SELECT event::json FROM audit_events ORDER BY seq DESC LIMIT 1")
    assert events[0][0]["action"] == "factor.counter"
    assert events[0][0]["outcome"] == "refused"
    assert events[0][0]["target"] == f"user:{alice.id}"
    assert events[0][0]["detail"] == {"authenticator": str(name)}
    assert rows(store, "SELECT sign_count FROM authenticators") == [(5,)]
    for _ in range(4):
        await proven(proofs, alice, key, sign_count=count)
    assert len(rows(store, "SELECT 1 FROM mails")) == rows_before + 3
    assert isinstance(await proven(proofs, alice, key, sign_count=6), FactorProven)


async def test_a_forged_count_without_a_signature_raises_no_alarm(accounts, proofs, alice, store):
    """Who only knows the password cannot make a person believe that their key was copied."""
    key, _ = await bound(accounts, alice)
    with store.owner() as owner:
        owner.execute("UPDATE users SET email_verified_at = clock_timestamp()")
        owner.execute("UPDATE authenticators SET sign_count = 5")
    assert await proven(proofs, alice, key, sign_count=1, signature=bytes(70)) == FactorWrong()
    assert rows(store, "SELECT kind FROM mails") == []


async def test_a_key_that_never_counts_is_taken(accounts, proofs, alice, store):
    """Most passkeys say 0 for ever; one that has begun to count may not stop."""
    key, _ = await bound(accounts, alice, counts=False)
    assert isinstance(await proven(proofs, alice, key), FactorProven)
    assert isinstance(await proven(proofs, alice, key), FactorProven)
    assert isinstance(await proven(proofs, alice, key, sign_count=7), FactorProven)
    assert await proven(proofs, alice, key) == FactorWrong()


async def test_one_assertion_sent_many_times_at_once_counts_once(accounts, proofs, alice):
    """A counter is raised by one statement, so one of five is accepted."""
    key, _ = await bound(accounts, alice)
    options, begun = await asked(proofs, alice)
    answer = key.get(options)
    outcomes = await asyncio.gather(*(proofs.prove(begun, answer, meta=META) for _ in range(5)))
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["FactorProven"] + ["FactorWrong"] * 4


async def test_another_accounts_key_proves_nothing(accounts, proofs, alice):
    """Not in one's own sign-in, and not when it claims to be the other's."""
    key, _ = await bound(accounts, alice)
    mallory = await accounts.add("mallory")
    theirs, _ = await bound(accounts, mallory)
    options, begun = await asked(proofs, alice)
    answer = theirs.get(options, credential=theirs.credentials[0])
    assert await proofs.prove(begun, answer, meta=META) == FactorWrong()
    known = key.get(options)
    assert await proofs.prove(begun, answer | {"id": known["id"], "rawId": known["rawId"]}, meta=META) == FactorWrong()


async def test_another_tenants_account_has_no_such_key(accounts, proofs, alice, store):
    """Neither are its keys offered there, nor do they prove anything; the same credential id may be there, too."""
    key, _ = await bound(accounts, alice)
    other = await create_tenant("beta", None, meta=ChangeMeta("key:test"), tenants=TenantStore(store.sessions))
    options, begun = await asked(proofs, alice)
    elsewhere = replace(begun, tenant_id=other.tenant_id)
    assert (await proofs.options(elsewhere))[0]["allowCredentials"] == []
    assert await proofs.prove(elsewhere, key.get(options), meta=META) == FactorWrong()
    beta = Accounts(accounts.sessions, other.tenant_id)
    bob = await beta.add("bob")
    held = key.credentials[0]
    async with tenant_unit_of_work(accounts.sessions, other.tenant_id) as work:
        await insert_key(work, bob.id, uuid4(), name="k", key=NewKey(held.credential_id, b"\xa0", 0, ()))


async def test_a_credential_belongs_to_one_account_of_a_tenant(accounts, alice):
    """Whoever brings another's credential id is refused, so that no answer names two accounts."""
    key, _ = await bound(accounts, alice)
    mallory = await accounts.add("mallory")
    made = NewKey(key.credentials[0].credential_id, b"\xa0", 0, ())
    with pytest.raises(SecurityKeyTakenError):
        async with tenant_unit_of_work(accounts.sessions, alice.tenant_id) as work:
            await insert_key(work, mallory.id, uuid4(), name="mine", key=made)


async def test_a_disabled_key_is_neither_offered_nor_taken(accounts, proofs, alice, store):
    """But it stays excluded at the next registration."""
    key, _ = await bound(accounts, alice)
    options, begun = await asked(proofs, alice)
    with store.owner() as owner:
        owner.execute("UPDATE authenticators SET disabled_at = clock_timestamp()")
    assert await proofs.prove(begun, key.get(options), meta=META) == FactorWrong()
    assert (await asked(proofs, alice))[0]["allowCredentials"] == []
    async with tenant_unit_of_work(accounts.sessions, alice.tenant_id) as work:
        assert await list_keys(work, alice.id) == []
        assert len(await list_keys(work, alice.id, disabled=True)) == 1


async def test_failures_count_for_the_key_and_lock_no_known_device(accounts, proofs, alice, store):
    """Six without a wait, then one waits; a device that is known has a count of its own."""
    key, name = await bound(accounts, alice)
    outcomes = [await proven(proofs, alice, key, signature=bytes(70)) for _ in range(8)]
    assert outcomes[:6] == [FactorWrong()] * 6
    assert all(isinstance(outcome, MustWait) for outcome in outcomes[6:])
    assert failures(store) == {f"webauthn:{name}": 6}
    assert isinstance(await proven(proofs, alice, key), MustWait)
    device = uuid4()
    assert isinstance(await proven(proofs, alice, key, device_id=device), FactorProven)
    with store.owner() as owner:
        owner.execute("UPDATE credential_failures SET failures = 100, blocked_until = NULL")
    assert await proven(proofs, alice, key) == LockedOut()
    assert isinstance(await proven(proofs, alice, key, device_id=device), FactorProven)


@pytest.mark.parametrize("given", ["123456", "", {}, {"id": 7}, {"id": "AAAA"}])
async def test_what_names_no_key_proves_nothing(accounts, proofs, alice, store, given):
    """And locks none: there is none to guess at."""
    await bound(accounts, alice)
    _, begun = await asked(proofs, alice)
    assert await proofs.prove(begun, given, meta=META) == FactorWrong()
    assert failures(store) == {}
