"""Addresses of accounts: people ask to change their own, administrators have a link sent that verifies one."""

from math import ceil
from uuid import UUID

import msgspec
from aiohttp import web

from authn.change_address import ask_to_change_address
from authn.errors import UserNotFoundError
from authn.prove_password import PasswordProofs, Proven
from authn.users import StoredUser, normalize_email
from authn.verify_address import ask_to_verify
from service.edge_errors import (
    NoSuchResourceError,
    TooManyTriesError,
)
from service.http.account_links import ACCOUNT_FLOWS
from service.http.account_password import unproven
from service.http.admin import meta_of
from service.http.ids import path_id
from service.http.policy_wire import read_struct
from service.keys import CALLER, PASSWORDS, SESSIONS, TENANT, TENANT_LIMITS
from service.mail_part import hurry_mails
from service.request_body import read_json_body
from service.rights import require_person, require_power_over
from service.routes import FRESH, Needs, Route

_OWN = Needs(
    "account:write",
    by_scope="whoever knows the present password may ask for another address",
    tenant=False,
    interactive=True,
    fresh=FRESH,
)


class NewAddress(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The address that one's account shall have, and the present password."""

    email: str
    current_password: str

    def __repr__(self) -> str:
        """SECURITY: no log and no traceback shows a password."""
        return "NewAddress(...)"


_decoder = msgspec.json.Decoder(NewAddress)


async def change_own(request: web.Request) -> web.Response:
    """POST another address: it gets a link, the present one a notice. Who has it already, the answer does not tell."""
    wanted = read_struct(await read_json_body(request), _decoder)
    caller = request[CALLER]
    user_id = require_person(caller)
    email = normalize_email(wanted.email)
    held = await _proven(request, user_id, wanted.current_password)
    wait = await ask_to_change_address(
        request.app[ACCOUNT_FLOWS], caller.home, user_id, email, meta=meta_of(request), auth_epoch=held.auth_epoch
    )
    if wait is not None:
        raise TooManyTriesError("too many changes of address were asked for", ceil(wait.total_seconds()))
    return _accepted(request)


async def verify_other(request: web.Request) -> web.Response:
    """POST: the account's address gets a link that verifies it; nothing when it is verified."""
    user_id = path_id(request, "user_id")
    await require_power_over(request, user_id)
    try:
        await ask_to_verify(request.app[ACCOUNT_FLOWS], request[TENANT], user_id, meta=meta_of(request))
    except UserNotFoundError:
        raise NoSuchResourceError from None
    return _accepted(request)


def _accepted(request: web.Request) -> web.Response:
    hurry_mails(request.app)
    return web.json_response({"status": "accepted"}, status=202)


async def _proven(request: web.Request, user_id: UUID, password: str) -> StoredUser:
    app = request.app
    proofs = PasswordProofs(app[SESSIONS], app[PASSWORDS], limits=app.get(TENANT_LIMITS))
    proof = await proofs.prove(
        request[CALLER].home,
        user_id,
        password,
        slug=request[CALLER].home_slug,
        meta=meta_of(request),
        action="user.address_change_request",
    )
    if not isinstance(proof, Proven):
        raise unproven(proof)
    return proof.held


ROUTES: tuple[Route, ...] = (
    Route("POST", "/v1/users/me/email", change_own, _OWN, 16 << 10, seconds=None, bulk=True, hashes=True),
    Route(
        "POST",
        "/v1/users/{user_id}/verification",
        verify_other,
        Needs("user:write", "kasbah:user", "verify-address", home=True),
        seconds=None,
    ),
)
