"""`POST /access/v1/evaluations` on the wire: defaults, items in error, and the three semantics.

A fault of the body as a whole is refused. A fault inside one item makes that item a denial with an error, so that it
can never turn into an allow, nor spoil its neighbours.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, Struct, UnsetType

from authz.decision import Decision
from authz.request import NO_PROPERTIES, Action, Entity, EvaluationRequest, Properties
from authz.rules import Effect
from service.edge_errors import EdgeError, InvalidRequestError, MissingScopeError
from service.http.authzen_wire import (
    Json,
    WireAction,
    WireEntity,
    WireOptions,
    action_of,
    check_action_name,
    check_entity,
    entity_of,
    subject_of,
    wants_explanation,
)
from service.json_body import invalid_shape, parse_json, parse_typed
from service.subject_sign_ins import ASSERTED, SignInOf, with_sign_in

MAX_ITEMS = 1000

_T = TypeVar("_T")


class Semantic(StrEnum):
    """When a batch stops."""

    EXECUTE_ALL = "execute_all"
    DENY_ON_FIRST_DENY = "deny_on_first_deny"
    PERMIT_ON_FIRST_PERMIT = "permit_on_first_permit"

    @property
    def stop(self) -> Effect | None:
        """The effect after which nothing more is evaluated."""
        return _STOPS[self]


_STOPS = {
    Semantic.EXECUTE_ALL: None,
    Semantic.DENY_ON_FIRST_DENY: Effect.DENY,
    Semantic.PERMIT_ON_FIRST_PERMIT: Effect.ALLOW,
}


class WireItem(Struct, omit_defaults=True, gc=False):
    """One question of a batch; what it leaves out comes from the top level, each entity as a whole."""

    subject: WireEntity | UnsetType = UNSET
    action: WireAction | UnsetType = UNSET
    resource: WireEntity | UnsetType = UNSET
    context: Json | UnsetType = UNSET


class WireBatch(WireItem, omit_defaults=True, gc=False):
    """A batch, all of it well-formed."""

    evaluations: list[WireItem] | UnsetType = UNSET
    options: WireOptions | UnsetType = UNSET


class _LooseBatch(WireItem, omit_defaults=True, gc=False):
    """A batch whose items are looked at one by one."""

    evaluations: list[Json] | UnsetType = UNSET
    options: WireOptions | UnsetType = UNSET


@dataclass(frozen=True, slots=True)
class ItemError:
    """An item that cannot be evaluated: a denial."""

    status: int
    message: str

    def json(self) -> Json:
        """Return the item's answer."""
        return {"decision": False, "context": {"error": {"status": self.status, "message": self.message}}}


@dataclass(frozen=True, slots=True)
class Batch:
    """What is to be evaluated. `items` is None when the body is a single question, which is then `single`."""

    items: tuple[EvaluationRequest | ItemError, ...] | None
    single: EvaluationRequest | None
    semantic: Semantic
    explain: bool

    def requests(self) -> list[EvaluationRequest]:
        """Return what must be evaluated: an error ends a batch that stops at the first denial."""
        found: list[EvaluationRequest] = []
        for item in self.items or ():
            if isinstance(item, EvaluationRequest):
                found.append(item)
            elif self.semantic is Semantic.DENY_ON_FIRST_DENY:
                break
        return found


_decoder = msgspec.json.Decoder(WireBatch)
_encoder = msgspec.json.Encoder()


def decode_batch(body: bytes, *, may_assert: bool, known: SignInOf | None = None) -> Batch:
    """Return the batch of a request body.

    Args:
        body: JSON.
        may_assert: Whether the caller holds `decision:assert`.
        known: Whose sign-in is known; an item about another subject than that of a session that came along is in error.

    Raises:
        InvalidRequestError: the body as a whole is at fault, with a JSON pointer: no object, an ill-typed default,
            `evaluations` that is no array of objects, more than 1,000 items, an unknown semantic.
        MissingScopeError: the subject at the top level is a role or group and the caller may not assert.
    """
    try:
        wire: WireBatch | _LooseBatch = parse_typed(body, _decoder, _encoder, _free_values)
    except InvalidRequestError:
        wire = _decode_loosely(body)
    semantic = _semantic_of(wire.options)
    explain = wants_explanation(wire.options)
    top = _Defaults(wire, may_assert=may_assert, known=known)
    if wire.evaluations is UNSET or not wire.evaluations:
        return Batch(None, top.question(), semantic, explain)
    if len(wire.evaluations) > MAX_ITEMS:
        raise InvalidRequestError(f"more than {MAX_ITEMS} evaluations", "/evaluations")
    items = tuple(top.item(item) for item in wire.evaluations)
    return Batch(items, None, semantic, explain)


def decode_loose_batch(body: bytes) -> WireBatch | None:
    """Return a batch whose repeated and unknown members nobody has looked for yet; None when it is no batch.

    A caller who goes through the items anyway can find out that there are none by counting: see `Decided.members`.
    """
    try:
        wire = _decoder.decode(body)
    except (ValueError, RecursionError, OverflowError, msgspec.MsgspecError):
        return None
    if wire.evaluations is UNSET or not 0 < len(wire.evaluations) <= MAX_ITEMS:
        return None
    return wire


