"""A person replaces their own password: proven, throttled, judged, told, audited; and never put back by a rehash."""

import asyncio
import json
import threading

import bcrypt
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from authn.change_password import ChangedMeanwhile, PasswordChanged, PasswordChanges
from authn.credential_failures import forgive_tries, take_try
from authn.errors import PasswordHashingBusyError, UnusablePasswordError
from authn.password_hashing import PasswordHasher, Verified
from authn.password_settings import PasswordSettings
from authn.password_storage import forget_passwords
from authn.passwords import PasswordRefused, Refusal
from authn.prove_password import NoPassword, PasswordProofs, PresentWrong, Proven
from authn.tries import LockedOut, MustWait, TryTaken
from authn.user_rows import raise_auth_epoch, set_password_hash
from tenancy.tenant import ChangeMeta
from tenancy.tenant_settings import SignInSettings
from tenancy.unit_of_work import tenant_unit_of_work
from tests.support.accounts import PRESENT, WANTED, Accounts

pytestmark = pytest.mark.integration

META = ChangeMeta("user:someone", request_id="r1")
OLD_BCRYPT = bcrypt.hashpw(PRESENT.encode(), bcrypt.gensalt(4)).decode()


@pytest.fixture
async def accounts(store, acme):
    """Accounts of a fresh tenant."""
    made = Accounts(store.sessions, acme.tenant_id)
    yield made
    made.hasher.close()


@pytest.fixture
async def jane(accounts):
    """A person with a password and an address."""
    return await accounts.add("jane", stored=await accounts.hasher.hash(PRESENT), email="jane@example.com")


@pytest.fixture
def changes(accounts):
    """The use case."""
    return PasswordChanges(accounts.sessions, accounts.passwords, accounts.ring)


def settings(store, accounts, **members):
    with store.owner() as owner:
        owner.execute(
            "INSERT INTO tenant_settings (tenant_id, settings) VALUES (%s, %s)",
            (accounts.tenant_id, json.dumps(members)),
        )


def events(store):
    with store.owner() as owner:
        rows = owner.execute("SELECT event FROM audit_events ORDER BY at, seq").fetchall()
    return [event if isinstance(event, dict) else json.loads(event) for (event,) in rows]


async def test_a_password_is_replaced(store, accounts, jane, changes):
    """The new one proves who they are, the old one no more; sign-ins end; the person is told; the audit holds it."""
    before = await accounts.read(jane)
    done = await changes.change(accounts.tenant_id, jane.id, PRESENT, WANTED, slug="acme", meta=META)
    assert isinstance(done, PasswordChanged)
    after = await accounts.read(jane)
    assert await accounts.hasher.verify(WANTED, after.password_hash) == Verified(needs_rehash=False)
    assert after.auth_epoch == before.auth_epoch + 1
    assert after.password_set_by == "user"
    assert await accounts.count("mails") == 1
    last = events(store)[-1]
    assert (last["action"], last["target"], last["outcome"]) == ("password.change", jane.ref, "success")
    assert last["revision"] == done.head.revision
    with store.owner() as owner:
        (touched,) = owner.execute("SELECT touched FROM changes ORDER BY revision DESC LIMIT 1").fetchone()
    assert touched == [jane.ref]
    text_of_all = str(events(store))
    assert PRESENT not in text_of_all
    assert WANTED not in text_of_all
    assert isinstance(
        await changes.change(accounts.tenant_id, jane.id, PRESENT, WANTED, slug="acme", meta=META), PresentWrong
    )


async def test_a_wrong_present_password_counts_and_is_audited(store, accounts, jane, changes):
    """Right in between forgives; five in a row cost nothing, after the sixth one waits, and a right one waits too."""
    assert isinstance(
        await changes.change(accounts.tenant_id, jane.id, "wrong", WANTED, slug="acme", meta=META), PresentWrong
    )
    last = events(store)[-1]
    assert (last["action"], last["target"], last["outcome"]) == ("password.change", jane.ref, "refused")
    assert "wrong" not in str(last)
    assert isinstance(
        await changes.change(accounts.tenant_id, jane.id, PRESENT, "short", slug="acme", meta=META), PasswordRefused
    )
    assert await accounts.count("credential_failures") == 0
    for _ in range(6):
        assert isinstance(
            await changes.change(accounts.tenant_id, jane.id, "wrong", WANTED, slug="acme", meta=META), PresentWrong
        )
    waits = await changes.change(accounts.tenant_id, jane.id, PRESENT, WANTED, slug="acme", meta=META)
    assert isinstance(waits, MustWait)
    assert 0 < waits.seconds <= 30
    assert (await accounts.read(jane)).auth_epoch == 1


