"""AuthZEN access evaluation over HTTP: one question, or many (Authorization API 1.0, sections 6 and 7)."""

import time

import msgspec
from aiohttp import web

from authz.evaluate import evaluate, evaluate_many
from authz.explain import evaluate_explained
from authz.request import EvaluationRequest
from service.caller import Caller
from service.edge_errors import InvalidRequestError, MissingScopeError
from service.http import authzen_metadata, authzen_search
from service.http.authzen_batch import Batch, ItemError, decode_batch, merge
from service.http.authzen_wire import (
    Json,
    decode_evaluation,
    encode_decision,
    request_of,
    wants_explanation,
)
from service.http.explanations import explained_json
from service.http.revisions import min_revision_of, revision_headers
from service.keys import CALLER, METRICS, NODE, TENANT
from service.metrics import INVALID_ITEM, outcome_of
from service.recording import Ignored, ignored_of, log_decision
from service.request_body import read_json_body
from service.routes import Needs, Public, Route
from service.subject_sign_ins import known_sign_in, with_sign_in

MAX_EXPLAINED_ITEMS = 50
"""Items of a batch that may ask for explanations: each costs a walk over the rules of its resource."""

EXPLAIN_SCOPE = "decision:explain"


async def evaluation(request: web.Request) -> web.Response:
    """`POST /access/v1/evaluation`."""
    started = time.perf_counter()
    caller = request[CALLER]
    min_revision = min_revision_of(request.headers)
    wire = decode_evaluation(await read_json_body(request))
    known = await known_sign_in(request)
    question = with_sign_in(request_of(wire, may_assert=caller.may_assert), known, may_assert=caller.may_assert)
    wanted = wants_explanation(wire.options)
    answer = await _answer_one(request, question, min_revision, explained=wanted, ignored=ignored_of(wire, caller))
    request.app[METRICS].observe(time.perf_counter() - started)
    return answer


async def evaluations(request: web.Request) -> web.Response:
    """`POST /access/v1/evaluations`; without items it answers as `evaluation` does."""
    started = time.perf_counter()
    caller = request[CALLER]
    min_revision = min_revision_of(request.headers)
    body = await read_json_body(request)
    batch = decode_batch(body, may_assert=caller.may_assert, known=await known_sign_in(request))
    if batch.single is not None:
        answer = await _answer_one(request, batch.single, min_revision, explained=batch.explain, ignored=Ignored())
    else:
        answer = await _answer_many(request, batch, min_revision)
    request.app[METRICS].observe(time.perf_counter() - started)
    return answer


async def _answer_one(
    request: web.Request, question: EvaluationRequest, min_revision: int | None, *, explained: bool, ignored: Ignored
) -> web.Response:
    app, caller, tenant_id = request.app, request[CALLER], request[TENANT]
    node = app[NODE]
    if explained:
        require_explain(caller)
        decision, explanation = await evaluate_explained(node, tenant_id, question, min_revision=min_revision)
        body = msgspec.json.encode(explained_json(decision, explanation))
    else:
        decision = await evaluate(node, tenant_id, question, min_revision=min_revision, step_up=True)
        body = encode_decision(decision)
    app[METRICS].count_outcome(outcome_of(decision))
    log_decision(request, question, decision, ignored)
    return json_response(body, decision.revision)


async def _answer_many(request: web.Request, batch: Batch, min_revision: int | None) -> web.Response:
    app, tenant_id = request.app, request[TENANT]
    node, metrics = app[NODE], app[METRICS]
    questions = batch.requests()
    if batch.explain:
        require_explain(request[CALLER])
        if len(questions) > MAX_EXPLAINED_ITEMS:
            raise InvalidRequestError(
                f"at most {MAX_EXPLAINED_ITEMS} items can be explained at once", "/options/explain"
            )
    if questions:
        decisions = await evaluate_many(
            node,
            tenant_id,
            questions,
            min_revision=min_revision,
            trace=batch.explain,
            stop=batch.semantic.stop,
            step_up=True,
        )
        revision = decisions[-1].revision
    else:
        decisions = []
        revision = (await node.load(tenant_id, (), (), min_revision)).head.revision
    answers: list[Json | msgspec.Raw] = []
    asked = iter(questions)
    for outcome in merge(batch, decisions):
        if isinstance(outcome, ItemError):
            metrics.count_outcome(INVALID_ITEM)
            answers.append(outcome.json())
            continue
        metrics.count_outcome(outcome_of(outcome))
        log_decision(request, next(asked), outcome, Ignored())
        answers.append(explained_json(outcome, None) if batch.explain else msgspec.Raw(encode_decision(outcome)))
    return json_response(msgspec.json.encode({"evaluations": answers}), revision)


def require_explain(caller: Caller) -> None:
    """Refuse a caller that may not read why."""
    if not caller.may_explain:
        raise MissingScopeError(f"explanations need the scope `{EXPLAIN_SCOPE}`")


def json_response(body: bytes, revision: int) -> web.Response:
    """Return an answer with the revision that it used."""
    return web.Response(body=body, content_type="application/json", headers=revision_headers(revision))


_CHECK = Needs("decision:check", "kasbah:decision", "check")

ROUTES: tuple[Route, ...] = (
    Route("POST", "/access/v1/evaluation", evaluation, _CHECK),
    Route("POST", "/access/v1/evaluations", evaluations, _CHECK),
    Route("POST", "/access/v1/search/subject", authzen_search.search_subject, _CHECK),
    Route("POST", "/access/v1/search/resource", authzen_search.search_resource, _CHECK),
    Route("POST", "/access/v1/search/action", authzen_search.search_action, _CHECK),
    Route(
        "GET",
        "/.well-known/authzen-configuration",
        authzen_metadata.configuration,
        Public("the standard publishes it so that callers find the endpoints"),
    ),
    Route(
        "GET",
        "/.well-known/authzen-configuration/{slug}",
        authzen_metadata.tenant_configuration,
        Public("as above, and alike for tenants that exist and that do not"),
    ),
)
