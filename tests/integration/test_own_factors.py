"""People bind, rename and remove their second factors: what it takes, what it ends, and what nobody else can do."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from authn.account_flows import AccountFlows, holder_of
from authn.begin_session import Client, begin_session
from authn.errors import FactorLimitExceededError, SessionEndedError
from authn.factor_storage import has_factors, read_factors
from authn.factors import FactorProven, FactorWrong
from authn.links import LinkPurpose, issue_link
from authn.mailbox_proofs import CodeSent, MailboxGiven, MailboxWrong, NoMailbox
from authn.new_factors import NewTotp
from authn.own_factors import FactorBegun, FactorChanged, LastFactor, NoSuchFactor, OwnFactors
from authn.prove_recovery_code import RecoveryCodeProofs
from authn.prove_totp import TotpProofs
from authn.sessions import Acr, Proof
from authn.tries import MustWait
from authn.user_rows import lock_user, read_user
from authn.user_storage import UserStore
from authz.subject_rows import PostgresSubjectPolicy
from tenancy.encrypted_columns import ENROLMENT_CODES
from tenancy.settings_storage import read_settings
from tenancy.tenant import ChangeMeta
from tenancy.unit_of_work import tenant_unit_of_work
from tests.support.accounts import Accounts
from tests.support.factors import Phone, bind_phone, waiting

META = ChangeMeta("anonymous")

pytestmark = pytest.mark.integration


class Demands:
    """Whatever the test's world says."""

    def __init__(self, world):
        self.world = world

    async def demanded(self, *_):
        return self.world.demanded


class World:
    """One tenant, what changes factors there, and mails that nobody sends."""

    def __init__(self, store, tenant_id):
        self.store = store
        self.accounts = Accounts(store.sessions, tenant_id)
        self.tenant_id = tenant_id
        self.flows = AccountFlows(store.sessions, self.accounts.ring)
        self.demanded = False
        self.own = OwnFactors(self.flows, Demands(self))
        self.totp = NewTotp(self.accounts.ring)
        self.proofs = TotpProofs(store.sessions, self.accounts.ring)

    def work(self):
        return tenant_unit_of_work(self.store.sessions, self.tenant_id)

    async def person(self, name, *, verified=True):
        user = await self.accounts.add(name, email=f"{name}@example.org", stored="a hash")
        if verified:
            self.execute("UPDATE users SET email_verified_at = now() WHERE user_id = %s", user.id)
        return user

    async def sign_in(self, user, acr=Acr.AAL1, *, must_enrol=False):
        async with self.work() as work:
            held = await read_user(work, user.id)
            return await begin_session(
                work,
                held,
                Proof(acr, ("pwd",), datetime.now(UTC), must_enrol),
                settings=(await read_settings(work)).sessions,
                ring=self.accounts.ring,
                meta=META,
                client=Client("test"),
            )

    async def mailed_code(self, user):
        """Return what the last mail says, as its reader knows it."""
        with self.store.owner() as owner:
            sealed = owner.execute("SELECT sealed FROM enrolment_codes WHERE user_id = %s", [user.id]).fetchone()[0]
        async with self.work() as work:
            return (await self.accounts.ring.open(work, ENROLMENT_CODES.place([user.id]), bytes(sealed))).decode()

    async def begin(self, session, given=None, name="phone"):
        """Return a phone that has scanned the secret."""
        begun = await self.own.begin(session, self.totp, name, given or MailboxGiven())
        assert isinstance(begun, FactorBegun), begun
        return Phone.scan(begun.shown)

    async def enrolled(self, user):
        """Return a session and a phone of an account that enrolled as people do."""
        session = await self.sign_in(user)
        assert await self.own.mail_code(session, meta=META) == CodeSent()
        phone = await self.begin(session, MailboxGiven(code=await self.mailed_code(user)))
        self.spent = phone.code()
        return await self.confirm(session, phone, self.spent), phone

    async def confirm(self, session, phone, code=None):
        return await self.own.confirm(session, self.totp, phone.id, code or phone.code(), meta=META)

    async def factors(self, user):
        async with self.work() as work:
            return await read_factors(work, user.id)

    def execute(self, statement, *parameters):
        with self.store.owner() as owner:
            owner.execute(statement, parameters)

    def audited(self, action):
        with self.store.owner() as owner:
            return owner.execute(
                "SELECT event::text FROM audit_events WHERE event::json->>'action' = %s ORDER BY seq", [action]
            ).fetchall()

    def mails(self):
        with self.store.owner() as owner:
            return [kind for (kind,) in owner.execute("SELECT kind FROM mails ORDER BY mail_id").fetchall()]


