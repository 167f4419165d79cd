"""`POST /v1/users/me/password`: a person replaces their own password."""

from typing import assert_never

import msgspec
from aiohttp import web

from authn.change_password import ChangedMeanwhile, PasswordChanged, PasswordChanges
from authn.passwords import Advice, PasswordRefused
from authn.prove_password import NoPassword, PresentWrong
from authn.tries import LockedOut, MustWait
from service.edge_errors import (
    CredentialChangedError,
    CredentialLockedError,
    EdgeError,
    PasswordRefusedError,
    TooManyTriesError,
    WrongPasswordError,
)
from service.http.admin import json_answer, meta_of, written
from service.http.policy_wire import read_struct
from service.http.session_wire import own_session, shown_renewed
from service.keys import CALLER
from service.request_body import read_json_body
from service.routes import FRESH, Needs, Route

Unproven = PresentWrong | NoPassword | MustWait | LockedOut

PASSWORD_CHANGES: web.AppKey[PasswordChanges] = web.AppKey("PASSWORD_CHANGES")
MAX_BODY = 16 << 10


class NewPassword(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The present password, and the one that takes its place."""

    current_password: str
    new_password: str

    def __repr__(self) -> str:
        """SECURITY: no log and no traceback shows a password."""
        return "NewPassword(...)"


_decoder = msgspec.json.Decoder(NewPassword)


async def change(request: web.Request) -> web.Response:
    """POST both passwords; all sign-ins of the account end, and the one that asks goes on under another token."""
    wanted = read_struct(await read_json_body(request), _decoder)
    session = own_session(request)
    outcome = await request.app[PASSWORD_CHANGES].change(
        session.tenant_id,
        session.user_id,
        wanted.current_password,
        wanted.new_password,
        slug=request[CALLER].home_slug,
        meta=meta_of(request),
        session=session,
    )
    match outcome:
        case PasswordChanged(head=head, session=renewed):
            await written(request, head)
            return json_answer({"session": await shown_renewed(request, renewed)}, head=head)
        case PasswordRefused():
            raise refused(outcome, "/new_password")
        case ChangedMeanwhile():
            raise CredentialChangedError("the password was changed meanwhile")
        case _:
            raise unproven(outcome)


def unproven(outcome: Unproven) -> EdgeError:
    """Return how a present password that proves nothing is answered."""
    match outcome:
        case PresentWrong() | NoPassword():
            return WrongPasswordError("the present password is wrong", "/current_password")
        case MustWait(seconds=seconds):
            return TooManyTriesError(f"too many wrong passwords: try again in {seconds} s", seconds)
        case LockedOut():
            return CredentialLockedError("too many wrong passwords: the password must be reset")
        case _:
            assert_never(outcome)


def refused(outcome: PasswordRefused, pointer: str) -> PasswordRefusedError:
    """Return how a password that may not be chosen is answered: every reason, with what helps."""
    reasons = [
        {"code": reason.code.value, "message": reason.message, "guidance": reason.guidance}
        for reason in outcome.reasons
    ]
    members: dict[str, object] = {"reasons": reasons}
    if outcome.advice is not None:
        members["strength"] = shown_advice(outcome.advice)
    return PasswordRefusedError("; ".join(reason.message for reason in outcome.reasons), pointer, members)


def shown_advice(advice: Advice) -> dict[str, object]:
    """Return what zxcvbn thinks, for people."""
    return {"score": advice.score, "warning": advice.warning, "suggestions": list(advice.suggestions)}


ROUTES: tuple[Route, ...] = (
    Route(
        "POST",
        "/v1/users/me/password",
        change,
        Needs(
            "account:write",
            by_scope="whoever knows the present password may replace it",
            tenant=False,
            interactive=True,
            fresh=FRESH,
        ),
        MAX_BODY,
        seconds=None,
        bulk=True,
        hashes=True,
    ),
)
