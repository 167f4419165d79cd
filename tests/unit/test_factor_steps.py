"""Second factors without their servers: what an outage makes of a proof, in which order a step goes, what is not shown."""

import contextlib
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from uuid import uuid4

import msgspec
import pytest
from redis.exceptions import RedisError
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from authn.account_flows import AccountFlows
from authn.begin_session import Client, SignInLost
from authn.challenge_storage import ChallengeStore
from authn.challenges import MAX_TRIES, Challenge, ChallengeStep
from authn.enrol_factor import Bound
from authn.enrol_on_sign_in import NotBegun, SignInEnrolments
from authn.errors import (
    ChallengeExpiredError,
    PasswordHashingBusyError,
    SecurityKeyTakenError,
    UserStorageUnavailableError,
    VolatileStoreUnavailableError,
)
from authn.factor_storage import read_factors
from authn.factors import Authenticator, FactorKind, FactorMethod, FactorProven, Factors, FactorWrong
from authn.known_devices import NewDevice
from authn.links import LinkPurpose
from authn.mailbox_proofs import MailboxGiven, MailboxProven, MailboxWrong, spend_ticket
from authn.own_factors import FactorBegun, FactorChanged, OwnFactors
from authn.prove_password import renewed
from authn.prove_recovery_code import RecoveryCodeProofs
from authn.prove_totp import TotpProofs
from authn.prove_webauthn import WebauthnProofs
from authn.relying_party import RelyingParty
from authn.reset_factors import FactorAdministration
from authn.second_step import NotOffered, SecondSteps
from authn.session_storage import ValkeySessionStore
from authn.sessions import Acr
from authn.sign_in import Reason, SignInRefused, Whence
from authn.sign_in_settings import SignInLimits
from authn.sign_in_throttles import Attempt, SignInThrottles
from authn.tries import MustWait
from authn.volatile_values import VolatileValues
from authn.webauthn_keys import NewKey
from authn.webauthn_storage import insert_key
from tenancy.errors import DatabaseUnavailableError
from tenancy.ids import TenantId
from tenancy.tenant import ChangeMeta
from tenancy.tenant_settings import SignInSettings
from tests.support.policies import NOW

TENANT = TenantId(uuid4())
CANARY = "canary-7f3a"
META = ChangeMeta("test")
WHENCE = Whence("192.0.2.1", b"client", Client("phone", "192.0.2.1"))


def challenge(**changed) -> Challenge:
    """One that alice's phone may answer."""
    plain = Challenge(
        challenge_id=uuid4(),
        tenant_id=TENANT,
        user_id=uuid4(),
        auth_epoch=1,
        password_hash_digest=b"digest",
        step=ChallengeStep.MFA,
        methods=("totp", "webauthn"),
        client=WHENCE.client,
        issued_at=NOW,
        expires_at=NOW + timedelta(minutes=5),
        slug="acme",
    )
    return replace(plain, **changed)


# --- without PostgreSQL


@pytest.fixture
async def nowhere():
    """Units of work of a database that does not answer."""
    engine = create_async_engine("postgresql+psycopg://kasbah@127.0.0.1:1/kasbah")
    yield async_sessionmaker(engine)
    await engine.dispose()


def proofs(method, sessions):
    match method:
        case FactorMethod.TOTP:
            return TotpProofs(sessions, None)
        case FactorMethod.RECOVERY_CODE:
            return RecoveryCodeProofs(sessions, None)
        case FactorMethod.WEBAUTHN:
            return WebauthnProofs(sessions, None, RelyingParty("kasbah.example", "Kasbah", ("https://kasbah.example",)))


@pytest.mark.parametrize(
    ("method", "given"),
    [
        (FactorMethod.TOTP, "123456"),
        (FactorMethod.RECOVERY_CODE, "AAAA-AAAA-AAAA-AAAA-AAAA-AAAA"),
        (FactorMethod.WEBAUTHN, {"id": "a2V5", "rawId": "a2V5", "type": "public-key", "response": {}}),
    ],
)
async def test_a_proof_that_cannot_be_looked_at_is_neither_right_nor_wrong(nowhere, method, given):
    """Nobody is told that a code was wrong while nobody looked."""
    with pytest.raises(UserStorageUnavailableError):
        await proofs(method, nowhere).prove(challenge(), given, meta=META)


