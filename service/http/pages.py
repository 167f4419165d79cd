"""`/account/…`: the pages that mailed links lead to. Every page is a form without scripts, and looking changes nothing.

GET shows what a link would do and spends nothing, however often it is opened: mail scanners and previews open links.
POST spends. After that the browser is sent elsewhere (303), so that going back does nothing.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from http import HTTPStatus

from aiohttp import web

from authn.accept_invitation import Acceptance
from authn.account_flows import Done
from authn.change_address import confirm_address, undo_address
from authn.errors import (
    AuthnError,
    InvalidPersonNameError,
    InvalidUsernameError,
    UnusablePasswordError,
    UsernameTakenError,
)
from authn.links import LinkPurpose
from authn.look_at_link import Shown, look_at_link
from authn.verify_address import verify_address
from authz.errors import AuthzError
from service import problems
from service.edge_errors import EdgeError, LinkRefusedError, PasswordRefusedError
from service.http.account_invitation import accepted
from service.http.account_links import ACCOUNT_FLOWS, Flow, meta_by_link, named
from service.http.account_reset import begin_reset, completed
from service.http.admin import written
from service.keys import BULK, PASSWORDS, TENANT_LIMITS
from service.mail_part import hurry_mails
from service.page_forms import read_form
from service.page_look import look_of, render
from service.page_words import ACTS, DONE, PROBLEMS
from service.routes import Handler, Public, Route
from service.throttling import LINK_LIMIT, RESET_LIMIT, admitted
from tenancy.errors import TenancyError

BODY_LIMIT = 16 << 10
_FLOWS: Mapping[LinkPurpose, Flow] = {
    LinkPurpose.VERIFY: verify_address,
    LinkPurpose.CONFIRM_ADDRESS: confirm_address,
    LinkPurpose.UNDO_ADDRESS: undo_address,
}
_FIELD_OF: Mapping[type[AuthnError], str] = {
    UnusablePasswordError: "password",
    InvalidUsernameError: "username",
    UsernameTakenError: "username",
    InvalidPersonNameError: "display_name",
}
"""Which field of a form a failure is about."""


@dataclass(frozen=True, slots=True)
class Wrong:
    """What was wrong with a form: sentences for each field."""

    fields: Mapping[str, tuple[str, ...]]

    @property
    def summary(self) -> str:
        """What is said at the top."""
        return "Please look at the fields that are marked." if self.fields else ""


NOTHING_WRONG = Wrong({})


def page(handler: Handler) -> Handler:
    """Answer what fails with a page in place of a problem: people are reading."""

    @wraps(handler)
    async def shown(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except (EdgeError, AuthnError, AuthzError, TenancyError) as error:
            rendered = problems.render_error(error)
            slug = (
                "too-many-requests"
                if rendered.status == HTTPStatus.TOO_MANY_REQUESTS
                else problems.problem_of(error).slug
            )
            words = PROBLEMS.get(slug) or PROBLEMS[str(rendered.status // 100)]
            response = render("told.html", status=rendered.status, words=words, alert=True, next=None)
            if "Retry-After" in rendered.headers:
                response.headers["Retry-After"] = rendered.headers["Retry-After"]
            return response

    return shown


def hashing_page(handler: Handler) -> Handler:
    """A page that computes a password hash: refused before its form is read while no place is free, in words.

    So it is here that it goes to the bulk worker, and not by its route.
    """

    async def with_room(request: web.Request) -> web.StreamResponse:
        request.app[PASSWORDS].require_room()
        forwarder = request.app.get(BULK)
        return await (handler(request) if forwarder is None else forwarder.forward(request, handler, hashes=True))

    return page(with_room)


def _token(request: web.Request) -> str:
    """Return the one token of a page's address; another number of them is no link."""
    found = request.query.getall("token", [])
    if len(found) != 1:
        raise LinkRefusedError
    return found[0]