async def test_parallel_guesses_are_judged_no_more_often_than_the_limit(accounts, jane, monkeypatch):
    """Two nodes, forty guesses at once: five are free and one more is judged before all must wait."""
    judged = []

    async def watched(self, password, stored, **more):
        judged.append(password)
        await asyncio.sleep(0)
        return await real(self, password, stored, **more)

    real = PasswordHasher.verify
    monkeypatch.setattr(PasswordHasher, "verify", watched)
    nodes = [PasswordProofs(accounts.sessions, accounts.hasher) for _ in range(2)]
    connections = asyncio.Semaphore(8)

    async def guess(number):
        async with connections:
            return await nodes[number % 2].prove(
                accounts.tenant_id, jane.id, f"guess {number}", slug="acme", meta=META, action="password.change"
            )

    outcomes = await asyncio.gather(*(guess(number) for number in range(40)))
    assert len(judged) == 6
    assert sum(isinstance(outcome, PresentWrong) for outcome in outcomes) == 6
    assert sum(isinstance(outcome, MustWait) for outcome in outcomes) == 34


async def test_waits_grow_and_end_in_a_lock(store, accounts, jane):
    """30 s, 60 s, 120 s, up to the longest; at the most failures nothing is judged until the credential is replaced."""
    limits = SignInSettings(failures_before_wait=2, first_wait_seconds=30, longest_wait_seconds=100, max_failures=7)
    seen = []
    for _ in range(9):
        async with tenant_unit_of_work(accounts.sessions, accounts.tenant_id) as work:
            found = await take_try(work, jane.id, limits)
        if isinstance(found, MustWait):
            pytest.fail("the wait was passed")
        with store.owner() as owner:
            (seconds,) = owner.execute(
                "SELECT round(extract(epoch FROM blocked_until - clock_timestamp())) FROM credential_failures"
            ).fetchone()
            owner.execute("UPDATE credential_failures SET blocked_until = clock_timestamp() - interval '1 s'")
        seen.append((type(found), None if seconds is None else int(seconds)))
    assert seen[:7] == [(TryTaken, wait) for wait in (None, None, 30, 60, 100, 100, 100)]
    assert [kind for kind, _ in seen[7:]] == [LockedOut, LockedOut]
    async with tenant_unit_of_work(accounts.sessions, accounts.tenant_id) as work:
        await forgive_tries(work, jane.id)
        assert isinstance(await take_try(work, jane.id, limits), TryTaken)


async def test_what_was_not_judged_does_not_count(accounts, jane, changes, monkeypatch):
    """A pool that is full is no guess; what cannot be a password is told before anything."""

    async def busy(*_, **__):
        raise PasswordHashingBusyError("full")

    for password in ("", "x" * 5000):
        with pytest.raises(UnusablePasswordError):
            await changes.change(accounts.tenant_id, jane.id, password, WANTED, slug="acme", meta=META)
        with pytest.raises(UnusablePasswordError):
            await changes.change(accounts.tenant_id, jane.id, PRESENT, password, slug="acme", meta=META)
    assert await accounts.count("credential_failures") == 0
    monkeypatch.setattr(PasswordHasher, "verify", busy)
    for _ in range(8):
        with pytest.raises(PasswordHashingBusyError):
            await changes.change(accounts.tenant_id, jane.id, PRESENT, WANTED, slug="acme", meta=META)
    monkeypatch.undo()
    assert isinstance(
        await changes.change(accounts.tenant_id, jane.id, PRESENT, WANTED, slug="acme", meta=META), PasswordChanged
    )


