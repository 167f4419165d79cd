"""How the subject of a question signed in, as far as that is known: from its own session, or as a service may say.

SECURITY: what a caller writes in `context` is never looked at. There is one source at a time; a session that does not
hold is refused rather than left out: to leave it out would answer as if nobody had asked about a sign-in.
"""

from dataclasses import dataclass, replace
from typing import Any

from aiohttp import web

from authn.sessions import Acr, Session, home_of_session, is_session_token, reaches
from authz.auth_values import InvalidAuthError, read_auth
from authz.policy_files.times import parse_time
from authz.request import Auth, EvaluationRequest, Ref
from service.caller import Caller
from service.edge_errors import (
    InvalidRequestError,
    MissingScopeError,
    NotAuthenticatedError,
    SubjectSessionError,
    TenantSuspendedError,
)
from service.http.revisions import likely_min_revision
from service.keys import CALLER, CALLERS, TENANT
from tenancy.ids import TenantId

SESSION_HEADER = "Kasbah-Session"
ANYBODY = Ref("*")
"""Stands for every subject: that nothing is known of how it signed in, where it should be."""

ASSERTED = "kasbah.auth"
"""The member of `subject.properties` in which a key with `decision:assert` says how the subject signed in."""


@dataclass(frozen=True, slots=True)
class SignInOf:
    """A subject whose sign-in Kasbah knows by itself.

    `given`: it came with the request, so nobody else may be asked about.
    """

    subject: Ref
    auth: Auth | None
    given: bool = False


def sign_in_of(caller: Caller) -> SignInOf | None:
    """Return how whoever calls signed in; None for a service.

    A personal key is no sign-in, so it says nothing to conditions, and one that was made after a sign-in with one
    factor brings no role that demands two. Of an access token's person, its issuer says what is known.
    """
    if caller.user_id is None:
        return None
    if caller.session is not None:
        return SignInOf(caller.subject, auth_of(caller.session))
    if caller.sign_in is not None:
        # The issuer was told to say this of our people: what it leaves out is not known, and proves nothing.
        said = caller.sign_in
        return SignInOf(caller.subject, Auth(said.acr, said.amr or None, said.time))
    return SignInOf(caller.subject, None if caller.acr is Acr.AAL2 else Auth())


def level_of(caller: Caller) -> Acr:
    """Return how well whoever calls has proven who they are: what a personal key that they make may bring."""
    if caller.session is not None:
        return caller.session.acr
    if caller.sign_in is not None:
        return Acr.AAL2 if caller.sign_in.acr == Acr.AAL2 else Acr.AAL1
    return caller.acr


def auth_of(session: Session) -> Auth:
    """Return what conditions see of a session."""
    return Auth(session.acr.value, session.amr, session.auth_time)


async def known_sign_in(request: web.Request) -> SignInOf | None:
    """Return whose sign-in is known to whoever asks: the one in `Kasbah-Session`, or the caller's own.

    Raises:
        InvalidRequestError: the header is repeated.
        MissingScopeError: a person passes it; a person asks with a session of their own.
        SubjectSessionError: what it holds is no session of this tenant that holds now.
        StaleError, StorageUnavailableError, VolatileStoreUnavailableError: that is not known.
    """
    values = request.headers.getall(SESSION_HEADER, [])
    if not values:
        return sign_in_of(request[CALLER])
    if len(values) > 1:
        raise InvalidRequestError(f"`{SESSION_HEADER}` is one session")
    if request[CALLER].user_id is not None:
        raise MissingScopeError(f"`{SESSION_HEADER}` needs the key of a service, and yours is a person's")
    try:
        return await verified_sign_in(request, values[0], request[TENANT])
    except TenantSuspendedError:
        # The decision is a deny, and says why; were the suspension taken back meanwhile, nothing is known of anybody.
        return SignInOf(ANYBODY, Auth())


async def verified_sign_in(request: web.Request, token: str, tenant_id: TenantId) -> SignInOf:
    """Return whose session a token is, verified as that of any caller.

    Raises:
        SubjectSessionError: it is no session of the tenant that holds now, or one below what is demanded.
        TenantSuspendedError: the tenant is suspended.
        StaleError, StorageUnavailableError, VolatileStoreUnavailableError: that is not known.
    """
    if not is_session_token(token) or home_of_session(token) != tenant_id:
        raise SubjectSessionError
    try:
        found = await request.app[CALLERS].authenticate(token, likely_min_revision(request.headers))
    except NotAuthenticatedError:
        raise SubjectSessionError from None
    # A session after a recovery code is good for the enrolment of second factors, and for nothing else.
    if found.session is None or found.session.must_enrol or found.home != tenant_id:
        raise SubjectSessionError
    if not reaches(found.session.acr, found.demanded_acr):
        raise SubjectSessionError(found.demanded_acr)
    return SignInOf(found.subject, auth_of(found.session), given=True)


def with_sign_in(question: EvaluationRequest, known: SignInOf | None, *, may_assert: bool) -> EvaluationRequest:
    """Return a question with what is known of its subject's sign-in.

    Args:
        question: Its subject's properties are there only if the caller may assert them.
        known: Whose sign-in is known.
        may_assert: As above.

    Raises:
        InvalidRequestError: the session is another subject's, two sources say how it signed in, or one is malformed.
    """
    subject = question.subject
    own = known if known is not None and known.subject in {subject.ref, ANYBODY} else None
    if known is not None and known.given and own is None:
        raise InvalidRequestError(f"the session in `{SESSION_HEADER}` is another subject's", "/subject")
    if not may_assert or ASSERTED not in subject.properties:
        return question if own is None else replace(question, auth=own.auth)
    pointer = f"/subject/properties/{ASSERTED}"
    if own is not None:
        raise InvalidRequestError("how this subject signed in is known from its own session or key", pointer)
    properties: dict[str, Any] = dict(subject.properties)
    try:
        auth = read_auth(properties.pop(ASSERTED), parse_time, asserted=True)
    except InvalidAuthError as error:
        raise InvalidRequestError(str(error), f"{pointer}/{error.member}" if error.member else pointer) from None
    return replace(question, subject=replace(subject, properties=properties), auth=auth)
