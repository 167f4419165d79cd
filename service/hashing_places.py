"""Requests and the places of the pool that hashes passwords: who finds none is refused before anything is done for it.

Also where the bulk worker hashes. A public worker then holds one of its own places for each request that it has handed
over, and the bulk worker's pool has as many as all public workers together: so a flood is refused where it comes in.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from authn.errors import PasswordHashingBusyError
from authn.sign_in import PASSWORD_METHOD
from authn.sign_in_rows import possible_slug
from service.edge_errors import InvalidRequestError
from service.keys import CALLER, HTTP_SETTINGS, METRICS, PASSWORDS, ROUTE
from service.tenant_of_request import TENANT_HEADER, TENANT_PARAMETER, named_tenant


def require_room(request: web.Request) -> None:
    """Refuse a request that would find no place; raises `PasswordHashingBusyError`."""
    try:
        request.app[PASSWORDS].require_room(_owner_of(request))
    except PasswordHashingBusyError:
        if request[ROUTE].signs_in:
            request.app[METRICS].count_sign_in("busy", PASSWORD_METHOD)
        raise


@contextmanager
def place_of(request: web.Request) -> Iterator[None]:
    """Hold a place for a request whose body is there; raises `PasswordHashingBusyError`."""
    require_room(request)
    with request.app[PASSWORDS].place(_owner_of(request)):
        yield


def _owner_of(request: web.Request) -> str | None:
    """Return the tenant, by its name, that may hold half of the places at most; None where no tenant is known."""
    if CALLER in request:
        return request[CALLER].home_slug
    if not request[ROUTE].signs_in:
        return None
    try:
        slug = named_tenant(
            headers=request.headers.getall(TENANT_HEADER, []),
            parameters=request.query.getall(TENANT_PARAMETER, []),
            host=request.headers.getall("Host", []),
            base_domain=request.app[HTTP_SETTINGS].base_domain,
            path=None,
        )
    except InvalidRequestError:
        return None  # refused by who reads it
    return None if slug is None else possible_slug(slug)
