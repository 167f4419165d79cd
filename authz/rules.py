"""What a policy says: rules, role links and stored attributes, typed and with their provenance.

A tenant's `dom` column is implied: the rows of a tenant carry its slug, those of the base carry `*`.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, NewType

from authz.request import Ref

RuleId = NewType("RuleId", str)
"""32 hex digits: the same row has the same id on every node, in every revision."""

BASE_DOMAIN = "*"
"""`dom` of a row that every tenant inherits; only the platform writes it."""

BASE_SLUG = "_base"

MAX_PRIORITY = 2**31 - 1
"""Largest priority of a rule; 0 is the smallest, and is looked at first."""


class Effect(StrEnum):
    """What a rule says (Casbin's `eft`)."""

    ALLOW = "allow"
    DENY = "deny"


class Owner(StrEnum):
    """Who may change a row: the policy files (through `apply`) or the admin API."""

    FILES = "files"
    API = "api"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a file-owned row stands: path relative to its policy directory, and line from 1."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Rule:
    """A `p` row of a served model.

    `subject` and `resource` are a ref, or a pattern whose `*` stands last (`user:*`, `*`); `action` is a name or `*`.
    """

    subject: str
    resource: str
    action: str
    effect: Effect = Effect.ALLOW
    condition: str | None = None
    priority: int | None = None
    base: bool = False
    owner: Owner = Owner.FILES
    source: Source | None = None

    @property
    def key(self) -> tuple[str, ...]:
        """What makes two rows the same rule, whoever owns them."""
        priority = "" if self.priority is None else str(self.priority)
        return ("p", self.subject, self.resource, self.action, self.effect.value, self.condition or "", priority)

    @property
    def id(self) -> RuleId:
        """Identity of the row inside its tenant (or the base)."""
        return row_id(self.key)


@dataclass(frozen=True, slots=True)
class RoleLink:
    """A `g` or `g2` row: `member` has (or inherits) `role`.

    Links whose member is a role or group are the hierarchy and live in snapshots; all other `g` links are
    memberships and are looked up on demand. `g2` links group resources and live in snapshots.
    """

    member: Ref
    role: Ref
    kind: str = "g"
    expires_at: datetime | None = None
    base: bool = False
    owner: Owner = Owner.FILES
    source: Source | None = None

    @property
    def key(self) -> tuple[str, ...]:
        """What makes two rows the same link; an expiry is a property of the link, not a second link."""
        return (self.kind, self.member, self.role)

    @property
    def id(self) -> RuleId:
        """Identity of the row inside its tenant (or the base)."""
        return row_id(self.key)

    @property
    def is_membership(self) -> bool:
        """True for `subject -> role`, false for the hierarchy and for `g2`."""
        return self.kind == "g" and not self.member.startswith(HIERARCHY_PREFIXES)


HIERARCHY_PREFIXES = ("role:", "group:")


class EntityKind(StrEnum):
    """Which side of a request stored attributes belong to."""

    SUBJECT = "subject"
    RESOURCE = "resource"


@dataclass(frozen=True, slots=True)
class StoredEntity:
    """Attributes of a subject or resource, from `entities.yaml` or the admin API."""

    kind: EntityKind
    ref: Ref
    properties: Mapping[str, Any]
    owner: Owner = Owner.FILES
    source: Source | None = None

    @property
    def key(self) -> tuple[str, ...]:
        """What makes two rows the attributes of one entity."""
        return ("e", self.kind.value, self.ref)


Row = Rule | RoleLink | StoredEntity


def row_id(key: tuple[str, ...]) -> RuleId:
    """Return the first 128 bits of SHA-256 over the length-prefixed parts of `key`, as hex."""
    digest = hashlib.sha256()
    for part in key:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(4, "big"))
        digest.update(data)
    return RuleId(digest.hexdigest()[:32])
