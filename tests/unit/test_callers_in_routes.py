"""What a route asks about its caller, without a server: rights besides, whose sign-in counts, how fresh it is."""

from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from uuid import UUID, uuid4

import pytest
from multidict import CIMultiDict

from authn.access_tokens import SignIn
from authn.errors import AccessTokenRefusedError
from authn.sessions import Acr, make_token
from authz.decision import Decision, Reason, StepUp
from authz.errors import TenantNotFoundError
from authz.request import AAL1, AAL2, Auth, EvaluationRequest
from authz.rules import Effect
from service import rights, subject_sign_ins
from service.access_tokens import AccessTokens
from service.caller import Caller, CallerKind
from service.callers import Callers
from service.edge_errors import (
    EnrolmentRequiredError,
    InsufficientAuthenticationError,
    InteractiveOnlyError,
    InvalidRequestError,
    MissingRightError,
    MissingScopeError,
    NotAuthenticatedError,
    SubjectSessionError,
    TenantSuspendedError,
)
from service.fresh_sign_in import require_fresh, require_sign_in
from service.http.revisions import MIN_REVISION_HEADER
from service.key_rates import KeyRates
from service.keys import CALLER, CALLERS, NODE, TENANT
from service.routes import FRESH, Needs
from service.subject_sign_ins import ANYBODY, SESSION_HEADER, SignInOf, known_sign_in, with_sign_in
from tenancy.ids import PLATFORM_TENANT_ID, Slug, TenantId
from tests.support.policies import NOW, ask
from tests.support.sign_ins import SessionsInMemory
from tests.unit.test_callers import FakeDirectory, FakeNode

ACME = TenantId(UUID(int=7))
ALICE = UUID(int=0xA11CE)
SERVICE = Caller(UUID(int=1), "abcdefgh", ACME, Slug("acme"), frozenset({"policy:read", "decision:check"}))
PERSON = replace(SERVICE, user_id=ALICE)
ALLOW, DENY = (Decision(effect, Reason.NO_MATCH, 1) for effect in (Effect.ALLOW, Effect.DENY))


class Asked(dict):
    """As much of a request as is looked at."""

    def __init__(self, caller, headers=(), **app):
        super().__init__({CALLER: caller, TENANT: ACME})
        self.headers = CIMultiDict(headers)
        self.app = {NODE: "node", CALLERS: app.get("callers")}


@pytest.fixture
def engine(monkeypatch):
    """Answers what the test says, and keeps what was asked."""
    asked = SimpleNamespace(answers=[], questions=[], failure=None)

    async def answer(node, tenant_id, questions, **more):
        if asked.failure is not None:
            raise asked.failure
        asked.questions.append((node, tenant_id, questions, more))
        return asked.answers

    monkeypatch.setattr(rights, "evaluate_many", answer)
    return asked


# --- rights besides that of the route


async def test_one_more_thing_takes_the_scope_and_the_owners_right(engine):
    """A key without owner is judged by its scopes alone; without the scope nobody is asked about."""
    assert await rights.may(Asked(SERVICE), "kasbah:policy", "read") is True
    for caller in (SERVICE, PERSON):
        assert await rights.may(Asked(caller), "kasbah:key", "write") is False
    assert engine.questions == []
    for answer in (ALLOW, DENY):
        engine.answers = [answer]
        assert await rights.may(Asked(PERSON), "kasbah:policy", "read") is answer.allowed
    node, tenant_id, (question,), more = engine.questions[0]
    assert (node, tenant_id) == ("node", ACME)
    assert (question.subject.ref, question.action.name, question.resource.ref) == (
        f"user:{ALICE}",
        "read",
        "kasbah:policy",
    )
    assert more == {"min_revision": None, "step_up": True}


async def test_who_decides_for_others_keeps_only_what_the_owner_may(engine):
    """Scopes of decisions that the engine denies are taken off for this request; others stay as they are."""
    scopes = frozenset({"decision:check", "decision:assert", "policy:read"})
    engine.answers = [
        ALLOW if scope == "decision:check" else DENY for scope in rights.DECISION_SCOPES if scope in scopes
    ]
    judged = await rights.judged_for_decisions(Asked(PERSON), replace(PERSON, scopes=scopes), "decision:check")
    assert judged.scopes == {"decision:check", "policy:read"}
    assert (judged.judged, judged.may_check, judged.may_assert) == (True, True, False)
    assert await rights.judged_for_decisions(Asked(SERVICE), SERVICE, "decision:check") is SERVICE


