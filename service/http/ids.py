"""Ids in paths and cursors. Each has one spelling: another one is another subject in rules, and names nothing here."""

from uuid import UUID

from aiohttp import web

from authn.errors import UserNotFoundError
from authn.users import UserId
from service.edge_errors import NoSuchResourceError


def id_of(text: str) -> UUID | None:
    """Return the id that a text spells (RFC 9562 section 4: lower case, with hyphens), or None."""
    try:
        found = UUID(text)
    except ValueError:
        return None
    return found if str(found) == text else None


def path_id(request: web.Request, name: str, missing: type[Exception] = NoSuchResourceError) -> UUID:
    """Return the id that a path variable spells; raises `missing` for what spells none."""
    found = id_of(request.match_info[name])
    if found is None:
        raise missing
    return found


def user_id_in(request: web.Request) -> UserId:
    """Return the account that the path names; raises `UserNotFoundError` for what can be none."""
    return UserId(path_id(request, "user_id", UserNotFoundError))