async def test_only_keys_that_can_be_listed_are_asked_for(nowhere):
    """What is typed needs no options, and no database for them."""
    assert await proofs(FactorMethod.TOTP, nowhere).options(challenge()) == ({}, {})
    assert await proofs(FactorMethod.RECOVERY_CODE, nowhere).options(challenge()) == ({}, {})
    with pytest.raises(UserStorageUnavailableError):
        await proofs(FactorMethod.WEBAUTHN, nowhere).options(challenge())


async def test_factors_that_cannot_be_read_are_no_empty_list(nowhere):
    """Neither for their owner nor for administrators, who change nothing meanwhile either."""
    flows = AccountFlows(nowhere, None)
    administration, own = FactorAdministration(flows), OwnFactors(flows, None)
    for asked in (
        lambda: own.look(SimpleNamespace(tenant_id=TENANT, user_id=uuid4())),
        lambda: administration.look(TENANT, uuid4()),
        lambda: administration.revoke(TENANT, uuid4(), uuid4(), meta=META),
        lambda: administration.reset(TENANT, uuid4(), meta=META),
    ):
        with pytest.raises(UserStorageUnavailableError):
            await asked()


async def test_a_try_that_is_not_counted_is_not_taken(monkeypatch):
    """A statement that always gives a row gave none: nothing may be judged."""

    async def nothing(*_):
        return None

    monkeypatch.setattr("authn.sign_in_throttles.fetch_row", nothing)
    throttles = SignInThrottles(None, b"key", SignInLimits())
    attempt = Attempt(TENANT, uuid4(), "password", 1, 2, 3, known_device=False)
    with pytest.raises(DatabaseUnavailableError):
        await throttles.take(attempt, SignInSettings())


async def test_an_account_that_is_gone_is_told_of_no_copied_key(monkeypatch):
    """There is nobody to tell, and nothing fails for it."""

    async def nobody(*_):
        return None

    monkeypatch.setattr("authn.prove_webauthn.read_user", nobody)
    await proofs(FactorMethod.WEBAUTHN, None)._tell_of_copy(None, uuid4(), uuid4(), META)


async def test_a_recovery_code_of_an_account_that_is_gone_is_wrong(monkeypatch):
    """And no try is counted for nobody."""

    async def nobody(*_):
        return None

    monkeypatch.setattr("authn.prove_recovery_code.read_user", nobody)
    outcome = await proofs(FactorMethod.RECOVERY_CODE, None)._judge(None, challenge(), b"code", META)
    assert outcome == FactorWrong()


class Silent:
    """A unit of work whose statements say what the test says."""

    def __init__(self, outcome):
        self.tenant_id = TENANT
        self.session = self
        self._outcome = outcome

    async def execute(self, *_):
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return SimpleNamespace(one_or_none=lambda: self._outcome)


async def test_an_account_that_is_gone_has_no_factors():
    """Nothing to prove, and nothing that was ever bound."""
    found = await read_factors(Silent(None), uuid4())
    assert (found.methods, found.enrolled, found.ever_bound, found.enrolment_demanded) == ((), False, False, False)
    assert found.recovery_codes_left == 0


@pytest.mark.parametrize(
    ("constraint", "error"), [("security_keys_credential_id_key", None), ("another", IntegrityError)]
)
async def test_only_a_key_that_somebody_has_is_taken(monkeypatch, constraint, error):
    """What else PostgreSQL refuses is no word about the key."""
    monkeypatch.setattr("authn.webauthn_storage._TAKEN", "security_keys_credential_id_key")
    cause = SimpleNamespace(diag=SimpleNamespace(constraint_name=constraint))
    work = Silent(IntegrityError("INSERT", {}, cause))
    key = NewKey(b"id", b"public", 0, ())
    with pytest.raises(error or SecurityKeyTakenError):
        await insert_key(work, uuid4(), uuid4(), name="yubi", key=key)


async def test_a_hash_of_yesterdays_cost_stays_while_there_is_no_room():
    """Signing in goes on; the next time may have room."""

    async def hashed(_password):
        raise PasswordHashingBusyError("full")

    held = SimpleNamespace(password_hash="$old$")
    assert await renewed(None, SimpleNamespace(hash=hashed), held, "password") is held


# --- binding a first factor


@contextlib.asynccontextmanager
async def account(*_):
    yield (
        None,
        SimpleNamespace(user=SimpleNamespace(id=uuid4())),
        Factors((), enrolled=False, ever_bound=False, enrolment_demanded=False, recovery_codes_left=0),
    )


