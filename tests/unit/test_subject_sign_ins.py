"""How whoever calls signed in, by what they call with."""

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest

from authn.access_tokens import SignIn
from authn.sessions import Acr
from authz.request import Auth, Ref
from service.caller import Caller, CallerKind
from service.subject_sign_ins import SignInOf, level_of, sign_in_of
from tenancy.ids import Slug, TenantId
from tests.support.policies import NOW
from tests.support.sign_ins import SessionsInMemory

ACME = TenantId(UUID(int=7))
ALICE = UUID(int=0xA11CE)
SERVICE = Caller(UUID(int=1), "abcdefgh", ACME, Slug("acme"), frozenset())
PERSON = replace(SERVICE, user_id=ALICE)


def test_a_service_has_no_sign_in():
    """Its key is judged by itself, and so is a service account's."""
    assert sign_in_of(SERVICE) is None
    assert sign_in_of(replace(SERVICE, service_account_id=UUID(int=2))) is None


@pytest.mark.parametrize(("acr", "amr"), [(Acr.AAL1, ("pwd",)), (Acr.AAL2, ("pwd", "otp", "mfa"))])
def test_a_session_says_everything(acr, amr):
    """Level, methods, and when the last proof was given."""
    sessions = SessionsInMemory()
    caller = sessions.held[sessions.begin(ACME, "acme", ALICE, acr, seconds_ago=60)]
    known = SignInOf(Ref(f"user:{ALICE}"), Auth(acr.value, amr, NOW - timedelta(seconds=60)))
    assert sign_in_of(caller) == known


@pytest.mark.parametrize(
    ("said", "auth"),
    [
        (SignIn("aal2", ("pwd", "otp"), NOW), Auth("aal2", ("pwd", "otp"), NOW)),
        (SignIn(), Auth()),
        (None, Auth()),
    ],
)
def test_an_access_token_says_what_its_issuer_does(said, auth):
    """What it leaves out is not known, and roles that demand a second factor are inactive then."""
    known = sign_in_of(replace(PERSON, kind=CallerKind.ACCESS_TOKEN, client_id="app", sign_in=said))
    assert known is not None
    assert known.auth == auth
    assert known.auth.is_weak is (auth.acr != "aal2")


def test_a_personal_key_is_no_sign_in():
    """Conditions learn nothing from it; roles that demand a second factor count by the level of who made it."""
    known = [sign_in_of(replace(PERSON, acr=acr)) for acr in Acr]
    assert [None if each is None else each.auth for each in known] == [Auth(), None]


def test_a_key_that_is_made_brings_what_its_maker_had_proven():
    """A session, an access token or a key of a person; what is not known is one factor."""
    sessions = SessionsInMemory()
    for acr in Acr:
        assert level_of(sessions.held[sessions.begin(ACME, "acme", ALICE, acr)]) is acr
        assert level_of(replace(PERSON, acr=acr)) is acr
    token = replace(PERSON, kind=CallerKind.ACCESS_TOKEN, client_id="app")
    assert level_of(replace(token, sign_in=SignIn("aal2"))) is Acr.AAL2
    assert level_of(replace(token, sign_in=SignIn())) is Acr.AAL1
