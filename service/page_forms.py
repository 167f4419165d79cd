"""Forms of pages: who may post them, and what is read of them."""

from collections.abc import Mapping
from urllib.parse import parse_qsl, urlsplit

from aiohttp import web

from service.edge_errors import CrossSiteError, InvalidRequestError
from service.keys import HTTP_SETTINGS
from service.request_body import read_body

FORM = "application/x-www-form-urlencoded"
MAX_FIELDS = 10


async def read_form(request: web.Request, fields: frozenset[str]) -> Mapping[str, str]:
    """Return the fields of a form that one of our own pages posted; those that are left out are empty.

    Raises:
        CrossSiteError: another site's page, or something that does not say.
        InvalidRequestError: no such form, unknown or repeated fields, no UTF-8.
    """
    require_same_site(request)
    types = request.headers.getall("Content-Type", [])
    if len(types) != 1 or types[0].partition(";")[0].strip().lower() != FORM:
        raise InvalidRequestError(f"the content type must be {FORM}")
    body = await read_body(request)
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(body),
            errors="strict",
            max_num_fields=MAX_FIELDS,
        )
    except ValueError:
        raise InvalidRequestError("not a form") from None
    found = dict(pairs)
    if len(found) < len(pairs) or not found.keys() <= fields:
        raise InvalidRequestError("the form has fields that are unknown or repeated")
    return {name: found.get(name, "") for name in fields}


def require_same_site(request: web.Request) -> None:
    """Refuse what another site's page sends.

    SECURITY: browsers say where a request comes from, and no page can change it. Our pages send no referrer, so that
    `Origin` is `null` even for their own forms; then only `Sec-Fetch-Site` tells.

    Raises:
        CrossSiteError: it comes from elsewhere, or nothing says from where.
    """
    sites = request.headers.getall("Sec-Fetch-Site", [])
    origins = request.headers.getall("Origin", [])
    own = urlsplit(request.app[HTTP_SETTINGS].public_url)
    if len(sites) > 1 or len(origins) > 1:
        raise CrossSiteError("a header is repeated")
    fits = sites[0] == "same-origin" if sites else origins == [f"{own.scheme}://{own.netloc}"]
    if not fits:
        raise CrossSiteError("this form is not one of ours: open the link of the mail again")