async def _look(request: web.Request, token: str, purpose: LinkPurpose) -> Shown:
    shown = await look_at_link(
        request.app[ACCOUNT_FLOWS], token, purpose, named=named(request), limits=request.app.get(TENANT_LIMITS)
    )
    if shown is None:
        raise LinkRefusedError
    return shown


@page
async def show_act(request: web.Request) -> web.StreamResponse:
    """GET what a link would do, with a button that does it."""
    purpose = LinkPurpose(request.match_info["purpose"])
    token = _token(request)
    async with admitted(request, LINK_LIMIT):
        shown = await _look(request, token, purpose)
    return render(
        "act.html",
        look=look_of(shown.tenant_name, shown.branding),
        words=ACTS[purpose],
        action=f"/account/{purpose.value}",
        token=token,
        username=shown.username,
    )


@page
async def act(request: web.Request) -> web.StreamResponse:
    """POST the button."""
    purpose = LinkPurpose(request.match_info["purpose"])
    form = await read_form(request, frozenset({"token"}))
    async with admitted(request, LINK_LIMIT):
        outcome = await _FLOWS[purpose](
            request.app[ACCOUNT_FLOWS], form["token"], meta=meta_by_link(request), named=named(request)
        )
    if not isinstance(outcome, Done):
        raise LinkRefusedError
    await written(request, outcome.head)
    hurry_mails(request.app)
    return _done(purpose.value)


@page
async def show_reset(request: web.Request) -> web.StreamResponse:
    """GET the form in which a new password is chosen."""
    token = _token(request)
    async with admitted(request, LINK_LIMIT):
        shown = await _look(request, token, LinkPurpose.PASSWORD_RESET)
    return _reset_form(shown, token, NOTHING_WRONG)


@hashing_page
async def reset(request: web.Request) -> web.StreamResponse:
    """POST the new password, twice."""
    form = await read_form(request, frozenset({"token", "username", "password", "again"}))
    async with admitted(request, LINK_LIMIT):
        shown = await _look(request, form["token"], LinkPurpose.PASSWORD_RESET)
        if form["password"] != form["again"]:
            return _reset_form(shown, form["token"], _not_alike())
        try:
            await completed(request, form["token"], form["password"])
        except (PasswordRefusedError, AuthnError) as error:
            return _reset_form(shown, form["token"], _wrong(error))
    return _done(LinkPurpose.PASSWORD_RESET.value)


def _reset_form(shown: Shown, token: str, wrong: Wrong) -> web.Response:
    return render(
        "reset.html",
        status=422 if wrong.fields else 200,
        look=look_of(shown.tenant_name, shown.branding),
        token=token,
        username=shown.username,
        min_length=shown.min_length,
        wrong=wrong.fields,
        summary=wrong.summary,
    )


@page
async def show_invitation(request: web.Request) -> web.StreamResponse:
    """GET the form in which an invited person makes their account."""
    token = _token(request)
    async with admitted(request, LINK_LIMIT):
        shown = await _look(request, token, LinkPurpose.INVITATION)
    said = {"username": "", "display_name": shown.display_name or ""}
    return _invitation_form(shown, token, said, NOTHING_WRONG)


@hashing_page
async def accept_invitation(request: web.Request) -> web.StreamResponse:
    """POST names and password."""
    form = await read_form(request, frozenset({"token", "username", "display_name", "password", "again"}))
    async with admitted(request, LINK_LIMIT):
        shown = await _look(request, form["token"], LinkPurpose.INVITATION)
        if form["password"] != form["again"]:
            return _invitation_form(shown, form["token"], form, _not_alike())
        said = Acceptance(form["username"], form["password"], form["display_name"].strip() or None)
        try:
            await accepted(request, form["token"], said)
        except (PasswordRefusedError, AuthnError) as error:
            return _invitation_form(shown, form["token"], form, _wrong(error))
    return _done(LinkPurpose.INVITATION.value)


def _invitation_form(shown: Shown, token: str, said: Mapping[str, str], wrong: Wrong) -> web.Response:
    return render(
        "invitation.html",
        status=422 if wrong.fields else 200,
        look=look_of(shown.tenant_name, shown.branding),
        token=token,
        email=shown.email,
        said=said,
        min_length=shown.min_length,
        wrong=wrong.fields,
        summary=wrong.summary,
    )


