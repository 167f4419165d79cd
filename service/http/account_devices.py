"""`/v1/users/me/devices`: people see which devices their account knows, and have it forget one, or all."""

from aiohttp import web

from authn.known_devices import KnownDevice
from service.http.admin import ended, json_answer, meta_of, no_content
from service.http.ids import path_id
from service.http.session_wire import own_session
from service.routes import Needs, Route
from service.sign_in_part import KNOWN_DEVICES

_PATH = "/v1/users/me/devices"


async def list_own(request: web.Request) -> web.Response:
    """GET the devices that the caller's account knows."""
    own = own_session(request)
    found = await request.app[KNOWN_DEVICES].list(own.tenant_id, own.user_id)
    return json_answer({"devices": [_shown(device) for device in found]})


async def forget_own(request: web.Request) -> web.Response:
    """DELETE one: its token is worth nothing from now on."""
    own, device_id = own_session(request), path_id(request, "device_id")
    return ended(
        found=await request.app[KNOWN_DEVICES].forget(own.tenant_id, own.user_id, device_id, meta=meta_of(request))
    )


async def forget_all_own(request: web.Request) -> web.Response:
    """DELETE all of them."""
    own = own_session(request)
    await request.app[KNOWN_DEVICES].forget_all(own.tenant_id, own.user_id, meta=meta_of(request))
    return no_content(None)


def _shown(device: KnownDevice) -> dict[str, object]:
    return {
        "id": device.device_id,
        "created_at": device.created_at,
        "last_used_at": device.last_used_at,
        "expires_at": device.expires_at,
        "signed_in": device.signed_in,
    }


_OWN = Needs(
    "account:write",
    tenant=False,
    by_scope="it is about the devices that the caller's own account knows",
    interactive=True,
    enrolling=True,
)

ROUTES: tuple[Route, ...] = (
    Route("GET", _PATH, list_own, _OWN),
    Route("DELETE", _PATH, forget_all_own, _OWN, seconds=None),
    Route("DELETE", f"{_PATH}/{{device_id}}", forget_own, _OWN, seconds=None),
)
