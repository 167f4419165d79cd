"""`POST /v1/account/invitation`: an invited person makes their account."""

from typing import Any, assert_never

import msgspec
from aiohttp import web

from authn.accept_invitation import Acceptance, Accepted, GrantLapsed, accept
from authn.account_flows import LinkRefused
from authn.links import IssuedLink
from authn.passwords import PasswordRefused
from service.edge_errors import GrantLapsedError, LinkRefusedError
from service.http.account_links import ACCOUNT_FLOWS, BY_LINK, ROLE_GRANTS, meta_by_link, named
from service.http.account_password import refused
from service.http.admin import json_answer, written
from service.http.policy_wire import read_struct
from service.keys import NEW_PASSWORDS
from service.mail_part import hurry_mails
from service.request_body import read_json_body
from service.routes import Route
from service.throttling import LINK_LIMIT, admitted


class Accepting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A link to spend, and what its holder chooses. Address and roles are the invitation's."""

    token: str
    username: str
    password: str
    display_name: str | None = None
    key_name: str | None = None

    def __repr__(self) -> str:
        """SECURITY: no log and no traceback shows a password."""
        return "Accepting(...)"


_decoder = msgspec.json.Decoder(Accepting)


async def make_account(request: web.Request) -> web.Response:
    """POST names and a password: the account is there, with its roles and a verified address."""
    body = await read_json_body(request)
    async with admitted(request, LINK_LIMIT):
        wanted = read_struct(body, _decoder)
        said = Acceptance(wanted.username, wanted.password, wanted.display_name, wanted.key_name)
        made = await accepted(request, wanted.token, said)
    user = made.user
    shown = {
        "id": user.id,
        "subject": user.ref,
        "username": user.username,
        "email": user.email,
        "display_name": user.display_name,
    }
    key = None if made.key is None else {"token": made.key.token, "expires_at": made.key.expires_at}
    answer = {"user": shown, "key": key, "enrolment_ticket": shown_ticket(made.ticket)}
    return json_answer(answer, status=201, head=made.head)


def shown_ticket(ticket: IssuedLink | None) -> dict[str, Any] | None:
    """Return a ticket for whom it is, once: it stands for a mailed code when a second factor is enrolled."""
    return None if ticket is None else {"token": ticket.token, "expires_at": ticket.expires_at}


async def accepted(request: web.Request, token: str, said: Acceptance) -> Accepted:
    """Return the account that was made; raise what else came of it."""
    outcome = await accept(
        request.app[ACCOUNT_FLOWS],
        request.app[NEW_PASSWORDS],
        request.app[ROLE_GRANTS],
        token,
        said,
        meta=meta_by_link(request),
        named=named(request),
    )
    match outcome:
        case Accepted(head=head):
            await written(request, head)
            hurry_mails(request.app)
            return outcome
        case PasswordRefused():
            raise refused(outcome, "/password")
        case LinkRefused():
            raise LinkRefusedError
        case GrantLapsed():
            raise GrantLapsedError("ask whoever invited you for a new invitation")
        case _:
            assert_never(outcome)


ROUTES: tuple[Route, ...] = (
    Route(
        "POST",
        "/v1/account/invitation",
        make_account,
        BY_LINK,
        body_limit=16 << 10,
        seconds=None,
        bulk=True,
        hashes=True,
    ),
)