@pytest.fixture
def world(store, acme):
    """Return a tenant with what changes factors."""
    return World(store, acme.tenant_id)


@pytest.fixture
async def alice(world):
    """Return an account with a verified address and no factors."""
    return await world.person("alice")


async def test_a_person_binds_a_first_phone(world, alice):
    """Password and mailed code; the first code binds it, spends its step, ends other sign-ins, gives recovery codes."""
    other = await world.sign_in(alice)
    changed, phone = await world.enrolled(alice)
    assert isinstance(changed, FactorChanged)
    assert len(changed.recovery_codes) == 10
    assert changed.session.auth_epoch == other.auth_epoch + 1
    with pytest.raises(SessionEndedError):
        await world.own.look(other)
    (held,), factors = await world.own.look(changed.session)
    assert (held.id, held.name, factors.methods) == (phone.id, "phone", ("totp", "recovery_code"))
    assert await world.proofs.prove(waiting(alice.tenant_id, alice.id), world.spent, meta=META) == FactorWrong()
    later = phone.code(1)
    assert isinstance(await world.proofs.prove(waiting(alice.tenant_id, alice.id), later, meta=META), FactorProven)
    assert world.mails() == ["enrolment-code", "factor-changed"]
    (entry,) = world.audited("factor.enrol")
    assert "phone" not in entry[0]


async def test_a_stolen_password_binds_nothing(world, alice):
    """Without the code of the mail, or with one of another account, or guessed, or spent, or too old."""
    mallory = await world.person("mallory")
    stolen = await world.sign_in(alice)
    hers = await world.sign_in(mallory)
    for given in (MailboxGiven(), MailboxGiven(code=""), MailboxGiven(code="12345678"), MailboxGiven(ticket="x" * 43)):
        assert await world.own.begin(stolen, world.totp, "mine", given) == MailboxWrong()
    await world.own.mail_code(hers, meta=META)
    code = await world.mailed_code(mallory)
    assert await world.own.begin(stolen, world.totp, "mine", MailboxGiven(code=code)) == MailboxWrong()
    await world.own.mail_code(stolen, meta=META)
    world.execute("UPDATE enrolment_codes SET expires_at = now()")
    right = MailboxGiven(code=await world.mailed_code(alice))
    assert await world.own.begin(stolen, world.totp, "mine", right) == MailboxWrong()
    with world.store.owner() as owner:
        assert owner.execute("SELECT count(*) FROM authenticators").fetchone() == (0,)


async def test_a_mailed_code_takes_five_tries_and_works_once(world, alice):
    """Guesses count whichever session they come by, and at once; the right one comes too late."""
    session = await world.sign_in(alice)
    await world.own.mail_code(session, meta=META)
    code = await world.mailed_code(alice)
    wrong = MailboxGiven(code=f"{(int(code) + 1) % 10**8:08}")
    for _ in range(5):
        assert await world.own.begin(await world.sign_in(alice), world.totp, "x", wrong) == MailboxWrong()
    assert await world.own.begin(session, world.totp, "x", MailboxGiven(code=code)) == MailboxWrong()
    await world.own.mail_code(session, meta=META)
    code = MailboxGiven(code=await world.mailed_code(alice))
    outcomes = await asyncio.gather(*(world.own.begin(session, world.totp, "x", code) for _ in range(6)))
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["FactorBegun", *["MailboxWrong"] * 5]


async def test_a_mailed_code_ends_with_the_sign_ins(world, alice):
    """A password that was changed meanwhile voids what was mailed before."""
    session = await world.sign_in(alice)
    await world.own.mail_code(session, meta=META)
    code = await world.mailed_code(alice)
    world.execute("UPDATE users SET auth_epoch = auth_epoch + 1")
    with pytest.raises(SessionEndedError):
        await world.own.begin(session, world.totp, "x", MailboxGiven(code=code))
    fresh = await world.sign_in(alice)
    assert await world.own.begin(fresh, world.totp, "x", MailboxGiven(code=code)) == MailboxWrong()


async def test_codes_go_to_a_verified_address_and_not_too_often(world, alice):
    """An address that nobody proved gets none; five in an hour, and no session resets that."""
    bob = await world.person("bob", verified=False)
    assert await world.own.mail_code(await world.sign_in(bob), meta=META) == NoMailbox()
    outcomes = [await world.own.mail_code(await world.sign_in(alice), meta=META) for _ in range(6)]
    assert outcomes[:5] == [CodeSent()] * 5
    assert isinstance(outcomes[5], timedelta)
    assert world.mails() == ["enrolment-code"] * 5


