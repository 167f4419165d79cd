"""What a route demands of a sign-in: that there is one at all, and that it is fresh and strong enough (RFC 9470).

A key proves no presence: what it may do is bounded by its scopes, and a person's key was made by a fresh session. So a
demand for freshness is one on sessions, and a route that no key may use says `interactive` besides. A person's access
token is met by the same demand: its issuer says when and how the person signed in, or it is not enough.
"""

from datetime import datetime

from authn.sessions import Acr, reaches
from service.caller import Caller, CallerKind
from service.edge_errors import EnrolmentRequiredError, InsufficientAuthenticationError, InteractiveOnlyError
from service.routes import Fresh, Needs
from service.token_reach import is_about_credentials


def require_sign_in(caller: Caller, access: Needs) -> None:
    """Refuse whoever did not sign in where that is demanded, and a session that is good for enrolment alone elsewhere.

    Raises:
        InteractiveOnlyError: a key, or an access token.
        EnrolmentRequiredError: a recovery code was used, and no second factor was enrolled or confirmed since.
        InsufficientAuthenticationError: a second factor is demanded of the account since the session began.
    """
    if caller.kind is CallerKind.ACCESS_TOKEN and is_about_credentials(access):
        raise InteractiveOnlyError("this needs somebody who signed in here, and no access token stands for that")
    if access.interactive and caller.kind is not CallerKind.SESSION:
        raise InteractiveOnlyError("this needs somebody who signed in, and no key stands for that")
    if caller.session is None or access.enrolling:
        return
    if caller.session.must_enrol:
        raise EnrolmentRequiredError("enrol or confirm a second factor first")
    if not reaches(caller.session.acr, caller.demanded_acr):
        raise InsufficientAuthenticationError(caller.demanded_acr, None)


def require_fresh(caller: Caller, fresh: Fresh | None, now: datetime) -> None:
    """Refuse a session, or a person's access token, whose proof is too old or too weak; the answer says what is enough.

    Args:
        caller: Who asks; a key is bounded by its scopes instead.
        fresh: What is demanded.
        now: The node's time.

    Raises:
        InsufficientAuthenticationError: signing in again, as it says, satisfies this.
    """
    signed_in = _signed_in(caller)
    if fresh is None or signed_in is None:
        return
    acr, auth_time = signed_in
    wanted = wanted_acr(fresh, caller.full_acr)
    old = auth_time is None or now - auth_time > fresh.max_age
    if old or not reaches(acr, wanted):
        raise InsufficientAuthenticationError(wanted, int(fresh.max_age.total_seconds()))


def _signed_in(caller: Caller) -> tuple[Acr, datetime | None] | None:
    """Return how well, and when, a person proved who they are; None for keys and services."""
    if caller.session is not None:
        return caller.session.acr, caller.session.auth_time
    if caller.sign_in is None:
        return None
    # Whoever signed in at all proved one factor; more is only what the issuer says.
    return Acr(caller.sign_in.acr or Acr.AAL1), caller.sign_in.time


def wanted_acr(fresh: Fresh, full: Acr) -> Acr:
    """Return the level that is demanded of an account whose highest one is `full`."""
    wanted = fresh.acr or Acr.AAL1
    return full if fresh.full_level and reaches(full, wanted) else wanted
