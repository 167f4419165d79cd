"""A security key is added: what was asked is answered once, by the session that asked, and in time."""

import secrets
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from authn.errors import FactorLimitExceededError, SecurityKeyTakenError, SessionEndedError
from authn.factor_storage import forget_factors, read_factors
from authn.factors import MAX_AUTHENTICATORS, Authenticator, FactorKind, FactorMethod, FactorWrong
from authn.register_webauthn import NewSecurityKey
from authn.relying_party import RelyingParty
from authn.sessions import Acr, Session
from authn.user_rows import lock_user, raise_auth_epoch
from authn.webauthn_registrations import KeyRegistrations, Registration, open_registration, take_registration
from authn.webauthn_storage import list_keys
from tenancy.heads import lock_head, raise_head
from tenancy.unit_of_work import tenant_unit_of_work
from tests.support.accounts import Accounts
from tests.support.software_authenticator import SoftwareAuthenticator, b64, unb64

ORIGIN = "https://login.kasbah.example"
PARTY = RelyingParty("kasbah.example", "Kasbah", (ORIGIN,))
SESSION = uuid4()

pytestmark = pytest.mark.integration


@pytest.fixture
def accounts(store, acme):
    """Return the accounts of a tenant."""
    return Accounts(store.sessions, acme.tenant_id)


@pytest.fixture
async def alice(accounts):
    """Return an account without factors."""
    return await accounts.add("alice")


def work_of(accounts):
    return tenant_unit_of_work(accounts.sessions, accounts.tenant_id)


def awaited() -> Registration:
    return Registration(uuid4(), "Blue key", secrets.token_bytes(32))


async def offered(accounts, user):
    """Return what a browser is given, and what is kept meanwhile."""
    async with work_of(accounts) as work:
        held = await lock_user(work, user.id)
        shown, kept = await NewSecurityKey(PARTY).begin(work, held, "Blue key")
    return shown["public_key"], kept


async def bound(accounts, user, answer, kept):
    async with work_of(accounts) as work:
        held = await lock_user(work, user.id)
        return await NewSecurityKey(PARTY).finish(work, held, kept, answer)


async def test_what_is_awaited_is_answered_once(accounts, alice):
    """By the session that asked; a second answer finds nothing."""
    wanted = awaited()
    async with work_of(accounts) as work:
        await open_registration(work, alice.id, SESSION, wanted)
    async with work_of(accounts) as work:
        assert await take_registration(work, alice.id, uuid4(), wanted.id) is None
        assert await take_registration(work, alice.id, SESSION, uuid4()) is None
        assert await take_registration(work, uuid4(), SESSION, wanted.id) is None
        assert await take_registration(work, alice.id, SESSION, wanted.id) == wanted
        assert await take_registration(work, alice.id, SESSION, wanted.id) is None


async def test_a_newer_one_takes_its_place(accounts, alice):
    """One waits for each account, so nobody fills a table."""
    older, newer = awaited(), awaited()
    async with work_of(accounts) as work:
        await open_registration(work, alice.id, SESSION, older)
        await open_registration(work, alice.id, SESSION, newer)
        assert await take_registration(work, alice.id, SESSION, older.id) is None
        assert await take_registration(work, alice.id, SESSION, newer.id) == newer


async def test_it_waits_for_ten_minutes(accounts, alice, store):
    """By the database's time; and a reset of the factors ends it."""
    wanted = awaited()
    async with work_of(accounts) as work:
        await open_registration(work, alice.id, SESSION, wanted)
    with store.owner() as owner:
        owner.execute("UPDATE webauthn_registrations SET created_at = clock_timestamp() - interval '601 seconds'")
    async with work_of(accounts) as work:
        assert await take_registration(work, alice.id, SESSION, wanted.id) is None
        await open_registration(work, alice.id, SESSION, wanted)
        await forget_factors(work, alice.id)
        assert await take_registration(work, alice.id, SESSION, wanted.id) is None