async def test_a_flood_reaches_no_database(accounts, jane, changes, monkeypatch):
    """A full pool is told before anything is looked up, so decisions keep their connections."""
    begun, held = [], threading.Event()
    pool = accounts.hasher._pool
    waiting = [pool.submit(held.wait) for _ in range(pool._room)]
    monkeypatch.setattr(AsyncSession, "execute", lambda *_, **__: begun.append(1))
    for _ in range(50):
        with pytest.raises(PasswordHashingBusyError):
            await changes.change(accounts.tenant_id, jane.id, PRESENT, WANTED, slug="acme", meta=META)
    monkeypatch.undo()
    held.set()
    assert begun == []
    assert len(waiting) == 17


async def test_the_new_one_is_judged_by_the_tenants_rules(store, accounts, jane, changes):
    """Names of the account and the tenant, its own words and lengths."""
    settings(store, accounts, password={"min_length": 20, "blocked_words": ["sesame"]})
    for wanted, code in (
        ("jane-jane-jane-jane-jane", Refusal.CONTEXT),
        ("acme acme acme acme acme", Refusal.CONTEXT),
        ("sesamesesamesesame2024", Refusal.CONTEXT),
        ("nineteen letters no", Refusal.TOO_SHORT),
        ("passwordpasswordpassword", Refusal.COMMON),
    ):
        refused = await changes.change(accounts.tenant_id, jane.id, PRESENT, wanted, slug="acme", meta=META)
        assert isinstance(refused, PasswordRefused), wanted
        assert [reason.code for reason in refused.reasons] == [code]
    assert (await accounts.read(jane)).auth_epoch == 1


async def test_history_only_where_it_is_marked(store, accounts, jane, changes):
    """Without the deviation no former hash is kept, and the same password may come again."""
    for present, wanted in ((PRESENT, WANTED), (WANTED, PRESENT), (PRESENT, PRESENT)):
        assert isinstance(
            await changes.change(accounts.tenant_id, jane.id, present, wanted, slug="acme", meta=META), PasswordChanged
        )
    assert await accounts.count("former_passwords") == 0
    settings(store, accounts, password={"deviations": [{"rule": "history:3", "reason": "an auditor"}]})
    words = [f"words of change number {name}" for name in ("one", "two", "three", "four")]
    present = PRESENT
    for wanted in words:
        assert isinstance(
            await changes.change(accounts.tenant_id, jane.id, present, wanted, slug="acme", meta=META), PasswordChanged
        )
        present = wanted
    for again in (words[3], words[2], words[1]):
        refused = await changes.change(accounts.tenant_id, jane.id, present, again, slug="acme", meta=META)
        assert isinstance(refused, PasswordRefused), again
        assert [reason.code for reason in refused.reasons] == [Refusal.REUSED]
    assert await accounts.count("former_passwords") == 2
    assert isinstance(
        await changes.change(accounts.tenant_id, jane.id, present, words[0], slug="acme", meta=META), PasswordChanged
    )
    async with tenant_unit_of_work(accounts.sessions, accounts.tenant_id) as work:
        await forget_passwords(work, jane.id)
    assert await accounts.count("former_passwords") == 0


@pytest.mark.parametrize("state", ["disabled", "unknown", "without"])
async def test_who_has_no_password_to_prove_looks_like_a_wrong_one(accounts, jane, state, monkeypatch):
    """And takes as long: a hash is computed all the same."""
    changes = PasswordChanges(accounts.sessions, accounts.passwords, accounts.ring)
    computed = []
    real = PasswordHasher.verify

    async def watched(self, password, stored, **more):
        computed.append(stored)
        return await real(self, password, stored, **more)

    monkeypatch.setattr(PasswordHasher, "verify", watched)
    user_id = jane.id
    if state == "unknown":
        user_id = accounts.tenant_id
    else:
        change = {"disabled": "status = 'disabled'", "without": "password_hash = NULL"}[state]
        async with tenant_unit_of_work(accounts.sessions, accounts.tenant_id) as work:
            await work.session.execute(text(f"UPDATE users SET {change}"))
    assert isinstance(
        await changes.change(accounts.tenant_id, user_id, PRESENT, WANTED, slug="acme", meta=META), NoPassword
    )
    assert computed == [None]
    assert await accounts.count("credential_failures") == 0


