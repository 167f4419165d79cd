"""Reset of a password: asked for by whoever forgot it, or started by an administrator; completed by a mailed link."""

from typing import assert_never

import msgspec
from aiohttp import web

from authn.account_flows import Done, LinkRefused
from authn.known_devices import NewDevice
from authn.passwords import PasswordRefused
from authn.reset_password import LinkSent, NoReset, NotSent, complete_reset, request_reset, start_reset
from service.edge_errors import (
    LinkRefusedError,
    NoSuchResourceError,
    ResetNotPossibleError,
    TenantRequiredError,
)
from service.http.account_links import ACCOUNT_FLOWS, BY_LINK, ERRANDS, USER_READER, meta_by_link, named
from service.http.account_password import refused
from service.http.admin import json_answer, meta_of, written
from service.http.ids import path_id
from service.http.policy_wire import read_struct
from service.http.reasons import reason_in_body
from service.http.session_wire import shown_device
from service.keys import NEW_PASSWORDS, TENANT, TENANTS
from service.mail_part import hurry_mails
from service.request_body import read_json_body
from service.rights import require_power_over
from service.routes import Needs, Public, Route
from service.sign_in_part import SIGN_IN_END
from service.throttling import LINK_LIMIT, RESET_LIMIT, admitted
from tenancy.ids import PLATFORM_SLUG, SLUG_PATTERN

MAX_IDENTIFIER = 320
_WHY = {
    NoReset.UNVERIFIED: "the account has no verified address, or is not active",
    NoReset.FACTORS: "its second factors were reset within a day",
    NoReset.THROTTLED: "it was done a few times within the hour",
}


class NewPassword(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A link to spend, and the password that its holder chooses."""

    token: str
    password: str
    remember_device: bool = False

    def __repr__(self) -> str:
        """SECURITY: no log and no traceback shows a password."""
        return "NewPassword(...)"


class ResetRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose password was forgotten: a username or an address."""

    identifier: str


_new_password = msgspec.json.Decoder(NewPassword)
_reset_request = msgspec.json.Decoder(ResetRequest)


async def ask(request: web.Request) -> web.Response:
    """POST who forgot their password: the answer is always the same, and is given before anything is looked up."""
    body = await read_json_body(request)
    async with admitted(request, RESET_LIMIT):
        identifier = read_struct(body, _reset_request).identifier
        slug = named(request)
        if slug is None:
            raise TenantRequiredError("name a tenant: `X-Tenant-ID`, `tenant` or subdomain")
        begin_reset(request, slug, identifier)
    return web.json_response({"status": "accepted"}, status=202)


def begin_reset(request: web.Request, slug: str, identifier: str) -> None:
    """Have a reset looked into after the answer.

    SECURITY: time and bytes of the answer are those of a request that is not looked into at all.

    Raises:
        OverloadedError: too many are under way, whatever they are about.
    """
    meta, app = meta_by_link(request), request.app

    async def work() -> None:
        # A name that no tenant can have (with a NUL, say) is not worth a question, which PostgreSQL might not take.
        if len(identifier) > MAX_IDENTIFIER or (SLUG_PATTERN.match(slug) is None and slug != PLATFORM_SLUG):
            return
        head = await app[TENANTS].find_tenant_by_slug(slug)
        if head is not None:
            await request_reset(app[ACCOUNT_FLOWS], app[USER_READER], head.tenant_id, identifier, meta=meta)
            hurry_mails(app)

    app[ERRANDS].begin("password-reset", work)


async def complete(request: web.Request) -> web.Response:
    """POST a token and a new password. Nobody is signed in by it."""
    body = await read_json_body(request)
    async with admitted(request, LINK_LIMIT):
        wanted = read_struct(body, _new_password)
        device = await completed(request, wanted.token, wanted.password, remember_device=wanted.remember_device)
    return web.Response(status=204) if device is None else json_answer({"device": shown_device(device)})


async def completed(
    request: web.Request, token: str, password: str, *, remember_device: bool = False
) -> NewDevice | None:
    """Set a password by a link; raise what else came of it."""
    outcome = await complete_reset(
        request.app[ACCOUNT_FLOWS],
        request.app[NEW_PASSWORDS],
        token,
        password,
        meta=meta_by_link(request),
        named=named(request),
        device_life=request.app[SIGN_IN_END].device_life if remember_device else None,
    )
    match outcome:
        case Done(head=head, device=device):
            await written(request, head)
            hurry_mails(request.app)
            return device
        case PasswordRefused():
            raise refused(outcome, "/password")
        case LinkRefused():
            raise LinkRefusedError
        case _:
            assert_never(outcome)


async def start(request: web.Request) -> web.Response:
    """POST a reason: the account's own address gets a link; who starts it sees and chooses nothing."""
    reason = await reason_in_body(request)
    user_id = path_id(request, "user_id")
    await require_power_over(request, user_id)
    outcome = await start_reset(request.app[ACCOUNT_FLOWS], request[TENANT], user_id, meta=meta_of(request, reason))
    match outcome:
        case LinkSent():
            hurry_mails(request.app)
            return web.json_response({"status": "accepted"}, status=202)
        case NotSent(reason=reason):
            raise ResetNotPossibleError(_WHY[reason])
        case None:
            raise NoSuchResourceError
        case _:
            assert_never(outcome)


ROUTES: tuple[Route, ...] = (
    Route(
        "POST",
        "/v1/account/password-reset-request",
        ask,
        Public("whoever forgot a password has no credential; the answer tells nothing"),
        body_limit=4096,
    ),
    Route(
        "POST",
        "/v1/account/password-reset",
        complete,
        BY_LINK,
        body_limit=16 << 10,
        seconds=None,
        bulk=True,
        hashes=True,
    ),
    Route(
        "POST",
        "/v1/users/{user_id}/password-reset",
        start,
        Needs("user:write", "kasbah:user", "reset-password", home=True),
        seconds=None,
    ),
)
