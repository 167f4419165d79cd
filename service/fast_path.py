"""The fast way through aiohttp for warm decisions: parse, decide and answer inside `data_received`.

One plain, complete `POST /access/v1/evaluation` or `/evaluations` on an idle connection is answered without a request
object, a task or a future. aiohttp's own parser has read it, as it reads everything, so there is no second parser to
smuggle past. Whatever is not plain (a header out of the ordinary, a fault of any kind, a name that must be looked up)
is handed, already parsed, to the ordinary way, which alone produces refusals and errors.

This leans on internals of aiohttp's `RequestHandler`; `tests/unit/test_fast_path_internals.py` fails when they change,
and the setting `KASBAH_FAST_PATH=off` turns it off.
"""

from datetime import datetime
from email.utils import formatdate
from time import perf_counter, time
from typing import Any, Protocol

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD
from msgspec import UNSET

from authz.cross_check import Sample
from authz.decision import Reason
from authz.errors import StaleError
from authz.evaluate import Missing, StateView, evaluate_in
from authz.hierarchy import NEVER
from authz.request import NO_PROPERTIES, Ref
from authz.snapshot import ALLOWED, DENIED, NO_MATCH, UNDECIDED, Facts, Quick
from service.app import new_request_id, request_id_of
from service.callers import Caller, Callers
from service.cross_check import Sampler
from service.decision_log import Asked, DecisionLog
from service.edge_errors import EdgeError
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
from service.keys import CALLERS, DECISION_LOG, HTTP_SETTINGS, METRICS, NODE, SAMPLER
from service.metrics import OUTCOMES, Metrics, outcome_of
from service.recording import ignored_of
from service.server import DeadlineHandler
from tenancy.ids import TenantId, TenantStatus

PREFIX = b"POST /access/v1/evaluation"
EVALUATION = "/access/v1/evaluation"
EVALUATIONS = "/access/v1/evaluations"
MAX_REVISION_DIGITS = 18

_ALLOW = OUTCOMES.index(("allow", Reason.RULE.value))
_DENY = OUTCOMES.index(("deny", Reason.RULE.value))
_NO_MATCH = OUTCOMES.index(("deny", Reason.NO_MATCH.value))

_AUTHORIZATION, _CONTENT_TYPE, _REQUEST_ID, _TENANT, _MIN_REVISION, _HOST, _NOT_PLAIN = range(7)
_HEADERS = {
    b"authorization": _AUTHORIZATION,
    b"content-type": _CONTENT_TYPE,
    b"x-request-id": _REQUEST_ID,
    b"x-tenant-id": _TENANT,
    b"kasbah-min-revision": _MIN_REVISION,
    b"host": _HOST,
    b"content-encoding": _NOT_PLAIN,
    b"expect": _NOT_PLAIN,
    b"transfer-encoding": _NOT_PLAIN,
    b"upgrade": _NOT_PLAIN,
}
"""Headers that mean something to a decision, in lower case."""

_OTHER = -1
_MAX_SPELLINGS = 256
_spellings: dict[bytes, int] = {}
"""What each spelling of a header's name is; clients use few, and a look-up is cheaper than lowering every name."""


def _kind_of(name: bytes) -> int:
    kind = _HEADERS.get(name.lower(), _OTHER)
    if len(_spellings) < _MAX_SPELLINGS:
        _spellings[name] = kind
    return kind


class WarmNode(Protocol):
    """What of the node answers without waiting."""

    def warm(self, tenant_id: TenantId) -> StateView | None:
        """Return the confirmed state, or None."""

    def now(self) -> datetime:
        """Return the node's time."""


Plain = tuple[bytes, str | None, str | None, int, int]
"""Token, given request id, named tenant, demanded revision, number of headers; a tuple, for speed."""

Admitted = tuple[Caller, StateView]