async def test_an_imported_hash_is_renewed_once_and_ends_no_sign_in(store, accounts):
    """Old cost in, today's out, by whoever proves it first; the audit and the revision stay as they are."""
    bob = await accounts.add("bob", stored=OLD_BCRYPT)
    proofs = PasswordProofs(accounts.sessions, accounts.hasher)
    proven = await proofs.prove(accounts.tenant_id, bob.id, PRESENT, slug="acme", meta=META, action="password.change")
    assert isinstance(proven, Proven)
    stored = await accounts.read(bob)
    assert stored.password_hash is not None
    assert stored.password_hash.startswith("$argon2id$")
    assert proven.held.password_hash == stored.password_hash
    assert stored.auth_epoch == 1
    again = await proofs.prove(accounts.tenant_id, bob.id, PRESENT, slug="acme", meta=META, action="password.change")
    assert isinstance(again, Proven)
    assert (await accounts.read(bob)).password_hash == stored.password_hash


async def test_a_rehash_never_puts_an_old_password_back(accounts, monkeypatch):
    """A password changed while the new hash of the old one is computed: the change stays."""
    bob = await accounts.add("bob", stored=OLD_BCRYPT)
    changed = await accounts.hasher.hash(WANTED)
    real = PasswordHasher.hash

    async def slow(self, password):
        made = await real(self, password)
        async with tenant_unit_of_work(accounts.sessions, accounts.tenant_id) as work:
            assert await set_password_hash(work, bob.id, changed, read=OLD_BCRYPT)
        return made

    monkeypatch.setattr(PasswordHasher, "hash", slow)
    proofs = PasswordProofs(accounts.sessions, accounts.hasher)
    proven = await proofs.prove(accounts.tenant_id, bob.id, PRESENT, slug="acme", meta=META, action="password.change")
    assert isinstance(proven, Proven)
    assert (await accounts.read(bob)).password_hash == changed


async def test_two_changes_at_once_are_one(accounts, jane, changes):
    """Both proved the same present password; the second finds another one and is told."""
    outcomes = await asyncio.gather(
        *(
            changes.change(accounts.tenant_id, jane.id, PRESENT, f"{WANTED} {number}", slug="acme", meta=META)
            for number in ("one", "two", "three")
        )
    )
    assert sum(isinstance(outcome, PasswordChanged) for outcome in outcomes) == 1
    assert all(isinstance(outcome, PasswordChanged | ChangedMeanwhile | PresentWrong) for outcome in outcomes)
    assert (await accounts.read(jane)).auth_epoch == 2


async def test_what_ended_sign_ins_meanwhile_ends_this_too(accounts, jane, changes, monkeypatch):
    """An administrator ends all sign-ins while the new password is judged: nothing is written."""
    real = PasswordHasher.hash

    async def meanwhile(self, password):
        async with tenant_unit_of_work(accounts.sessions, accounts.tenant_id) as work:
            await raise_auth_epoch(work, jane.id)
        return await real(self, password)

    monkeypatch.setattr(PasswordHasher, "hash", meanwhile)
    before = (await accounts.read(jane)).password_hash
    outcome = await changes.change(accounts.tenant_id, jane.id, PRESENT, WANTED, slug="acme", meta=META)
    assert isinstance(outcome, ChangedMeanwhile)
    assert (await accounts.read(jane)).password_hash == before


async def test_another_tenants_person_is_nobody(store, accounts, jane, changes):
    """Row-level security and the tenant of the caller."""
    from tenancy.create_tenant import create_tenant
    from tenancy.storage import TenantStore

    other = await create_tenant("globex", None, meta=META, tenants=TenantStore(store.sessions))
    assert isinstance(
        await changes.change(other.tenant_id, jane.id, PRESENT, WANTED, slug="acme", meta=META), NoPassword
    )
    async with tenant_unit_of_work(store.sessions, other.tenant_id) as work:
        rows = (await work.session.execute(text("SELECT count(*) FROM credential_failures"))).scalar_one()
    assert rows == 0


async def test_the_cost_of_hashes_can_rise_and_fall(accounts, jane):
    """Settings changed: the next proof renews the hash with them."""
    dearer = PasswordHasher(PasswordSettings(memory_mib=20, iterations=2, niceness=0))
    proofs = PasswordProofs(accounts.sessions, dearer)
    assert isinstance(
        await proofs.prove(accounts.tenant_id, jane.id, PRESENT, slug="acme", meta=META, action="password.change"),
        Proven,
    )
    stored = (await accounts.read(jane)).password_hash
    assert stored is not None
    assert "m=20480" in stored
    dearer.close()