async def test_a_ticket_binds_once(world, alice):
    """What an invitation's acceptance gave stands for the mail; another's does not."""
    bob = await world.person("bob")
    async with world.work() as work:
        held = await lock_user(work, alice.id)
        ticket = (await issue_link(work, LinkPurpose.ENROLMENT, holder=holder_of(held))).token
        reset = (await issue_link(work, LinkPurpose.PASSWORD_RESET, holder=holder_of(held))).token
    given = MailboxGiven(ticket=ticket)
    assert await world.own.begin(await world.sign_in(bob), world.totp, "x", given) == MailboxWrong()
    session = await world.sign_in(alice)
    assert await world.own.begin(session, world.totp, "x", MailboxGiven(ticket=reset)) == MailboxWrong()
    phone = await world.begin(session, given)
    assert await world.own.begin(session, world.totp, "x", given) == MailboxWrong()
    changed = await world.confirm(session, phone)
    assert isinstance(changed, FactorChanged)
    assert (session.acr, changed.session.acr, changed.session.amr) == (Acr.AAL1, Acr.AAL2, ("pwd", "otp", "mfa"))


async def test_a_second_phone_needs_no_mail_and_leaves_the_codes(world, alice):
    """The edge asked for the first one already; recovery codes go on working."""
    changed, first = await world.enrolled(alice)
    second = await world.begin(changed.session, name="tablet")
    again = await world.confirm(changed.session, second)
    assert (again.recovery_codes, again.authenticator.name) == ((), "tablet")
    (one, two), factors = await world.own.look(again.session)
    assert ([one.id, two.id], factors.recovery_codes_left) == ([first.id, second.id], 10)


async def test_nobody_confirms_what_another_began(world, alice):
    """Nor one that waited too long, nor twice, nor with a wrong code, nor by guessing on."""
    mallory = await world.person("mallory")
    changed, _ = await world.enrolled(alice)
    hers, _ = await world.enrolled(mallory)
    phone = await world.begin(changed.session)
    assert await world.confirm(hers.session, phone) == NoSuchFactor()
    outcomes = [await world.confirm(changed.session, phone, "000000") for _ in range(7)]
    assert (outcomes[0], type(outcomes[6])) == (FactorWrong(), MustWait)
    world.execute("DELETE FROM credential_failures")
    world.execute("UPDATE authenticators SET created_at = now() - interval '11 minutes' WHERE confirmed_at IS NULL")
    assert await world.confirm(changed.session, phone) == NoSuchFactor()
    fresh = await world.begin(changed.session)
    done = await world.confirm(changed.session, fresh)
    assert await world.confirm(done.session, fresh, fresh.code(1)) == NoSuchFactor()


async def test_an_authenticator_that_waits_proves_nothing(world, alice):
    """Begun and not confirmed, it neither signs in nor makes the account one that has factors."""
    session = await world.sign_in(alice)
    await world.own.mail_code(session, meta=META)
    phone = await world.begin(session, MailboxGiven(code=await world.mailed_code(alice)))
    assert (await world.factors(alice)).methods == ()
    async with world.work() as work:
        assert not await has_factors(work, alice.id)
    outcome = await world.proofs.prove(waiting(alice.tenant_id, alice.id), phone.code(), meta=META)
    assert outcome == FactorWrong()


async def test_an_account_has_ten_authenticators_at_most(world, alice):
    """Those that wait count, so that beginning over and over fills no table."""
    changed, _ = await world.enrolled(alice)
    for _ in range(9):
        await world.begin(changed.session)
    with pytest.raises(FactorLimitExceededError):
        await world.begin(changed.session)
    world.execute("UPDATE authenticators SET created_at = now() - interval '11 minutes' WHERE confirmed_at IS NULL")
    await world.begin(changed.session)


async def test_the_last_factor_goes_only_where_none_is_demanded(world, alice):
    """With it the recovery codes go; the account counts as one that once had factors all the same."""
    changed, phone = await world.enrolled(alice)
    world.demanded = True
    assert await world.own.remove(changed.session, phone.id, meta=META) == LastFactor()
    world.demanded = False
    gone = await world.own.remove(changed.session, phone.id, meta=META)
    assert isinstance(gone, FactorChanged)
    factors = await world.factors(alice)
    assert (factors.methods, factors.enrolled, factors.ever_bound, factors.recovery_codes_left) == ((), False, True, 0)
    world.demanded = False
    assert await world.own.remove(gone.session, phone.id, meta=META) == NoSuchFactor()
    assert await world.own.renew_codes(gone.session, meta=META) == NoSuchFactor()
    assert world.mails()[-1] == "factor-changed"
    with pytest.raises(SessionEndedError):
        await world.own.look(changed.session)
    outcome = await world.proofs.prove(waiting(alice.tenant_id, alice.id), phone.code(1), meta=META)
    assert outcome == FactorWrong()