async def test_a_decision_without_its_scope_is_none(engine):
    """And the engine is not asked."""
    with pytest.raises(MissingRightError, match=r"^you may not `explain` on `kasbah:decision`"):
        await rights.judged_for_decisions(Asked(PERSON), PERSON, "decision:explain")
    assert engine.questions == []


async def test_what_another_sign_in_would_allow_says_which(engine):
    """RFC 9470: levels, age and methods, as the engine found them."""
    engine.answers = [replace(DENY, step_up=StepUp((AAL1, AAL2), 300, ("hwk",)))]
    with pytest.raises(InsufficientAuthenticationError) as told:
        await rights.judged_for_decisions(Asked(PERSON), PERSON, "decision:check")
    assert str(told.value) == "sign in again: this needs `aal1 aal2`, by `hwk`, proven within the last 300 s"
    engine.answers = [DENY]
    with pytest.raises(MissingRightError):
        await rights.judged_for_decisions(Asked(PERSON), PERSON, "decision:check")


async def test_an_owner_whose_tenant_is_gone_is_nobody(engine):
    """The key is refused as an unknown one."""
    engine.failure = TenantNotFoundError("gone")
    with pytest.raises(NotAuthenticatedError):
        await rights.may(Asked(PERSON), "kasbah:policy", "read")


async def test_a_demanded_revision_is_one_of_a_tenant(engine):
    """The platform's people are asked about in the platform, whose revisions are others."""
    engine.answers = [ALLOW]
    for caller in (PERSON, replace(PERSON, tenant_id=None)):
        await rights.may(Asked(caller, {MIN_REVISION_HEADER: "9"}), "kasbah:policy", "read")
    assert [(tenant_id, more["min_revision"]) for _, tenant_id, _, more in engine.questions] == [
        (ACME, 9),
        (PLATFORM_TENANT_ID, None),
    ]


def test_the_key_of_a_service_is_one_with_the_scope():
    """A person's key is none, whatever its scopes."""
    rights.require_service_key(SERVICE, "policy:read")
    for caller, scope in ((SERVICE, "policy:write"), (PERSON, "policy:read")):
        with pytest.raises(MissingScopeError):
            rights.require_service_key(caller, scope)
    assert rights.require_person(PERSON) == ALICE
    with pytest.raises(MissingScopeError):
        rights.require_person(SERVICE)


def test_a_grantor_is_weak_when_one_factor_was_proven():
    """What a role that demands two gives is not theirs to give."""
    sessions = SessionsInMemory()
    for acr in Acr:
        caller = sessions.held[sessions.begin(ACME, "acme", ALICE, acr)]
        assert rights.grantor_of(caller).weak is (acr is Acr.AAL1)
    assert not rights.grantor_of(SERVICE).weak


# --- whose sign-in is known


class Sessions:
    """Tokens of sessions, and what became of them."""

    def __init__(self, outcome):
        self.outcome = outcome

    async def authenticate(self, token, min_revision=0):
        self.asked = (token, min_revision)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


TOKEN = make_token(ACME, b"t" * 32)


def holder(**changed) -> Caller:
    """Alice, as her session has it."""
    sessions = SessionsInMemory()
    caller = sessions.held[sessions.begin(ACME, "acme", ALICE, Acr.AAL2)]
    session = replace(caller.session, must_enrol=changed.pop("must_enrol", False))
    return replace(caller, session=session, **changed)


async def known(outcome, token=TOKEN, caller=SERVICE):
    return await known_sign_in(Asked(caller, {SESSION_HEADER: token}, callers=Sessions(outcome)))


async def test_a_session_beside_a_services_key_says_how_its_person_signed_in():
    """Verified as that of any caller."""
    found = await known(holder())
    assert (found.subject, found.given, found.auth.acr) == (f"user:{ALICE}", True, "aal2")
    assert await known_sign_in(Asked(SERVICE)) is None


