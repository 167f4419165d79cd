"""`ANY /v1/forward-auth[/…]`: decisions for gateways (nginx `auth_request`, Traefik, Envoy's HTTP `ext_authz`).

The gateway says who asks in a header that it overwrites, and what for either in headers (nginx, Traefik) or by
calling `/v1/forward-auth<path>` with the original method and host (Envoy). The answer is 200, 401, 403, or 503 for a
failure, and nothing else: nginx turns every other status into its own error.

SECURITY: a path is judged in one spelling only. What gateways and backends read differently (dot segments, empty
segments, encoded separators, path parameters, backslashes, double encoding) is refused rather than normalized.
"""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from urllib.parse import unquote_to_bytes

import structlog
from aiohttp import web
from multidict import CIMultiDictProxy

from authz.errors import StorageUnavailableError, TenantNotFoundError
from authz.evaluate import evaluate
from authz.request import MAX_REF_LENGTH, Action, Entity, EvaluationRequest, InvalidNameError, check_id, parse_ref
from service import problems
from service.app import response_of
from service.edge_errors import (
    EdgeError,
    InsufficientAuthenticationError,
    KeyRateExceededError,
    NotAuthenticatedError,
    OverloadedError,
    SubjectSessionError,
)
from service.http.revisions import revision_headers
from service.http_settings import ForwardAuthSettings
from service.keys import CALLER, CALLERS, HTTP_SETTINGS, METRICS, NODE, TENANT, TENANTS
from service.metrics import outcome_of
from service.recording import Ignored, log_decision
from service.refusals import CROSS_USE, told_of
from service.rights import judged_for_decisions, require_service_key
from service.routes import ANY_METHOD, OwnCredential, Route
from service.subject_sign_ins import verified_sign_in
from service.tenant_of_request import TENANT_HEADER, named_tenant, tenant_of

PREFIX = "/v1/forward-auth"
RESOURCE_TYPE = "url"

_METHOD = re.compile(r"[A-Z][A-Z_-]{0,31}\Z")
_HOST = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*|\[[0-9a-f:.]+\])\Z")
_PORT = re.compile(r":[0-9]{0,5}\Z")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})|%(?:2[eEfF5]|3[bB]|5[cC]|[01][0-9A-Fa-f]|7[fF])")
_RAW_PATH = re.compile(r"/[\x21-\x7e\x80-\U0010ffff]*\Z")

_log = structlog.get_logger()


class RefusedError(Exception):
    """A request that is not judged, because its parts could be read in more than one way."""


@dataclass(frozen=True, slots=True)
class Original:
    """The request at the gateway: method, host (lower case, no port) and path (decoded, no query)."""

    method: str
    host: str
    path: str


async def forward_auth(request: web.Request) -> web.Response:
    """Answer 200, 401, 403 or 503."""
    started = time.perf_counter()
    try:
        response = await _decide(request)
    except RefusedError as refusal:
        _log.info("forward_auth.refused", reason=str(refusal))
        response = _forbidden()
    except NotAuthenticatedError as error:
        response = response_of(problems.render_error(error))
    except SubjectSessionError as error:
        more = None if error.acr_values is None else InsufficientAuthenticationError(error.acr_values, None)
        response = response_of(problems.render_error(more or error))
    except KeyRateExceededError as error:
        # Gateways know no 429: a gateway's key that is used too often is a failure, not an answer about the subject.
        wait = {"Retry-After": str(error.retry_after)}
        response = response_of(problems.render(problems.PROBLEMS[OverloadedError], headers=wait))
    except (EdgeError, TenantNotFoundError) as error:
        rendered = problems.render_error(error)
        response = response_of(rendered) if rendered.status in {403, 503} else _forbidden()
    except Exception as error:  # noqa: BLE001  # the last resort of this route is 503, never a status a gateway misreads
        rendered = problems.render_error(error)
        if rendered.status == 503:  # noqa: PLR2004 - a known failure, as other routes log it
            _log.warning("forward_auth.failed", error=str(error))
        else:
            _log.error("forward_auth.failed", exc_info=error)
            rendered = problems.render(problems.PROBLEMS[StorageUnavailableError])
        response = response_of(rendered)
    request.app[METRICS].observe(time.perf_counter() - started)
    return response


async def _decide(request: web.Request) -> web.Response:
    app = request.app
    settings = app[HTTP_SETTINGS].forward_auth
    headers = request.headers
    caller = await app[CALLERS].authenticate(_only(headers.getall(settings.key_header, [])) or "")
    app[CALLERS].spend(caller)
    request[CALLER] = caller
    require_service_key(caller, "decision:check")
    caller = request[CALLER] = await judged_for_decisions(request, caller, "decision:check")
    async with told_of(request, CROSS_USE):
        named = headers.getall(TENANT_HEADER, [])
        name = named_tenant(headers=named, parameters=(), host=(), base_domain=None, path=None)
        tenant_id = await tenant_of(caller, name, app[TENANTS])
    request[TENANT] = tenant_id
    question = await _question(request, settings, original_of(request, settings))
    decision = await evaluate(app[NODE], tenant_id, question, step_up=question.auth is not None)
    app[METRICS].count_outcome(outcome_of(decision))
    log_decision(request, question, decision, Ignored())
    if decision.allowed:
        return web.Response(headers=revision_headers(decision.revision))
    told = decision.step_up
    if told is not None:
        wanted = InsufficientAuthenticationError(" ".join(told.acr_values), told.max_age, told.amr_values)
        return response_of(problems.render_error(wanted))
    return _forbidden(revision_headers(decision.revision))


