"""Why something is done to the account of another: asked for, and kept in the history."""

import msgspec
from aiohttp import web

from service.edge_errors import InvalidRequestError
from service.http.lists import parameter
from service.http.policy_wire import read_struct
from service.request_body import read_json_body


class Why(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A reason, and nothing else."""

    reason: str


_decoder = msgspec.json.Decoder(Why)


async def reason_in_body(request: web.Request) -> str:
    """Return the reason that a body gives which says nothing else; raises `InvalidRequestError` without one."""
    return require_reason(read_struct(await read_json_body(request), _decoder).reason)


def reason_in_query(request: web.Request) -> str:
    """Return the reason of a request without a body; raises `InvalidRequestError` without one."""
    return require_reason(parameter(request, "reason"))


def require_reason(reason: str | None) -> str:
    """Return a reason that must be given; raises `InvalidRequestError` when it is not."""
    if reason is None or not reason.strip():
        raise InvalidRequestError("say why: a `reason` is kept in the history", "/reason")
    return reason
