"""`/v1/users/me/factors` and `…/recovery-codes`: people look after their own second factors, signed in lately."""

from dataclasses import replace
from datetime import timedelta
from math import ceil
from typing import Annotated, Any, Literal, assert_never

import msgspec
from aiohttp import web

from authn.factors import Authenticator, FactorKind, FactorWrong, normalize_factor_name
from authn.mailbox_proofs import (
    CodeOutcome,
    CodeSent,
    MailboxGiven,
    MailboxWrong,
    NewMailbox,
    NoMailbox,
    TicketNeeded,
)
from authn.own_factors import FactorBegun, FactorChanged, LastFactor, NoSuchFactor, OwnFactors
from authn.tries import LockedOut, MustWait
from service.edge_errors import (
    CredentialLockedError,
    EdgeError,
    EnrolmentNotPossibleError,
    LastFactorError,
    NoSuchResourceError,
    TooManyTriesError,
    WrongCodeError,
)
from service.http.admin import json_answer, meta_of, written
from service.http.ids import path_id
from service.http.policy_wire import read_struct
from service.http.session_wire import own_session, shown_renewed
from service.keys import FACTORS, NEW_FACTORS
from service.mail_part import hurry_mails
from service.request_body import MERGE_PATCH, read_json_body
from service.routes import FRESH, Needs, Route

OWN_FACTORS: web.AppKey[OwnFactors] = web.AppKey("OWN_FACTORS")
MAX_BODY = 4096

Code = Annotated[str, msgspec.Meta(max_length=64)]
Name = Annotated[str, msgspec.Meta(max_length=256)]


class NewFactorBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A time-based authenticator to add. The first one of an account takes a mailed code, or a ticket."""

    kind: Literal["totp"]
    name: Name
    code: Code | None = None
    ticket: Code | None = None

    def __repr__(self) -> str:
        """SECURITY: no log and no traceback shows a code."""
        return "NewFactorBody(...)"


class Confirmation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A code that the authenticator shows."""

    code: Code

    def __repr__(self) -> str:
        """SECURITY: no log and no traceback shows a code."""
        return "Confirmation(...)"


