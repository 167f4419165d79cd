"""AuthZEN on the wire: bytes to questions, decisions to bytes. Synchronous, and without aiohttp.

Unknown members are ignored, as the standard asks (Authorization API 1.0, section 10.1.1). Besides the standard's
members, `options.explain` asks for determining rules and an explanation.
"""

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from authz.decision import Decision, StepUp
from authz.request import (
    MAX_REF_LENGTH,
    NO_PROPERTIES,
    Action,
    Entity,
    EvaluationRequest,
    InvalidNameError,
    check_action,
    check_id,
    check_type,
)
from authz.served_names import ROLE_TYPES
from authz.snapshot import ALLOWED, DENIED, Quick
from service.edge_errors import InvalidRequestError, MissingScopeError
from service.json_body import parse_typed

GROUPING_TYPES = frozenset(ROLE_TYPES)
"""Subjects of these types are asked about only with the scope `decision:assert`."""

Json = dict[str, Any]

_encoder = msgspec.json.Encoder()
BARE_MEMBERS = 8
"""Members of a question of nothing but types, ids and a name: each has one structural colon."""
_MAX_KNOWN_TYPES = 256
known_types: set[str] = set()
"""Types that were found good before."""


class WireEntity(Struct, omit_defaults=True, gc=False):
    """A subject or resource."""

    type: str
    id: str
    properties: Json | UnsetType = UNSET


class WireKind(Struct, omit_defaults=True, gc=False):
    """The entity that a search looks for: its `id` is ignored when present."""

    type: str
    properties: Json | UnsetType = UNSET


class WireAction(Struct, omit_defaults=True, gc=False):
    """An action."""

    name: str
    properties: Json | UnsetType = UNSET


class WireOptions(Struct, omit_defaults=True, gc=False):
    """How a request is to be executed."""

    evaluations_semantic: str | UnsetType = UNSET
    explain: bool | UnsetType = UNSET


class WireEvaluation(Struct, omit_defaults=True, gc=False):
    """One question."""

    subject: WireEntity
    action: WireAction
    resource: WireEntity
    context: Json | UnsetType = UNSET
    options: WireOptions | UnsetType = UNSET


_evaluation_decoder = msgspec.json.Decoder(WireEvaluation)


def decode_evaluation(body: bytes) -> WireEvaluation:
    """Return the question of `POST /access/v1/evaluation`, its names checked.

    Raises:
        InvalidRequestError: with a JSON pointer, for whatever is missing, ill-typed, repeated or no name.
    """
    wire = decode_bare(body)
    if wire is None:
        wire = parse_typed(body, _evaluation_decoder, _encoder, _free_values)
    check_names(wire)
    return wire


def decode_bare(body: bytes) -> WireEvaluation | None:
    """Return a question of nothing but types, ids and a name, its names not checked yet; None for any other.

    All eight members are required. One more, known, unknown or repeated, would bring a ninth structural colon. Colons
    in values are told apart by counting them; escapes, behind which one could hide, are left to `parse_typed`.
    """
    try:
        wire = _evaluation_decoder.decode(body)
    except (ValueError, RecursionError, OverflowError, msgspec.MsgspecError):
        return None
    count = body.count(b":")
    if count == BARE_MEMBERS:
        return wire
    if b"\\" in body:
        return None
    subject, action, resource = wire.subject, wire.action, wire.resource
    texts = (subject.type, subject.id, action.name, resource.type, resource.id)
    return wire if count == BARE_MEMBERS + sum([text.count(":") for text in texts]) else None


def _free_values(wire: WireEvaluation) -> Iterator[Any]:
    yield wire.context
    yield wire.subject.properties
    yield wire.action.properties
    yield wire.resource.properties


def request_of(wire: WireEvaluation, *, may_assert: bool) -> EvaluationRequest:
    """Return the question as the decision point takes it.

    Args:
        wire: As decoded.
        may_assert: Whether the caller holds `decision:assert`. Without it the properties of subject and resource are
            left out, so that no caller can promote a subject.

    Raises:
        MissingScopeError: the subject is a role or group and the caller may not assert.
    """
    return EvaluationRequest(
        subject_of(wire.subject, may_assert=may_assert),
        action_of(wire.action),
        entity_of(wire.resource, may_assert=may_assert),
        NO_PROPERTIES if wire.context is UNSET else wire.context,
    )


def subject_of(wire: WireEntity, *, may_assert: bool) -> Entity:
    """Return a subject; raises `MissingScopeError` as `request_of` does."""
    if not may_assert:
        check_may_ask_about(wire.type)
    return entity_of(wire, may_assert=may_assert)