def on_the_way_in(steps: "Steps", kinds=()) -> SignInEnrolments:
    return SignInEnrolments(AccountFlows(None, None), steps, dict(kinds), steps, lambda: NOW)


async def test_what_is_not_offered_here_is_not_begun():
    """Neither a kind that is switched off, nor something that waits for its proof; no try is counted."""
    steps = Steps(step=ChallengeStep.ENROL)
    enrolments = on_the_way_in(steps)
    assert await enrolments.begin("token", WHENCE, FactorKind.WEBAUTHN, "key", MailboxGiven("1")) == NotBegun()
    assert await enrolments.finish("token", WHENCE, "1", remember_device=False, meta=META) == NotBegun()
    assert steps.asked == []


async def test_a_challenge_without_tries_begins_and_finishes_nothing():
    """Guesses at the mailed code are among the five."""
    steps = Steps(step=ChallengeStep.ENROL, data={"kind": "totp", "kept": {}, "mailbox": {}})
    steps.tries = False
    enrolments = on_the_way_in(steps, {FactorKind.TOTP: steps}.items())
    with pytest.raises(ChallengeExpiredError):
        await enrolments.begin("token", WHENCE, FactorKind.TOTP, "phone", MailboxGiven("1"))
    with pytest.raises(ChallengeExpiredError):
        await enrolments.finish("token", WHENCE, "1", remember_device=False, meta=META)
    assert steps.asked == ["try", "try"]


async def test_a_challenge_for_a_second_factor_enrols_nobody():
    """Who has an authenticator proves that one."""
    steps = Steps()
    with pytest.raises(ChallengeExpiredError):
        await on_the_way_in(steps).mail("token", WHENCE, meta=META)


async def test_an_enrolment_while_the_database_is_away_is_an_outage(nowhere):
    """The challenge goes on."""
    steps = Steps(step=ChallengeStep.ENROL)
    enrolments = SignInEnrolments(AccountFlows(nowhere, None), steps, {}, steps, lambda: NOW)
    with pytest.raises(UserStorageUnavailableError):
        await enrolments.mail("token", WHENCE, meta=META)


async def test_a_ticket_that_was_spent_meanwhile_binds_nothing(monkeypatch):
    """On the way in all is undone; who is signed in is told that the proof is none."""

    async def proven(*_, **__):
        return MailboxProven(b"ticket", LinkPurpose.FACTOR_RESET)

    async def spent(*_, **__):
        return False

    async def none(*_):
        return Factors((), enrolled=False, ever_bound=True, enrolment_demanded=True, recovery_codes_left=0)

    async def bound(*_):
        return Authenticator(uuid4(), uuid4(), FactorKind.TOTP, "phone", NOW, NOW, None, None)

    for name in ("authn.own_factors", "authn.enrol_on_sign_in"):
        monkeypatch.setattr(f"{name}.spend_ticket", spent)
    monkeypatch.setattr("authn.own_factors.prove_mailbox", proven)
    monkeypatch.setattr("authn.own_factors.read_factors", none)
    mailbox = MailboxProven(b"ticket", LinkPurpose.FACTOR_RESET).kept()
    steps = Steps(step=ChallengeStep.ENROL, data={"kind": "totp", "kept": {}, "mailbox": mailbox})
    enrolments = on_the_way_in(steps, {FactorKind.TOTP: SimpleNamespace(finish=bound)}.items())
    monkeypatch.setattr(enrolments, "_account", account)
    with pytest.raises(ChallengeExpiredError):
        await enrolments.finish("token", WHENCE, "1", remember_device=False, meta=META)

    @contextlib.asynccontextmanager
    async def own_account(_session):
        yield None, SimpleNamespace(user=SimpleNamespace(id=uuid4()))

    own = OwnFactors(AccountFlows(None, None), None)
    monkeypatch.setattr(own, "_account", own_account)
    session = SimpleNamespace(user_id=uuid4(), tenant_id=TENANT)
    assert await own.begin(session, steps, "phone", MailboxGiven(ticket="t")) == MailboxWrong()


# --- the order of a second step