class Renaming(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the authenticator is called from now on."""

    name: Name


_new = msgspec.json.Decoder(NewFactorBody)
_confirmation = msgspec.json.Decoder(Confirmation)
_renaming = msgspec.json.Decoder(Renaming)


async def list_own(request: web.Request) -> web.Response:
    """GET what is bound to one's account, without secrets."""
    bound, factors = await request.app[OWN_FACTORS].look(own_session(request))
    return json_answer(
        {
            "factors": [shown_factor(one) for one in bound],
            "methods": [method for method in factors.methods if method in request.app[FACTORS]],
            "recovery_codes_left": factors.recovery_codes_left,
        }
    )


async def mail_code(request: web.Request) -> web.Response:
    """POST nothing: the code that a first authenticator takes is mailed to the account's own address."""
    outcome = await request.app[OWN_FACTORS].mail_code(own_session(request), meta=meta_of(request))
    return code_mailed(request, outcome)


async def create(request: web.Request) -> web.Response:
    """POST a name: the secret is in this answer and nowhere else; a first code confirms it within ten minutes."""
    wanted = read_struct(await read_json_body(request), _new)
    outcome = await request.app[OWN_FACTORS].begin(
        own_session(request),
        request.app[NEW_FACTORS][FactorKind(wanted.kind)],
        normalize_factor_name(wanted.name),
        MailboxGiven(wanted.code, wanted.ticket),
    )
    match outcome:
        case FactorBegun(shown=shown):
            return json_answer({"kind": wanted.kind, **shown}, status=201)
        case MailboxWrong():
            raise WrongCodeError("the first second factor takes the code that was mailed to you, or a ticket", "/code")
        case _:
            assert_never(outcome)


async def confirm(request: web.Request) -> web.Response:
    """POST a code: the authenticator is bound, everybody else is signed out, and this session goes on anew."""
    wanted = read_struct(await read_json_body(request), _confirmation)
    outcome = await request.app[OWN_FACTORS].confirm(
        own_session(request),
        request.app[NEW_FACTORS][FactorKind.TOTP],
        path_id(request, "factor_id"),
        wanted.code,
        meta=meta_of(request),
    )
    match outcome:
        case FactorChanged():
            return await factor_changed(request, outcome)
        case NoSuchFactor():
            raise NoSuchResourceError
        case _:
            raise unproven_factor(outcome)


async def rename(request: web.Request) -> web.Response:
    """PATCH the name (RFC 7396)."""
    wanted = read_struct(await read_json_body(request, MERGE_PATCH), _renaming)
    outcome = await request.app[OWN_FACTORS].rename(
        own_session(request), path_id(request, "factor_id"), normalize_factor_name(wanted.name), meta=meta_of(request)
    )
    if isinstance(outcome, NoSuchFactor):
        raise NoSuchResourceError
    head, renamed = outcome
    await written(request, head)
    return json_answer(shown_factor(renamed), head=head)


async def remove(request: web.Request) -> web.Response:
    """DELETE an authenticator: it proves nothing any more, on every node, and everybody else is signed out."""
    outcome = await request.app[OWN_FACTORS].remove(
        own_session(request), path_id(request, "factor_id"), meta=meta_of(request)
    )
    match outcome:
        case FactorChanged():
            return await factor_changed(request, outcome)
        case LastFactor():
            raise LastFactorError("bind another one before you remove this one")
        case NoSuchFactor():
            raise NoSuchResourceError
        case _:
            assert_never(outcome)


async def count_codes(request: web.Request) -> web.Response:
    """GET how many recovery codes are left; the codes themselves nobody can read again."""
    _, factors = await request.app[OWN_FACTORS].look(own_session(request))
    return json_answer({"left": factors.recovery_codes_left})


async def renew_codes(request: web.Request) -> web.Response:
    """POST nothing: ten new codes in place of all others, shown in this answer and nowhere else."""
    outcome = await request.app[OWN_FACTORS].renew_codes(own_session(request), meta=meta_of(request))
    if isinstance(outcome, NoSuchFactor):
        raise EnrolmentNotPossibleError("recovery codes are for accounts with a second factor")
    return await factor_changed(request, outcome)


async def factor_changed(request: web.Request, changed: FactorChanged) -> web.Response:
    """Answer with what is bound or ended, and with the session in which its person goes on."""
    await written(request, changed.head)
    hurry_mails(request.app)
    answer: dict[str, Any] = {"session": await shown_renewed(request, changed.session)}
    if changed.authenticator is not None:
        answer["factor"] = shown_factor(changed.authenticator)
    if changed.recovery_codes:
        answer["recovery_codes"] = list(changed.recovery_codes)
    return json_answer(answer, head=changed.head)


def code_mailed(request: web.Request, outcome: CodeOutcome) -> web.Response:
    """Answer whether a code was mailed; raise why not."""
    match outcome:
        case CodeSent():
            hurry_mails(request.app)
            return json_answer({"status": "accepted"}, status=202)
        case NoMailbox():
            raise EnrolmentNotPossibleError("the account has no verified address: ask an administrator")
        case NewMailbox():
            raise EnrolmentNotPossibleError("your address was changed within three days, and can be taken back: wait")
        case TicketNeeded():
            raise EnrolmentNotPossibleError("this takes a ticket that an administrator has sent to you")
        case timedelta():
            raise TooManyTriesError("too many codes were mailed", max(1, ceil(outcome.total_seconds())))
        case _:
            assert_never(outcome)


def unproven_factor(outcome: FactorWrong | MustWait | LockedOut) -> EdgeError:
    """Return how a code that binds nothing is answered."""
    match outcome:
        case FactorWrong():
            return WrongCodeError("the code is not right, or was used before", "/code")
        case MustWait(seconds=seconds):
            return TooManyTriesError(f"too many wrong codes: try again in {seconds} s", seconds)
        case LockedOut():
            return CredentialLockedError("too many wrong codes: bind another second factor, or ask an administrator")
        case _:
            assert_never(outcome)


def shown_factor(one: Authenticator) -> dict[str, Any]:
    """Return an authenticator as answers have it."""
    return {
        "id": one.id,
        "kind": one.kind,
        "name": one.name,
        "created_at": one.created_at,
        "confirmed_at": one.confirmed_at,
        "last_used_at": one.last_used_at,
        "disabled_at": one.disabled_at,
    }


OWN = Needs(
    "account:write",
    by_scope="it is about the caller's own second factors",
    tenant=False,
    interactive=True,
    fresh=FRESH,
    enrolling=True,
)
# SECURITY: a recovery code is good for binding or proving an authenticator; what is there goes only afterwards.
_CHANGE = replace(OWN, enrolling=False)
_LOOK = Needs(
    "account:write",
    by_scope="it is about the caller's own second factors",
    tenant=False,
    interactive=True,
    enrolling=True,
)
_ALL = "/v1/users/me/factors"
_ONE = f"{_ALL}/{{factor_id}}"
_CODES = "/v1/users/me/recovery-codes"

ROUTES: tuple[Route, ...] = (
    Route("GET", _ALL, list_own, _LOOK),
    Route("POST", _ALL, create, OWN, MAX_BODY, seconds=None),
    Route("POST", f"{_ALL}/mail", mail_code, OWN, MAX_BODY, seconds=None),
    Route("POST", f"{_ONE}/confirm", confirm, OWN, MAX_BODY, seconds=None),
    Route("PATCH", _ONE, rename, _CHANGE, MAX_BODY, seconds=None),
    Route("DELETE", _ONE, remove, _CHANGE, seconds=None),
    Route("GET", _CODES, count_codes, _LOOK),
    Route("POST", _CODES, renew_codes, _CHANGE, MAX_BODY, seconds=None),
)
