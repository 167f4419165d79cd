"""`/v1/users/{user_id}/sign-in`, `/v1/sign-in/failures`: administrators see and clear counters of failed sign-ins."""

from ipaddress import ip_address
from uuid import UUID

from aiohttp import web

from authn.sign_in_counters import Counter
from service.edge_errors import InvalidRequestError, NoSuchResourceError
from service.http.admin import ended, json_answer, meta_of, no_content
from service.http.ids import path_id
from service.http.lists import parameter
from service.keys import TENANT, TENANTS
from service.rights import require_power_over
from service.routes import Needs, Route
from service.sign_in_part import KNOWN_DEVICES, SIGN_IN_COUNTERS, SIGN_IN_THROTTLES
from service.throttling import network_of
from tenancy.tenant import ChangeMeta


async def read(request: web.Request) -> web.Response:
    """GET how an account fares at signing in."""
    found = await request.app[SIGN_IN_COUNTERS].of_account(request[TENANT], path_id(request, "user_id"))
    if found is None:
        raise NoSuchResourceError
    return json_answer(
        {
            "last_sign_in_at": found.last_sign_in_at,
            "failures": [_shown(counter) for counter in found.counters],
            "known_devices": found.known_devices,
        }
    )


async def clear(request: web.Request) -> web.Response:
    """DELETE all counters of an account: the next try is judged at once."""
    user_id, meta = await _whose_and_why(request)
    return ended(found=await request.app[SIGN_IN_COUNTERS].clear_account(request[TENANT], user_id, meta=meta))


async def forget_devices(request: web.Request) -> web.Response:
    """DELETE the devices that an account knows: whoever signs in from one of them is a stranger from now on."""
    user_id, meta = await _whose_and_why(request)
    return ended(found=await request.app[KNOWN_DEVICES].forget_all(request[TENANT], user_id, meta=meta))


async def _whose_and_why(request: web.Request) -> tuple[UUID, ChangeMeta]:
    user_id = path_id(request, "user_id")
    await require_power_over(request, user_id)
    return user_id, meta_of(request, parameter(request, "reason"))


async def read_tenant(request: web.Request) -> web.Response:
    """GET how many identifiers of nobody, and how many networks, failed and must wait."""
    found = await request.app[SIGN_IN_COUNTERS].of_tenant(request[TENANT])
    pairs = {"identifiers": found.identifiers, "networks": found.networks}
    return json_answer({name: {"counted": counted, "waiting": waits} for name, (counted, waits) in pairs.items()})


async def clear_tenant(request: web.Request) -> web.Response:
    """DELETE what is counted of networks and of identifiers of nobody: of one address, or all of it."""
    address, bucket = parameter(request, "address"), None
    if address is not None:
        head = await request.app[TENANTS].find_tenant(request[TENANT])
        if head is None:
            raise NoSuchResourceError
        try:
            network = network_of(str(ip_address(address)))
        except ValueError:
            raise InvalidRequestError("`address` is an IP address") from None
        bucket = request.app[SIGN_IN_THROTTLES].network_bucket(request[TENANT], head.slug, network)
    meta = meta_of(request, parameter(request, "reason"))
    await request.app[SIGN_IN_COUNTERS].clear_tenant(request[TENANT], bucket, meta=meta)
    return no_content(None)


def _shown(counter: Counter) -> dict[str, object]:
    return {
        "authenticator": counter.authenticator,
        "device_id": counter.device_id,
        "failures": counter.failures,
        "waits_until": counter.waits_until,
        "locked": counter.locked,
    }


_SEE = Needs("user:read", "kasbah:user", "read", home=True)
_CLEAR = Needs("user:write", "kasbah:user", "clear-failures", home=True)

ROUTES: tuple[Route, ...] = (
    Route("GET", "/v1/users/{user_id}/sign-in", read, _SEE),
    Route("DELETE", "/v1/users/{user_id}/sign-in/failures", clear, _CLEAR, seconds=None),
    Route("DELETE", "/v1/users/{user_id}/sign-in/devices", forget_devices, _CLEAR, seconds=None),
    Route("GET", "/v1/sign-in/failures", read_tenant, _SEE),
    Route("DELETE", "/v1/sign-in/failures", clear_tenant, _CLEAR, seconds=None),
)