@pytest.mark.parametrize(
    ("outcome", "token"),
    [
        (NotAuthenticatedError(), TOKEN),
        (holder(must_enrol=True), TOKEN),
        (holder(tenant_id=TenantId(uuid4())), TOKEN),
        (SERVICE, TOKEN),
        (holder(), make_token(TenantId(UUID(int=9)), b"t" * 32)),
        (holder(), "kasbah_session_short"),
        (holder(), ""),
    ],
)
async def test_what_is_no_session_of_this_tenant_is_refused(outcome, token):
    """Ended, good for enrolment alone, of another tenant, a key, or no token at all: alike."""
    with pytest.raises(SubjectSessionError):
        await known(outcome, token)


async def test_a_session_below_what_is_demanded_of_it_is_refused():
    """A second factor is demanded since it began."""
    weak = holder()
    weak = replace(weak, session=replace(weak.session, acr=Acr.AAL1), demanded_acr=Acr.AAL2)
    with pytest.raises(SubjectSessionError):
        await known(weak)


async def test_in_a_suspended_tenant_nobodys_sign_in_is_known():
    """The decision says why it is a deny."""
    assert await known(TenantSuspendedError()) == SignInOf(ANYBODY, Auth())


async def test_the_header_is_one_session_beside_the_key_of_a_service():
    """Two of them are an error, and a person has a session of their own."""
    two = [(SESSION_HEADER, TOKEN), (SESSION_HEADER, TOKEN)]
    with pytest.raises(InvalidRequestError, match="is one session"):
        await known_sign_in(Asked(SERVICE, two, callers=Sessions(holder())))
    with pytest.raises(MissingScopeError):
        await known(holder(), caller=PERSON)


def question(**properties) -> EvaluationRequest:
    asked = ask(f"user:{ALICE}", "read", "doc:1")
    return replace(asked, subject=replace(asked.subject, properties=properties))


ALICES = SignInOf(question().subject.ref, Auth("aal2"))


def test_a_sign_in_counts_for_its_own_subject():
    """Another one's own session says nothing of them; one that was given for them is a mistake."""
    assert with_sign_in(question(), ALICES, may_assert=False).auth == Auth("aal2")
    assert with_sign_in(question(), SignInOf(ANYBODY, Auth()), may_assert=False).auth == Auth()
    bobs = replace(ALICES, subject=ask("user:bob", "read", "doc:1").subject.ref)
    assert with_sign_in(question(), bobs, may_assert=False) == question()
    assert with_sign_in(question(), None, may_assert=False) == question()
    with pytest.raises(InvalidRequestError, match="another subject's"):
        with_sign_in(question(), replace(bobs, given=True), may_assert=False)


def test_what_a_caller_asserts_counts_where_it_may_and_nothing_else_is_known():
    """From one source alone; the property itself is gone then."""
    said = question(**{subject_sign_ins.ASSERTED: {"acr": "aal2"}, "team": "x"})
    assert with_sign_in(said, None, may_assert=False) == said
    heard = with_sign_in(said, None, may_assert=True)
    assert (heard.auth.acr, heard.auth.asserted, dict(heard.subject.properties)) == ("aal2", True, {"team": "x"})
    assert with_sign_in(question(team="x"), ALICES, may_assert=True).auth == Auth("aal2")
    with pytest.raises(InvalidRequestError, match="known from its own session"):
        with_sign_in(said, ALICES, may_assert=True)
    with pytest.raises(InvalidRequestError):
        with_sign_in(question(**{subject_sign_ins.ASSERTED: {"acr": "aal9"}}), None, may_assert=True)


# --- whether, and how freshly, somebody signed in


READING = Needs("policy:read", "kasbah:policy", "read")
OWN_FACTORS = Needs("account:write", "kasbah:account", "write", interactive=True, enrolling=True)
ISSUED = replace(PERSON, kind=CallerKind.ACCESS_TOKEN, client_id="app")
STALE = replace(holder(), demanded_acr=Acr.AAL2)
STALE = replace(STALE, session=replace(STALE.session, acr=Acr.AAL1))


