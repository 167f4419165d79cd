"""What the index alone decides of a batch: each item once around a loop, and nothing else done for it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from msgspec import UNSET

from authz.evaluate import StateView
from authz.hierarchy import NEVER
from authz.snapshot import ALLOWED, DENIED, NO_MATCH, Facts
from service.http.authzen_batch import WireBatch
from service.http.authzen_wire import (
    GROUPING_TYPES,
    WireEntity,
    check_action_name,
    check_entity,
    encode_quick,
    known_types,
)

_ENTITY_MEMBERS = 3
_ACTION_MEMBERS = 2
"""Members of the JSON text that a bare entity and a bare action bring, their own names included."""

_MAX_KNOWN_ACTIONS = 256
_known_actions: set[str] = set()


@dataclass(frozen=True, slots=True)
class Decided:
    """The answers to all items."""

    content: bytes
    """The response's body."""
    allowed: int
    denied: int
    no_match: int
    members: int
    """How many members the request has if it has none but `evaluations`, types, ids and names."""


def decide_items(wire: WireBatch, state: StateView, facts_of: Callable[[WireEntity], Facts | None]) -> Decided | None:
    """Answer every item, or return None when the index alone cannot.

    Args:
        wire: At least one item; repeated and unknown members may not have been looked for.
        state: Held, and confirmed.
        facts_of: Gives the facts of a checked subject that the caller may ask about, or None.

    Raises:
        InvalidRequestError: a name that cannot be part of a policy, used or not.
    """
    default = _defaults(wire, facts_of)
    if default is None:
        return None
    members = default.members
    held: Any = state.subjects
    decide = state.snapshot.decide
    revision = state.head.revision
    yes, no, none = (encode_quick(quick, revision) for quick in (ALLOWED, DENIED, NO_MATCH))
    answers: list[bytes] = []
    answered = answers.append
    allowed = denied = 0
    for item in wire.evaluations:  # type: ignore[union-attr]  # there is one
        subject, action, resource = item.subject, item.action, item.resource
        if subject is UNSET:
            facts = default.facts
        else:
            members += _ENTITY_MEMBERS
            kind = subject.type
            facts = held.get(f"{kind}:{subject.id}") if kind in known_types and kind not in GROUPING_TYPES else None
            # A name that is held has been checked; one without a known type is not looked up like this.
            if facts is None or facts.valid_until != NEVER:
                check_entity(subject, "")
                facts = facts_of(subject)
        if action is UNSET:
            name = default.action
        else:
            members += _ACTION_MEMBERS
            name = action.name
            if name not in _known_actions:
                check_action_name(action, "")
                if len(_known_actions) < _MAX_KNOWN_ACTIONS:
                    _known_actions.add(name)
        if resource is UNSET:
            ref = default.resource
        else:
            members += _ENTITY_MEMBERS
            check_entity(resource, "")
            ref = f"{resource.type}:{resource.id}"
        if facts is None or name is None or ref is None:
            return None
        quick = decide(facts.names, ref, name)
        if quick is ALLOWED:
            allowed += 1
            answered(yes)
        elif quick is NO_MATCH and facts.barred is None:
            answered(none)
        elif quick is DENIED:
            denied += 1
            answered(no)
        else:
            return None
    content = b'{"evaluations":[%b]}' % b",".join(answers)
    return Decided(content, allowed, denied, len(answers) - allowed - denied, members)


@dataclass(frozen=True, slots=True)
class _Defaults:
    facts: Facts | None
    action: str | None
    resource: str | None
    members: int


def _defaults(wire: WireBatch, facts_of: Callable[[WireEntity], Facts | None]) -> _Defaults | None:
    """Check the top level as a whole: what may not be asked about there is refused, used or not; None leaves it so."""
    facts, action, resource, members = None, None, None, 1
    if wire.subject is not UNSET:
        check_entity(wire.subject, "/subject")
        facts = facts_of(wire.subject)
        if facts is None:
            return None
        members += _ENTITY_MEMBERS
    if wire.action is not UNSET:
        check_action_name(wire.action, "/action")
        action = wire.action.name
        members += _ACTION_MEMBERS
    if wire.resource is not UNSET:
        check_entity(wire.resource, "/resource")
        resource = f"{wire.resource.type}:{wire.resource.id}"
        members += _ENTITY_MEMBERS
    return _Defaults(facts, action, resource, members)
