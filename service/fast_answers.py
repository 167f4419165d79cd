"""What the fast way answers: plain, warm decision requests, from their parsed head and body to the bytes of the answer.

Synchronous, without a request object, a task or a future. Whatever is not plain (a header out of the ordinary, a fault
of any kind, a name that must be looked up) is left to the ordinary way, which alone produces refusals and errors.
"""

from datetime import datetime
from email.utils import formatdate
from time import perf_counter, time
from typing import Protocol

from aiohttp.http_parser import RawRequestMessage
from msgspec import UNSET

from authz.cross_check import Sample
from authz.decision import Reason
from authz.errors import StaleError
from authz.evaluate import Missing, StateView, evaluate_in
from authz.hierarchy import NEVER
from authz.request import NO_PROPERTIES, Ref
from authz.snapshot import ALLOWED, DENIED, NO_MATCH, UNDECIDED, Facts, Quick
from service.app import new_request_id
from service.callers import Caller, Callers, Remembered
from service.cross_check import Sampler
from service.decision_log import Asked, DecisionLog
from service.edge_errors import EdgeError
from service.fast_heads import PlainHeads
from service.http.authzen_batch import WireBatch, decode_plain_batch
from service.http.authzen_wire import (
    GROUPING_TYPES,
    WireEntity,
    WireEvaluation,
    check_action_name,
    check_entity,
    decode_evaluation,
    encode_decision,
    request_of,
    wants_explanation,
)
from service.metrics import OUTCOMES, Metrics, outcome_of
from service.recording import ignored_of
from tenancy.ids import TenantId, TenantStatus

EVALUATION = "/access/v1/evaluation"
EVALUATIONS = "/access/v1/evaluations"
MAX_KEYS = 512
"""Keys whose hash is not made anew for each request; forgotten every second."""

_ALLOW = OUTCOMES.index(("allow", Reason.RULE.value))
_DENY = OUTCOMES.index(("deny", Reason.RULE.value))
_NO_MATCH = OUTCOMES.index(("deny", Reason.NO_MATCH.value))


class WarmNode(Protocol):
    """What of the node answers without waiting."""

    def warm(self, tenant_id: TenantId) -> StateView | None:
        """Return the confirmed state, or None."""

    def now(self) -> datetime:
        """Return the node's time."""


