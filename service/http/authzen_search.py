"""AuthZEN searches over HTTP (Authorization API 1.0, section 8): the three endpoints and their pages."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from aiohttp import web
from msgspec import UNSET, Struct, UnsetType

from authz.request import NO_PROPERTIES, Action, Entity, EvaluationRequest, Properties
from authz.search import SearchContext, SearchPage, search_actions, search_resources, search_subjects
from service.edge_errors import InvalidRequestError
from service.http.authzen_wire import (
    Json,
    WireAction,
    WireEntity,
    WireKind,
    action_of,
    check_action_name,
    check_entity,
    check_may_ask_about,
    check_type_name,
    entity_of,
    subject_of,
)
from service.http.revisions import min_revision_of, revision_headers
from service.json_body import parse_typed
from service.keys import CALLER, NODE, PAGE_TOKENS, READER, TENANT
from service.page_tokens import InvalidPageTokenError, Page
from service.request_body import read_json_body
from service.subject_sign_ins import SESSION_HEADER, known_sign_in, with_sign_in

DEFAULT_LIMIT = 100
MAX_LIMIT = 1000
ANY_NAME = "any"
"""Stands for the id that a search ignores; the search replaces it by each candidate's."""

_encoder = msgspec.json.Encoder(order="deterministic")


class WirePage(Struct, omit_defaults=True, gc=False):
    """Which part of the results is wanted."""

    token: str | UnsetType = UNSET
    limit: int | UnsetType = UNSET


class _Search(Struct, omit_defaults=True, gc=False, kw_only=True):
    """What all searches may say."""

    context: Json | UnsetType = UNSET
    page: WirePage | UnsetType = UNSET

    @property
    def context_properties(self) -> Properties:
        """The context that conditions see."""
        return NO_PROPERTIES if self.context is UNSET else self.context


class SubjectSearch(_Search):
    """Who may do this?"""

    subject: WireKind
    action: WireAction
    resource: WireEntity

    def question(self, *, may_assert: bool) -> EvaluationRequest:
        """Return the question with any subject id."""
        check_type_name(self.subject.type, "/subject")
        if not may_assert:
            check_may_ask_about(self.subject.type)
        check_action_name(self.action, "/action")
        check_entity(self.resource, "/resource")
        return EvaluationRequest(
            _any_entity(self.subject, may_assert=may_assert),
            action_of(self.action),
            entity_of(self.resource, may_assert=may_assert),
            self.context_properties,
        )


class ResourceSearch(_Search):
    """On what may this subject do this?"""

    subject: WireEntity
    action: WireAction
    resource: WireKind

    def question(self, *, may_assert: bool) -> EvaluationRequest:
        """Return the question with any resource id."""
        check_entity(self.subject, "/subject")
        check_action_name(self.action, "/action")
        check_type_name(self.resource.type, "/resource")
        return EvaluationRequest(
            subject_of(self.subject, may_assert=may_assert),
            action_of(self.action),
            _any_entity(self.resource, may_assert=may_assert),
            self.context_properties,
        )


class ActionSearch(_Search):
    """What may this subject do to this resource? An `action` in the request is ignored."""

    subject: WireEntity
    resource: WireEntity

    def question(self, *, may_assert: bool) -> EvaluationRequest:
        """Return the question with any action."""
        check_entity(self.subject, "/subject")
        check_entity(self.resource, "/resource")
        return EvaluationRequest(
            subject_of(self.subject, may_assert=may_assert),
            Action(ANY_NAME),
            entity_of(self.resource, may_assert=may_assert),
            self.context_properties,
        )


Search = SubjectSearch | ResourceSearch | ActionSearch


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """What differs between the three searches."""

    name: bytes
    decoder: msgspec.json.Decoder[Any]
    run: Callable[..., Awaitable[SearchPage]]
    result: Callable[[EvaluationRequest, str], Json]


async def search_subject(request: web.Request) -> web.Response:
    """`POST /access/v1/search/subject`."""
    return await _search(request, _SUBJECT)


