"""`/v1/tenants/{tenant}/settings`: what a tenant sets for itself, inside the platform's bounds."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from aiohttp import web

from authz.request import AAL2
from service.caller import Caller
from service.edge_errors import InsufficientAuthenticationError
from service.http.admin import expected_revision, json_answer, meta_of, written
from service.http.lists import parameter
from service.json_body import parse_json
from service.keys import CALLER, TENANT
from service.request_body import MERGE_PATCH, read_json_body
from service.routes import Needs, Route
from service.subject_sign_ins import sign_in_of
from tenancy.settings_bounds import relaxes
from tenancy.settings_document import merge_patch, show_settings
from tenancy.settings_storage import Change, TenantSettingsStore
from tenancy.tenant_settings import TenantSettings

TENANT_SETTINGS: web.AppKey[TenantSettingsStore] = web.AppKey("TENANT_SETTINGS")
MAX_BODY = 256 << 10


async def read(request: web.Request) -> web.Response:
    """GET the settings, defaults included."""
    head, settings = await request.app[TENANT_SETTINGS].read(request[TENANT])
    return json_answer(show_settings(settings), head=head)


async def replace(request: web.Request) -> web.Response:
    """PUT a whole document; what it leaves out has its default from now on."""
    document = parse_json(await read_json_body(request))
    return await _changed(request, partial(_instead, document))


async def patch(request: web.Request) -> web.Response:
    """PATCH some members (RFC 7396): null gives one its default back."""
    document = parse_json(await read_json_body(request, MERGE_PATCH))
    return await _changed(request, partial(_merged, document))


async def _changed(request: web.Request, wanted: Change) -> web.Response:
    head, settings = await request.app[TENANT_SETTINGS].change(
        request[TENANT],
        wanted,
        meta=meta_of(request, parameter(request, "reason")),
        expected_revision=expected_revision(request),
        judge=partial(_require_two_factors_to_relax, request[CALLER]),
    )
    await written(request, head)
    return json_answer(show_settings(settings), head=head)


def _require_two_factors_to_relax(caller: Caller, before: TenantSettings, after: TenantSettings) -> None:
    """SECURITY: a role that demands a second factor must not come by taking the demand away.

    Raises:
        InsufficientAuthenticationError: a person, who is not known to have proven one.
    """
    known = sign_in_of(caller)
    if known is not None and known.auth is not None and known.auth.is_weak and relaxes(after.mfa, before.mfa):
        raise InsufficientAuthenticationError(AAL2, None)


def _instead(document: Any, _: Mapping[str, Any]) -> Any:
    return document


def _merged(document: Any, present: Mapping[str, Any]) -> Any:
    return merge_patch(present, document)


_PATH = "/v1/tenants/{tenant}/settings"

ROUTES: tuple[Route, ...] = (
    Route("GET", _PATH, read, Needs("settings:read", "kasbah:settings", "read")),
    Route("PUT", _PATH, replace, Needs("settings:write", "kasbah:settings", "write"), MAX_BODY, seconds=None),
    Route("PATCH", _PATH, patch, Needs("settings:write", "kasbah:settings", "write"), MAX_BODY, seconds=None),
)
