"""What is asked: AuthZEN's subject, action, resource and context.

Source: OpenID AuthZEN Authorization API 1.0, section 5 (information model).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any, NewType

Ref = NewType("Ref", str)
"""`type:id`, for example `user:alice`; what Casbin's columns hold."""

Properties = Mapping[str, Any]
"""JSON object: str, int, float, bool, None, list and dict values only."""

NO_PROPERTIES: Properties = MappingProxyType({})

TYPE_PATTERN = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*\Z")
CONTROL_PATTERN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
MAX_REF_LENGTH = 2048


@dataclass(frozen=True, slots=True)
class Entity:
    """A subject or a resource. Equal types and ids make one entity, code point by code point."""

    type: str
    id: str
    properties: Properties = field(default_factory=dict, compare=False)

    @property
    def ref(self) -> Ref:
        """`type:id`; the first colon ends the type, so the mapping is one to one."""
        return f"{self.type}:{self.id}"  # type: ignore[return-value]  # calling `Ref` costs as much again


@dataclass(frozen=True, slots=True)
class Action:
    """An action: its name, and properties that are the caller's by nature."""

    name: str
    properties: Properties = field(default_factory=dict, compare=False)


AAL1 = "aal1"
AAL2 = "aal2"
ACR_VALUES = (AAL1, AAL2)
"""Levels of authentication, weakest first (NIST SP 800-63B-4 section 2): one factor, two."""


@dataclass(frozen=True, slots=True)
class Auth:
    """How the subject of a question proved who it is: OpenID Connect's `acr`, `amr` and `auth_time`.

    What is None is not known. `asserted`: a caller that may assert says so; else it is a session of Kasbah's own.
    """

    acr: str | None = None
    amr: tuple[str, ...] | None = None
    time: datetime | None = None
    asserted: bool = field(default=False, compare=False)

    @property
    def is_weak(self) -> bool:
        """Whether two factors were not proven, as far as is known."""
        return self.acr != AAL2


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """One question: may `subject` do `action` on `resource`, in `context`?

    The properties of subject and resource are those that the caller asserted *and may assert*
    (scope `decision:assert`); the edge removes the others before it builds this value. `auth` is how the subject signed
    in, from where that is known; None asks about the subject however it would.
    """

    subject: Entity
    action: Action
    resource: Entity
    context: Properties = field(default_factory=dict, compare=False)
    auth: Auth | None = None


class InvalidNameError(ValueError):
    """A type, id or action that cannot be part of a policy or of a question."""


def parse_ref(text: str) -> Entity:
    """Return the entity that `type:id` names.

    Raises:
        InvalidNameError: no colon, a type outside `[A-Za-z][A-Za-z0-9_.-]*`, an empty id, a control
            character, or more than 2,048 characters.
    """
    kind, colon, identifier = text.partition(":")
    if not text:
        raise InvalidNameError("a name is empty")
    if not colon:
        raise InvalidNameError(f"`{text}` has no type: a name is `type:id`, as in `user:alice`")
    check_type(kind)
    check_id(identifier)
    return Entity(kind, identifier)


def check_type(kind: str) -> None:
    """Raise `InvalidNameError` unless `kind` matches `[A-Za-z][A-Za-z0-9_.-]*`."""
    if TYPE_PATTERN.match(kind) is None or len(kind) > MAX_REF_LENGTH:
        raise InvalidNameError(f"`{kind}` is not a type: a letter, then letters, digits, `_`, `.` or `-`")


def check_id(identifier: str) -> None:
    """Raise `InvalidNameError` for an empty id, one with a control character, or one too long."""
    if not identifier:
        raise InvalidNameError("an id is empty")
    if len(identifier) > MAX_REF_LENGTH:
        raise InvalidNameError(f"an id is longer than {MAX_REF_LENGTH} characters")
    if CONTROL_PATTERN.search(identifier) is not None:
        raise InvalidNameError("an id holds a control character")


def check_action(name: str) -> None:
    """Raise `InvalidNameError` for an empty action name, one with a control character, or one too long."""
    if not name or len(name) > MAX_REF_LENGTH or CONTROL_PATTERN.search(name) is not None:
        raise InvalidNameError("an action name is empty, too long or holds a control character")