def is_plain_batch(body: bytes) -> bool:
    """Whether a batch is well-formed, runs to its end and asks for no explanation.

    Raises `InvalidRequestError` as `decode_batch` does; names are not checked.
    """
    wire = parse_typed(body, _decoder, _encoder, _free_values)
    return wire.options is UNSET or (
        not wants_explanation(wire.options) and _semantic_of(wire.options) is Semantic.EXECUTE_ALL
    )


def asserts_a_sign_in(wire: WireBatch) -> bool:
    """Whether some subject's properties say how it signed in."""
    items = () if wire.evaluations is UNSET else wire.evaluations
    subjects = (item.subject for item in (wire, *items))
    return any(one is not UNSET and one.properties is not UNSET and ASSERTED in one.properties for one in subjects)


def merge(batch: Batch, decisions: Sequence[Decision]) -> Iterator[Decision | ItemError]:
    """Yield one outcome for each answered item, in order, and stop where the semantic says.

    Args:
        batch: What was asked.
        decisions: Answers to `batch.requests()`, which may end early after the effect that stops.
    """
    answers = iter(decisions)
    stop = batch.semantic.stop
    for item in batch.items or ():
        outcome = item if isinstance(item, ItemError) else next(answers)
        yield outcome
        if stop is not None and stop is effect_of(outcome):
            return


def effect_of(outcome: Decision | ItemError) -> Effect:
    """Return the effect; an error is a denial."""
    return outcome.effect if isinstance(outcome, Decision) else Effect.DENY


class _Defaults:
    """The top level of a batch, checked once, and the items made from it."""

    def __init__(self, wire: WireItem, *, may_assert: bool, known: SignInOf | None) -> None:
        self._may_assert = may_assert
        self._known = known
        self._subject, self._action, self._resource = self._entities_of(wire)
        self._context: Properties = NO_PROPERTIES if wire.context is UNSET else wire.context

    def question(self) -> EvaluationRequest:
        """Return the top level as one question."""
        return self._whole(self._subject, self._action, self._resource, self._context)

    def item(self, item: WireItem | Json) -> EvaluationRequest | ItemError:
        """Return one item as a question, or what is wrong with it."""
        try:
            wire = item if isinstance(item, WireItem) else _convert(item)
            return self._question_of(wire)
        except EdgeError as error:
            status = 403 if isinstance(error, MissingScopeError) else 400
            place = "" if not error.pointer else f"{error.pointer}: "
            return ItemError(status, f"{place}{error}")

    def _question_of(self, wire: WireItem) -> EvaluationRequest:
        subject, action, resource = self._entities_of(wire)
        context = self._context if wire.context is UNSET else wire.context
        return self._whole(subject or self._subject, action or self._action, resource or self._resource, context)

    def _whole(
        self, subject: Entity | None, action: Action | None, resource: Entity | None, context: Properties
    ) -> EvaluationRequest:
        question = EvaluationRequest(
            _present(subject, "subject"), _present(action, "action"), _present(resource, "resource"), context
        )
        return with_sign_in(question, self._known, may_assert=self._may_assert)

    def _entities_of(self, wire: WireItem) -> tuple[Entity | None, Action | None, Entity | None]:
        """Return what a level names, checked; None for what it leaves out."""
        subject, action, resource = None, None, None
        if wire.subject is not UNSET:
            check_entity(wire.subject, "/subject")
            subject = subject_of(wire.subject, may_assert=self._may_assert)
        if wire.action is not UNSET:
            check_action_name(wire.action, "/action")
            action = action_of(wire.action)
        if wire.resource is not UNSET:
            check_entity(wire.resource, "/resource")
            resource = entity_of(wire.resource, may_assert=self._may_assert)
        return subject, action, resource


def _present(value: _T | None, name: str) -> _T:
    if value is None:
        raise InvalidRequestError(f"`{name}` is missing", f"/{name}")
    return value


def _decode_loosely(body: bytes) -> _LooseBatch:
    """Return the batch with its items unshaped; raises for what is wrong outside the items."""
    value = parse_json(body)
    try:
        return msgspec.convert(value, _LooseBatch)
    except msgspec.ValidationError as error:
        raise invalid_shape(error, _LooseBatch) from None


def _convert(item: Json) -> WireItem:
    try:
        return msgspec.convert(item, WireItem)
    except msgspec.ValidationError as error:
        raise invalid_shape(error, WireItem) from None


def _semantic_of(options: WireOptions | UnsetType) -> Semantic:
    if options is UNSET or options.evaluations_semantic is UNSET:
        return Semantic.EXECUTE_ALL
    try:
        return Semantic(options.evaluations_semantic)
    except ValueError:
        known = ", ".join(Semantic)
        raise InvalidRequestError(f"unknown semantic: use one of {known}", "/options/evaluations_semantic") from None


def _free_values(wire: WireBatch) -> Iterator[Any]:
    yield from _free_of(wire)
    for item in () if wire.evaluations is UNSET else wire.evaluations:
        yield from _free_of(item)


def _free_of(item: WireItem) -> Iterator[Any]:
    if item.context is not UNSET:
        yield item.context
    for entity in (item.subject, item.action, item.resource):
        if entity is not UNSET and entity.properties is not UNSET:
            yield entity.properties
