"""What the fast way answers: plain, warm decision requests, from their head and body to the bytes of the answer.

Synchronous, without a request object, a task or a future. Whatever is not plain (a header out of the ordinary, a fault
of any kind, a name that must be looked up) is left to the ordinary way, which alone produces refusals and errors.
"""

from collections.abc import Mapping
from datetime import datetime
from email.utils import formatdate
from time import time
from typing import Any, Protocol

import structlog
from msgspec import UNSET

from authz.condition_cost import Allowance
from authz.cross_check import Sample
from authz.decision import Reason
from authz.errors import StaleError
from authz.evaluate import Missing, StateView, evaluate_in
from authz.hierarchy import NEVER
from authz.request import NO_PROPERTIES, Ref
from authz.snapshot import ALLOWED, DENIED, UNDECIDED, Facts, Quick
from authz.tracked import Changes
from service.answer_headers import CLOSED
from service.app import new_request_id
from service.caller import Caller
from service.callers import Callers
from service.cross_check import Sampler
from service.decision_log import Asked, DecisionLog
from service.edge_errors import EdgeError
from service.fast_batch import decide_items
from service.fast_callers import judged_at_once
from service.fast_heads import PlainHead, PlainHeads
from service.http.authzen_batch import asserts_a_sign_in, decode_loose_batch, is_plain_batch
from service.http.authzen_wire import (
    GROUPING_TYPES,
    WireEntity,
    WireEvaluation,
    decode_evaluation,
    encode_decision,
    encode_quick,
    request_of,
    wants_explanation,
)
from service.metrics import OUTCOMES, Metrics, outcome_of
from service.recording import ignored_of
from service.subject_sign_ins import ASSERTED
from tenancy.ids import TenantId, TenantStatus

EVALUATION = "/access/v1/evaluation"
EVALUATIONS = "/access/v1/evaluations"
PATHS = frozenset({EVALUATION, EVALUATIONS})

_log = structlog.get_logger()

_ALLOW = OUTCOMES.index(("allow", Reason.RULE.value))
_DENY = OUTCOMES.index(("deny", Reason.RULE.value))
_NO_MATCH = OUTCOMES.index(("deny", Reason.NO_MATCH.value))

_NOT_HELD = float("-inf")