class Steps:
    """A challenge, a factor and an end that do what the test says, and tell in which order they were asked."""

    def __init__(self, **changed):
        self.challenge = challenge(**changed)
        self.outcome = FactorProven(("otp", "mfa"), "totp:1")
        self.tries, self.finished, self.lost = True, True, False
        self.asked = []
        factors = {FactorMethod.TOTP: self, FactorMethod.RECOVERY_CODE: self}
        self.second = SecondSteps(None, self, factors, self, lambda: NOW + timedelta(seconds=9))

    async def find(self, token, client, *, named):
        assert (token, client, named) == ("token", WHENCE.client, WHENCE.named)
        return self.challenge

    async def options(self, asked):
        self.asked.append("options")
        return {"shown": asked.slug}, {"kept": 1}

    async def keep(self, token, kept):
        self.asked.append((token, kept))

    async def take_try(self, token):
        self.asked.append("try")
        return self.tries

    async def prove(self, asked, given, *, meta):
        self.asked.append((given, meta))
        return self.outcome

    async def finish(self, token):
        self.asked.append("finish")
        return self.finished

    async def challenge_met(self, met, proof, method, shown, *, remember_device, meta):
        self.met = (met, proof, method, shown, remember_device, meta)
        return SignInLost() if self.lost else "signed in"

    def answer(self, method=FactorMethod.TOTP, **more):
        return self.second.prove("token", method, "123456", WHENCE, meta=META, **more)


async def test_a_right_proof_ends_the_challenge_before_it_signs_in():
    """At the level of two factors, with the password's method first, as of now."""
    steps = Steps()
    assert await steps.answer(remember_device=True) == "signed in"
    assert steps.asked == ["try", ("123456", META), "finish"]
    met, proof, *rest = steps.met
    assert met is steps.challenge
    assert (proof.acr, proof.amr, proof.auth_time) == (Acr.AAL2, ("pwd", "otp", "mfa"), NOW + timedelta(seconds=9))
    assert not proof.must_enrol
    assert rest == ["totp", WHENCE.shown, True, META]


async def test_a_recovery_code_leaves_something_to_do():
    """The session that begins is good for enrolment alone; and no device is remembered unasked."""
    steps = Steps(methods=("recovery_code",))
    steps.outcome = FactorProven(("mfa",), "recovery", must_enrol=True)
    await steps.answer(FactorMethod.RECOVERY_CODE)
    assert steps.met[1].must_enrol
    assert steps.met[2:5] == ("recovery_code", WHENCE.shown, False)


async def test_a_challenge_that_takes_no_try_judges_nothing():
    """The sixth proof is not looked at."""
    steps = Steps()
    steps.tries = False
    with pytest.raises(ChallengeExpiredError):
        await steps.answer()
    assert steps.asked == ["try"]


async def test_who_has_to_wait_ends_nothing():
    """The challenge goes on."""
    steps = Steps()
    steps.outcome = MustWait(30)
    assert await steps.answer() == MustWait(30)
    assert steps.asked == ["try", ("123456", META)]


async def test_of_two_right_proofs_one_signs_in():
    """Whoever did not end the challenge came too late."""
    steps = Steps()
    steps.finished = False
    with pytest.raises(ChallengeExpiredError):
        await steps.answer()
    assert not hasattr(steps, "met")


async def test_an_account_that_changed_meanwhile_signs_nobody_in():
    """Though the proof was right."""
    steps = Steps()
    steps.lost = True
    assert await steps.answer() == SignInRefused(TENANT, Reason.CHANGED, "totp")


@pytest.mark.parametrize(
    ("method", "changed"),
    [
        (FactorMethod.RECOVERY_CODE, {}),
        (FactorMethod.WEBAUTHN, {}),
        (FactorMethod.TOTP, {"step": ChallengeStep.ENROL}),
        (FactorMethod.TOTP, {"methods": ()}),
    ],
)
async def test_only_what_a_challenge_offers_is_taken(method, changed):
    """Another method, one that is switched off here, or a challenge of the other kind: no try, no options."""
    steps = Steps(**changed)
    assert await steps.answer(method) == NotOffered()
    assert await steps.second.options("token", method, WHENCE) == NotOffered()
    assert steps.asked == []


async def test_options_are_shown_and_what_they_are_judged_by_is_kept():
    """The client gets the one, the challenge the other."""
    steps = Steps()
    assert await steps.second.options("token", FactorMethod.TOTP, WHENCE) == {"shown": "acme"}
    assert steps.asked == ["options", ("token", {"kept": 1})]


