"""`POST /v1/bootstrap`: the one-time token of `kasbah bootstrap` makes the first administrator of the platform."""

from typing import assert_never

import msgspec
from aiohttp import web

from authn.passwords import PasswordRefused
from service.client_address import address_of
from service.edge_errors import BootstrapRefusedError
from service.first_administrator import Administrator, Candidate, TokenRefused, make_first_administrator
from service.http.account_invitation import shown_ticket
from service.http.account_password import refused
from service.http.admin import ADMINISTRATION, json_answer, written
from service.http.policy_wire import read_struct
from service.keys import KEY_RING, NEW_PASSWORDS, REQUEST_ID, SESSIONS, TENANT_LIMITS
from service.request_body import read_json_body
from service.routes import Public, Route
from service.throttling import LINK_LIMIT, admitted
from tenancy.tenant import ChangeMeta


class FirstAdministrator(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who is to administer the platform, and the token that proves it."""

    token: str
    username: str
    email: str
    password: str
    display_name: str | None = None

    def __repr__(self) -> str:
        """SECURITY: no log and no traceback shows a token or a password."""
        return "FirstAdministrator(...)"


_decoder = msgspec.json.Decoder(FirstAdministrator)


async def make(request: web.Request) -> web.Response:
    """POST the token with names and a password; answers a personal key, which is in this answer and nowhere else."""
    body = await read_json_body(request)
    async with admitted(request, LINK_LIMIT):
        said = read_struct(body, _decoder)
        outcome = await make_first_administrator(
            Candidate(said.token, said.username, said.email, said.password, said.display_name),
            sessions=request.app[SESSIONS],
            passwords=request.app[NEW_PASSWORDS],
            ring=request.app[KEY_RING],
            limits=request.app.get(TENANT_LIMITS),
            now=request.app[ADMINISTRATION].node.now(),
            meta=ChangeMeta("bootstrap", request_id=request[REQUEST_ID], address=address_of(request)),
        )
    match outcome:
        case Administrator():
            await written(request, outcome.head)
            user = outcome.user
            shown = {"id": user.id, "subject": user.ref, "username": user.username, "email": user.email}
            said_key = {"token": outcome.key, "expires_at": outcome.expires_at}
            answer = {"user": shown, "key": said_key, "enrolment_ticket": shown_ticket(outcome.ticket)}
            return json_answer(answer, status=201, head=outcome.head)
        case PasswordRefused():
            raise refused(outcome, "/password")
        case TokenRefused():
            raise BootstrapRefusedError
        case _:
            assert_never(outcome)


ROUTES: tuple[Route, ...] = (
    Route(
        "POST",
        "/v1/bootstrap",
        make,
        Public("the one-time token in the body is the credential"),
        body_limit=16 << 10,
        seconds=None,
        bulk=True,
        hashes=True,
    ),
)