def check_may_ask_about(kind: str) -> None:
    """Refuse a subject type that only callers with `decision:assert` may ask about."""
    if kind in GROUPING_TYPES:
        raise MissingScopeError(f"a subject of type `{kind}` needs the scope `decision:assert`")


def entity_of(wire: WireEntity, *, may_assert: bool) -> Entity:
    """Return a subject or resource, with its properties when they count."""
    if may_assert and wire.properties is not UNSET:
        return Entity(wire.type, wire.id, wire.properties)
    return Entity(wire.type, wire.id)


def action_of(wire: WireAction) -> Action:
    """Return an action; its properties are the caller's by nature."""
    return Action(wire.name) if wire.properties is UNSET else Action(wire.name, wire.properties)


def wants_explanation(options: WireOptions | UnsetType) -> bool:
    """Whether `options.explain` is true."""
    return options is not UNSET and options.explain is True


def check_entity(wire: WireEntity, pointer: str) -> None:
    """Refuse a type or id that cannot be part of a policy."""
    check_type_name(wire.type, pointer)
    identifier = wire.id
    # Printable text has no control characters; the rest is looked at closely.
    if identifier and len(identifier) <= MAX_REF_LENGTH and identifier.isprintable():
        return
    try:
        check_id(identifier)
    except InvalidNameError as error:
        raise InvalidRequestError(str(error), f"{pointer}/id") from None


def check_names(wire: WireEvaluation) -> None:
    """Refuse what cannot be part of a policy, as `check_entity` and `check_action_name` do, at a lower cost."""
    subject, resource = wire.subject, wire.resource
    sub, name, obj = subject.id, wire.action.name, resource.id
    if not (
        subject.type in known_types
        and resource.type in known_types
        and sub
        and name
        and obj
        and len(sub) <= MAX_REF_LENGTH
        and len(name) <= MAX_REF_LENGTH
        and len(obj) <= MAX_REF_LENGTH
        and sub.isprintable()
        and name.isprintable()
        and obj.isprintable()
    ):
        check_entity(subject, "/subject")
        check_action_name(wire.action, "/action")
        check_entity(resource, "/resource")


def check_type_name(kind: str, pointer: str) -> None:
    """Refuse a type that does not match `[A-Za-z][A-Za-z0-9_.-]*`."""
    if kind in known_types:
        return
    try:
        check_type(kind)
    except InvalidNameError as error:
        raise InvalidRequestError(str(error), f"{pointer}/type") from None
    if len(known_types) < _MAX_KNOWN_TYPES:
        known_types.add(kind)


def check_action_name(wire: WireAction, pointer: str) -> None:
    """Refuse an action name that cannot be part of a policy."""
    name = wire.name
    if name and len(name) <= MAX_REF_LENGTH and name.isprintable():
        return
    try:
        check_action(name)
    except InvalidNameError as error:
        raise InvalidRequestError(str(error), f"{pointer}/name") from None


def encode_decision(decision: Decision) -> bytes:
    """Return the answer to one question, without explanation: `reason` and `revision` are from closed sets."""
    if decision.step_up is not None:
        return _encoder.encode(decision_json(decision))
    word = b"true" if decision.allowed else b"false"
    return b'{"decision":%b,"context":{"kasbah":{"revision":%d,"reason":"%b"}}}' % (
        word,
        decision.revision,
        decision.reason.encode(),
    )


def decision_json(decision: Decision) -> Json:
    """Return what `encode_decision` says, as a value that more can be added to."""
    kasbah: Json = {"revision": decision.revision, "reason": decision.reason.value}
    if decision.step_up is not None:
        kasbah["step_up"] = step_up_json(decision.step_up)
    return {"decision": decision.allowed, "context": {"kasbah": kasbah}}


def step_up_json(step_up: StepUp) -> Json:
    """Return which sign-in turns a deny; what makes no difference is left out."""
    told: Json = {"acr_values": list(step_up.acr_values)}
    if step_up.max_age is not None:
        told["max_age"] = step_up.max_age
    if step_up.amr_values:
        told["amr_values"] = list(step_up.amr_values)
    return told


def encode_quick(quick: Quick, revision: int) -> bytes:
    """Return what `encode_decision` says of a decision of the index."""
    if quick is ALLOWED:
        return b'{"decision":true,"context":{"kasbah":{"revision":%d,"reason":"rule"}}}' % revision
    if quick is DENIED:
        return b'{"decision":false,"context":{"kasbah":{"revision":%d,"reason":"rule"}}}' % revision
    return b'{"decision":false,"context":{"kasbah":{"revision":%d,"reason":"no_match"}}}' % revision
