"""`/v1/auth/enrolment/…`: who must have a second factor and has none binds one on the way in."""

from typing import Annotated, Any, assert_never

import msgspec
from aiohttp import web

from authn.enrol_on_sign_in import ENROLMENT_METHOD, Enrolled, NotBegun, SignInEnrolments
from authn.factors import FactorKind, FactorWrong, normalize_factor_name
from authn.mailbox_proofs import MailboxGiven
from authn.own_factors import FactorBegun
from authn.sign_in import SignInRefused
from authn.tries import LockedOut, MustWait
from service.edge_errors import InvalidRequestError
from service.http.account_factors import code_mailed, unproven_factor
from service.http.account_links import meta_by_link
from service.http.admin import json_answer, written
from service.http.policy_wire import read_struct
from service.http.sign_in import Token, refusal, shown_signed_in, whence_of
from service.keys import METRICS
from service.mail_part import hurry_mails
from service.request_body import read_json_body
from service.routes import Public, Route
from service.sign_in_part import AFTERMATH

ENROLMENTS: web.AppKey[SignInEnrolments] = web.AppKey("ENROLMENTS")
MAX_BODY = 64 << 10

Code = Annotated[str, msgspec.Meta(max_length=64)]


class Mailing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A challenge that waits for an enrolment."""

    challenge: Token

    def __repr__(self) -> str:
        """SECURITY: no log and no traceback shows a token."""
        return "Mailing(...)"


class Beginning(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What proves the mailbox, and what shall be bound."""

    challenge: Token
    method: FactorKind
    name: Annotated[str, msgspec.Meta(max_length=256)]
    code: Code | None = None
    ticket: Code | None = None

    def __repr__(self) -> str:
        """SECURITY: no log and no traceback shows a token or a code."""
        return "Beginning(...)"


class Finishing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first proof with the new authenticator: its code, or what a security key answered."""

    challenge: Token
    code: Code | None = None
    attestation: dict[str, Any] | None = None
    remember_device: bool = False

    def __repr__(self) -> str:
        """SECURITY: no log and no traceback shows a token or a code."""
        return "Finishing(...)"


_mailing = msgspec.json.Decoder(Mailing)
_beginning = msgspec.json.Decoder(Beginning)
_finishing = msgspec.json.Decoder(Finishing)


async def mail(request: web.Request) -> web.Response:
    """POST a challenge: a code is mailed to the account's verified address."""
    wanted = read_struct(await read_json_body(request), _mailing)
    outcome = await request.app[ENROLMENTS].mail(wanted.challenge, whence_of(request), meta=meta_by_link(request))
    return code_mailed(request, outcome)


async def begin(request: web.Request) -> web.Response:
    """POST the mailed code, or a ticket: what the new authenticator needs is in this answer and nowhere else."""
    wanted = read_struct(await read_json_body(request), _beginning)
    if (wanted.code is None) == (wanted.ticket is None):
        raise InvalidRequestError("give one of `code` and `ticket`")
    name = normalize_factor_name(wanted.name)
    with request.app[AFTERMATH].place():
        outcome = await request.app[ENROLMENTS].begin(
            wanted.challenge,
            whence_of(request),
            wanted.method,
            name,
            MailboxGiven(wanted.code, wanted.ticket),
        )
    match outcome:
        case FactorBegun(shown=shown):
            return json_answer({"method": wanted.method, **shown})
        case SignInRefused():
            raise refusal(request, outcome)
        case NotBegun():
            raise InvalidRequestError("the challenge does not take this method", "/method")
        case _:
            assert_never(outcome)


async def finish(request: web.Request) -> web.Response:
    """POST a first proof with it: it is bound, and its person signed in."""
    wanted = read_struct(await read_json_body(request), _finishing)
    if (wanted.code is None) == (wanted.attestation is None):
        raise InvalidRequestError("give one of `code` and `attestation`")
    outcome = await request.app[ENROLMENTS].finish(
        wanted.challenge,
        whence_of(request),
        wanted.code if wanted.code is not None else wanted.attestation or {},
        remember_device=wanted.remember_device,
        meta=meta_by_link(request),
    )
    match outcome:
        case Enrolled():
            await written(request, outcome.head)
            return json_answer(_shown(request, outcome))
        case NotBegun():
            raise InvalidRequestError("begin the enrolment first", "/challenge")
        case FactorWrong() | MustWait() | LockedOut():
            raise unproven_factor(outcome)
        case _:
            assert_never(outcome)


def _shown(request: web.Request, done: Enrolled) -> dict[str, Any]:
    """Return what is told once; the binding ended whatever session was sent along."""
    codes = {"recovery_codes": list(done.recovery_codes)}
    if done.signed_in is not None:
        return shown_signed_in(request, done.signed_in) | codes
    hurry_mails(request.app)
    request.app[METRICS].count_sign_in("unavailable", ENROLMENT_METHOD)
    return {"status": "enrolled", "session": None} | codes


_ON_THE_WAY = Public("a challenge, which a right password gave, is the credential")

ROUTES: tuple[Route, ...] = (
    Route("POST", "/v1/auth/enrolment/mail", mail, _ON_THE_WAY, body_limit=4096, seconds=None, bulk=True),
    Route("POST", "/v1/auth/enrolment/begin", begin, _ON_THE_WAY, body_limit=4096, seconds=None, bulk=True),
    Route("POST", "/v1/auth/enrolment/finish", finish, _ON_THE_WAY, body_limit=MAX_BODY, seconds=None, bulk=True),
)
