"""`/.well-known/authzen-configuration`: where the endpoints are (Authorization API 1.0, section 9)."""

import msgspec
from aiohttp import web

from service.edge_errors import NoSuchResourceError
from service.keys import HTTP_SETTINGS
from tenancy.ids import InvalidSlugError, parse_slug

MAX_AGE_SECONDS = 3600

ENDPOINTS = {
    "access_evaluation_endpoint": "/access/v1/evaluation",
    "access_evaluations_endpoint": "/access/v1/evaluations",
    "search_subject_endpoint": "/access/v1/search/subject",
    "search_resource_endpoint": "/access/v1/search/resource",
    "search_action_endpoint": "/access/v1/search/action",
}


async def configuration(request: web.Request) -> web.Response:
    """`GET /.well-known/authzen-configuration`."""
    return _answer(metadata(request.app[HTTP_SETTINGS].public_url, None))


async def tenant_configuration(request: web.Request) -> web.Response:
    """`GET /.well-known/authzen-configuration/{slug}`: the same whether the tenant exists or not."""
    try:
        slug = parse_slug(request.match_info["slug"])
    except InvalidSlugError:
        raise NoSuchResourceError from None
    return _answer(metadata(request.app[HTTP_SETTINGS].public_url, slug))


def metadata(public_url: str, slug: str | None) -> dict[str, str]:
    """Return the document; members without a value are left out, as the standard asks.

    Args:
        public_url: Absolute, without a trailing slash.
        slug: A tenant, whose decision point is `public_url/slug` and whose endpoints name it in `tenant`.
    """
    identifier = public_url if slug is None else f"{public_url}/{slug}"
    query = "" if slug is None else f"?tenant={slug}"
    return {
        "policy_decision_point": identifier,
        **{name: f"{public_url}{path}{query}" for name, path in ENDPOINTS.items()},
    }


def _answer(document: dict[str, str]) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(document),
        content_type="application/json",
        headers={"Cache-Control": f"public, max-age={MAX_AGE_SECONDS}"},
    )