async def test_one_of_two_goes_also_where_one_is_demanded(world, alice):
    """The lost phone is ended, the other one stays."""
    changed, first = await world.enrolled(alice)
    changed = await world.confirm(changed.session, await world.begin(changed.session, name="tablet"))
    world.demanded = True
    gone = await world.own.remove(changed.session, first.id, meta=META)
    (held,), factors = await world.own.look(gone.session)
    assert (held.name, factors.recovery_codes_left) == ("tablet", 10)


async def test_after_a_recovery_a_person_binds_or_proves_again(world, alice):
    """Either ends the restriction and gives ten new codes; the last factor cannot be removed instead."""
    changed, phone = await world.enrolled(alice)
    codes = RecoveryCodeProofs(world.store.sessions, world.accounts.ring)
    assert (await codes.prove(waiting(alice.tenant_id, alice.id), changed.recovery_codes[0], meta=META)).must_enrol
    session = await world.sign_in(alice, Acr.AAL2, must_enrol=True)
    world.demanded = False
    assert await world.own.remove(session, phone.id, meta=META) == LastFactor()
    again = await world.confirm(session, phone, phone.code(1))
    assert (again.session.must_enrol, len(again.recovery_codes)) == (False, 10)
    assert not set(again.recovery_codes) & set(changed.recovery_codes)
    session = await world.sign_in(alice, Acr.AAL2, must_enrol=True)
    tablet = await world.begin(session, name="tablet")
    bound = await world.confirm(session, tablet)
    assert (bound.session.must_enrol, len(bound.recovery_codes)) == (False, 10)
    world.demanded = True
    gone = await world.own.remove(bound.session, phone.id, meta=META)
    assert gone.session.must_enrol is False


async def test_a_new_name_signs_nobody_out(world, alice):
    """And another's authenticator has no name that could be changed."""
    mallory = await world.person("mallory")
    changed, phone = await world.enrolled(alice)
    hers, _ = await world.enrolled(mallory)
    assert await world.own.rename(hers.session, phone.id, "mine", meta=META) == NoSuchFactor()
    world.demanded = False
    assert await world.own.remove(hers.session, phone.id, meta=META) == NoSuchFactor()
    _, renamed = await world.own.rename(changed.session, phone.id, "canary name", meta=META)
    (held,), _ = await world.own.look(changed.session)
    assert held.name == renamed.name == "canary name"
    (entry,) = world.audited("factor.rename")
    assert "canary" not in entry[0]


async def test_new_codes_end_the_old_ones_and_the_other_sessions(world, alice):
    """Ten of ten; whoever else is signed in is not any more."""
    changed, _ = await world.enrolled(alice)
    other = await world.sign_in(alice, Acr.AAL2)
    renewed = await world.own.renew_codes(changed.session, meta=META)
    assert len(set(renewed.recovery_codes) | set(changed.recovery_codes)) == 20
    with pytest.raises(SessionEndedError):
        await world.own.look(other)
    ended = replace(renewed.session, auth_epoch=renewed.session.auth_epoch + 1)
    with pytest.raises(SessionEndedError):
        await world.own.renew_codes(ended, meta=META)


async def test_one_phone_is_bound_once_however_many_confirm_it_at_once(world, alice):
    """One renewed session; the others find theirs ended, or the code spent."""
    changed, _ = await world.enrolled(alice)
    phone = await world.begin(changed.session)
    code = phone.code()
    outcomes = await asyncio.gather(
        *(world.confirm(changed.session, phone, code) for _ in range(8)), return_exceptions=True
    )
    assert sum(isinstance(outcome, FactorChanged) for outcome in outcomes) == 1
    assert {type(outcome) for outcome in outcomes} <= {FactorChanged, SessionEndedError}
    assert len(world.audited("factor.enrol")) == 2


async def test_a_deleted_account_leaves_no_factor(world, alice):
    """Neither secrets nor codes nor what was counted."""
    await world.enrolled(alice)
    await bind_phone(world.store.sessions, world.accounts.ring, alice.tenant_id, alice.id)
    await world.proofs.prove(waiting(alice.tenant_id, alice.id), "000000", meta=META)
    world.execute("UPDATE tenants SET users_count = 1 WHERE tenant_id = %s", alice.tenant_id)
    users = UserStore(world.store.sessions, world.accounts.ring, PostgresSubjectPolicy())
    await users.delete(alice.tenant_id, alice.id, meta=META)
    with world.store.owner() as owner:
        for table in ("authenticators", "recovery_codes", "enrolment_codes", "credential_failures"):
            assert owner.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table
        told = owner.execute("SELECT factors_bound_at, enrolment_demanded FROM users").fetchone()
    assert told == (None, False)