@pytest.mark.parametrize(
    ("caller", "access", "refused"),
    [
        (SERVICE, READING, None),
        (PERSON, READING, None),
        (ISSUED, READING, None),
        (holder(), READING, None),
        (holder(), OWN_FACTORS, None),
        (SERVICE, OWN_FACTORS, InteractiveOnlyError),
        (PERSON, OWN_FACTORS, InteractiveOnlyError),
        (ISSUED, OWN_FACTORS, InteractiveOnlyError),
        (ISSUED, Needs("key:write", "kasbah:key", "write"), InteractiveOnlyError),
        (PERSON, Needs("key:write", "kasbah:key", "write"), None),
        (holder(must_enrol=True), READING, EnrolmentRequiredError),
        (holder(must_enrol=True), OWN_FACTORS, None),
        (STALE, READING, InsufficientAuthenticationError),
        (STALE, OWN_FACTORS, None),
    ],
)
def test_who_may_use_a_route_by_how_they_call(caller, access, refused):
    """Keys and tokens touch no credentials; a session after a recovery code, or below what is demanded, only enrols."""
    if refused is None:
        require_sign_in(caller, access)
    else:
        with pytest.raises(refused):
            require_sign_in(caller, access)


def signed_in(acr: Acr, age: timedelta, full: Acr) -> Caller:
    caller = holder(full_acr=full)
    return replace(caller, session=replace(caller.session, acr=acr, auth_time=NOW - age))


@pytest.mark.parametrize(
    ("caller", "enough"),
    [
        (SERVICE, True),
        (PERSON, True),
        (signed_in(Acr.AAL2, FRESH.max_age, Acr.AAL2), True),
        (signed_in(Acr.AAL2, FRESH.max_age + timedelta(seconds=1), Acr.AAL2), False),
        (signed_in(Acr.AAL1, timedelta(0), Acr.AAL2), False),
        (signed_in(Acr.AAL1, timedelta(0), Acr.AAL1), True),
        (replace(PERSON, kind=CallerKind.ACCESS_TOKEN, sign_in=SignIn("aal2", None, NOW)), True),
        (replace(PERSON, kind=CallerKind.ACCESS_TOKEN, sign_in=SignIn("aal2")), False),
        (replace(PERSON, kind=CallerKind.ACCESS_TOKEN, sign_in=SignIn(None, None, NOW), full_acr=Acr.AAL2), False),
    ],
)
def test_a_fresh_sign_in_is_one_of_the_whole_account_a_moment_ago(caller, enough):
    """To the second, and at the level of all its factors; keys are bounded by their scopes instead."""
    require_fresh(caller, None, NOW)
    if enough:
        require_fresh(caller, FRESH, NOW)
    else:
        with pytest.raises(InsufficientAuthenticationError):
            require_fresh(caller, FRESH, NOW)


# --- tokens of an issuer, and keys


async def test_a_token_that_nobody_here_can_read_is_refused():
    """An issuer whose tokens are signed issues no other ones; and none is of a shape that is taken."""
    tokens = AccessTokens(None, None, signed=SimpleNamespace())
    assert not tokens.matches("opaque")
    with pytest.raises(NotAuthenticatedError):
        await tokens.authenticate("opaque")
    assert tokens.totals()["access_token_refused_form"] == 1


@pytest.mark.parametrize("account", [None, TenantNotFoundError("gone")])
async def test_an_account_that_ended_between_two_looks_has_no_tokens(account):
    """Its tenant went, or the account itself."""

    async def load(*_):
        if account is not None:
            raise account
        return SimpleNamespace(subjects={f"user:{ALICE}": SimpleNamespace(record=SimpleNamespace(account=None))})

    tokens = AccessTokens(SimpleNamespace(load=load), None)
    with pytest.raises(AccessTokenRefusedError):
        await tokens._account(f"user:{ALICE}", SimpleNamespace(tenant_id=ACME), 0)


def test_a_caller_counts_what_it_remembered_and_refused():
    """For metrics; without limits of keys nothing is refused."""
    assert Callers(FakeDirectory(), FakeNode()).totals() == {"key_hits": 0, "key_misses": 0, "key_rate_refusals": 0}
    rates = KeyRates()
    rates.refused = 3
    assert Callers(FakeDirectory(), FakeNode(), rates=rates).totals()["key_rate_refusals"] == 3