@pytest.mark.parametrize(
    ("account", "signed_in", "purpose", "good"),
    [
        ((False, False), False, None, True),
        ((True, False), False, None, False),
        ((False, True), False, None, False),
        ((False, True), True, None, True),
        ((True, False), True, None, False),
        ((True, False), False, LinkPurpose.ENROLMENT, False),
        ((False, True), False, LinkPurpose.ENROLMENT, False),
        ((True, True), False, LinkPurpose.FACTOR_RESET, True),
        ((False, False), False, LinkPurpose.ENROLMENT, True),
    ],
)
async def test_which_proof_of_a_mailbox_binds_a_factor(monkeypatch, account, signed_in, purpose, good):
    """After a reset its ticket alone; where factors were bound before, too, unless their owner is signed in."""
    held = SimpleNamespace(user=SimpleNamespace(id=uuid4()))
    spent = []

    async def spend(_work, ticket, of):
        spent.append((ticket, of))
        return SimpleNamespace(user_id=held.user.id)

    monkeypatch.setattr("authn.mailbox_proofs.spend_link", spend)
    demanded, ever_bound = account
    factors = Factors((), enrolled=False, ever_bound=ever_bound, enrolment_demanded=demanded, recovery_codes_left=0)
    proven = MailboxProven() if purpose is None else MailboxProven(b"ticket", purpose)
    assert await spend_ticket(None, held, factors, proven, signed_in=signed_in) is good
    assert spent == ([(b"ticket", purpose)] if good and purpose is not None else [])
    if good and purpose is not None:
        stranger = SimpleNamespace(user=SimpleNamespace(id=uuid4()))
        assert not await spend_ticket(None, stranger, factors, proven, signed_in=signed_in)


# --- what Valkey holds


class Values(VolatileValues):
    """Values of a Valkey that answers what the test says."""

    def __init__(self, answer):
        super().__init__("redis://127.0.0.1:1", b"k" * 32)
        self.client = SimpleNamespace(hmget=answer, aclose=answer)


async def test_a_challenge_of_another_release_is_none():
    """Sealed by this deployment, and not to be read: the person starts over."""

    async def answer(name, _fields):
        return [values.seal(name, b"\x93garbage"), b"0", None]

    values = Values(answer)
    with pytest.raises(ChallengeExpiredError):
        await ChallengeStore(values, lambda: NOW).find("token", WHENCE.client)


@pytest.mark.parametrize("written", [b"", b"-1", b"1e0", b"99", str(MAX_TRIES).encode()])
async def test_a_count_of_tries_that_is_none_is_too_many(written):
    """Whoever writes to Valkey buys no proofs."""
    held = challenge()

    async def answer(name, _fields):
        return [values.seal(name, encoded), written, None]

    values, encoded = Values(answer), msgspec.msgpack.encode(held)
    store = ChallengeStore(values, lambda: NOW)
    with pytest.raises(ChallengeExpiredError):
        await store.find("token", WHENCE.client)
    written = str(MAX_TRIES - 1).encode()
    assert await store.find("token", WHENCE.client) == held


def test_a_session_of_another_release_is_as_lost():
    """Its holder signs in again; that it happened is counted."""
    values = Values(None)
    store = ValkeySessionStore(values)
    assert store._opened("name", values.seal("name", b"\x93garbage"), TENANT) is None
    assert store._opened("name", values.seal("other", b"x"), TENANT) is None
    assert store.rejected == 2


async def test_closing_takes_no_harm_from_a_dead_valkey():
    """The service ends all the same; asking it is an outage."""

    async def answer(*_):
        raise RedisError("gone")

    values = Values(answer)
    await values.close()
    with pytest.raises(VolatileStoreUnavailableError):
        await values.call(answer)


# --- what nobody may read


@pytest.mark.parametrize(
    "shown",
    [
        Bound(None, None, SimpleNamespace(id=1), (CANARY,)),
        NewDevice(CANARY, uuid4(), NOW),
        MailboxGiven(CANARY, CANARY),
        FactorChanged(None, None, None, (CANARY,)),
        FactorBegun({"secret": CANARY}, {"kept": CANARY}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_no_secret_is_shown_by_accident(shown):
    """Neither in a log nor in a traceback; what it is is said."""
    assert CANARY not in repr(shown)
    assert repr(shown).startswith(f"{type(shown).__name__}(")