MAX_REMEMBERED = 512


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
        self._base_domain = base_domain
        self.answered = 0
        """Requests answered this way, for metrics and tests."""
        self._second = 0
        self._date = b""
        self._singles = metrics.request_cell(EVALUATION, 200)
        self._batches = metrics.request_cell(EVALUATIONS, 200)
        self._plain_heads: dict[bytes, Plain] = {}
        self._moment = 0.0
        self._admitted: dict[bytes, Admitted] = {}

    def answer(self, message: RawRequestMessage, body: bytes, moment: float, whole: bytes = b"") -> bytes | None:
        """Return the whole HTTP response, or None when the request must take the ordinary way.

        Args:
            message: What the parser made of the request's head.
            body: The request's body.
            moment: The loop's time, which stands still within one turn of the loop.
            whole: The bytes of the request, if all of them are known, from the first on.
        """
        started = perf_counter()
        # A client that keeps its connection sends the same head again and again. What was read from a head holds for
        # the same bytes, since one parser read them; heads are kept for a second at most, for they hold keys.
        head = whole[: whole.find(b"\r\n\r\n")]
        plain = self._plain_heads.get(head)
        # SECURITY: behind the beginning of a head that came before, the same bytes mean another: one header more.
        if plain is None or plain[4] != len(message.raw_headers):
            plain = self._plain(message)
            if plain is None:
                return None
            if head and plain[1] is None and len(self._plain_heads) < MAX_REMEMBERED:
                self._plain_heads[head] = plain
        token, request_id, tenant, min_revision, _ = plain
        admitted = self._admitted.get(token) if moment == self._moment else None
        if admitted is None:
            admitted = self._admit(token, moment)
            if admitted is None:
                return None
        caller, state = admitted
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

    def _admit(self, token: bytes, moment: float) -> Admitted | None:
        """Return who calls and the state of its tenant; within one turn of the loop neither can change."""
        caller = self._callers.warm(token.decode("latin-1"))
        if caller is None or not caller.may_check or caller.tenant_id is None:
            return None
        state = self._node.warm(caller.tenant_id)
        if state is None or state.head.status is not TenantStatus.ACTIVE:
            return None
        if moment != self._moment:
            self._moment = moment
            self._admitted.clear()
        admitted = self._admitted[token] = (caller, state)
        return admitted

    def _plain(self, message: RawRequestMessage) -> Plain | None:
        token: bytes | None = None
        request_id: bytes | None = None
        tenant: bytes | None = None
        min_revision = b"0"
        typed = False
        seen = 0
        for name, value in message.raw_headers:
            kind = _spellings.get(name)
            if kind is None:
                kind = _kind_of(name)
            if kind == _OTHER:
                continue
            # A header that is repeated is for the ordinary way to judge.
            if seen & (1 << kind):
                return None
            seen |= 1 << kind
            if kind == _AUTHORIZATION:
                if not value.startswith(b"Bearer "):
                    return None
                token = value[7:]
            elif kind == _CONTENT_TYPE:
                typed = value == b"application/json"
            elif kind == _REQUEST_ID:
                request_id = value
            elif kind == _TENANT:
                tenant = value
            elif kind == _MIN_REVISION:
                min_revision = value
            elif kind == _HOST:
                if self._base_domain is not None:
                    return None
            else:
                return None
        if token is None or not typed or not min_revision.isdigit() or len(min_revision) > MAX_REVISION_DIGITS:
            return None
        identifier = None if request_id is None else request_id_of([request_id.decode("latin-1")])
        named = None if tenant is None else tenant.decode("latin-1")
        return token, identifier, named, int(min_revision), len(message.raw_headers)

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
            self._plain_heads.clear()
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


class _Replay:
    """Stands in for the parser for one call: gives what it has already made of the bytes."""

    __slots__ = ("_outcome", "_parser")

    def __init__(self, parser: Any, outcome: Any) -> None:
        self._parser = parser
        self._outcome = outcome

    def feed_data(self, _data: bytes) -> Any:
        if isinstance(self._outcome, HttpProcessingError):
            raise self._outcome
        return self._outcome

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parser, name)


class FastHandler(DeadlineHandler):
    """aiohttp's connection with the fast way in front."""

    __slots__ = ()

    fast_path: FastPath

    @classmethod
    def bound_to(cls, app: web.Application) -> type[DeadlineHandler]:
        """Return the class for connections to `app`: it answers from that application's parts."""
        path = FastPath(
            app[NODE],
            app[CALLERS],
            metrics=app[METRICS],
            log=app[DECISION_LOG],
            sampler=app[SAMPLER],
            base_domain=app[HTTP_SETTINGS].base_domain,
        )
        return type(cls.__name__, (cls,), {"fast_path": path, "__slots__": ()})

    def data_received(self, data: bytes) -> None:
        """Answer one plain, complete decision request on an idle connection; hand on everything else."""
        waiter = self._waiter
        if (
            not data.startswith(PREFIX)
            or waiter is None
            or waiter.done()
            or self._messages
            or self._payload_parser is not None
            or self._upgraded
            or self._force_close
            or self._close
            or self._paused  # the peer does not read: the ordinary way waits until it does
        ):
            super().data_received(data)
            return
        parser: Any = self._parser
        outcome: Any
        try:
            outcome = parser.feed_data(data)
        except HttpProcessingError as error:
            outcome = error
        else:
            moment = self._loop.time()
            answer = self._answer(outcome, moment, b"" if self.incomplete_since else data)
            if answer is not None:
                parser.message_consumed()
                self._request_count += 1
                self.incomplete_since = 0.0
                self._next_keepalive_close_time = moment + self._keepalive_timeout
                self.transport.write(answer)  # type: ignore[union-attr]  # it has just given us data
                return
        self._parser = _Replay(parser, outcome)  # type: ignore[assignment]
        try:
            super().data_received(data)
        finally:
            self._parser = parser

    def _answer(self, outcome: Any, moment: float, whole: bytes) -> bytes | None:
        messages, upgraded, tail = outcome
        if len(messages) != 1 or upgraded or tail:
            return None
        message, payload = messages[0]
        # INVARIANT: the body is only looked at, so that the ordinary way can still read it.
        if (
            payload is EMPTY_PAYLOAD
            or message.method != "POST"
            or not payload.is_eof()
            or message.should_close
            or message.chunked
            or message.compression
        ):
            return None
        chunks = payload._buffer  # noqa: SLF001  # see the module's docstring
        if len(chunks) != 1 or self._reading_paused:
            return None
        return self.fast_path.answer(message, chunks[0], moment, whole)
