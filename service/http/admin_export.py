"""`/v1/tenants/{tenant}/policy/export`: every row, for files or for reading."""

from collections.abc import Mapping

import msgspec
from aiohttp import web

from authz.account_names import with_names
from authz.plan import rows_of
from authz.ports import TenantHead
from authz.request import Ref
from authz.write_ports import CurrentRows
from service.edge_errors import InvalidRequestError, MissingRightError
from service.http.account_names import names_in
from service.http.admin import ADMINISTRATION, is_base, raw_answer
from service.http.lists import parameter
from service.http.policy_wire import to_wire
from service.keys import TENANT
from service.rights import may

_encode = msgspec.json.Encoder().encode


async def export(request: web.Request) -> web.Response:
    """GET every row of the tenant, whoever owns it, at one revision, with the model."""
    admin = request.app[ADMINISTRATION]
    async with admin.work.place(request[TENANT]):
        with admin.work.many_rows():
            head, answer = await _encoded_rows(request)
    return raw_answer(answer, head=head)


async def _encoded_rows(request: web.Request) -> tuple[TenantHead, bytes]:
    admin = request.app[ADMINISTRATION]
    by_name = _wants_names(request) and not is_base(request)
    if by_name and not await may(request, "kasbah:user", "read"):
        raise MissingRightError("usernames are told to those who may `read` on `kasbah:user`")
    current = await admin.writer.current_rows(request[TENANT])
    names: Mapping[Ref, str] = {}
    if by_name:
        services = await may(request, "kasbah:service-account", "read")
        names = await names_in(request, rows_of(current), services=services)
    return current.head, await admin.work.run(lambda: _exported(current, names))


def _wants_names(request: web.Request) -> bool:
    text = parameter(request, "usernames")
    if text not in {None, "true", "false"}:
        raise InvalidRequestError("`usernames` is `true` or `false`")
    return text == "true"


def _exported(current: CurrentRows, names: Mapping[Ref, str]) -> bytes:
    """Encode row by row, so that no long encoding holds the interpreter."""
    rows = b",".join(_encode(to_wire(row)) for row in with_names(rows_of(current), names))
    front = _encode({"tenant": current.head.slug, "revision": current.head.revision, "model": current.model.text})
    return front[:-1] + b',"rows":[' + rows + b"]}"