async def test_nothing_is_kept_for_an_account_that_changed_meanwhile(accounts, alice, store):
    """Deleted between the two steps, say: the name of a key would else stay behind."""
    _, kept = await offered(accounts, alice)
    now = datetime.now(UTC)
    session = Session(
        SESSION, accounts.tenant_id, alice.id, 1, Acr.AAL1, ("pwd",), now, now, now + timedelta(hours=1), 3600, now
    )
    registrations = KeyRegistrations(accounts.sessions)
    await registrations.keep(session, kept)
    assert await registrations.take(session, UUID(kept["authenticator"])) == kept
    async with work_of(accounts) as work:
        await lock_head(work)
        await raise_auth_epoch(work, alice.id)
        await raise_head(work)
    with pytest.raises(SessionEndedError):
        await registrations.keep(session, kept)
    with store.owner() as owner:
        assert owner.execute("SELECT count(*) FROM webauthn_registrations").fetchone() == (0,)


async def test_a_key_that_answers_is_bound_at_once(accounts, alice):
    """Under the name and id that it was asked for; and it is excluded the next time."""
    options, kept = await offered(accounts, alice)
    assert unb64(options["challenge"]) == kept["nonce"]
    assert unb64(options["user"]["id"]) == alice.id.bytes
    key = SoftwareAuthenticator(ORIGIN)
    made = await bound(accounts, alice, key.create(options), kept)
    assert isinstance(made, Authenticator)
    assert (str(made.id), made.name, made.kind) == (kept["authenticator"], "Blue key", FactorKind.WEBAUTHN)
    assert made.confirmed_at is not None
    async with work_of(accounts) as work:
        assert (await read_factors(work, alice.id)).methods == (FactorMethod.WEBAUTHN,)
        assert len(await list_keys(work, alice.id)) == 1
    again, _ = await offered(accounts, alice)
    assert [one["id"] for one in again["excludeCredentials"]] == [b64(key.credentials[0].credential_id)]


async def test_a_bad_answer_binds_nothing(accounts, alice):
    """Nor does a good one of other bytes, nor what is no answer of a key."""
    (options, kept), (_, other) = await offered(accounts, alice), await offered(accounts, alice)
    answer = SoftwareAuthenticator(ORIGIN).create(options)
    assert await bound(accounts, alice, answer, other) == FactorWrong()
    phished = SoftwareAuthenticator("https://kasbah.example.evil.test").create(options)
    assert await bound(accounts, alice, phished, kept) == FactorWrong()
    assert await bound(accounts, alice, "123456", kept) == FactorWrong()
    async with work_of(accounts) as work:
        assert (await read_factors(work, alice.id)).methods == ()


async def test_anothers_key_is_not_bound(accounts, alice):
    """A stolen credential id would make two accounts of one answer."""
    key = SoftwareAuthenticator(ORIGIN)
    options, kept = await offered(accounts, alice)
    await bound(accounts, alice, key.create(options), kept)
    mallory = await accounts.add("mallory")
    options, kept = await offered(accounts, mallory)
    taken = SoftwareAuthenticator(ORIGIN).create(options, credential_id=key.credentials[0].credential_id)
    with pytest.raises(SecurityKeyTakenError):
        await bound(accounts, mallory, taken, kept)


async def test_an_account_has_so_many_and_no_more(accounts, alice):
    """Judged when it is asked for, and when it is answered."""
    offers = [await offered(accounts, alice) for _ in range(MAX_AUTHENTICATORS + 1)]
    answers = [SoftwareAuthenticator(ORIGIN).create(options) for options, _ in offers]
    for answer, (_, kept) in zip(answers[:-1], offers[:-1], strict=True):
        assert isinstance(await bound(accounts, alice, answer, kept), Authenticator)
    with pytest.raises(FactorLimitExceededError):
        await offered(accounts, alice)
    with pytest.raises(FactorLimitExceededError):
        await bound(accounts, alice, answers[-1], offers[-1][1])