class FastPath:
    """Answers plain requests from what the node holds; one per process."""

    def __init__(
        self,
        node: WarmNode,
        callers: Callers,
        *,
        metrics: Metrics,
        log: DecisionLog,
        sampler: Sampler,
        base_domain: str | None = None,
    ) -> None:
        self._node = node
        self._callers = callers
        self._metrics = metrics
        self._log = log
        self._sampler = sampler
        self.answered = 0
        """Requests answered this way, for metrics and tests."""
        self._second = 0
        self._date = b""
        self._singles = metrics.request_cell(EVALUATION, 200)
        self._batches = metrics.request_cell(EVALUATIONS, 200)
        self._heads = PlainHeads(hosts=base_domain is None)
        self._keys: dict[bytes, Remembered] = {}

    def answer(self, message: RawRequestMessage, body: bytes, whole: bytes = b"") -> bytes | None:
        """Return the whole HTTP response, or None when the request must take the ordinary way.

        Args:
            message: What the parser made of the request's head.
            body: The request's body.
            whole: The bytes of the request, if all of them are known, from the first on.
        """
        started = perf_counter()
        plain = self._heads.read(message.raw_headers, whole)
        if plain is None:
            return None
        token, request_id, tenant, min_revision, _ = plain
        caller = self._caller(token)
        if caller is None or not caller.may_check or caller.tenant_id is None:
            return None
        state = self._node.warm(caller.tenant_id)
        if state is None or state.head.status is not TenantStatus.ACTIVE:
            return None
        if state.head.revision < min_revision or (tenant is not None and tenant != caller.slug):
            return None
        if request_id is None:
            request_id = new_request_id()
        try:
            if message.path == EVALUATION:
                content = self._evaluation(body, caller, state, request_id, started)
                counted = self._singles
            elif message.path == EVALUATIONS:
                content = self._evaluations(body, caller, state, started)
                counted = self._batches
            else:
                return None
        except (EdgeError, StaleError):
            # The ordinary way finds the same fault again, and says it.
            return None
        if content is None:
            return None
        self.answered += 1
        counted[0] += 1
        return self._response(request_id, state.head.revision, content)

    def _caller(self, token: bytes) -> Caller | None:
        """Return who calls, if the key is remembered and still holds.

        SECURITY: only the way from token to key is kept. Whether the key and its tenant's state hold is asked for every
        request: no clock tells turns of the loop apart (uvloop's stands still for a millisecond), and a revocation
        that was acknowledged within it must count.
        """
        found = self._keys.get(token)
        if found is None:
            found = self._callers.remembered(token.decode("latin-1"))
            if found is None:
                return None
        if not self._callers.holds(found):
            self._keys.pop(token, None)
            return None
        if len(self._keys) < MAX_KEYS:
            self._keys[token] = found
        self._callers.hits += 1
        return found.caller

    def _evaluation(
        self, body: bytes, caller: Caller, state: StateView, request_id: str, started: float
    ) -> bytes | None:
        wire = decode_evaluation(body)
        if wire.options is not UNSET and wants_explanation(wire.options):
            return None
        facts = self._facts(state, wire.subject, caller)
        if facts is None:
            return None
        resource = wire.resource
        quick = state.snapshot.decide(facts.names, f"{resource.type}:{resource.id}", wire.action.name)
        if quick is not UNDECIDED and not self._log.enabled:
            outcome = _ALLOW if quick is ALLOWED else _DENY if quick is DENIED else _NO_MATCH
            self._metrics.count_decision(outcome, perf_counter() - started)
            if started >= self._sampler.due:
                self._sampler.offer(self._sample(state, wire, allowed=quick is ALLOWED))
            return encode_quick(quick, state.head.revision)
        request = request_of(wire, may_assert=caller.may_assert)
        now = self._node.now()
        decision = evaluate_in(state, request, now=now)
        if isinstance(decision, Missing):
            return None
        self._metrics.count_decision(outcome_of(decision), perf_counter() - started)
        if self._log.enabled and self._log.wants(allowed=decision.allowed):
            ignored = ignored_of(wire, caller)
            self._log.record(
                Asked(
                    at=now,
                    request_id=request_id,
                    tenant=str(caller.tenant_id),
                    caller=caller.actor,
                    request=request,
                    decision=decision,
                    ignored_subject=ignored.subject,
                    ignored_resource=ignored.resource,
                    stored_subject=facts.properties,
                    stored_resource=state.resources.get(request.resource.ref, NO_PROPERTIES),
                )
            )
        return encode_decision(decision)

    def _sample(self, state: StateView, wire: WireEvaluation, *, allowed: bool) -> Sample:
        head, subject, resource = state.head, wire.subject, wire.resource
        return Sample(
            head.tenant_id,
            head.revision,
            f"{subject.type}:{subject.id}",
            wire.action.name,
            f"{resource.type}:{resource.id}",
            allowed,
            self._node.now(),
        )

    def _evaluations(self, body: bytes, caller: Caller, state: StateView, started: float) -> bytes | None:
        """Answer a batch whose every item the index decides."""
        if self._log.enabled:
            return None
        wire = decode_plain_batch(body)
        if wire is None or wire.evaluations is UNSET:
            return None
        check_defaults(wire)
        top_facts = None
        if wire.subject is not UNSET:
            top_facts = self._facts(state, wire.subject, caller)
            if top_facts is None:
                return None
        decide = state.snapshot.decide
        yes, no, none = (encode_quick(quick, state.head.revision) for quick in (ALLOWED, DENIED, NO_MATCH))
        answers: list[bytes] = []
        allowed = denied = 0
        for item in wire.evaluations:
            facts, action, resource = top_facts, wire.action, wire.resource
            if item.subject is not UNSET:
                check_entity(item.subject, "")
                facts = self._facts(state, item.subject, caller)
            if item.action is not UNSET:
                action = item.action
                check_action_name(action, "")
            if item.resource is not UNSET:
                resource = item.resource
                check_entity(resource, "")
            if facts is None or action is UNSET or resource is UNSET:
                return None
            quick = decide(facts.names, f"{resource.type}:{resource.id}", action.name)
            if quick is ALLOWED:
                allowed += 1
                answers.append(yes)
            elif quick is NO_MATCH:
                answers.append(none)
            elif quick is DENIED:
                denied += 1
                answers.append(no)
            else:
                return None
        for outcome, count in ((_ALLOW, allowed), (_DENY, denied), (_NO_MATCH, len(answers) - allowed - denied)):
            self._metrics.count_outcomes(outcome, count)
        self._metrics.observe(perf_counter() - started)
        return b'{"evaluations":[%b]}' % b",".join(answers)

    def _facts(self, state: StateView, subject: WireEntity, caller: Caller) -> Facts | None:
        """Return the facts of a checked subject that is held and that the caller may ask about, or None."""
        if subject.type in GROUPING_TYPES and not caller.may_assert:
            return None
        facts = state.subjects.get(Ref(f"{subject.type}:{subject.id}"))
        if facts is None or (facts.valid_until != NEVER and facts.valid_until <= self._node.now().timestamp()):
            return None
        return facts

    def _response(self, request_id: str, revision: int, content: bytes) -> bytes:
        """Return status line, headers and body; the same headers as the ordinary way sends."""
        second = int(time())
        if second != self._second:
            self._second = second
            self._heads.forget()
            self._keys.clear()
            self._date = formatdate(second, usegmt=True).encode()
        return _RESPONSE % (len(content), revision, request_id.encode(), self._date, content)


def check_defaults(wire: WireBatch) -> None:
    """Refuse a name at the top level that cannot be part of a policy, used or not."""
    if wire.subject is not UNSET:
        check_entity(wire.subject, "/subject")
    if wire.action is not UNSET:
        check_action_name(wire.action, "/action")
    if wire.resource is not UNSET:
        check_entity(wire.resource, "/resource")


_RESPONSE = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\nKasbah-Revision: %d\r\n"
    b"X-Request-ID: %b\r\nX-Content-Type-Options: nosniff\r\nServer: kasbah\r\nCache-Control: no-store\r\n"
    b"Date: %b\r\n\r\n%b"
)


def encode_quick(quick: Quick, revision: int) -> bytes:
    """Return what `encode_decision` says of a decision of the index."""
    if quick is ALLOWED:
        return b'{"decision":true,"context":{"kasbah":{"revision":%d,"reason":"rule"}}}' % revision
    if quick is DENIED:
        return b'{"decision":false,"context":{"kasbah":{"revision":%d,"reason":"rule"}}}' % revision
    return b'{"decision":false,"context":{"kasbah":{"revision":%d,"reason":"no_match"}}}' % revision
