"""`/v1/users/{user_id}/factors`: administrators look at the second factors of others, revoke one, and reset all."""

from typing import assert_never

from aiohttp import web

from authn.reset_factors import FactorAdministration, FactorsReset, NoFactorReset, NotReset
from service.edge_errors import NoSuchResourceError, ResetNotPossibleError
from service.http.account_factors import shown_factor
from service.http.admin import json_answer, meta_of, no_content, written
from service.http.ids import path_id
from service.http.reasons import reason_in_body, reason_in_query
from service.keys import FACTORS, TENANT
from service.mail_part import hurry_mails
from service.rights import require_power_over
from service.routes import FRESH, Needs, Route

FACTOR_ADMINISTRATION: web.AppKey[FactorAdministration] = web.AppKey("FACTOR_ADMINISTRATION")
MAX_BODY = 16 << 10
_WHY = {
    NoFactorReset.NOTHING: "it never had a second factor: the person enrols one when it is demanded",
    NoFactorReset.UNVERIFIED: "the account has no verified address, or is not active",
    NoFactorReset.NEW_ADDRESS: "its person changed the address within three days, and it can be taken back",
    NoFactorReset.PASSWORD: "its password was reset within a day",
    NoFactorReset.THROTTLED: "it was done a few times within the hour",
}


async def list_of(request: web.Request) -> web.Response:
    """GET what is bound to an account, without secrets."""
    bound, factors = await request.app[FACTOR_ADMINISTRATION].look(request[TENANT], path_id(request, "user_id"))
    return json_answer(
        {
            "factors": [shown_factor(one) for one in bound],
            "methods": [method for method in factors.methods if method in request.app[FACTORS]],
            "recovery_codes_left": factors.recovery_codes_left,
            "enrolment_demanded": factors.enrolment_demanded,
        }
    )


async def revoke(request: web.Request) -> web.Response:
    """DELETE one authenticator: it proves nothing from now on, and everybody is signed out of the account."""
    reason = reason_in_query(request)
    user_id = path_id(request, "user_id")
    factor_id = path_id(request, "factor_id")
    await require_power_over(request, user_id)
    head = await request.app[FACTOR_ADMINISTRATION].revoke(
        request[TENANT], user_id, factor_id, meta=meta_of(request, reason)
    )
    if head is None:
        raise NoSuchResourceError
    await written(request, head)
    hurry_mails(request.app)
    return no_content(head)


async def reset(request: web.Request) -> web.Response:
    """POST a reason: all authenticators end, and the account's own address gets a ticket that binds a new one."""
    reason = await reason_in_body(request)
    user_id = path_id(request, "user_id")
    await require_power_over(request, user_id)
    outcome = await request.app[FACTOR_ADMINISTRATION].reset(request[TENANT], user_id, meta=meta_of(request, reason))
    match outcome:
        case FactorsReset(head=head):
            await written(request, head)
            hurry_mails(request.app)
            return json_answer({"status": "accepted"}, status=202, head=head)
        case NotReset(reason=why):
            raise ResetNotPossibleError(_WHY[why])
        case _:
            assert_never(outcome)


_ALL = "/v1/users/{user_id}/factors"
_RESET = Needs("user:write", "kasbah:user", "reset-factors", home=True, fresh=FRESH)

ROUTES: tuple[Route, ...] = (
    Route("GET", _ALL, list_of, Needs("user:read", "kasbah:user", "read", home=True)),
    Route("DELETE", f"{_ALL}/{{factor_id}}", revoke, _RESET, seconds=None),
    Route("POST", f"{_ALL}/reset", reset, _RESET, MAX_BODY, seconds=None),
)
