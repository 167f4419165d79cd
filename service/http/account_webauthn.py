"""`/v1/users/me/security-keys`: people add security keys and passkeys (WebAuthn) to their accounts, signed in lately.

What a browser is given and what it gives are the JSON forms of the standard (W3C Web Authentication Level 3, section
5.1.8 ff.), so that `PublicKeyCredential.parseCreationOptionsFromJSON` and `toJSON` are all that a page needs.
"""

from typing import Any, assert_never

import msgspec
from aiohttp import web

from authn.factors import FactorWrong, normalize_factor_name
from authn.mailbox_proofs import MailboxGiven, MailboxWrong
from authn.own_factors import FactorBegun, FactorChanged
from authn.register_webauthn import NewSecurityKey
from authn.tries import LockedOut, MustWait
from authn.webauthn_registrations import KeyRegistrations
from service.edge_errors import (
    EnrolmentNotPossibleError,
    NoSuchResourceError,
    SecurityKeyRefusedError,
    WrongCodeError,
)
from service.http.account_factors import OWN, OWN_FACTORS, Code, Name, factor_changed, unproven_factor
from service.http.admin import json_answer, meta_of
from service.http.ids import path_id
from service.http.policy_wire import read_struct
from service.http.session_wire import own_session
from service.keys import SECURITY_KEYS
from service.request_body import read_json_body
from service.routes import Route

KEY_REGISTRATIONS: web.AppKey[KeyRegistrations] = web.AppKey("KEY_REGISTRATIONS")
MAX_BODY = 64 << 10


class NewKeyBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A security key to add. The first authenticator of an account takes a mailed code, or a ticket."""

    name: Name
    code: Code | None = None
    ticket: Code | None = None

    def __repr__(self) -> str:
        """SECURITY: no log and no traceback shows a code."""
        return "NewKeyBody(...)"


class MadeKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `navigator.credentials.create` gave, as its `toJSON` says it."""

    attestation: dict[str, Any]


_new = msgspec.json.Decoder(NewKeyBody)
_made = msgspec.json.Decoder(MadeKey)


async def begin(request: web.Request) -> web.Response:
    """POST a name: the answer is what the browser is to be given, within ten minutes."""
    wanted = read_struct(await read_json_body(request), _new)
    session = own_session(request)
    outcome = await request.app[OWN_FACTORS].begin(
        session, binds_keys(request), normalize_factor_name(wanted.name), MailboxGiven(wanted.code, wanted.ticket)
    )
    match outcome:
        case FactorBegun(shown=shown, kept=kept):
            await request.app[KEY_REGISTRATIONS].keep(session, kept)
            return json_answer(shown, status=201)
        case MailboxWrong():
            raise WrongCodeError("the first second factor takes the code that was mailed to you, or a ticket", "/code")
        case _:
            assert_never(outcome)


async def finish(request: web.Request) -> web.Response:
    """POST what the browser gave: the key is bound, everybody else is signed out, and this session goes on anew."""
    wanted = read_struct(await read_json_body(request), _made)
    session, new = own_session(request), binds_keys(request)
    kept = await request.app[KEY_REGISTRATIONS].take(session, path_id(request, "registration_id"))
    if kept is None:
        raise NoSuchResourceError
    outcome = await request.app[OWN_FACTORS].finish(session, new, kept, wanted.attestation, meta=meta_of(request))
    match outcome:
        case FactorChanged():
            return await factor_changed(request, outcome)
        case FactorWrong():
            raise SecurityKeyRefusedError(
                "the answer is not that of a new security key for this account: begin again", "/attestation"
            )
        case MustWait() | LockedOut():
            raise unproven_factor(outcome)
        case _:
            assert_never(outcome)


def binds_keys(request: web.Request) -> NewSecurityKey:
    """Return what binds security keys; raises `EnrolmentNotPossibleError` where browsers offer none."""
    found = request.app.get(SECURITY_KEYS)
    if found is None:
        raise EnrolmentNotPossibleError("no browser offers security keys at the address of this service")
    return found


_ALL = "/v1/users/me/security-keys"

ROUTES: tuple[Route, ...] = (
    Route("POST", _ALL, begin, OWN, MAX_BODY, seconds=None),
    Route("POST", f"{_ALL}/{{registration_id}}", finish, OWN, MAX_BODY, seconds=None),
)