async def search_resource(request: web.Request) -> web.Response:
    """`POST /access/v1/search/resource`."""
    return await _search(request, _RESOURCE)


async def search_action(request: web.Request) -> web.Response:
    """`POST /access/v1/search/action`."""
    return await _search(request, _ACTION)


async def _search(request: web.Request, endpoint: _Endpoint) -> web.Response:
    app = request.app
    caller, tenant_id = request[CALLER], request[TENANT]
    min_revision = min_revision_of(request.headers)
    search: Search = parse_typed(await read_json_body(request), endpoint.decoder, _encoder, _free_values)
    known = await known_sign_in(request)
    question = search.question(may_assert=caller.may_assert)
    if not isinstance(search, SubjectSearch):
        question = with_sign_in(question, known, may_assert=caller.may_assert)
    elif known is not None and known.given:
        raise InvalidRequestError(f"a search for subjects is not about the one in `{SESSION_HEADER}`")
    else:
        question = with_sign_in(question, None, may_assert=caller.may_assert)
    bound = (tenant_id.bytes, endpoint.name, _binding(search))
    tokens = app[PAGE_TOKENS]
    page = _page_of(search.page, lambda token: tokens.open(token, *bound))
    signed_in = None if known is None else (known.subject, known.auth)
    where = SearchContext(app[NODE], app[READER], tenant_id, min_revision, signed_in)
    found = await endpoint.run(where, question, after=page.after, limit=page.limit)
    next_token = "" if found.next_after is None else tokens.seal(Page(found.next_after, page.limit), *bound)
    answer = {
        "page": {"next_token": next_token, "count": len(found.results)},
        "context": {"kasbah": {"revision": found.revision}},
        "results": [endpoint.result(question, name) for name in found.results],
    }
    return web.Response(
        body=msgspec.json.encode(answer), content_type="application/json", headers=revision_headers(found.revision)
    )


def _page_of(wire: WirePage | UnsetType, open_token: Callable[[str], Page]) -> Page:
    """Return where the page starts and how long it is.

    Raises:
        InvalidRequestError: a negative limit, a token that is not of this question, or another limit than its.
    """
    if wire is UNSET:
        return Page("", DEFAULT_LIMIT)
    limit = None if wire.limit is UNSET else wire.limit
    if limit is not None and limit < 0:
        raise InvalidRequestError("a limit is not negative", "/page/limit")
    limit = None if limit is None else min(limit, MAX_LIMIT)
    if wire.token is UNSET or not wire.token:
        return Page("", DEFAULT_LIMIT if limit is None else limit)
    try:
        page = open_token(wire.token)
    except InvalidPageTokenError:
        raise InvalidRequestError("the token does not belong to this search", "/page/token") from None
    if limit is not None and limit != page.limit:
        raise InvalidRequestError("the limit differs from the previous page's", "/page/limit")
    return page


def _binding(search: Search) -> bytes:
    """Return the question in one spelling, without what it ignores and without the page."""
    members = msgspec.structs.asdict(search)
    members["page"] = UNSET
    return _encoder.encode({name: value for name, value in members.items() if value is not UNSET})


def _any_entity(kind: WireKind, *, may_assert: bool) -> Entity:
    if may_assert and kind.properties is not UNSET:
        return Entity(kind.type, ANY_NAME, kind.properties)
    return Entity(kind.type, ANY_NAME)


def _free_values(search: Search) -> Any:
    for name in ("context", "subject", "action", "resource"):
        value = getattr(search, name, UNSET)
        yield getattr(value, "properties", UNSET) if isinstance(value, Struct) else value


_SUBJECT = _Endpoint(
    b"subject",
    msgspec.json.Decoder(SubjectSearch),
    search_subjects,
    lambda question, name: {"type": question.subject.type, "id": name},
)
_RESOURCE = _Endpoint(
    b"resource",
    msgspec.json.Decoder(ResourceSearch),
    search_resources,
    lambda question, name: {"type": question.resource.type, "id": name},
)
_ACTION = _Endpoint(
    b"action", msgspec.json.Decoder(ActionSearch), search_actions, lambda _question, name: {"name": name}
)
