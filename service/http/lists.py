"""What lists are asked for: one query parameter at a time, how long a page is, and where it begins."""

import base64
import binascii
import hashlib
from enum import StrEnum
from typing import TypeVar

from aiohttp import web

from service.edge_errors import InvalidRequestError
from service.http.ids import id_of
from tenancy.ids import TenantId

DEFAULT_PAGE = 100
MAX_PAGE = 1000

_Choice = TypeVar("_Choice", bound=StrEnum)


def parameter(request: web.Request, name: str) -> str | None:
    """Return one query parameter, or None; raises `InvalidRequestError` when it is repeated or empty."""
    values = request.query.getall(name, [])
    if len(values) > 1 or "" in values:
        raise InvalidRequestError(f"the parameter `{name}` is {'repeated' if values[1:] else 'empty'}")
    return values[0] if values else None


def choice(request: web.Request, name: str, kind: type[_Choice]) -> _Choice | None:
    """Return the one of a few words that a parameter says, or None; raises `InvalidRequestError` for another one."""
    text = parameter(request, name)
    try:
        return None if text is None else kind(text)
    except ValueError:
        raise InvalidRequestError(f"`{name}` is one of {', '.join(kind)}") from None


def search_text(request: web.Request, most: int) -> str | None:
    """Return what a list is searched for: at most so many printable characters."""
    text = parameter(request, "q")
    if text is not None and (len(text) > most or not text.isprintable()):
        raise InvalidRequestError(f"`q` is at most {most} printable characters")
    return text


def page_limit(request: web.Request) -> int:
    """Return how many entries a page may have: `limit`, at most 1,000.

    Raises:
        InvalidRequestError: not a positive whole number.
    """
    text = parameter(request, "limit")
    if text is None:
        return DEFAULT_PAGE
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text)):  # noqa: PLR2004 - no huge numbers
        raise InvalidRequestError("`limit` is a whole number from 1 to 1000")
    return min(int(text), MAX_PAGE)


class Cursor:
    """An opaque place in one list of one tenant; elsewhere it is refused.

    It is no secret and grants nothing: row-level security bounds what any place can show.
    """

    def __init__(self, kind: str, tenant_id: TenantId | None, *filters: str | None) -> None:
        said = "\0".join((kind, str(tenant_id), *(repr(value) for value in filters)))
        self._list = hashlib.sha256(said.encode("utf-8", "surrogatepass")).digest()[:9]

    def show(self, after: str | None) -> str | None:
        """Return what the caller sends back for the next page, or None after the last."""
        if after is None:
            return None
        return base64.urlsafe_b64encode(self._list + after.encode()).decode().rstrip("=")

    def read(self, request: web.Request) -> str | None:
        """Return the place of the request's `cursor`, or None for the first page.

        Raises:
            InvalidRequestError: not a cursor of this list.
        """
        text = parameter(request, "cursor")
        if text is None:
            return None
        try:
            data = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
            after = data[9:].decode()
        except (binascii.Error, ValueError):
            raise InvalidRequestError("not a cursor of this list") from None
        if data[:9] != self._list or not after or "\0" in after:
            raise InvalidRequestError("not a cursor of this list")
        return after

    def read_number(self, request: web.Request) -> int | None:
        """Return a place that is a number; raises as `read`."""
        text = self.read(request)
        if text is None:
            return None
        if not (text.isascii() and text.isdigit() and len(text) < 19):  # noqa: PLR2004 - 64 bits
            raise InvalidRequestError("not a cursor of this list")
        return int(text)

    def read_id(self, request: web.Request) -> str | None:
        """Return a place that is an id; raises as `read`."""
        text = self.read(request)
        if text is not None and id_of(text) is None:
            raise InvalidRequestError("not a cursor of this list")
        return text
