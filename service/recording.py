"""Writes a decision to the decision log, with what the caller sent but may not assert, and with stored attributes."""

from dataclasses import dataclass, field

from aiohttp import web
from msgspec import UNSET

from authz.decision import Decision
from authz.request import NO_PROPERTIES, EvaluationRequest, Properties
from service.caller import Caller
from service.decision_log import Asked
from service.http.authzen_wire import WireEvaluation
from service.keys import CALLER, DECISION_LOG, NODE, REQUEST_ID, TENANT


@dataclass(frozen=True, slots=True)
class Ignored:
    """Properties of a request that counted for nothing, because the caller may not assert."""

    subject: Properties = field(default_factory=lambda: NO_PROPERTIES)
    resource: Properties = field(default_factory=lambda: NO_PROPERTIES)


def ignored_of(wire: WireEvaluation, caller: Caller) -> Ignored:
    """Return what of a question was left out."""
    subject, resource = wire.subject.properties, wire.resource.properties
    if caller.may_assert or (subject is UNSET and resource is UNSET):
        return Ignored()
    return Ignored(NO_PROPERTIES if subject is UNSET else subject, NO_PROPERTIES if resource is UNSET else resource)


def log_decision(request: web.Request, question: EvaluationRequest, decision: Decision, ignored: Ignored) -> None:
    """Queue the decision if the log wants it; never waits."""
    log = request.app[DECISION_LOG]
    if not log.enabled or not log.wants(allowed=decision.allowed):
        return
    node, tenant_id = request.app[NODE], request[TENANT]
    # The state may have moved on since: what it holds now is what the log can say without a lookup.
    state = node.warm(tenant_id)
    facts = None if state is None else state.subjects.get(question.subject.ref)
    stored = None if state is None else state.resources.get(question.resource.ref)
    log.record(
        Asked(
            at=node.now(),
            request_id=request[REQUEST_ID],
            tenant=str(tenant_id),
            caller=request[CALLER].actor,
            request=question,
            decision=decision,
            ignored_subject=ignored.subject,
            ignored_resource=ignored.resource,
            stored_subject=NO_PROPERTIES if facts is None else facts.properties,
            stored_resource=NO_PROPERTIES if stored is None else stored,
        )
    )