async def _question(request: web.Request, settings: ForwardAuthSettings, original: Original) -> EvaluationRequest:
    """Return what the gateway asks, of the subject that it names or whose session it passes on.

    Raises:
        NotAuthenticatedError: neither is there.
        SubjectSessionError: the session does not hold.
        RefusedError: it is not the session of the subject that is named.
    """
    subject_id = _only(request.headers.getall(settings.subject_header, []))
    if settings.session_header is None:
        if not subject_id:
            raise NotAuthenticatedError("the gateway names no subject")
        return question_of(original, settings.subject_type, subject_id)
    token = _only(request.headers.getall(settings.session_header, []))
    if not token:
        raise NotAuthenticatedError("the gateway passes no session on")
    known = await verified_sign_in(request, token, request[TENANT])
    own = parse_ref(known.subject)
    if subject_id and Entity(settings.subject_type, subject_id) != own:
        raise RefusedError("the session is another subject's")
    return replace(question_of(original, own.type, own.id), auth=known.auth)


def original_of(request: web.Request, settings: ForwardAuthSettings) -> Original:
    """Return what was asked at the gateway; raises `RefusedError`."""
    headers = request.headers
    methods = _present(headers, settings.method_headers)
    hosts = _present(headers, settings.host_headers)
    uris = _present(headers, settings.uri_headers)
    # `raw_path` is as it was sent: aiohttp's `path` is already decoded.
    raw = request.raw_path
    if raw.startswith(PREFIX + "/"):
        methods.append(request.method)
        hosts.append(_only(headers.getall("Host", [])) or "")
        uris.append(raw[len(PREFIX) :])
    return Original(
        _agreed("method", [parse_method(text) for text in methods]),
        _agreed("host", [parse_host(text) for text in hosts]),
        _agreed("path", [parse_path(text) for text in uris]),
    )


def question_of(original: Original, subject_type: str, subject_id: str) -> EvaluationRequest:
    """Return the question: action is the method, resource `url:<host><path>`; raises `RefusedError`."""
    resource_id = original.host + original.path
    try:
        check_id(subject_id)
        check_id(resource_id)
    except InvalidNameError as error:
        raise RefusedError(str(error)) from None
    return EvaluationRequest(
        Entity(subject_type, subject_id), Action(original.method), Entity(RESOURCE_TYPE, resource_id)
    )


def parse_method(text: str) -> str:
    """Return an HTTP method; they have case."""
    if _METHOD.match(text) is None:
        raise RefusedError("not a method")
    return text


def parse_host(text: str) -> str:
    """Return a host in lower case without its port: gateways route by name, so a port must not change the rule."""
    host = _PORT.sub("", text.lower()).removesuffix(".")
    if len(host) > MAX_REF_LENGTH or _HOST.match(host) is None:
        raise RefusedError("not a host")
    return host


def parse_path(uri: str) -> str:
    """Return the path of a request target, percent-decoded once, without the query.

    Raises:
        RefusedError: not absolute, a dot segment, `//`, `;`, a backslash, a fragment, a control character, one of
            these (or `/`, `%`, `.`) percent-encoded, a broken escape, or not UTF-8.
    """
    path, _, _ = uri.partition("?")
    if _RAW_PATH.match(path) is None:
        raise RefusedError("not an absolute path")
    if "//" in path or ";" in path or "\\" in path or "#" in path or _BAD_ESCAPE.search(path) is not None:
        raise RefusedError("a path that can be read in two ways")
    if any(segment in {".", ".."} for segment in path.split("/")):
        raise RefusedError("a dot segment")
    try:
        return unquote_to_bytes(path).decode("utf-8")
    except UnicodeError:
        raise RefusedError("a path that is not UTF-8") from None


def _present(headers: CIMultiDictProxy[str], names: Sequence[str]) -> list[str]:
    return [value for name in names if (value := _only(headers.getall(name, []))) is not None]


def _only(values: Sequence[str]) -> str | None:
    if len(values) > 1:
        raise RefusedError("a header is repeated")
    return values[0] if values else None


def _agreed(what: str, values: Sequence[str]) -> str:
    if not values:
        raise RefusedError(f"the gateway does not say the {what}")
    if len(set(values)) > 1:
        raise RefusedError(f"the gateway says two {what}s")
    return values[0]


def _forbidden(headers: dict[str, str] | None = None) -> web.Response:
    """Return the same refusal whatever the reason, so that it teaches nothing."""
    return response_of(problems.render(problems.FORBIDDEN, headers=headers))


_ACCESS = OwnCredential("a key with `decision:check` in the gateway's own header")

ROUTES: tuple[Route, ...] = (
    Route(ANY_METHOD, PREFIX, forward_auth, _ACCESS),
    # Line breaks included, so that a path that holds one is refused here and is no 404.
    Route(ANY_METHOD, PREFIX + r"/{path:[\s\S]*}", forward_auth, _ACCESS),
)