class WarmNode(Protocol):
    """What of the node answers without waiting."""

    changes: Changes
    """Counts every change of what the node holds."""

    def elapsed(self) -> float:
        """Return monotonic seconds."""

    def warm(self, tenant_id: TenantId) -> StateView | None:
        """Return the confirmed state, or None."""

    def warm_until(self, tenant_id: TenantId) -> float:
        """Return until when, by `elapsed`, `warm` holds if `changes` stands still."""

    def recall(self, state: Any, subject: Ref) -> Facts | None:
        """Return facts that can be made from what a warm state keeps, or None."""

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
        closed: Mapping[str, str] = CLOSED,
    ) -> None:
        self._response_form = _RESPONSE.replace(b"<closed>", _lines(closed))
        self._node = node
        self._changes = node.changes
        self._elapsed = node.elapsed
        self._callers = callers
        self._metrics = metrics
        self._log = log
        self._sampler = sampler
        self.heads = PlainHeads(hosts=base_domain is None)
        self.answered = 0
        """Requests answered this way, for metrics and tests."""
        self._second_ends = _NOT_HELD
        self._date = b""
        self._singles = metrics.request_cell(EVALUATION, 200)
        self._batches = metrics.request_cell(EVALUATIONS, 200)

    def answer(self, head: PlainHead, request_id: str | None, body: bytes) -> bytes | None:
        """Return the whole HTTP response, or None when the request must take the ordinary way.

        Args:
            head: What the request's head says.
            request_id: As the caller gave it.
            body: The request's body.
        """
        started = self._elapsed()
        if started >= self._second_ends:
            self._begin_second(started, head)
        # SECURITY: who calls and what is held is asked anew as soon as anything changed, so that a revocation that was
        # acknowledged counts for the next request. A clock would not do: uvloop's stands still for a millisecond.
        if (head.changes != self._changes.count or started > head.holds_until) and not self.knows(head):
            return None
        rate = head.rate
        if rate is not None and not rate.has_room():
            return None
        try:
            if head.path == EVALUATION:
                answer = self._evaluation(body, head, request_id or new_request_id(), started)
                counted = self._singles
            else:
                answer = self._evaluations(body, head, request_id or new_request_id(), started)
                counted = self._batches
        except (EdgeError, StaleError):
            # The ordinary way finds the same fault again, and says it.
            return None
        except Exception:  # noqa: BLE001  # the last resort: whatever it is, the ordinary way makes a problem of it
            _log.exception("fast_path.failed")
            return None
        if answer is not None:
            if rate is not None:
                rate.take()
            self._callers.hits += 1
            self.answered += 1
            counted[0] += 1
        return answer

    def knows(self, head: PlainHead) -> bool:
        """Note in `head` who calls, what the node holds for them, and how long that is known to stay so; if it does."""
        remembered = self._callers.remembered(head.token.decode("latin-1"))
        if remembered is None or not self._callers.holds(remembered):
            return False
        caller = remembered.caller
        tenant_id = caller.tenant_id
        if tenant_id is None or head.tenant not in {None, caller.slug}:
            return False
        state = self._node.warm(tenant_id)
        if state is None or state.head.status is not TenantStatus.ACTIVE or state.head.revision < head.min_revision:
            return False
        owner = caller.owner
        if owner is not None:
            facts = state.subjects.get(owner) or self._node.recall(state, owner)
            judged = judged_at_once(caller, facts, state.snapshot)
            if judged is None:
                return False
            caller = judged
        if not caller.may_check:
            return False
        head.caller, head.state = caller, state
        head.rate = None if caller.limit is None else self._callers.rate_of(caller)
        # Each second at least, heads are forgotten, so a use is not missed.
        self._callers.uses.note(remembered.home, caller.key_id)
        head.frames = [None] * len(OUTCOMES)
        head.changes = self._changes.count
        # A key's expiry is judged by the database's clock, which no promise can be made about.
        head.holds_until = _NOT_HELD if remembered.expires_at is not None else self._node.warm_until(tenant_id)
        return True

    def _begin_second(self, now: float, head: PlainHead) -> None:
        second, fraction = divmod(time(), 1.0)
        self._second_ends = now + 1.0 - fraction
        self._date = formatdate(second, usegmt=True).encode()
        self.heads.forget()
        head.changes = -1

    def _evaluation(self, body: bytes, head: PlainHead, request_id: str, started: float) -> bytes | None:
        wire = decode_evaluation(body)
        if wire.options is not UNSET and wants_explanation(wire.options):
            return None
        # A sign-in may make roles inactive, which the index does not know.
        if wire.subject.properties is not UNSET and ASSERTED in wire.subject.properties:
            return None
        state = head.state
        facts = self._facts(state, wire.subject, head.caller)
        if facts is None:
            return None
        resource = wire.resource
        quick = state.snapshot.decide(facts.names, f"{resource.type}:{resource.id}", wire.action.name)
        if quick is UNDECIDED or self._log.enabled:
            return self._evaluated(wire, head, facts, request_id, started)
        if quick is ALLOWED:
            outcome = _ALLOW
        elif quick is DENIED:
            outcome = _DENY
        elif facts.barred is None:
            outcome = _NO_MATCH
        else:
            return self._evaluated(wire, head, facts, request_id, started)
        self._metrics.count_decision(outcome, self._elapsed() - started)
        if started >= self._sampler.due:
            self._sampler.offer(self._sample(state, wire, allowed=quick is ALLOWED), started)
        frame = head.frames[outcome] or self._frame(head, outcome, quick)
        return b"%b%b%b" % (frame[0], request_id.encode(), frame[1])

    def _frame(self, head: PlainHead, outcome: int, quick: Quick) -> tuple[bytes, bytes]:
        """Return what is before and behind the request's id in an answer of the index, and keep it for a second."""
        revision = head.state.head.revision
        before, _, after = self._response("\0", revision, encode_quick(quick, revision)).partition(b"\0")
        frame = head.frames[outcome] = (before, after)
        return frame

    def _evaluated(
        self, wire: WireEvaluation, head: PlainHead, facts: Facts, request_id: str, started: float
    ) -> bytes | None:
        """Answer a question that the index alone does not decide, or that is to be logged."""
        caller, state = head.caller, head.state
        request = request_of(wire, may_assert=caller.may_assert)
        now = self._node.now()
        decision = evaluate_in(state, request, now=now, looking=Allowance())
        if isinstance(decision, Missing):
            return None
        self._metrics.count_decision(outcome_of(decision), self._elapsed() - started)
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
        return self._response(request_id, state.head.revision, encode_decision(decision))

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

    def _evaluations(self, body: bytes, head: PlainHead, request_id: str, started: float) -> bytes | None:
        """Answer a batch whose every item the index decides."""
        if self._log.enabled:
            return None
        wire = decode_loose_batch(body)
        if wire is None:
            return None
        state = head.state
        decided = decide_items(wire, state, lambda subject: self._facts(state, subject, head.caller))
        # As in `decode_bare`: a member more, of whatever kind, would be a colon more.
        if decided is None:
            return None
        if body.count(b":") != decided.members and (not is_plain_batch(body) or asserts_a_sign_in(wire)):
            return None
        self._metrics.count_outcomes(_ALLOW, decided.allowed)
        self._metrics.count_outcomes(_DENY, decided.denied)
        self._metrics.count_outcomes(_NO_MATCH, decided.no_match)
        self._metrics.observe(self._elapsed() - started)
        return self._response(request_id, state.head.revision, decided.content)

    def _facts(self, state: StateView, subject: WireEntity, caller: Caller) -> Facts | None:
        """Return the facts of a checked subject that is held and that the caller may ask about, or None."""
        if subject.type in GROUPING_TYPES and not caller.may_assert:
            return None
        ref: Any = f"{subject.type}:{subject.id}"
        facts = state.subjects.get(ref)
        if facts is None or (facts.valid_until != NEVER and facts.valid_until <= self._node.now().timestamp()):
            return self._node.recall(state, ref)
        return facts

    def _response(self, request_id: str, revision: int, content: bytes) -> bytes:
        """Return status line, headers and body; the same headers as the ordinary way sends."""
        return self._response_form % (len(content), revision, request_id.encode(), self._date, content)


_RESPONSE = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\nKasbah-Revision: %d\r\n"
    b"X-Request-ID: %b\r\n<closed>Date: %b\r\n\r\n%b"
)


def _lines(headers: Mapping[str, str]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).replace("%", "%%").encode("ascii")