@page
async def show_request(request: web.Request) -> web.StreamResponse:
    """GET the form of whoever forgot a password. It looks alike for every tenant, known or not."""
    return _request_form(named(request) or "", "", NOTHING_WRONG)


@page
async def ask_for_reset(request: web.Request) -> web.StreamResponse:
    """POST who forgot a password: the page after it is always the same."""
    form = await read_form(request, frozenset({"tenant", "identifier"}))
    missing = {name: ("Please fill this in.",) for name in form if not form[name].strip()}
    if missing:
        return _request_form(form["tenant"], form["identifier"], Wrong(missing))
    async with admitted(request, RESET_LIMIT):
        begin_reset(request, form["tenant"].strip().lower(), form["identifier"].strip())
    return _done("password-reset-request")


def _request_form(tenant: str, identifier: str, wrong: Wrong) -> web.Response:
    return render(
        "request.html",
        status=422 if wrong.fields else 200,
        tenant=tenant,
        identifier=identifier,
        wrong=wrong.fields,
        summary=wrong.summary,
    )


@page
async def show_done(request: web.Request) -> web.StreamResponse:
    """GET what was done. The page tells nothing about anybody: whoever opens it sees the same."""
    return render("told.html", words=DONE[request.match_info["what"]], alert=False, next=None)


def _done(what: str) -> web.Response:
    """Send the browser to a page of ours, by a path alone: nothing that came with the request leads anywhere."""
    return web.Response(status=303, headers={"Location": f"/account/done/{what}", "Referrer-Policy": "no-referrer"})


def _not_alike() -> Wrong:
    return Wrong({"again": ("The two are not the same.",)})


def _wrong(error: Exception) -> Wrong:
    """Return what a form says about a refusal that its person can mend; raises every other one again."""
    if isinstance(error, PasswordRefusedError):
        return Wrong({"password": _sentences(error)})
    field = next((_FIELD_OF[kind] for kind in type(error).__mro__ if kind in _FIELD_OF), None)
    if field is None:
        raise error
    if isinstance(error, UnusablePasswordError):
        return Wrong({field: ("This cannot be a password.",)})
    if isinstance(error, UsernameTakenError):
        return Wrong({field: ("Somebody has this username already. Choose another one.",)})
    return Wrong({field: (f"{str(error)[:1].upper()}{str(error)[1:]}.",)})


def _sentences(error: PasswordRefusedError) -> tuple[str, ...]:
    reasons = error.members.get("reasons")
    told = [f"{reason['message']}: {reason['guidance']}" for reason in reasons] if isinstance(reasons, list) else []
    return tuple(f"{text[:1].upper()}{text[1:]}." for text in told) or ("Choose another password.",)


_LINK = Public("a link's token is the credential; looking spends nothing")
_OPEN = Public("it tells nothing about anybody")
_ACTS = "|".join(purpose.value for purpose in _FLOWS)

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _route(method: str, path: str, handler: Answer, access: Public) -> Route:
    return Route(method, path, handler, access, body_limit=BODY_LIMIT, seconds=None if method == "POST" else 3.0)


ROUTES: tuple[Route, ...] = (
    _route("GET", "/account/invitation", show_invitation, _LINK),
    _route("POST", "/account/invitation", accept_invitation, _LINK),
    _route("GET", "/account/password-reset", show_reset, _LINK),
    _route("POST", "/account/password-reset", reset, _LINK),
    _route("GET", "/account/password-reset-request", show_request, _OPEN),
    _route("POST", "/account/password-reset-request", ask_for_reset, _OPEN),
    _route("GET", f"/account/done/{{what:{'|'.join(DONE)}}}", show_done, _OPEN),
    _route("GET", f"/account/{{purpose:{_ACTS}}}", show_act, _LINK),
    _route("POST", f"/account/{{purpose:{_ACTS}}}", act, _LINK),
)
